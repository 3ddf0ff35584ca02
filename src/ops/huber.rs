//! Huber loss: squares near the target, distances far from it.

use super::fused::{elsewhere, exact};
use crate::ffi::{self, WithScalar as _};
use crate::formula::{self, Formula, Scalar, Sort, Values};
use crate::kernel::simd;
use crate::{Ctx, Function, Var};
use anyhow::{Result, ensure};
use tch::{Reduction, Tensor};

/// `l = d^2 / 2` where `|d| <= delta`, else `delta (|d| - delta / 2)`, with
/// `d = x - t`; `dl/dx = -dl/dt = min(max(d, -delta), delta)`; `d2l/dx2` is 1
/// inside and 0 outside. (P. J. Huber, Robust Estimation of a Location
/// Parameter, 1964.)
///
/// Inputs `(x, t)`, output and target; shapes broadcast. The losses are averaged,
/// summed or given as they are; the mean of none is NaN. A `delta` that is not
/// positive is an error.
///
/// Losses and gradients are within 3 epsilon of their exact values, relatively
/// to them; a sum or a mean of any number of them within 4.
/// Floating-point inputs; dtypes and devices as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct HuberLoss {
    /// The distance at which the loss changes from squares to lines.
    pub delta: f64,
    /// The reduction of the losses.
    pub reduction: Reduction,
}

impl Default for HuberLoss {
    /// Returns PyTorch's defaults: `delta = 1`, the mean.
    fn default() -> Self {
        HuberLoss { delta: 1.0, reduction: Reduction::Mean }
    }
}

impl Function for HuberLoss {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("huber_loss")
    }

    fn forward(&self, ctx: &mut Ctx, (x, t): (&Tensor, &Tensor)) -> Result<Tensor> {
        let delta = self.delta;
        ensure!(delta > 0.0, "delta is {delta}; give a positive number");
        ctx.save_for_backward([x, t])?;
        let losses = Losses { delta, count: 1.0 };
        let done = match self.reduction {
            // In the dtype of `x`, as libtorch's loss.
            Reduction::None => {
                simd::map_with_own(&Values(&losses), [x, t]).map(|[y]| y.to_kind(x.kind()))
            }
            _ => simd::sum_of(&Values(&losses), [x, t])
                .map(|[sum]| Tensor::from(sum / self.count(x, t)).to_kind(x.kind())),
        };
        elsewhere(done, || {
            // libtorch divides by the number of elements of `x` otherwise.
            let both = Tensor::f_broadcast_tensors(&[x, t])?;
            Ok(both[0].f_huber_loss(&both[1], self.reduction, delta)?)
        })
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, t] = ctx.saved_tensors()?;
        let losses = Losses { delta: self.delta, count: self.count(x, t) };
        let kind = ffi::kind_of(ffi::result_type(ctx.op(), &[x, t])?);
        let whole = Tensor::f_broadcast_tensors(&[x, t, &dy.f_to_kind(kind)?])?;
        let [dx, dt] = formula::backward(&losses, Sort::Crate, ctx, [&whole[2]])?;
        Ok((dx, dt))
    }

    fn jvp(
        &self,
        ctx: &Ctx,
        (x, t): (&Tensor, &Tensor),
        (dx, dt): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let losses = Losses { delta: self.delta, count: 1.0 };
        let [dl] = formula::jvp(&losses, Sort::Crate, ctx, [x, t], [dx, dt])?;
        let dl = match self.reduction {
            Reduction::None => dl,
            _ => exact(&dl)?.f_sum(None)?.div_number(self.count(x, t))?,
        };
        Ok(dl.f_to_kind(x.kind())?)
    }
}

impl HuberLoss {
    /// The number by which the sum is divided.
    fn count(&self, x: &Tensor, t: &Tensor) -> f64 {
        match self.reduction {
            Reduction::Mean => broadcast_count(&x.size(), &t.size()) as f64,
            _ => 1.0,
        }
    }
}

fn broadcast_count(a: &[i64], b: &[i64]) -> i64 {
    let size = |s: &[i64], i: usize| s.len().checked_sub(i + 1).map_or(1, |at| s[at]);
    let sizes = (0..a.len().max(b.len())).map(|i| (size(a, i), size(b, i)));
    sizes.map(|(a, b)| if a == 1 { b } else { a }).product()
}

/// The losses divided by `count`.
#[derive(Clone)]
struct Losses {
    delta: f64,
    count: f64,
}

impl Formula<2> for Losses {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x, t]: [S; 2]) -> [S; 1] {
        let d = x - t;
        // In this order a gradient that fits is not infinite on the way.
        let near = d * (0.5 / self.count) * d;
        let far = (d.abs() - 0.5 * self.delta) * (self.delta / self.count);
        // NaN stays near, where its gradient is NaN, too.
        [S::select(d.abs().gt(S::of(self.delta)), far, near)]
    }

    /// `d` is halved nowhere, which would cost a digit of a small one.
    #[inline(always)]
    fn slopes<S: Scalar>(&self, [x, t]: [S; 2]) -> Option<[[S; 2]; 1]> {
        let d = x - t;
        let far = d.signum() * (self.delta / self.count);
        let slope = S::select(d.abs().gt(S::of(self.delta)), far, d / self.count);
        Some([[slope, -slope]])
    }

    fn op_name(&self) -> &'static str {
        "HuberLoss"
    }
}

impl Var {
    /// [`HuberLoss`] of this output against `target`, averaged.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message, and for
    /// a `delta` that is not positive.
    pub fn huber_loss(&self, target: &Var, delta: f64) -> crate::Result<Var> {
        HuberLoss { delta, reduction: Reduction::Mean }.apply((self, target))
    }
}
