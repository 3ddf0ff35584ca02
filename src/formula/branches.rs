//! [`check`]: whether a formula takes a branch for each of its comparisons.

use super::binary::Binary;
use super::functions::Unary;
use super::scalar::sealed;
use super::term::with_constants;
use super::{Formula, Scalar};
use crate::error::{Error, Result};
use std::cell::Cell;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

/// The comparisons of one evaluation, one bit each; those from the 64th on are not watched.
#[derive(Default)]
struct Comparisons {
    made: Cell<u64>,
    taken: Cell<u64>,
}

/// A number that knows where comparisons are written down; a constant does not.
#[derive(Clone, Copy)]
struct Watched<'a>(Option<&'a Comparisons>);

/// The comparisons that a mask comes from.
#[derive(Clone, Copy)]
struct Made<'a> {
    bits: u64,
    comparisons: Option<&'a Comparisons>,
}

/// Checks that every comparison of `f` reaches a [`Scalar::select`]. An optimised build knows
/// the answer while it compiles.
///
/// # Errors
/// [`Error::Argument`]
#[inline]
pub fn check<F: Formula<I, O>, const I: usize, const O: usize>(f: &F) -> Result<()> {
    let comparisons = Comparisons::default();
    let _ = f.eval([Watched(Some(&comparisons)); I]);
    match comparisons.made == comparisons.taken {
        true => Ok(()),
        false => Err(unused(f.op_name(), comparisons.made.get() & !comparisons.taken.get())),
    }
}

#[cold]
fn unused(op: &'static str, bits: u64) -> Error {
    let message = format!(
        "comparison {} of the formula's eval (counted from 0, in the order of their calls) takes \
         no branch; give its mask to S::select, or leave it out",
        bits.trailing_zeros()
    );
    Error::Argument { op, message }
}

impl<'a> Watched<'a> {
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Watched(self.0.or(other.0))
    }

    #[inline(always)]
    fn compared(self, other: Self) -> Made<'a> {
        let Watched(comparisons) = self.and(other);
        let mut bits = 0;
        if let Some(comparisons) = comparisons {
            let made = comparisons.made.get();
            bits = made.wrapping_add(1) & !made;
            comparisons.made.set(made | bits);
        }
        Made { bits, comparisons }
    }
}

impl sealed::Scalar for Watched<'_> {
    #[inline(always)]
    fn none() -> Self {
        Watched(None)
    }
    #[inline(always)]
    fn is_none(self) -> bool {
        false
    }
    #[inline(always)]
    fn unary<F: Unary>(self) -> Self {
        self
    }
    #[inline(always)]
    fn binary<F: Binary>(self, other: Self) -> Self {
        self.and(other)
    }
    #[inline(always)]
    fn known(self) -> Option<f64> {
        None
    }
    #[inline(always)]
    fn conj(self) -> Self {
        self
    }
}

impl<'a> Scalar for Watched<'a> {
    type Mask = Made<'a>;

    #[inline(always)]
    fn of(_: f64) -> Self {
        Watched(None)
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Made<'a> {
        self.compared(other)
    }
    #[inline(always)]
    fn le(self, other: Self) -> Made<'a> {
        self.compared(other)
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Made<'a> {
        self.compared(other)
    }
    /// Its own comparisons are no user's.
    #[inline(always)]
    fn clamp(self, _: f64, _: f64) -> Self {
        self
    }
    #[inline(always)]
    fn select(mask: Made<'a>, yes: Self, no: Self) -> Self {
        if let Some(comparisons) = mask.comparisons {
            comparisons.taken.set(comparisons.taken.get() | mask.bits);
        }
        Watched(mask.comparisons).and(yes).and(no)
    }
}

macro_rules! operators {
    ($($Op:ident $op:ident),+) => {$(
        impl $Op for Watched<'_> {
            type Output = Self;
            #[inline(always)]
            fn $op(self, other: Self) -> Self {
                self.and(other)
            }
        }
    )+};
}
operators!(Add add, Sub sub, Mul mul, Div div);

impl Neg for Watched<'_> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        self
    }
}

with_constants!(Watched<'a>, ['a]);

impl Made<'_> {
    #[inline(always)]
    fn and_those_of(self, other: Self) -> Self {
        Made { bits: self.bits | other.bits, comparisons: self.comparisons.or(other.comparisons) }
    }
}

impl BitAnd for Made<'_> {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        self.and_those_of(other)
    }
}

impl BitOr for Made<'_> {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        self.and_those_of(other)
    }
}

impl Not for Made<'_> {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        self
    }
}
