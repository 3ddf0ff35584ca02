//! Formulas over tensors: where no kernel runs, libtorch's operators compute them.

use super::binary::Binary;
use super::functions::Unary;
use super::term::{Base, Term};
use crate::ffi::{self, WithScalar as _};
use anyhow::Result;
use std::cell::RefCell;
use std::ops::{BitAnd, BitOr, Not};
use tch::{Kind, Tensor};

/// The tensors of one evaluation. A formula works on copies of small handles, and returns
/// no errors, so the first one is kept here.
#[derive(Default)]
pub struct Arena {
    tensors: RefCell<Vec<Tensor>>,
    failed: RefCell<Option<anyhow::Error>>,
}

/// A tensor of an [`Arena`].
#[derive(Clone, Copy)]
pub struct Handle<'a> {
    arena: &'a Arena,
    index: usize,
}

impl Arena {
    pub fn number(&self, t: &Tensor) -> Term<Handle<'_>> {
        Term::Value(self.add(t.shallow_clone()))
    }

    fn add(&self, t: Tensor) -> Handle<'_> {
        let mut tensors = self.tensors.borrow_mut();
        tensors.push(t);
        Handle { arena: self, index: tensors.len() - 1 }
    }

    /// The first error of the evaluation.
    pub fn done(&self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// A tensor, of the shape and dtype of `like` if it is a constant.
    pub fn tensor(&self, number: Term<Handle<'_>>, like: &Tensor) -> Result<Tensor> {
        match number {
            Term::None => Ok(like.f_zeros_like()?),
            Term::Constant(c) => Ok(like.f_full_like(c)?),
            Term::Value(handle) => Ok(handle.tensor()),
        }
    }
}

impl Handle<'_> {
    fn tensor(self) -> Tensor {
        self.arena.tensors.borrow()[self.index].shallow_clone()
    }

    /// What `f` makes; after an error, nothing more is computed.
    fn then(self, f: impl FnOnce() -> Result<Tensor>) -> Self {
        if self.arena.failed.borrow().is_some() {
            return self;
        }
        match f() {
            Ok(t) => self.arena.add(t),
            Err(e) => {
                self.arena.failed.replace(Some(e));
                self
            }
        }
    }
}

impl Base for Handle<'_> {
    type Mask = Self;

    fn of(self, c: f64) -> Self {
        self.then(|| scalar_like(&self.tensor(), c))
    }
    fn unary<F: Unary>(self) -> Self {
        self.then(|| F::tensor(&self.tensor()))
    }
    fn binary<F: Binary>(self, other: Self) -> Self {
        self.then(|| F::tensor(&self.tensor(), &other.tensor()))
    }
    fn with_right<F: Binary>(self, c: f64) -> Self {
        self.binary::<F>(self.of(c))
    }
    fn with_left<F: Binary>(self, c: f64) -> Self {
        self.of(c).binary::<F>(self)
    }
    fn lt(self, other: Self) -> Self {
        self.then(|| Ok(self.tensor().f_lt_tensor(&other.tensor())?))
    }
    fn le(self, other: Self) -> Self {
        self.then(|| Ok(self.tensor().f_le_tensor(&other.tensor())?))
    }
    fn eq(self, other: Self) -> Self {
        self.then(|| Ok(self.tensor().f_eq_tensor(&other.tensor())?))
    }
    fn select(mask: Self, yes: Self, no: Self) -> Self {
        mask.then(|| Ok(yes.tensor().f_where_self(&mask.tensor(), &no.tensor())?))
    }
}

impl BitAnd for Handle<'_> {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        self.then(|| Ok(self.tensor().f_logical_and(&other.tensor())?))
    }
}

impl BitOr for Handle<'_> {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.then(|| Ok(self.tensor().f_logical_or(&other.tensor())?))
    }
}

impl Not for Handle<'_> {
    type Output = Self;
    fn not(self) -> Self {
        self.then(|| Ok(self.tensor().f_logical_not()?))
    }
}

/// A tensor of one number, of the dtype and on the device of `x`, which tch may not know.
pub fn scalar_like(x: &Tensor, c: f64) -> Result<Tensor> {
    let d = ffi::describe(OP, x)?;
    let zero = ffi::zeros(OP, &[], d.dtype, (d.device_type, d.device_index))?;
    Ok(if c == 0.0 { zero } else { zero.add_number(c)? })
}

const OP: &str = "a formula";

/// Runs `f` on the tensors, in f32 at least; returns its results in the broadcast shape and in
/// the dtype of the first one.
pub fn over(
    x: &[&Tensor],
    f: impl for<'a> FnOnce(&[Term<Handle<'a>>]) -> Vec<Term<Handle<'a>>>,
) -> Result<Vec<Tensor>> {
    let kind = x[0].kind();
    let narrow = matches!(kind, Kind::Half | Kind::BFloat16);
    let wide = |x: &&Tensor| if narrow { x.f_to_kind(Kind::Float) } else { Ok(x.shallow_clone()) };
    let x = x.iter().map(wide).collect::<Result<Vec<_>, _>>()?;
    // Zeros of the broadcast shape. Sizes may be symbols, and vmap hides some, so they are not
    // asked for.
    let mut zeros = x[0].f_zeros_like()?;
    for x in &x[1..] {
        zeros = zeros.f_add(&x.f_zeros_like()?)?;
    }
    let arena = Arena::default();
    let numbers: Vec<_> = x.iter().map(|x| arena.number(x)).collect();
    let found = f(&numbers);
    arena.done()?;
    let finished = |number| {
        let y = arena.tensor(number, &zeros)?;
        // Less 0, not plus 0, which would make -0 0.
        let y = if x.len() > 1 { y.f_sub(&zeros)? } else { y };
        Ok(if narrow { y.f_to_kind(kind)? } else { y })
    };
    found.into_iter().map(finished).collect()
}
