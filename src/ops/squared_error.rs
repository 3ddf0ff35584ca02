//! The error of a network with targets.

use super::fused::{elsewhere, not_ours};
use super::{chain, gradient};
use crate::ffi::WithScalar as _;
use crate::kernel::simd::{self, Float, Lanes};
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `E = sum of (t - y)^2 / 2`; `dE/dy = y - t`, `dE/dt = t - y`.
///
/// Inputs `(y, t)`, output and target. Shapes broadcast, dtypes are promoted. On the CPU, of two
/// tensors of one dtype, `E` is within 4 epsilon of the exact value for any number of elements.
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
        let done = match y.kind() == t.kind() {
            true => {
                simd::sum_of(&Square, [y, t]).map(|[sum]| Tensor::from(sum / 2.0).to_kind(y.kind()))
            }
            false => Err(not_ours("SquaredError", "tensors of two dtypes")),
        };
        elsewhere(done, || Ok(t.f_sub(y)?.f_square()?.f_sum(None)?.div_number(2.0)?))
    }

    fn backward(&self, ctx: &Ctx, de: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [y, t] = ctx.saved_tensors()?;
        let dy = gradient(ctx, 0, || chain(de, &y.f_sub(t)?))?;
        let dt = gradient(ctx, 1, || chain(de, &t.f_sub(y)?))?;
        Ok((dy, dt))
    }
}

/// `(t - y)^2`
struct Square;

impl Lanes<2, 1> for Square {
    #[inline(always)]
    fn call<V: Float>(&self, [y, t]: [V; 2]) -> [V; 1] {
        let d = t - y;
        [d * d]
    }
}

super::methods! {
    /// [`SquaredError`] of this output against `target`.
    squared_error(self, &target) => SquaredError;
}
