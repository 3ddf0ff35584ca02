//! [`Shape`]: how the tensors of a Function are taken apart into a flat list and put
//! together again.

use crate::function::Value;
use smallvec::SmallVec;
use tch::Tensor;

/// How a shape is taken apart into a flat list and put together again.
/// The flat list has one entry per position, `None` where an optional
/// value is absent.
pub trait Shape: Sized + 'static {
    type Refs<'a, V: Value>: Copy;
    type Of<V: Value>;
    type Grads;
    /// What the type alone does not say: the lengths of lists and which
    /// optional values are there.
    type Layout: Clone + Send + Sync + 'static;
    /// The tensors of borrowed values, and what `Refs` of plain tensors
    /// needs to borrow from that is not there yet (a slice of them).
    type Held<'a>;
    /// How many positions an absent `Option<Self>` keeps.
    const POSITIONS: usize;

    fn layout<V: Value>(x: Self::Refs<'_, V>) -> Self::Layout;
    fn visit<'a, V: Value>(x: Self::Refs<'a, V>, f: &mut impl FnMut(Option<&'a V>));
    fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>));
    fn borrow<V: Value>(x: &Self::Of<V>) -> Self::Refs<'_, V>;
    fn build<V: Value>(
        layout: &Self::Layout,
        next: &mut impl FnMut() -> Option<V>,
    ) -> Self::Of<V>;
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a>;
    fn lend<'s>(held: &'s Self::Held<'_>) -> Self::Refs<'s, Tensor>;
    /// How a schema of libtorch's writes it; `None` where none does.
    fn slots(slots: &mut Vec<Option<Slot>>);
    /// How many positions each slot of a layout has.
    fn lengths(layout: &Self::Layout, lengths: &mut impl FnMut(usize));
    /// The layout of values that are given slot by slot: for each, whether
    /// its tensors are there.
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout;
    /// As `take`; without a `layout` the value is absent and so must its
    /// gradients be.
    fn take_grads(
        grads: Self::Grads,
        layout: Option<&Self::Layout>,
        f: &mut impl FnMut(Option<Tensor>),
    ) -> Result<(), Mismatch>;
}

/// One argument or result of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Tensor,
    Optional,
    List,
    OptionalList,
}

/// The slot of a list or of an optional value, by that of its content.
pub(super) fn slot_of<T: Shape>(inside: impl Fn(Slot) -> Option<Slot>) -> Option<Slot> {
    let mut slots = Vec::new();
    T::slots(&mut slots);
    match slots[..] {
        [Some(one)] => inside(one),
        _ => None,
    }
}

/// The gradients of a list, or of an optional value, are not as many as
/// the values.
pub struct Mismatch {
    pub expected: usize,
    pub found: usize,
}

impl Shape for Tensor {
    type Refs<'a, V: Value> = &'a V;
    type Of<V: Value> = V;
    type Grads = Option<Tensor>;
    type Layout = ();
    type Held<'a> = &'a Tensor;
    const POSITIONS: usize = 1;

    fn layout<V: Value>(_: &V) {}
    #[inline]
    fn visit<'a, V: Value>(x: &'a V, f: &mut impl FnMut(Option<&'a V>)) {
        f(Some(x))
    }
    #[inline]
    fn take<V: Value>(x: V, f: &mut impl FnMut(Option<V>)) {
        f(Some(x))
    }
    fn borrow<V: Value>(x: &V) -> &V {
        x
    }
    #[inline]
    fn build<V: Value>(_: &(), next: &mut impl FnMut() -> Option<V>) -> V {
        next().expect("the flat list has a value at every position but absent optional ones")
    }
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a> {
        x.tensor()
    }
    fn lend<'s>(held: &'s &Tensor) -> &'s Tensor {
        held
    }
    fn slots(slots: &mut Vec<Option<Slot>>) {
        slots.push(Some(Slot::Tensor));
    }
    fn lengths(_: &(), lengths: &mut impl FnMut(usize)) {
        lengths(1);
    }
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) {
        next();
    }
    #[inline]
    fn take_grads(
        grads: Option<Tensor>,
        _: Option<&()>,
        f: &mut impl FnMut(Option<Tensor>),
    ) -> Result<(), Mismatch> {
        f(grads);
        Ok(())
    }
}
