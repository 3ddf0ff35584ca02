//! [`DualLevel`]: libtorch's forward-mode differentiation.

use crate::error::{self, Error, Result};
use crate::ffi;
use std::marker::PhantomData;
use tch::Tensor;

/// A level of forward mode, in which tensors can carry tangents: `torch.autograd.forward_ad.dual_level`.
///
/// libtorch's own ops propagate tangents; so does a [`Function`](crate::Function) with
/// a [`jvp`](crate::Function::jvp), and one without returns an error. A process has
/// one level: entering it twice, from any thread, is an error.
///
/// ```
/// use tch::Tensor;
/// use tch_function::DualLevel;
///
/// let level = DualLevel::enter()?;
/// let x = level.dual(&Tensor::from(0.5), &Tensor::from(1.0))?;
/// let y = x.sin() * 2.0;
/// let dy = level.tangent(&y).expect("y depends on x");
/// assert_eq!(f64::try_from(dy)?, 2.0 * 0.5f64.cos());
/// # anyhow::Ok(())
/// ```
#[must_use = "the level ends when this is dropped"]
pub struct DualLevel {
    /// The level stays on the thread that entered it.
    _not_send: PhantomData<*const ()>,
}

const OP: &str = "DualLevel";

impl DualLevel {
    /// Enters the level.
    ///
    /// # Errors
    /// [`Error::Torch`] while it is entered already.
    pub fn enter() -> Result<DualLevel> {
        ffi::enter_dual_level(OP)?;
        Ok(DualLevel { _not_send: PhantomData })
    }

    /// Returns `x` with a tangent of its shape, dtype and device. It shares `x`'s memory.
    ///
    /// # Errors
    /// [`Error::Torch`] when they do not fit, or `x` has a tangent already.
    pub fn dual(&self, x: &Tensor, tangent: &Tensor) -> Result<Tensor> {
        if x.size() != tangent.size() {
            let (expected, found) = (x.size(), tangent.size());
            let message =
                format!("a tangent of shape {found:?} for a tensor of shape {expected:?}");
            return Err(Error::Argument { op: OP, message });
        }
        Tensor::f_internal_make_dual(x, tangent, 0).map_err(error::torch(OP))
    }

    /// Returns the tangent of `y`; `None` if `y` depends on nothing that has one.
    pub fn tangent(&self, y: &Tensor) -> Option<Tensor> {
        ffi::tangent(y)
    }
}

impl Drop for DualLevel {
    fn drop(&mut self) {
        ffi::exit_dual_level();
    }
}
