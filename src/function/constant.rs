//! [`Constant`]: a tensor that a Function holds itself; and what a Function may hold.

use crate::error::{Error, Result};
use crate::ffi;
use std::sync::{Mutex, PoisonError};
use tch::Tensor;

/// A tensor in a field of a [`Function`](crate::Function), or in the state that
/// [`Ctx::save`](crate::Ctx::save) keeps: no gradient flows to it, and it must not be
/// changed in place afterwards. Unlike a [`Tensor`] it can be shared between threads, as a
/// Function must: a field `Tensor` does not compile ("`*mut C_tensor` cannot be shared between
/// threads safely").
///
/// With [`DoubleBackward::Recompute`](crate::DoubleBackward::Recompute) the tensors that the
/// second `forward` makes require a gradient: keep them with
/// [`save_for_backward`](crate::Ctx::save_for_backward), or
/// [`detached`](Constant::detached) if their derivatives do not count.
///
/// ```
/// # use anyhow::Result;
/// # use tch::Tensor;
/// use tch_function::{Constant, Ctx, Function, Var, grad};
///
/// /// `y = mask x`
/// struct Masked {
///     mask: Constant,
/// }
///
/// impl Function for Masked {
///     type Inputs = Tensor;
///     type Outputs = Tensor;
///     fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
///         Ok(x * self.mask.get()?)
///     }
///     fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         Ok(Some(dy * self.mask.get()?))
///     }
/// }
///
/// let mask = Constant::new(&Tensor::from_slice(&[1.0, 0.0]))?;
/// let x = Var::leaf(Tensor::from_slice(&[5.0, 7.0]));
/// let y = Masked { mask }.apply(&x)?.sum()?;
/// assert_eq!(Vec::<f64>::try_from(grad(&y, &x)?.value())?, [1.0, 0.0]);
/// # anyhow::Ok(())
/// ```
#[derive(Debug)]
pub struct Constant {
    tensor: Mutex<Tensor>,
    version: u32,
}

/// Another handle to the same tensor.
impl Clone for Constant {
    fn clone(&self) -> Constant {
        let tensor = self.tensor.lock().unwrap_or_else(PoisonError::into_inner).shallow_clone();
        Constant { tensor: Mutex::new(tensor), version: self.version }
    }
}

const OP: &str = "Constant";

impl Constant {
    /// Holds a tensor, without a copy.
    ///
    /// # Errors
    /// [`Error::Argument`] for a tensor that requires a gradient, which would silently get
    /// none; [`Error::Undefined`]; [`Error::SavedInference`] for an inference tensor, whose
    /// changes cannot be seen.
    pub fn new(t: &Tensor) -> Result<Constant> {
        if t.defined() && t.requires_grad() {
            let message = "the tensor requires a gradient, which would not reach it here; make \
                           it an input of the op, or use Constant::detached where no gradient is \
                           meant";
            return Err(Error::Argument { op: OP, message: message.to_owned() });
        }
        Constant::detached(t)
    }

    /// Holds a tensor, which may require a gradient, as a constant.
    ///
    /// # Errors
    /// [`Error::Undefined`], [`Error::SavedInference`].
    pub fn detached(t: &Tensor) -> Result<Constant> {
        let d = ffi::describe(OP, t)?;
        if !d.is_defined() {
            return Err(Error::Undefined { op: OP, what: "the tensor".to_owned() });
        }
        if d.is_inference {
            return Err(Error::SavedInference { op: OP, what: "the tensor".to_owned() });
        }
        Ok(Constant { version: d.version, tensor: Mutex::new(t.detach()) })
    }

    /// Returns a handle to the tensor.
    ///
    /// # Errors
    /// [`Error::Argument`] if it was changed in place since.
    pub fn get(&self) -> Result<Tensor> {
        // Another tensor of the same memory, so that no flag or data of this one can be set.
        let t = self.tensor.lock().unwrap_or_else(PoisonError::into_inner).detach();
        let (expected, found) = (self.version, ffi::version(&t));
        if expected == found {
            return Ok(t);
        }
        let message = format!(
            "the tensor was changed in place after it was made a constant (version {found}, made \
             at {expected}); make a new Constant after the change, or hold a copy"
        );
        Err(Error::Argument { op: OP, message })
    }
}

/// What a [`Function`](crate::Function), and the state that it saves, may be: shared
/// between threads. Every `Send + Sync` type is.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be shared between threads, as a Function and its state must be",
    note = "a `tch::Tensor` in it is not `Sync`: hold it as a `tch_function::Constant`"
)]
pub trait Shareable: Send + Sync {}

#[diagnostic::do_not_recommend]
impl<T: Send + Sync + ?Sized> Shareable for T {}
