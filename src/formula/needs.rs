//! [`Plan`]: what the gradients of a formula are computed from, found by running the
//! formula on sets of inputs.

use super::binary::Binary;
use super::functions::Unary;
use super::outlined::{quick, term};
use super::term::{Base, Term};
use super::{Formula, jacobian};
use smallvec::SmallVec;
use std::ops::{BitAnd, BitOr, Not};
use tch::Tensor;

/// A set of inputs, one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Needs(u8);

impl Needs {
    #[inline(always)]
    fn and(self, other: Needs) -> Needs {
        Needs(self.0 | other.0)
    }
}

/// What is computed from two values needs the inputs of both.
impl Base for Needs {
    type Mask = Self;

    #[inline(always)]
    fn of(self, _: f64) -> Self {
        Needs(0)
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
    fn with_right<F: Binary>(self, _: f64) -> Self {
        self
    }
    #[inline(always)]
    fn with_left<F: Binary>(self, _: f64) -> Self {
        self
    }
    #[inline(always)]
    fn lt(self, other: Self) -> Self {
        self.and(other)
    }
    #[inline(always)]
    fn le(self, other: Self) -> Self {
        self.and(other)
    }
    #[inline(always)]
    fn eq(self, other: Self) -> Self {
        self.and(other)
    }
    #[inline(always)]
    fn select(mask: Self, yes: Self, no: Self) -> Self {
        mask.and(yes).and(no)
    }
}

impl BitAnd for Needs {
    type Output = Self;
    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        self.and(other)
    }
}

impl BitOr for Needs {
    type Output = Self;
    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

impl Not for Needs {
    type Output = Self;
    #[inline(always)]
    fn not(self) -> Self {
        self
    }
}

/// The gradient of one input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// 0 everywhere.
    Zero,
    /// The gradient of the only output.
    Same,
    /// Computed from these inputs and the gradients of the outputs.
    Computed(Needs),
}

/// The gradients of a formula's inputs.
pub struct Plan<const I: usize>(pub [Part; I]);

impl<const I: usize> Plan<I> {
    #[inline]
    pub fn of<F: Formula<I, O>, const O: usize>(f: &F) -> Plan<I> {
        let mut x = [quick(Term::None); I];
        for (i, x) in x.iter_mut().enumerate() {
            *x = quick(Term::Value(Needs(1 << i)));
        }
        let slopes = jacobian(f, x);
        let mut parts = [Part::Zero; I];
        for (i, part) in parts.iter_mut().enumerate() {
            for slopes in &slopes {
                *part = part.with(term(slopes[i]), O);
            }
        }
        Plan(parts)
    }

    /// Those of the inputs `x` that the gradients of `wanted` inputs need: all of them, or
    /// none; of two, also one.
    pub fn kept<'t>(&self, wanted: [bool; I], x: [&'t Tensor; I]) -> SmallVec<[&'t Tensor; 2]> {
        let mut needed = Needs(0);
        for (part, wanted) in self.0.iter().zip(wanted) {
            if let (true, Part::Computed(needs)) = (wanted, part) {
                needed = needed.and(*needs);
            }
        }
        match needed {
            Needs(0) => SmallVec::new(),
            Needs(1) if I == 2 => x[..1].into(),
            Needs(2) if I == 2 => x[1..].into(),
            _ => x.iter().copied().collect(),
        }
    }
}

impl Part {
    #[inline(always)]
    fn with(self, slope: Term<Needs>, outputs: usize) -> Part {
        match (self, slope) {
            (part, Term::None) => part,
            (Part::Zero, Term::Constant(1.0)) if outputs == 1 => Part::Same,
            (Part::Computed(needs), Term::Value(more)) => Part::Computed(needs.and(more)),
            (_, Term::Value(needs)) => Part::Computed(needs),
            (part @ Part::Computed(_), Term::Constant(_)) => part,
            (_, Term::Constant(_)) => Part::Computed(Needs(0)),
        }
    }
}

/// What [`Plan::kept`] kept, with something in the place of each input that no gradient
/// needs: of a shape and dtype that are at hand.
#[inline]
pub fn restored<'t, const I: usize>(kept: &[&'t Tensor], dy: &'t Tensor) -> [&'t Tensor; I] {
    let mut x = [kept.first().copied().unwrap_or(dy); I];
    if kept.len() == I {
        x.copy_from_slice(kept);
    }
    x
}
