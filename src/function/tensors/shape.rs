//! [`Shape`]: how the tensors of a Function are taken apart into a flat list and put
//! together again.

use crate::function::Value;
use smallvec::SmallVec;
use tch::Tensor;

/// The form of inputs or outputs. The flat list has one entry per position, `None`
/// for an absent optional value.
pub trait Shape: Sized + 'static {
    type Refs<'a, V: Value>: Copy;
    type Of<V: Value>;
    type Grads;
    /// The facts that the type does not say: the lengths of lists, and which optional
    /// values are present.
    type Layout: Clone + Send + Sync + 'static;
    /// The tensors of borrowed values, in the memory that `Refs` of plain tensors
    /// borrows from (a list needs a slice of tensors).
    type Held<'a>;
    /// Number of positions that an absent `Option<Self>` keeps.
    const POSITIONS: usize;

    fn layout<V: Value>(x: Self::Refs<'_, V>) -> Self::Layout;
    fn visit<'a, V: Value>(x: Self::Refs<'a, V>, f: &mut impl FnMut(Option<&'a V>));
    fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>));
    fn borrow<V: Value>(x: &Self::Of<V>) -> Self::Refs<'_, V>;
    fn build<V: Value>(layout: &Self::Layout, next: &mut impl FnMut() -> Option<V>) -> Self::Of<V>;
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a>;
    fn lend<'s>(held: &'s Self::Held<'_>) -> Self::Refs<'s, Tensor>;
    /// Adds how a schema of libtorch writes the shape; `None` if no schema can.
    fn slots(slots: &mut Vec<Option<Slot>>);
    /// Calls `lengths` with the number of positions of each slot of a layout.
    fn lengths(layout: &Self::Layout, lengths: &mut impl FnMut(usize));
    /// Makes the layout of values whose slots say which of their tensors are present.
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout;
    /// Takes gradients apart as `take` does values. Without a `layout` the value is
    /// absent, and its gradients must be absent too.
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

/// Returns the slot of a list or of an optional value, from the slot of its content.
pub(super) fn slot_of<T: Shape>(inside: impl Fn(Slot) -> Option<Slot>) -> Option<Slot> {
    let mut slots = Vec::new();
    T::slots(&mut slots);
    match slots[..] {
        [Some(one)] => inside(one),
        _ => None,
    }
}

/// A number of gradients of a list, or of an optional value, that is not the number
/// of values.
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
