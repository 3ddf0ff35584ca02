//! More ops for tests/python/fuzz_calls.py: ones that fail by their data, that run
//! passes of their own inside, and that keep things in unusual ways.

use anyhow::{Result, anyhow, bail, ensure};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::{Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Function, GradOptions, Vmap, grad};

/// `x^2`, which fails in the way that `how` names if the first element of `x` (in
/// backward: of the gradient) is above a limit.
struct Picky {
    how: String,
    limit: f64,
}

impl Picky {
    fn inspect(&self, stage: &str, t: &Tensor) -> Result<()> {
        if !self.how.starts_with(stage) || t.numel() == 0 {
            return Ok(());
        }
        let first = t.flatten(0, -1).double_value(&[0]);
        if first > self.limit {
            ensure!(self.how.ends_with("panic"), "{first} is above {}", self.limit);
            panic!("{first} is far above {}", self.limit);
        }
        Ok(())
    }
}

impl Function for Picky {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.inspect("forward", x)?;
        self.fake(ctx, x)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        self.inspect("backward", dy)?;
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x * 2.0))
    }

    fn fake(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
}

/// What [`Swallow`] runs inside, to fail.
struct Broken {
    panics: bool,
}

impl Function for Broken {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 1.0)
    }

    fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
        ensure!(self.panics, "no inner backward today");
        panic!("an inner backward that panics")
    }
}

/// `3 x`. On the way a pass of its own may fail, and nobody hears of it.
struct Swallow {
    how: String,
}

impl Swallow {
    /// The inner pass; "through" takes the gradient of `t` itself, with its hooks.
    fn fail_quietly(&self, t: &Tensor) {
        let through = self.how.contains("through");
        let leaf = if through { t.shallow_clone() } else { t.detach().set_requires_grad(true) };
        let inner = Broken { panics: self.how.contains("panic") };
        let all = || -> Result<()> {
            tch::with_grad(|| {
                let y = if through { &leaf * 1.0 } else { inner.apply(&leaf)? };
                let loss = y.sum(Kind::Double);
                // tch's `run_backward` crashes where there is no history.
                ensure!(loss.requires_grad() && leaf.requires_grad(), "there is no history");
                match self.how.contains("tch") {
                    true => drop(Tensor::run_backward(&[&loss], &[&leaf], true, false)),
                    false => drop(GradOptions::new().retain_graph(true).grad(&loss, &leaf)?),
                }
                Ok(())
            })
        };
        drop(catch_unwind(AssertUnwindSafe(all)));
    }
}

impl Function for Swallow {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        if self.how.starts_with("forward") {
            self.fail_quietly(x);
        }
        Ok(x * 3.0)
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        if self.how.starts_with("backward") {
            self.fail_quietly(dy);
        }
        Ok(Some(dy * 3.0))
    }

    fn fake(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 3.0)
    }

    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx * 3.0)
    }
}

/// `cos x`, as the derivative that an inner pass takes of `sin x`.
struct InnerPass;

impl InnerPass {
    fn derivative(f: impl Fn(&Tensor) -> Tensor, x: &Tensor) -> Result<Tensor> {
        tch::with_grad(|| {
            let leaf = x.detach().set_requires_grad(true);
            grad(&f(&leaf).sum(None::<Kind>), &leaf).map_err(|e| anyhow!(e))
        })
    }
}

impl Function for InnerPass {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        InnerPass::derivative(Tensor::sin, x)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(InnerPass::derivative(Tensor::cos, x)? * dy))
    }

    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }

    fn fake(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.empty_like())
    }
}

/// `k x^2`, with `k` and the factor of its derivative kept by `ctx.save`.
struct State {
    k: f64,
    recompute: bool,
}

impl Function for State {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        ctx.save((self.k, vec![2.0 * self.k]))?;
        Ok(x * x * self.k)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let (_, factors) = ctx.state::<(f64, Vec<f64>)>()?;
        Ok(Some(dy * x * factors[0]))
    }

    fn double_backward(&self) -> DoubleBackward {
        if self.recompute { DoubleBackward::Recompute } else { DoubleBackward::ThroughSaved }
    }
}

/// The weighted sum of the tensors that are there.
struct Places {
    weights: Vec<f64>,
}

impl Function for Places {
    type Inputs = Vec<Option<Tensor>>;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &[Option<Tensor>]) -> Result<Tensor> {
        ensure!(
            x.len() == self.weights.len(),
            "{} places, {} weights",
            x.len(),
            self.weights.len()
        );
        let places = x.iter().zip(&self.weights);
        let terms = places.filter_map(|(x, w)| x.as_ref().map(|x| x * *w));
        terms.reduce(|a, b| a + b).ok_or_else(|| anyhow!("no tensor is there"))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let places = self.weights.iter().enumerate();
        Ok(places.map(|(i, w)| ctx.needs_input_grad(i).then(|| dy * *w)).collect())
    }
}

/// `(x where it is positive, x where it is not)`; backward adds the gradients that are
/// there, and remembers the sign in a constant.
struct Halves;

impl Function for Halves {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let positive = x.gt(0.0).to_kind(x.kind());
        ctx.set_materialize_grads(false);
        ctx.mark_constant(&positive);
        ctx.save_for_backward([&positive])?;
        Ok((x * &positive, x * (1.0 - &positive)))
    }

    fn backward(&self, ctx: &Ctx, (dp, dn): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [positive] = ctx.saved_tensors()?;
        Ok(match (dp.defined(), dn.defined()) {
            (true, true) => Some(dp * positive + dn * (1.0 - positive)),
            (true, false) => Some(dp * positive),
            (false, true) => Some(dn * (1.0 - positive)),
            (false, false) => bail!("a pass without any gradient"),
        })
    }

    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<(Tensor, Tensor)> {
        let positive = x.gt(0.0).to_kind(x.kind());
        Ok((dx * &positive, dx * (1.0 - &positive)))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

tch_function::library! {
    /// Registers the ops.
    pub fn register() for "tf_fuzz" {
        "picky(Tensor x, str how, float limit=1.) -> Tensor" => |how, limit| Picky { how, limit },
        "swallow(Tensor x, str how) -> Tensor" => |how| Swallow { how },
        "inner_pass(Tensor x) -> Tensor" => || InnerPass,
        "state(Tensor x, float k=2., bool recompute=False) -> Tensor" =>
            |k, recompute| State { k, recompute },
        "places(Tensor?[] x, float[] weights) -> Tensor" => |weights| Places { weights },
        "halves(Tensor x) -> (Tensor, Tensor)" => || Halves,
    }
}
