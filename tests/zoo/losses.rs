//! Losses: many numbers and a target to one.

use super::*;
use anyhow::Result;
use tch::Reduction;
use tch_function::check::Check;
use tch_function::{Ctx, DoubleBackward, Function};

/// Huber's loss (1964), summed: `d^2 / 2` where `|d| <= delta`, else
/// `delta (|d| - delta / 2)`, of `d = y - t`. Its slope is `d`, cut at `delta`.
struct Huber {
    delta: f64,
}

impl Function for Huber {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (y, t): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([y, t])?;
        let d = (y - t).abs();
        let cut = d.clamp_max(self.delta);
        Ok((&cut * (d - &cut / 2.0)).sum(None))
    }
    fn backward(&self, ctx: &Ctx, dl: &Tensor) -> Grads2 {
        let [y, t] = ctx.saved_tensors()?;
        let slope = (y - t).clamp(-self.delta, self.delta) * dl;
        Ok((Some(slope.shallow_clone()), Some(-slope)))
    }
}

/// `mean(max(0, 1 - t x))` for targets `t` of -1 and 1.
struct Hinge;

impl Function for Hinge {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, t): (&Tensor, &Tensor)) -> Result<Tensor> {
        let margin = 1.0 - t * x;
        ctx.save_for_backward([t, &margin])?;
        Ok(margin.clamp_min(0.0).mean(None))
    }
    fn backward(&self, ctx: &Ctx, dl: &Tensor) -> Grads2 {
        let [t, margin] = ctx.saved_tensors()?;
        // The targets are integers, and have no gradient.
        Ok((Some(-dl / margin.numel() as f64 * t * margin.gt(0.0)), None))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}

/// `mean(log(sum e^x) - x[t])` of each row and its class. The gradient is
/// `(softmax x - onehot t) / rows`; saves log-probabilities, an intermediate.
struct CrossEntropy;

impl Function for CrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, class): (&Tensor, &Tensor)) -> Result<Tensor> {
        let log_p = x.f_log_softmax(-1, None)?;
        let y = -log_p.f_gather(-1, &class.unsqueeze(-1), false)?.mean(None);
        ctx.save_for_backward([&log_p, class])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dl: &Tensor) -> Grads2 {
        let [log_p, class] = ctx.saved_tensors()?;
        let p = log_p.exp();
        let hot = p.zeros_like().scatter_value(-1, &class.unsqueeze(-1), 1.0);
        Ok((Some(dl * (p - hot) / class.numel() as f64), None))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// `mean(log(1 + e^x) - t x)` for probabilities `t`: the gradients are
/// `(sigmoid x - t) / n` and `-x / n`.
struct BinaryCrossEntropy;

impl Function for BinaryCrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, t): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, t])?;
        Ok((x.softplus() - t * x).mean(None))
    }
    fn backward(&self, ctx: &Ctx, dl: &Tensor) -> Grads2 {
        let [x, t] = ctx.saved_tensors()?;
        let dl = dl / x.numel() as f64;
        let dx = ctx.needs_input_grad(0).then(|| &dl * (x.sigmoid() - t));
        Ok((dx, ctx.needs_input_grad(1).then(|| -dl * x)))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (x, t): (&Tensor, &Tensor),
        (dx, dt): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        Ok(((x.sigmoid() - t) * dx - x * dt).mean(None))
    }
}

tch_function::check_tests! {
    huber => Check::new(Huber { delta: 0.75 }, [(x(), x() * 0.3)])
        .reference(|(y, t)| y.huber_loss(t, Reduction::Sum, 0.75));
    hinge => Check::new(Hinge, [(row() * 0.7, integers(&[1, -1, -1]))])
        .reference(|(x, t)| (-t * x + 1.0).relu().mean(None));
    cross_entropy => Check::new(CrossEntropy, [(x(), integers(&[2, 0]))])
        .reference(|(x, t)| {
            x.cross_entropy_loss::<Tensor>(t, None, Reduction::Mean, -100, 0.0)
        });
    binary_cross_entropy => Check::new(BinaryCrossEntropy, [(x(), x().sigmoid())])
        .reference(|(x, t)| (x.softplus() - t * x).mean(None));
}
