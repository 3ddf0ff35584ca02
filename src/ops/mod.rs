//! Operators, each a [`Function`](crate::Function) with its hyper-parameters
//! as fields, and a method or a Rust operator on [`Var`](crate::Var) in the
//! same file.
//!
//! The values are libtorch's, and so are the gradients, at kinks too: where
//! several elements tie for a maximum, for example, they share its gradient as
//! libtorch lets them. Inputs broadcast and dtypes are promoted as in libtorch;
//! each gradient has its input's shape and dtype again. Integer and boolean
//! inputs have no gradient. An op applied to what it does not take returns an
//! [`Error::Forward`](crate::Error::Forward) with libtorch's message.
//!
//! Arithmetic, [`Exp`] and its like, [`Relu`] and its like, [`Log1pExp`], [`Gelu`],
//! [`GeluTanh`] and [`Silu`] are [formulas](mod@crate::formula). These, [`HuberLoss`],
//! [`CrossEntropy`], [`RmsNorm`], [`LinearRecurrence`], [`CumulativeSum`] and
//! [`CumulativeProduct`] have a [`jvp`](crate::Function::jvp) too.
//!
//! ```
//! use tch::Tensor;
//! use tch_function::{Function, Var, grad, ops};
//!
//! let x = Var::leaf(Tensor::from_slice(&[1.0, 2.0, 4.0]));
//! let y = (2.0 * x.log()? + 1.0).sum()?;
//! let dx = grad(&y, &x)?;
//! assert_eq!(Vec::<f64>::try_from(dx.value())?, [2.0, 1.0, 0.5]);
//! // The same op as a Function, on its own:
//! let z = ops::Log.apply(&x)?;
//! # assert_eq!(z.value(), &x.value().log());
//! # anyhow::Ok(())
//! ```

mod arithmetic;
mod cast;
mod compare;
mod cross_entropy;
mod cumulative;
mod exp_log;
mod formulas;
mod fused;
mod gelu;
mod huber;
mod linear;
mod log1p_exp;
mod piecewise;
mod recurrence;
mod reduce;
mod rms_norm;
mod scalar;
mod shape;
mod softmax;
mod squared_error;

pub use arithmetic::{Add, Div, Mul, Neg, Pow, Sub};
pub use cast::ToKind;
pub use compare::{Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual};
pub use cross_entropy::CrossEntropy;
pub use cumulative::{CumulativeProduct, CumulativeSum};
pub use exp_log::{Exp, Log, Sigmoid, Sqrt, Tanh};
pub use gelu::{Gelu, GeluTanh, Silu};
pub use huber::HuberLoss;
pub use linear::{Matmul, Transpose};
pub use log1p_exp::Log1pExp;
pub use piecewise::{Abs, Maximum, Minimum, Relu, Where};
pub use recurrence::LinearRecurrence;
pub use reduce::{Amax, Amin, Max, Mean, Min, Sum};
pub use rms_norm::RmsNorm;
pub use scalar::{AddScalar, DivScalar, MulScalar, PowScalar, ScalarDiv, ScalarSub};
pub use shape::{Gather, IndexSelect, Reshape};
pub use softmax::{LogSoftmax, Softmax};
pub use squared_error::SquaredError;

use crate::Ctx;
use anyhow::Result;
use tch::Tensor;

/// The gradient of input `i` where the pass wants one, summed over the
/// dimensions in which the input was broadcast and in the input's dtype.
fn gradient(ctx: &Ctx, i: usize, grad: impl FnOnce() -> Result<Tensor>) -> Result<Option<Tensor>> {
    let reduced = ctx.needs_input_grad(i).then(|| Ok(ctx.reduce_own_to_input(i, grad()?)?));
    reduced.transpose()
}

/// `dL/dx = dL/dy * conj(dy/dx)`: the chain rule, in libtorch's convention for
/// complex numbers. On real ones `conj` is the identity.
fn chain(dy: &Tensor, slope: &Tensor) -> Result<Tensor> {
    Ok(dy.f_mul(&slope.f_conj()?)?)
}

/// Saves two factors of a product: each where the gradient of the other one
/// may be asked for.
fn save_factors(ctx: &mut Ctx, a: &Tensor, b: &Tensor) -> Result<()> {
    match (ctx.needs_input_grad(0), ctx.needs_input_grad(1)) {
        (true, true) => ctx.save_for_backward([a, b])?,
        (true, false) => ctx.save_for_backward([b])?,
        (false, true) => ctx.save_for_backward([a])?,
        (false, false) => {}
    }
    Ok(())
}

/// Returns what `save_factors` saved. If that is only one factor, it stands in
/// both places, of which the pass needs only the right one.
fn saved_factors(ctx: &Ctx) -> Result<(&Tensor, &Tensor)> {
    let saved = ctx.saved_tensors_vec()?;
    Ok((saved[0], saved[saved.len() - 1]))
}

/// Stamps methods of [`Var`](crate::Var), each of which applies an op to the Var, or to
/// it and another one.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident(self $(, &$other:ident)? $(, $arg:ident: $T:ty)* $(; &$last:ident)?) => $op:expr;)+) => {
        impl $crate::Var {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
            pub fn $name(
                &self
                $(, $other: &$crate::Var)?
                $(, $arg: $T)*
                $(, $last: &$crate::Var)?
            ) -> $crate::Result<$crate::Var> {
                $crate::Function::apply($op, $crate::ops::methods!(@inputs self $($other)? $($last)?))
            }
        )+}
    };
    (@inputs $x:ident) => { $x };
    (@inputs $x:ident $other:ident) => { ($x, $other) };
}
use methods;
