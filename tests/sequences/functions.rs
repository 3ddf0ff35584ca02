//! Functions of the kinds that a sequence applies and no shipped operator is,
//! and the count of those that live. `op.rs` has the same in plain tch, with
//! the same tensors saved.

use anyhow::{Result, bail};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use tch::{Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Function, Grads, Of, Refs, Var, grad};

/// How many Functions, contexts and hooks of the present program live, and the number
/// of this program: what an earlier one left behind does not count.
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PROGRAM: AtomicUsize = AtomicUsize::new(0);

pub struct Live(usize);

impl Live {
    pub fn new() -> Live {
        LIVE.fetch_add(1, SeqCst);
        Live(PROGRAM.load(SeqCst))
    }

    /// Begins with the next program, and returns how many the last one has left.
    pub fn next_program() -> isize {
        PROGRAM.fetch_add(1, SeqCst);
        LIVE.swap(0, SeqCst)
    }
}
impl Drop for Live {
    fn drop(&mut self) {
        if self.0 == PROGRAM.load(SeqCst) {
            LIVE.fetch_sub(1, SeqCst);
        }
    }
}

/// A Function that is counted, and what its context keeps is too.
pub struct Counted<F> {
    f: F,
    _live: Live,
}

impl<F: Function> Counted<F> {
    pub fn new(f: F) -> Counted<F> {
        Counted { f, _live: Live::new() }
    }
}

impl<F: Function> Function for Counted<F> {
    type Inputs = F::Inputs;
    type Outputs = F::Outputs;
    fn forward(&self, ctx: &mut Ctx, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
        ctx.save(Live::new())?;
        self.f.forward(ctx, x)
    }
    fn backward(&self, ctx: &Ctx, dy: Refs<'_, F::Outputs>) -> Result<Grads<F::Inputs>> {
        ctx.state::<Live>()?;
        self.f.backward(ctx, dy)
    }
    fn name(&self) -> &'static str {
        self.f.name()
    }
    fn double_backward(&self) -> DoubleBackward {
        self.f.double_backward()
    }
}

/// `(sin x, cos x)`; saves its input.
pub struct SinCos;
impl Function for SinCos {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.save_for_backward([x])?;
        Ok((x.sin(), x.cos()))
    }
    fn backward(&self, ctx: &Ctx, (dsin, dcos): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dsin * x.cos() - dcos * x.sin()))
    }
}

/// `x` itself. Its gradient is another tensor than `dy`, as in plain tch, where one of the
/// two does not depend on the other.
pub struct Same;
impl Function for Same {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.view_as(dy)))
    }
}

/// `x *= c`; with `fails` it forgets to return what it changed.
pub struct ScaleInPlace {
    pub c: f64,
    pub fails: bool,
}
impl Function for ScaleInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        let y = x.shallow_clone().f_mul_(&Tensor::from(self.c))?;
        Ok(if self.fails { y.copy() } else { y })
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * self.c))
    }
}

/// `x = tanh x`; saves what it changed, its output.
pub struct TanhInPlace;
impl Function for TanhInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        let y = x.shallow_clone().f_tanh_()?;
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - y * y)))
    }
}

/// `a += b`, which broadcasts to `a`.
pub struct AddInPlace;
impl Function for AddInPlace {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.mark_dirty(a)?;
        Ok(a.shallow_clone().f_add_(b)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let db = ctx.needs_input_grad(1).then(|| ctx.reduce_to_input(1, dy)).transpose()?;
        Ok((ctx.needs_input_grad(0).then(|| dy.shallow_clone()), db))
    }
}

/// `x += c`, and the sum of the old `x`: in place with one more output.
pub struct ShiftAndSum {
    pub c: f64,
}
impl Function for ShiftAndSum {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.mark_dirty(x)?;
        let sum = x.sum(Kind::Double);
        Ok((x.shallow_clone().f_add_(&Tensor::from(self.c))?, sum))
    }
    fn backward(&self, _: &Ctx, (dy, dsum): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        Ok(Some(dy + dsum))
    }
}

/// `x^2`, whose first backward fails.
pub struct Flaky {
    pub panics: bool,
    pub failed: AtomicBool,
}
impl Function for Flaky {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        if !self.failed.swap(true, SeqCst) {
            assert!(!self.panics, "planned");
            bail!("planned");
        }
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x * 2.0))
    }
}

/// `x^3`, whose backward runs a pass of its own, on Vars or on tensors.
pub struct Nested {
    pub on_vars: bool,
}
impl Function for Nested {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.pow_tensor_scalar(3))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let slope = if self.on_vars {
            let x = Var::leaf(x.detach());
            tch::with_grad(|| Ok(grad(&x.pow_scalar(3.0)?.sum()?, &x)?.value().shallow_clone()))
        } else {
            let x = x.detach().set_requires_grad(true);
            tch::with_grad(|| anyhow::Ok(grad(&x.pow_tensor_scalar(3).sum(Kind::Double), &x)?))
        };
        Ok(Some(dy * slope?))
    }
    /// The inner pass is not recorded.
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}
