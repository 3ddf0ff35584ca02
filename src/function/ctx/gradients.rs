//! What `backward` does to the gradients that it returns.

use super::Ctx;
use crate::error::{self, Result};
use crate::ffi::{self, Meta};
use tch::Tensor;

impl Ctx {
    /// Sums `grad` over the dimensions in which input `i` was broadcast and
    /// converts it to the input's dtype: the adjoint of broadcasting and of
    /// type promotion.
    ///
    /// # Errors
    /// [`Error::NoInput`](crate::Error::NoInput) past the last input; [`Error::Torch`](crate::Error::Torch) when the
    /// input's shape does not broadcast to that of `grad`.
    pub fn reduce_to_input(&self, i: usize, grad: &Tensor) -> Result<Tensor> {
        let meta = &self.input(i)?.meta;
        if meta.fits(&ffi::describe(self.op(), grad)?) {
            return Ok(grad.shallow_clone());
        }
        self.reduce(meta, grad)
    }

    /// Does what `reduce_to_input` does, without another handle if nothing is to be done.
    pub(crate) fn reduce_own_to_input(&self, i: usize, grad: Tensor) -> Result<Tensor> {
        let meta = &self.input(i)?.meta;
        if meta.fits(&ffi::describe(self.op(), &grad)?) {
            return Ok(grad);
        }
        self.reduce(meta, &grad)
    }

    fn reduce(&self, meta: &Meta, grad: &Tensor) -> Result<Tensor> {
        let summed = grad.f_sum_to_size(meta.known_sizes(self.op())?);
        summed.and_then(|grad| grad.f_to_kind(meta.kind())).map_err(error::torch(self.op()))
    }

    /// Returns `grad` as a constant, for `backward` to return in its place:
    /// `Ok(Some(ctx.constant_gradient(&dx)?))`. Derivatives of it are zero, and do not reach
    /// the inputs. It is for gradients that are not the derivative, as in a straight-through
    /// estimator; those of a formula are computed by operations that libtorch records.
    ///
    /// Without it, a gradient that libtorch did not record is [`Error::UnrecordedBackward`](crate::Error::UnrecordedBackward)
    /// in a pass with `create_graph`, if `dy` has a history there. (The seed of a pass has
    /// none. What the last op loses is found by [`check`](mod@crate::check), not by the pass.)
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn constant_gradient(&self, grad: &Tensor) -> Result<Tensor> {
        match ffi::grad_enabled() {
            true => ffi::refusal::constant(self.op(), grad),
            false => Ok(grad.shallow_clone()),
        }
    }
}
