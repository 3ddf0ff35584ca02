//! The error of a network with targets.

use super::{chain, gradient};
use crate::ffi::WithScalar as _;
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `E = sum of (t - y)^2 / 2`; `dE/dy = y - t`, `dE/dt = t - y`.
///
/// Inputs `(y, t)`, output and target. Shapes broadcast, dtypes are promoted.
#[derive(Clone, Copy, Debug)]
pub struct SquaredError;

impl Function for SquaredError {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("mse_loss")
    }

    fn forward(&self, ctx: &mut Ctx, (y, t): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([y, t])?;
        Ok(t.f_sub(y)?.f_square()?.f_sum(None)?.div_number(2.0)?)
    }

    fn backward(&self, ctx: &Ctx, de: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [y, t] = ctx.saved_tensors()?;
        let dy = gradient(ctx, 0, || chain(de, &y.f_sub(t)?))?;
        let dt = gradient(ctx, 1, || chain(de, &t.f_sub(y)?))?;
        Ok((dy, dt))
    }
}

super::methods! {
    /// [`SquaredError`] of this output against `target`.
    squared_error(self, &target) => SquaredError;
}
