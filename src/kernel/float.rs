//! [`Float`]: one kernel body for every floating-point dtype.

use super::simd::Lane;
use crate::ffi;
use num_traits::{FloatConst, NumAssignOps};
use std::iter::{Product, Sum};
use tch::Tensor;

/// An [`Element`](super::Element) that is a floating-point number: `f32` or `f64`, and with
/// `f32` the dtypes f16 and bf16.
///
/// Its arithmetic and functions (`exp`, `ln_1p`, `tanh`, `mul_add`, `max`, ...) are those of
/// [`num_traits::Float`], its constants those of [`num_traits::FloatConst`];
/// [`T::of`](Lane::of) makes a number from an `f64`. Slices of it go to
/// [`simd::apply`](super::simd::apply) and its like.
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_function::kernel::{self, Float};
///
/// /// Softplus: `max(x, 0) + log(1 + e^-|x|)`.
/// fn softplus<T: Float>(x: T) -> T {
///     x.max(T::zero()) + (-x.abs()).exp().ln_1p()
/// }
///
/// let x = Tensor::from_slice(&[0.0, 1000.0]);
/// for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
///     let x = x.to_kind(kind);
///     let y = kernel::floats!(T of x => kernel::map(&x, softplus::<T>))?;
///     assert_eq!((y.kind(), y.double_value(&[1])), (kind, 1000f64.min(x.double_value(&[1]))));
/// }
/// # anyhow::Ok(())
/// ```
pub trait Float:
    Lane
    + num_traits::Float
    + FloatConst
    + NumAssignOps
    + Sum
    + Product
    + std::fmt::Debug
    + std::fmt::Display
{
    /// The error function.
    fn erf(self) -> Self;
    /// `1 - erf(x)`, right where that is small too.
    fn erfc(self) -> Self;
}

impl Float for f32 {
    fn erf(self) -> f32 {
        libm::erff(self)
    }
    fn erfc(self) -> f32 {
        libm::erfcf(self)
    }
}

impl Float for f64 {
    fn erf(self) -> f64 {
        libm::erf(self)
    }
    fn erfc(self) -> f64 {
        libm::erfc(self)
    }
}

/// Runs one kernel in the dtype of a tensor: `floats!(T of x => expression)` is the
/// expression with `T = f64` if `x` is in f64, and with `T = f32` otherwise, which reads f32,
/// f16 and bf16 (tensors of other dtypes are [`Error::KernelDtype`](crate::Error::KernelDtype)).
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_function::kernel;
///
/// let scale = 2.5; // an f64 of the caller's
/// let x = Tensor::from_slice(&[1.0, 2.0]);
/// for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
///     let x = x.to_kind(kind);
///     let y = kernel::floats!(T of x => kernel::map(&x, |x: T| 0.5 * x.exp() * scale as T))?;
///     assert_eq!(y.kind(), kind);
/// }
/// # anyhow::Ok(())
/// ```
///
/// The expression is compiled once for each type. In it `T` is that type, so literals such as
/// `0.5` need nothing, and an `f64` of the caller's becomes a `T` by `as T`. Inputs of
/// several dtypes are not converted.
///
/// `T` is a type's name in functions that the expression calls as well: see
/// [`Float`](crate::kernel::Float).
#[doc(hidden)]
#[macro_export]
macro_rules! __kernel_floats {
    ($T:ident of $x:expr => $run:expr) => {
        if $crate::kernel::is_f64(&$x) {
            #[allow(dead_code)]
            type $T = f64;
            $run
        } else {
            #[allow(dead_code)]
            type $T = f32;
            $run
        }
    };
}
#[doc(inline)]
pub use crate::__kernel_floats as floats;

/// Whether the dtype is f64, for [`floats`].
#[doc(hidden)]
pub fn is_f64(x: &impl std::borrow::Borrow<Tensor>) -> bool {
    ffi::describe("kernel::floats!", x.borrow())
        .is_ok_and(|d| d.dtype == <f64 as super::element::sealed::Element>::DTYPE)
}
