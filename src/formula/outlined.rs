//! [`Outlined`]: a number whose operations are functions that are called.
//!
//! Over vectors everything is inlined, and most of it is known while it is compiled. Over
//! tensors nothing is, and a formula's derivatives would be compiled into one function each
//! with every case of every operation, which takes minutes.

use super::Scalar;
use super::binary::Binary;
use super::functions::Unary;
use super::scalar::sealed;
use super::term::{Base, Mask, Term, with_constants};
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

#[derive(Clone, Copy)]
pub struct Outlined<B>(pub Term<B>);

#[derive(Clone, Copy)]
pub struct OutlinedMask<B: Base>(Mask<B>);

impl<B: Base> sealed::Scalar for Outlined<B> {
    fn none() -> Self {
        Outlined(Term::None)
    }
    fn is_none(self) -> bool {
        sealed::Scalar::is_none(self.0)
    }
    #[inline(never)]
    fn unary<F: Unary>(self) -> Self {
        Outlined(sealed::Scalar::unary::<F>(self.0))
    }
    #[inline(never)]
    fn binary<F: Binary>(self, other: Self) -> Self {
        Outlined(sealed::Scalar::binary::<F>(self.0, other.0))
    }
    fn known(self) -> Option<f64> {
        sealed::Scalar::known(self.0)
    }
    #[inline(never)]
    fn conj(self) -> Self {
        Outlined(sealed::Scalar::conj(self.0))
    }
}

impl<B: Base> Scalar for Outlined<B> {
    type Mask = OutlinedMask<B>;

    fn of(c: f64) -> Self {
        Outlined(Term::Constant(c))
    }
    #[inline(never)]
    fn lt(self, other: Self) -> OutlinedMask<B> {
        OutlinedMask(self.0.lt(other.0))
    }
    #[inline(never)]
    fn le(self, other: Self) -> OutlinedMask<B> {
        OutlinedMask(self.0.le(other.0))
    }
    #[inline(never)]
    fn eq(self, other: Self) -> OutlinedMask<B> {
        OutlinedMask(self.0.eq(other.0))
    }
    #[inline(never)]
    fn select(mask: OutlinedMask<B>, yes: Self, no: Self) -> Self {
        Outlined(Scalar::select(mask.0, yes.0, no.0))
    }
}

macro_rules! operators {
    ($($Op:ident $op:ident),+ => $T:ident) => {$(
        impl<B: Base> $Op for $T<B> {
            type Output = Self;
            #[inline(never)]
            fn $op(self, other: Self) -> Self {
                $T($Op::$op(self.0, other.0))
            }
        }
    )+};
}
operators!(Add add, Sub sub, Mul mul, Div div => Outlined);
operators!(BitAnd bitand, BitOr bitor => OutlinedMask);

impl<B: Base> Neg for Outlined<B> {
    type Output = Self;
    #[inline(never)]
    fn neg(self) -> Self {
        Outlined(-self.0)
    }
}

impl<B: Base> Not for OutlinedMask<B> {
    type Output = Self;
    #[inline(never)]
    fn not(self) -> Self {
        OutlinedMask(!self.0)
    }
}

with_constants!(Outlined<B>, [B: Base]);

/// A number of a kernel or a plan. A quick build calls its operations: inlined code of every
/// formula takes most of the time there.
#[cfg(not(quick_build))]
pub type Quick<B> = Term<B>;
#[cfg(quick_build)]
pub type Quick<B> = Outlined<B>;

#[inline(always)]
pub fn quick<B>(term: Term<B>) -> Quick<B> {
    #[cfg(quick_build)]
    return Outlined(term);
    #[cfg(not(quick_build))]
    term
}

#[inline(always)]
pub fn term<B>(number: Quick<B>) -> Term<B> {
    #[cfg(quick_build)]
    return number.0;
    #[cfg(not(quick_build))]
    number
}
