//! [`RmsNorm`] of whole tensors: by a kernel, or by tensor operators where no kernel runs.

use super::{RmsNorm, elsewhere, exact, kind_of};
use crate::ffi::modes::is_mode_on;
use crate::ffi::{self, WithScalar as _};
use crate::{Ctx, Function};
use anyhow::Result;
use tch::{Kind, Tensor};

impl RmsNorm {
    /// `r w x`
    pub(super) fn of_each(&self, x: &Tensor, w: &Tensor) -> Result<Tensor> {
        let done = match kind_of([x, w]) {
            Kind::Double => self.values::<f64>(x, w),
            _ => self.values::<f32>(x, w),
        };
        elsewhere(done, || {
            let (x_wide, w_wide) = (exact(x)?, exact(w)?);
            let y = x_wide.f_mul(&self.scales(&x_wide)?)?.f_mul(&w_wide)?;
            Ok(y.f_to_kind(x.kind())?)
        })
    }

    /// `r w dy - r^3 s x`
    pub(super) fn of_rows(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let done = match kind_of([x, w]) {
            Kind::Double => self.slopes::<f64>(x, w, dy),
            _ => self.slopes::<f32>(x, w, dy),
        };
        elsewhere(done, || {
            let (x, dy) = (exact(x)?, exact(dy)?.f_mul(&exact(w)?)?);
            let r = self.scales(&x)?;
            let normed = r.f_mul(&x)?;
            let dot = normed.f_mul(&dy)?.f_mean_dim(-1, true, None)?;
            // (The third power of `r` is no number of the dtype for all rows.)
            Ok(dy.f_sub(&normed.f_mul(&dot)?)?.f_mul(&r)?)
        })
    }

    /// The sum of `r x dy` over all rows, or its terms.
    pub(super) fn of_weight(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let done = match x.kind() {
            Kind::Double => self.weight_slopes::<f64>(x, dy),
            _ => self.weight_slopes::<f32>(x, dy),
        };
        elsewhere(done, || {
            let (x, dy) = (exact(x)?, exact(dy)?);
            Ok(x.f_mul(&self.scales(&x)?)?.f_mul(&dy)?)
        })
    }

    /// `r` of each row, which is brought near 1 first, or near the root of `eps`, so that its
    /// squares neither over- nor underflow.
    pub(super) fn scales(&self, x: &Tensor) -> Result<Tensor> {
        if x.size().last() == Some(&0) {
            return Ok(x.f_square()?.f_mean_dim(-1, true, None)?);
        }
        let most: f64 = if x.kind() == Kind::Double { 1000.0 } else { 120.0 };
        let least = self.eps.sqrt().max((-most).exp2());
        let greatest = x.f_detach()?.f_abs()?.f_amax(-1, true)?.clamped(least, most.exp2())?;
        let less = greatest.f_log2()?.f_floor()?.f_neg()?.f_exp2()?;
        let mean = x.f_mul(&less)?.f_square()?.f_mean_dim(-1, true, None)?;
        let offset = less.mul_number(self.eps.sqrt())?.f_square()?;
        Ok(mean.f_add(&offset)?.f_rsqrt()?.f_mul(&less)?)
    }
}

/// Returns whether libtorch records what is done with plain tensors.
pub(super) fn is_recorded(x: [&Tensor; 2]) -> bool {
    ffi::grad_enabled() && x.iter().any(|x| x.requires_grad()) && !is_mode_on()
}

/// `dw` as a function of `x` and `dy`, for second derivatives: the sum of `r x dy` over the
/// rows. So a recorded gradient has the bits of a plain one. With the gradient `g` of `dw`, the
/// gradients are those of `RmsNorm` with the weight `g`, in `x` under `dy`, and its value.
#[derive(Clone, Copy)]
pub(super) struct WeightSlope(pub RmsNorm);

impl Function for WeightSlope {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (x, dy): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, dy])?;
        let found = self.0.of_weight(x, dy)?;
        let rows: Vec<i64> = (0..found.dim() as i64 - 1).collect();
        if rows.is_empty() {
            return Ok(found);
        }
        Ok(found.f_sum_dim_intlist(&rows[..], false, None)?)
    }

    fn backward(&self, ctx: &Ctx, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, dy] = ctx.saved_tensors()?;
        let dx = super::gradient(ctx, 0, || self.0.of_rows(x, g, dy))?;
        Ok((dx, super::gradient(ctx, 1, || self.0.of_each(x, g))?))
    }

    fn name(&self) -> &'static str {
        "RmsNorm"
    }
}
