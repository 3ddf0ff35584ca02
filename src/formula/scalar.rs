//! [`Scalar`]: what a formula computes with.

use super::binary::{self, Binary};
use super::functions::{self, Unary};
use super::powers;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

/// A number of a [`Formula`](super::Formula): one element of each tensor, or what stands
/// for it while the formula is differentiated, traced or run on another device.
///
/// `+ - * /` take a number or a constant (`x * 2.0`). A constant that lies in the range of the
/// tensors' dtype is not rounded to it before it is added or multiplied.
///
/// The value of each function of one number is within 2 ulp of the exact one in f32 and f64,
/// and so is its derivative, but for the exceptions in `docs/accuracy.md`, which has the
/// measured figures, of functions of two numbers too. At kinks the
/// derivatives are those that libtorch chose; each function says which.
pub trait Scalar:
    Copy
    + sealed::Scalar
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Add<f64, Output = Self>
    + Sub<f64, Output = Self>
    + Mul<f64, Output = Self>
    + Div<f64, Output = Self>
{
    /// A truth value, which [`select`](Scalar::select) takes.
    type Mask: Copy
        + BitAnd<Output = Self::Mask>
        + BitOr<Output = Self::Mask>
        + Not<Output = Self::Mask>;

    /// A constant.
    #[must_use]
    fn of(c: f64) -> Self;

    /// 0
    #[must_use]
    #[inline(always)]
    fn zero() -> Self {
        Self::of(0.0)
    }

    /// 1
    #[must_use]
    #[inline(always)]
    fn one() -> Self {
        Self::of(1.0)
    }

    /// `self < other`; false with NaN.
    #[must_use = "a comparison does nothing until `select` takes it"]
    fn lt(self, other: Self) -> Self::Mask;

    /// `self <= other`; false with NaN.
    #[must_use = "a comparison does nothing until `select` takes it"]
    fn le(self, other: Self) -> Self::Mask;

    /// `self == other`; false with NaN.
    #[must_use = "a comparison does nothing until `select` takes it"]
    fn eq(self, other: Self) -> Self::Mask;

    /// `self > other`; false with NaN.
    #[must_use = "a comparison does nothing until `select` takes it"]
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        other.lt(self)
    }

    /// `self >= other`; false with NaN.
    #[must_use = "a comparison does nothing until `select` takes it"]
    #[inline(always)]
    fn ge(self, other: Self) -> Self::Mask {
        other.le(self)
    }

    /// `yes` where `mask` is true, else `no`; the gradient goes to the one that was taken. Masks
    /// combine with `&`, `|` and `!`.
    ///
    /// From the third derivative on, and where a tangent is differentiated in reverse mode, a
    /// branch that is not taken must have finite derivatives too: libtorch differentiates there,
    /// and 0 times infinity is NaN, as with `torch.where`.
    #[must_use]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// The greater one; NaN if one is NaN. Each gets half of the gradient where they are
    /// equal.
    #[must_use]
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.binary::<binary::Max>(other)
    }

    /// The lesser one; as [`max`](Scalar::max).
    #[must_use]
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.binary::<binary::Min>(other)
    }

    /// `self` where it lies between two constants, else the nearer one. At the constants the
    /// derivative is 1, of NaN it is 0.
    #[must_use]
    #[inline(always)]
    fn clamp(self, least: f64, greatest: f64) -> Self {
        let (least, greatest) = (Self::of(least.min(greatest)), Self::of(greatest));
        let inside = self.ge(least) & self.le(greatest);
        let above = Self::select(self.gt(greatest), greatest, Self::of(f64::NAN));
        Self::select(inside, self, Self::select(self.lt(least), least, above))
    }

    /// `self^exponent`. As in libtorch the derivative in `self` is 0 where the exponent is 0,
    /// and that in the exponent is 0 where `self` is 0 and the exponent is not negative.
    #[must_use]
    #[inline(always)]
    fn powf(self, exponent: Self) -> Self {
        self.binary::<powers::Pow>(exponent)
    }

    /// `self^n`
    #[must_use]
    #[inline(always)]
    fn powi(self, n: i32) -> Self {
        self.powf(Self::of(f64::from(n)))
    }

    /// The angle of the point (`x`, `self`), from -pi to pi. Its derivatives at the origin are 0.
    #[must_use]
    #[inline(always)]
    fn atan2(self, x: Self) -> Self {
        self.binary::<binary::Atan2>(x)
    }

    /// `self - floor(self / divisor) divisor`, with the sign of `divisor`, as Python's `%`. The
    /// derivative in `divisor` is `-floor(self / divisor)`.
    #[must_use]
    #[inline(always)]
    fn remainder(self, divisor: Self) -> Self {
        self.binary::<binary::Remainder>(divisor)
    }

    /// `self * a + b`
    #[must_use]
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        self * a + b
    }

    functions::methods! {}
}

pub mod sealed {
    use super::{Binary, Unary};

    pub trait Scalar: Copy {
        /// What does not depend on anything: the derivative of a constant. Its product with
        /// anything is none, also with an infinity.
        fn none() -> Self;
        fn is_none(self) -> bool;
        fn unary<F: Unary>(self) -> Self;
        fn binary<F: Binary>(self, other: Self) -> Self;
        /// This, if it is known and depends on nothing.
        fn known(self) -> Option<f64>;
        /// The complex conjugate: a real number itself.
        fn conj(self) -> Self;
    }
}
