//! Formulas over tensors: where no kernel runs, libtorch's operators compute them.

use super::binary::Binary;
use super::functions::Unary;
use super::outlined::Outlined;
use super::term::{Base, Term};
use crate::ffi::modes::NoAutocast;
use crate::ffi::{self, WithScalar as _};
use anyhow::Result;
use std::borrow::Borrow;
use std::cell::{OnceCell, RefCell};
use std::ops::{BitAnd, BitOr, Not};
use tch::{Kind, Tensor};

/// The tensors of one evaluation. A formula works on copies of small handles, and returns
/// no errors, so the first one is kept here.
#[derive(Default)]
pub struct Arena {
    /// Whether no tensors are computed: numbers only know which inputs they come from.
    is_dry: bool,
    tensors: RefCell<Vec<Tensor>>,
    failed: RefCell<Option<anyhow::Error>>,
}

/// A tensor of an [`Arena`].
#[derive(Clone, Copy)]
pub struct Handle<'a> {
    arena: &'a Arena,
    index: usize,
    /// The inputs whose shapes were broadcast to that of this tensor, one bit each.
    from: u32,
}

/// A tensor of an [`Arena`], or a constant.
pub type Number<'a> = Outlined<Handle<'a>>;

impl Arena {
    /// The numbers that the tensors are.
    fn numbers(&self, x: &[impl Borrow<Tensor>]) -> Vec<Number<'_>> {
        let number =
            |(i, t): (usize, &_)| self.add(Borrow::<Tensor>::borrow(t).shallow_clone(), 1 << i);
        x.iter().enumerate().map(|x| Outlined(Term::Value(number(x)))).collect()
    }

    fn add(&self, t: Tensor, from: u32) -> Handle<'_> {
        let mut tensors = self.tensors.borrow_mut();
        tensors.push(t);
        Handle { arena: self, index: tensors.len() - 1, from }
    }

    /// The first error of the evaluation.
    pub fn done(&self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// A tensor, of the shape and dtype of `like` if it is a constant.
    fn tensor(&self, number: Number<'_>, like: &Tensor) -> Result<Tensor> {
        match number.0 {
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

    /// What `f` makes of this; after an error, nothing more is computed.
    fn then(self, f: impl FnOnce() -> Result<Tensor>) -> Self {
        self.with(0, f)
    }

    /// What `f` makes of this and of what comes from other inputs.
    fn with(self, others: u32, f: impl FnOnce() -> Result<Tensor>) -> Self {
        if self.arena.is_dry {
            return Handle { from: self.from | others, ..self };
        }
        if self.arena.failed.borrow().is_some() {
            return self;
        }
        match f() {
            Ok(t) => self.arena.add(t, self.from | others),
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
        if self.arena.is_dry {
            return Handle { from: 0, ..self };
        }
        match scalar_like(&self.tensor(), c) {
            Ok(t) => self.arena.add(t, 0),
            Err(e) => self.then(|| Err(e)),
        }
    }
    fn unary<F: Unary>(self) -> Self {
        self.then(|| F::tensor(&self.tensor()))
    }
    fn binary<F: Binary>(self, other: Self) -> Self {
        self.with(other.from, || F::tensor(&self.tensor(), &other.tensor()))
    }
    fn with_right<F: Binary>(self, c: f64) -> Self {
        self.then(|| F::tensor_and(&self.tensor(), c))
    }
    fn with_left<F: Binary>(self, c: f64) -> Self {
        self.then(|| F::number_and(c, &self.tensor()))
    }
    fn lt(self, other: Self) -> Self {
        self.with(other.from, || Ok(self.tensor().f_lt_tensor(&other.tensor())?))
    }
    fn le(self, other: Self) -> Self {
        self.with(other.from, || Ok(self.tensor().f_le_tensor(&other.tensor())?))
    }
    fn eq(self, other: Self) -> Self {
        self.with(other.from, || Ok(self.tensor().f_eq_tensor(&other.tensor())?))
    }
    fn select(mask: Self, yes: Self, no: Self) -> Self {
        let take = || Ok(yes.tensor().f_where_self(&mask.tensor(), &no.tensor())?);
        mask.with(yes.from | no.from, take)
    }
    fn conj(self) -> Self {
        self.then(|| Ok(self.tensor().f_conj()?))
    }
}

impl BitAnd for Handle<'_> {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        self.with(other.from, || Ok(self.tensor().f_logical_and(&other.tensor())?))
    }
}

impl BitOr for Handle<'_> {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.with(other.from, || Ok(self.tensor().f_logical_or(&other.tensor())?))
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

/// How tensors compute.
#[derive(Clone, Copy)]
pub enum Way {
    /// As they are. Each result depends on what gives it its shape; a constant takes that of
    /// the last tensor.
    Plain,
    /// In f32 at least. Results have the broadcast shape, which those from the position
    /// `whole` on have, and the dtype of the first tensor.
    Wide { whole: Option<usize> },
}

/// What a formula makes of numbers. It is a pointer, so that what calls it is compiled once.
type OnNumbers<'f> = dyn for<'a> Fn(&[Number<'a>]) -> Vec<Number<'a>> + 'f;

/// Runs `f` on the tensors, with autocast off.
pub fn over(x: &[&Tensor], way: Way, f: &OnNumbers<'_>) -> Result<Vec<Tensor>> {
    let _off = NoAutocast::enter();
    let arena = Arena::default();
    let Way::Wide { whole } = way else {
        let found = f(&arena.numbers(x));
        arena.done()?;
        let like = x[x.len() - 1];
        return found.into_iter().map(|number| arena.tensor(number, like)).collect();
    };
    let kind = x[0].kind();
    let narrow = matches!(kind, Kind::Half | Kind::BFloat16);
    let wide = |x: &&Tensor| if narrow { x.f_to_kind(Kind::Float) } else { Ok(x.shallow_clone()) };
    let x = x.iter().map(wide).collect::<Result<Vec<_>, _>>()?;
    let found = f(&arena.numbers(&x));
    arena.done()?;
    let shape = Shape { x: &x, whole, zeros: OnceCell::new() };
    let finished = |number| {
        let y = shape.fit(&arena, number)?;
        Ok(if narrow { y.f_to_kind(kind)? } else { y })
    };
    found.into_iter().map(finished).collect()
}

/// Whether each result of `f` is 0 for any tensors in the places of `count` numbers.
pub fn are_zero(count: usize, f: &OnNumbers<'_>) -> Vec<bool> {
    let arena = Arena { is_dry: true, ..Arena::default() };
    let number = |i| Outlined(Term::Value(Handle { arena: &arena, index: 0, from: 1u32 << i }));
    let found = f(&(0..count).map(number).collect::<Vec<_>>());
    found.into_iter().map(|number| matches!(number.0, Term::None)).collect()
}

/// The shape to which some tensors broadcast.
struct Shape<'x> {
    x: &'x [Tensor],
    whole: Option<usize>,
    zeros: OnceCell<Tensor>,
}

impl Shape<'_> {
    /// The tensor in this shape.
    fn fit(&self, arena: &Arena, number: Number<'_>) -> Result<Tensor> {
        match number.0 {
            Term::Value(handle) if self.is_that_of(handle) => Ok(handle.tensor()),
            // Less 0, not plus 0, which would make -0 0.
            Term::Value(handle) => Ok(handle.tensor().f_sub(self.zeros()?)?),
            _ => arena.tensor(number, self.zeros()?),
        }
    }

    fn is_that_of(&self, handle: Handle) -> bool {
        let every = (1 << self.x.len()) - 1;
        let whole = self.whole.map_or(0, |from| every >> from << from);
        handle.from == every || handle.from & whole != 0
    }

    /// Zeros of the shape. Sizes may be symbols, and vmap hides some, so they are not asked
    /// for.
    fn zeros(&self) -> Result<&Tensor> {
        if self.zeros.get().is_none() {
            let mut zeros = self.x[self.whole.unwrap_or(0)].f_zeros_like()?;
            for x in self.x.iter().skip(1).filter(|_| self.whole.is_none()) {
                zeros = zeros.f_add(&x.f_zeros_like()?)?;
            }
            let _ = self.zeros.set(zeros);
        }
        Ok(self.zeros.get().expect("just set"))
    }
}
