//! [`Term`]: a value or a constant. Constants are known while the kernel is compiled, so
//! that what is multiplied by 0 or 1 costs nothing.

use super::Scalar;
use super::binary::{self, Binary};
use super::functions::{self, Unary};
use super::scalar::sealed;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Neg, Not, Sub};

/// What computes: vectors of numbers, or tensors.
pub trait Base: Copy {
    type Mask: Copy
        + BitAnd<Output = Self::Mask>
        + BitOr<Output = Self::Mask>
        + Not<Output = Self::Mask>;
    /// A constant of the type that `self` has.
    fn of(self, c: f64) -> Self;
    fn unary<F: Unary>(self) -> Self;
    fn binary<F: Binary>(self, other: Self) -> Self;
    /// `F` of this and a constant.
    fn with_right<F: Binary>(self, c: f64) -> Self;
    /// `F` of a constant and this.
    fn with_left<F: Binary>(self, c: f64) -> Self;
    fn lt(self, other: Self) -> Self::Mask;
    fn le(self, other: Self) -> Self::Mask;
    fn eq(self, other: Self) -> Self::Mask;
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
    /// The complex conjugate: a real number itself.
    #[inline(always)]
    fn conj(self) -> Self {
        self
    }
}

#[derive(Clone, Copy)]
pub enum Term<B> {
    /// [`sealed::Scalar::none`].
    None,
    Constant(f64),
    Value(B),
}

use Term::{Constant, Value};

impl<B: Base> Term<B> {
    /// This as a value of the type of `like`.
    #[inline(always)]
    pub fn value(self, like: B) -> B {
        match self {
            Term::None => like.of(0.0),
            Constant(c) => like.of(c),
            Value(v) => v,
        }
    }

    /// Compares this with another one.
    #[inline(always)]
    fn compare(
        self,
        other: Term<B>,
        constants: fn(&f64, &f64) -> bool,
        values: impl FnOnce(B, B) -> B::Mask,
    ) -> Mask<B> {
        match (self.or_zero(), other.or_zero()) {
            (Constant(a), Constant(b)) => Mask::Constant(constants(&a, &b)),
            (Value(a), b) => Mask::Value(values(a, b.value(a)), a),
            (a, Value(b)) => Mask::Value(values(a.value(b), b), b),
            (Term::None, _) | (_, Term::None) => unreachable!("`or_zero` returns a constant"),
        }
    }

    /// This, with none as 0.
    #[inline(always)]
    fn or_zero(self) -> Term<B> {
        match self {
            Term::None => Constant(0.0),
            term => term,
        }
    }

    #[inline(always)]
    fn computed<F: Binary>(self, other: Term<B>) -> Term<B> {
        match (self.or_zero(), other.or_zero()) {
            (Constant(a), Constant(b)) => Constant(F::constant(a, b)),
            (Value(a), Constant(c)) => Value(a.with_right::<F>(c)),
            (Constant(c), Value(b)) => Value(b.with_left::<F>(c)),
            (Value(a), Value(b)) => Value(a.binary::<F>(b)),
            (Term::None, _) | (_, Term::None) => unreachable!("`or_zero` returns a constant"),
        }
    }
}

impl<B: Base> sealed::Scalar for Term<B> {
    #[inline(always)]
    fn none() -> Term<B> {
        Term::None
    }

    #[inline(always)]
    fn is_none(self) -> bool {
        matches!(self, Term::None)
    }

    #[inline(always)]
    fn unary<F: Unary>(self) -> Term<B> {
        match self.or_zero() {
            Value(v) => Value(v.unary::<F>()),
            Constant(c) => Constant(F::constant(c)),
            Term::None => unreachable!("`or_zero` returns a constant"),
        }
    }

    #[inline(always)]
    fn binary<F: Binary>(self, other: Term<B>) -> Term<B> {
        self.computed::<F>(other)
    }

    #[inline(always)]
    fn known(self) -> Option<f64> {
        match self {
            Term::None => Some(0.0),
            Constant(c) => Some(c),
            Value(_) => None,
        }
    }

    #[inline(always)]
    fn conj(self) -> Term<B> {
        match self {
            Value(v) => Value(v.conj()),
            term => term,
        }
    }
}

impl<B: Base> Scalar for Term<B> {
    type Mask = Mask<B>;

    #[inline(always)]
    fn of(c: f64) -> Term<B> {
        Constant(c)
    }

    #[inline(always)]
    fn lt(self, other: Term<B>) -> Mask<B> {
        self.compare(other, f64::lt, B::lt)
    }

    #[inline(always)]
    fn le(self, other: Term<B>) -> Mask<B> {
        self.compare(other, f64::le, B::le)
    }

    #[inline(always)]
    fn eq(self, other: Term<B>) -> Mask<B> {
        self.compare(other, f64::eq, B::eq)
    }

    #[inline(always)]
    fn select(mask: Mask<B>, yes: Term<B>, no: Term<B>) -> Term<B> {
        match mask {
            Mask::Constant(taken) => {
                if taken {
                    yes
                } else {
                    no
                }
            }
            Mask::Value(mask, like) => match (yes, no) {
                (Term::None, Term::None) => Term::None,
                _ => Value(B::select(mask, yes.value(like), no.value(like))),
            },
        }
    }
}

/// A truth value, or one that is known.
#[derive(Clone, Copy)]
pub enum Mask<B: Base> {
    Constant(bool),
    /// With a value of the type that was compared.
    Value(B::Mask, B),
}

impl<B: Base> BitAnd for Mask<B> {
    type Output = Mask<B>;
    #[inline(always)]
    fn bitand(self, other: Mask<B>) -> Mask<B> {
        match (self, other) {
            (Mask::Constant(true), mask) | (mask, Mask::Constant(true)) => mask,
            (Mask::Constant(false), _) | (_, Mask::Constant(false)) => Mask::Constant(false),
            (Mask::Value(a, like), Mask::Value(b, _)) => Mask::Value(a & b, like),
        }
    }
}

impl<B: Base> BitOr for Mask<B> {
    type Output = Mask<B>;
    #[inline(always)]
    fn bitor(self, other: Mask<B>) -> Mask<B> {
        match (self, other) {
            (Mask::Constant(false), mask) | (mask, Mask::Constant(false)) => mask,
            (Mask::Constant(true), _) | (_, Mask::Constant(true)) => Mask::Constant(true),
            (Mask::Value(a, like), Mask::Value(b, _)) => Mask::Value(a | b, like),
        }
    }
}

impl<B: Base> Not for Mask<B> {
    type Output = Mask<B>;
    #[inline(always)]
    fn not(self) -> Mask<B> {
        match self {
            Mask::Constant(known) => Mask::Constant(!known),
            Mask::Value(mask, like) => Mask::Value(!mask, like),
        }
    }
}

impl<B: Base> Add for Term<B> {
    type Output = Term<B>;
    #[inline(always)]
    fn add(self, other: Term<B>) -> Term<B> {
        match (self, other) {
            (Term::None, term) | (term, Term::None) => term,
            _ => self.computed::<binary::Add>(other),
        }
    }
}

impl<B: Base> Sub for Term<B> {
    type Output = Term<B>;
    #[inline(always)]
    fn sub(self, other: Term<B>) -> Term<B> {
        match (self, other) {
            (term, Term::None) => term,
            (Term::None, term) => -term,
            _ => self.computed::<binary::Sub>(other),
        }
    }
}

impl<B: Base> Mul for Term<B> {
    type Output = Term<B>;
    #[inline(always)]
    fn mul(self, other: Term<B>) -> Term<B> {
        match (self, other) {
            (Term::None, _) | (_, Term::None) => Term::None,
            (Constant(1.0), term) | (term, Constant(1.0)) => term,
            _ => self.computed::<binary::Mul>(other),
        }
    }
}

impl<B: Base> Div for Term<B> {
    type Output = Term<B>;
    #[inline(always)]
    fn div(self, other: Term<B>) -> Term<B> {
        match (self, other) {
            (Term::None, _) => Term::None,
            (term, Constant(1.0)) => term,
            _ => self.computed::<binary::Div>(other),
        }
    }
}

impl<B: Base> Neg for Term<B> {
    type Output = Term<B>;
    #[inline(always)]
    fn neg(self) -> Term<B> {
        match self {
            Term::None => Term::None,
            term => sealed::Scalar::unary::<functions::Neg>(term),
        }
    }
}

/// Stamps the operators of a number and a constant.
macro_rules! with_constants {
    ($T:ty, $generics:tt) => {
        crate::formula::term::with_constants!(@ $T, $generics, Add add);
        crate::formula::term::with_constants!(@ $T, $generics, Sub sub);
        crate::formula::term::with_constants!(@ $T, $generics, Mul mul);
        crate::formula::term::with_constants!(@ $T, $generics, Div div);
    };
    (@ $T:ty, [$($generics:tt)*], $Op:ident $op:ident) => {
        impl<$($generics)*> std::ops::$Op<f64> for $T {
            type Output = Self;
            #[inline(always)]
            fn $op(self, c: f64) -> Self {
                std::ops::$Op::$op(self, <Self as crate::formula::Scalar>::of(c))
            }
        }
    };
}
pub(super) use with_constants;

with_constants!(Term<B>, [B: Base]);
