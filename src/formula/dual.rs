//! [`Dual`]: a number and its derivatives in `N` directions.

use super::Scalar;
use super::binary::{self, Binary};
use super::functions::Unary;
use super::scalar::sealed;
use super::term::with_constants;
use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy)]
pub struct Dual<T, const N: usize> {
    pub value: T,
    pub slopes: [T; N],
}

impl<T: Scalar, const N: usize> Dual<T, N> {
    /// A number that depends on nothing.
    #[inline(always)]
    pub fn constant(value: T) -> Dual<T, N> {
        Dual { value, slopes: [T::none(); N] }
    }

    /// A number that moves by `tangent` in direction `i`.
    #[inline(always)]
    pub fn moving(value: T, i: usize, tangent: T) -> Dual<T, N> {
        let mut dual = Dual::constant(value);
        dual.slopes[i] = tangent;
        dual
    }

    /// `y`, with the tangents of `F` at this and another number.
    #[inline(always)]
    fn tangents<F: Binary>(self, other: Self, y: T) -> Dual<T, N> {
        // Loops, since closures are not always inlined, and what is not has no vectors.
        let mut slopes = self.slopes;
        for (slope, other_slope) in slopes.iter_mut().zip(other.slopes) {
            if !(slope.is_none() && other_slope.is_none()) {
                *slope = F::tangent(self.value, other.value, y, *slope, other_slope);
            }
        }
        Dual { value: y, slopes }
    }

    #[inline(always)]
    fn has_slopes(self) -> bool {
        let mut found = false;
        for slope in self.slopes {
            found |= !slope.is_none();
        }
        found
    }
}

impl<T: Scalar, const N: usize> sealed::Scalar for Dual<T, N> {
    #[inline(always)]
    fn none() -> Self {
        Dual::constant(T::none())
    }

    #[inline(always)]
    fn is_none(self) -> bool {
        self.value.is_none() && !self.has_slopes()
    }

    #[inline(always)]
    fn unary<F: Unary>(self) -> Self {
        let y = self.value.unary::<F>();
        if !self.has_slopes() {
            return Dual::constant(y);
        }
        let mut slopes = self.slopes;
        for dx in &mut slopes {
            if !dx.is_none() {
                *dx = F::tangent(self.value, y, *dx);
            }
        }
        Dual { value: y, slopes }
    }

    #[inline(always)]
    fn binary<F: Binary>(self, other: Self) -> Self {
        let y = self.value.binary::<F>(other.value);
        self.tangents::<F>(other, y)
    }

    #[inline(always)]
    fn known(self) -> Option<f64> {
        if self.has_slopes() { None } else { self.value.known() }
    }

    #[inline(always)]
    fn conj(self) -> Self {
        let mut slopes = self.slopes;
        for d in &mut slopes {
            *d = d.conj();
        }
        Dual { value: self.value.conj(), slopes }
    }
}

impl<T: Scalar, const N: usize> Scalar for Dual<T, N> {
    type Mask = T::Mask;

    #[inline(always)]
    fn of(c: f64) -> Self {
        Dual::constant(T::of(c))
    }

    #[inline(always)]
    fn lt(self, other: Self) -> T::Mask {
        self.value.lt(other.value)
    }

    #[inline(always)]
    fn le(self, other: Self) -> T::Mask {
        self.value.le(other.value)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> T::Mask {
        self.value.eq(other.value)
    }

    #[inline(always)]
    fn select(mask: T::Mask, yes: Self, no: Self) -> Self {
        let value = T::select(mask, yes.value, no.value);
        let mut slopes = yes.slopes;
        for (slope, no) in slopes.iter_mut().zip(no.slopes) {
            if !(slope.is_none() && no.is_none()) {
                *slope = T::select(mask, *slope, no);
            }
        }
        Dual { value, slopes }
    }
}

/// Stamps operators. The values are computed by the operators of `T`, which leave out what is
/// multiplied by 1.
macro_rules! operators {
    ($($Op:ident $op:ident),+) => {$(
        impl<T: Scalar, const N: usize> $Op for Dual<T, N> {
            type Output = Self;
            #[inline(always)]
            fn $op(self, other: Self) -> Self {
                let y = $Op::$op(self.value, other.value);
                self.tangents::<binary::$Op>(other, y)
            }
        }
    )+};
}
operators!(Add add, Sub sub, Mul mul, Div div);

impl<T: Scalar, const N: usize> Neg for Dual<T, N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        let mut slopes = self.slopes;
        for d in &mut slopes {
            *d = -*d;
        }
        Dual { value: -self.value, slopes }
    }
}

with_constants!(Dual<T, N>, [T: Scalar, const N: usize]);
