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

    /// The number whose derivative in direction `i` is 1.
    #[inline(always)]
    pub fn variable(value: T, i: usize) -> Dual<T, N> {
        let mut dual = Dual::constant(value);
        dual.slopes[i] = T::one();
        dual
    }

    /// This with `value` and slopes that are `f` of these; not asked where there is none.
    #[inline(always)]
    fn mapped(self, value: T, f: impl Fn(T) -> T) -> Dual<T, N> {
        let mut slopes = self.slopes;
        // (Closures over arrays are not always inlined, and what is not has no vectors.)
        for slope in &mut slopes {
            if !slope.is_none() {
                *slope = f(*slope);
            }
        }
        Dual { value, slopes }
    }

    /// A number with `value` and slopes that are `f` of this one's and another one's.
    #[inline(always)]
    fn zipped(self, other: Self, value: T, f: impl Fn(T, T) -> T) -> Dual<T, N> {
        let mut slopes = self.slopes;
        for (slope, other) in slopes.iter_mut().zip(other.slopes) {
            if !(slope.is_none() && other.is_none()) {
                *slope = f(*slope, other);
            }
        }
        Dual { value, slopes }
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
        let slope = F::slope(self.value, y);
        self.mapped(y, |dx| dx * slope)
    }

    #[inline(always)]
    fn binary<F: Binary>(self, other: Self) -> Self {
        let (a, b) = (self.value, other.value);
        let y = a.binary::<F>(b);
        self.zipped(other, y, |da, db| F::tangent(a, b, y, da, db))
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
        yes.zipped(no, value, |yes, no| T::select(mask, yes, no))
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
                let (a, b) = (self.value, other.value);
                let y = $Op::$op(a, b);
                self.zipped(other, y, |da, db| binary::$Op::tangent(a, b, y, da, db))
            }
        }
    )+};
}
operators!(Add add, Sub sub, Mul mul, Div div);

impl<T: Scalar, const N: usize> Neg for Dual<T, N> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self.mapped(-self.value, |d| -d)
    }
}

with_constants!(Dual<T, N>, [T: Scalar, const N: usize]);
