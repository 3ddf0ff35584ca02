//! Ops of every kind, for the Python tests beside this.

#[path = "formulas.rs"]
mod formulas;
#[path = "fuzzed.rs"]
mod fuzzed;
#[path = "random_ops.rs"]
pub mod random;

use anyhow::{Result, bail};
use tch::{Kind, Tensor};
use tch_function::dispatcher::forward_only;
use tch_function::{Ctx, DoubleBackward, Function, Vmap, kernel, ops};

/// `x` where it is positive, else `slope x`.
struct Leaky {
    slope: f64,
}

impl Function for Leaky {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.maximum(&(x * self.slope)))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy.where_self(&x.gt(0.0), &(dy * self.slope))))
    }

    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx.where_self(&x.gt(0.0), &(dx * self.slope)))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

/// The textbook's Log1pExp, which saves an intermediate.
struct SavesIntermediate {
    double_backward: DoubleBackward,
}

impl Function for SavesIntermediate {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let e = x.exp();
        ctx.save_for_backward([&e])?;
        Ok((e + 1.0).log())
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [e] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - 1.0 / (1.0 + e))))
    }

    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}

/// `x^3`, in a loop of its own over the data.
struct Cube {
    has_fake: bool,
}

impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(kernel::map(x, |x: f32| x * x * x)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(kernel::map((x, dy), |(x, dy): (f32, f32)| 3.0 * x * x * dy)?))
    }

    fn fake(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        if !self.has_fake {
            return self.forward(ctx, x);
        }
        ctx.save_for_backward([x])?;
        Ok(x.empty_like())
    }
}

/// `(a b, a + b, argmax a)`, the last without a gradient.
struct Pair;

impl Function for Pair {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor, Tensor);

    fn forward(
        &self,
        ctx: &mut Ctx,
        (a, b): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor, Tensor)> {
        ctx.save_for_backward([a, b])?;
        Ok((a * b, a + b, a.argmax(-1, false)))
    }

    fn backward(
        &self,
        ctx: &Ctx,
        (dp, ds, _): (&Tensor, &Tensor, &Tensor),
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        let da = ctx.needs_input_grad(0).then(|| dp * b + ds);
        let db = ctx.needs_input_grad(1).then(|| dp * a + ds);
        Ok((da, db))
    }
}

/// `scale x + bias`, with or without bias.
struct Affine {
    scale: f64,
}

impl Function for Affine {
    type Inputs = (Tensor, Option<Tensor>);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (x, bias): (&Tensor, Option<&Tensor>)) -> Result<Tensor> {
        let y = x * self.scale;
        Ok(match bias {
            Some(bias) => y + bias,
            None => y,
        })
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dbias = if ctx.needs_input_grad(1) { Some(ctx.reduce_to_input(1, dy)?) } else { None };
        Ok((Some(dy * self.scale), dbias))
    }
}

/// Each tensor of a list times its weight, and the sum of all.
struct Weigh {
    weights: Vec<f64>,
}

impl Function for Weigh {
    type Inputs = Vec<Tensor>;
    type Outputs = (Vec<Tensor>, Tensor);

    fn forward(&self, _: &mut Ctx, x: &[Tensor]) -> Result<(Vec<Tensor>, Tensor)> {
        if x.len() != self.weights.len() {
            bail!("{} tensors for {} weights", x.len(), self.weights.len());
        }
        let y: Vec<_> = x.iter().zip(&self.weights).map(|(x, w)| x * *w).collect();
        let sum = Tensor::stack(&y, 0).sum_dim_intlist(0, false, y[0].kind());
        Ok((y, sum))
    }

    fn backward(&self, _: &Ctx, (dy, dsum): (&[Tensor], &Tensor)) -> Result<Vec<Option<Tensor>>> {
        Ok(dy.iter().zip(&self.weights).map(|(dy, w)| Some((dy + dsum) * *w)).collect())
    }
}

/// Returns its input, and its gradient.
struct Same;

impl Function for Same {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

/// Adds one in place.
struct Increment;

impl Function for Increment {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        let mut y = x.shallow_clone();
        let _ = y.g_add_scalar_(1.0);
        Ok(y)
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

/// Reduces and permutes as its texts and lists say.
struct Reduce {
    how: String,
    dims: Vec<i64>,
    keep: bool,
}

impl Function for Reduce {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(match &*self.how {
            "sum" => x.sum_dim_intlist(&self.dims[..], self.keep, x.kind()),
            "mean" => x.mean_dim(&self.dims[..], self.keep, x.kind()),
            how => bail!("it reduces by sum or mean, not by {how:?}"),
        })
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let size = ctx.input_size(0)?;
        let mut dy = dy.shallow_clone();
        if !self.keep {
            let mut dims: Vec<_> =
                self.dims.iter().map(|d| d.rem_euclid(size.len() as i64)).collect();
            dims.sort_unstable();
            dims.iter().for_each(|&d| dy = dy.unsqueeze(d));
        }
        let dx = dy.expand(size, false);
        let of: i64 =
            self.dims.iter().map(|&d| size[d.rem_euclid(size.len() as i64) as usize]).product();
        Ok(Some(if self.how == "mean" { dx / of as f64 } else { dx.contiguous() }))
    }
}

/// Multiplies in f16 or bf16 under autocast.
struct Product;

impl Function for Product {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok(a.matmul(b))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        Ok((Some(dy.matmul(&b.tr())), Some(a.tr().matmul(dy))))
    }

    fn cast_inputs(&self) -> Option<Kind> {
        Some(Kind::BFloat16)
    }
}

/// Fails as it is told.
struct Fails {
    how: String,
}

impl Function for Fails {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        match &*self.how {
            "forward err" => bail!("no forward today"),
            "forward panic" => panic!("a forward that panics"),
            _ => Ok(x * 1.0),
        }
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        match &*self.how {
            "backward err" => bail!("no backward today"),
            "backward panic" => panic!("a backward that panics"),
            "shape" => Ok(Some(dy.unsqueeze(0))),
            "none" => Ok(None),
            _ => Ok(Some(dy * 1.0)),
        }
    }
}

/// Takes 50 ms, and lets Python's other threads run.
struct Sleep;

impl Function for Sleep {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        std::thread::sleep(std::time::Duration::from_millis(50));
        Ok(x * 1.0)
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 1.0))
    }
}

fn leaky(slope: f64) -> Result<Leaky> {
    if slope < 0.0 {
        bail!("slope {slope} is negative; use one of 0 or more");
    }
    Ok(Leaky { slope })
}

tch_function::library! {
    /// Registers the ops.
    pub fn register() for "tf_test" {
        "leaky(Tensor x, float slope=0.01) -> Tensor" => leaky,
        "log1pexp(Tensor x) -> Tensor" => || ops::Log1pExp,
        "intermediate(Tensor x) -> Tensor" =>
            || SavesIntermediate { double_backward: DoubleBackward::ThroughSaved },
        "recomputed(Tensor x) -> Tensor" =>
            || SavesIntermediate { double_backward: DoubleBackward::Recompute },
        "once(Tensor x) -> Tensor" =>
            || SavesIntermediate { double_backward: DoubleBackward::Once },
        "cube(Tensor x, *, bool fake=True) -> Tensor" => |has_fake| Cube { has_fake },
        "pair(Tensor a, Tensor b) -> (Tensor, Tensor, Tensor)" => || Pair,
        "affine(Tensor x, Tensor? bias=None, float? scale=None) -> Tensor" =>
            |scale: Option<f64>| Affine { scale: scale.unwrap_or(1.0) },
        "weigh(Tensor[] x, float[] weights) -> (Tensor[], Tensor)" => |weights| Weigh { weights },
        "same(Tensor x) -> Tensor" => || Same,
        "increment(Tensor x) -> Tensor" => || Increment,
        "increment_(Tensor(a!) x) -> Tensor(a!)" => || Increment,
        "increment_quietly_(Tensor(a!) x) -> ()" => || Increment,
        "reduce(Tensor x, str how, int[] dims, bool keep=False) -> Tensor" =>
            |how, dims, keep| Reduce { how, dims, keep },
        "product(Tensor a, Tensor b) -> Tensor" => || Product,
        "fails(Tensor x, str how) -> Tensor" => |how| Fails { how },
        "sleep(Tensor x) -> Tensor" => || Sleep,
        "round_to(Tensor x, float step=1.) -> Tensor" => |step: f64| {
            forward_only::<Tensor, Tensor>("tf_test::round_to", move |x| {
                Ok((x / step).round() * step)
            })
        },
    }
}
