//! [`Shape`] of lists, arrays, optional values and tuples.

use super::shape::{Mismatch, Shape, Slot, slot_of};
use crate::function::Value;
use smallvec::{SmallVec, smallvec};
use tch::Tensor;

fn skip<V>(positions: usize, f: &mut impl FnMut(Option<V>)) {
    (0..positions).for_each(|_| f(None));
}

impl<T: Shape> Shape for Vec<T> {
    type Refs<'a, V: Value> = &'a [T::Of<V>];
    type Of<V: Value> = Vec<T::Of<V>>;
    type Grads = Vec<T::Grads>;
    type Layout = Vec<T::Layout>;
    type Held<'a> = Vec<T::Of<Tensor>>;
    const POSITIONS: usize = 0;

    fn layout<V: Value>(x: &[T::Of<V>]) -> Self::Layout {
        x.iter().map(|x| T::layout(T::borrow(x))).collect()
    }
    fn visit<'a, V: Value>(x: &'a [T::Of<V>], f: &mut impl FnMut(Option<&'a V>)) {
        x.iter().for_each(|x| T::visit(T::borrow(x), f))
    }
    fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>)) {
        x.into_iter().for_each(|x| T::take(x, f))
    }
    fn borrow<V: Value>(x: &Self::Of<V>) -> &[T::Of<V>] {
        x
    }
    fn build<V: Value>(layout: &Self::Layout, next: &mut impl FnMut() -> Option<V>) -> Self::Of<V> {
        layout.iter().map(|layout| T::build(layout, next)).collect()
    }
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a> {
        let mut flat = Vec::new();
        Self::visit(x, &mut |v: Option<&V>| flat.push(v.map(|v| v.tensor().shallow_clone())));
        let mut flat = flat.into_iter();
        Self::build(&Self::layout(x), &mut || flat.next().flatten())
    }
    fn lend<'s>(held: &'s Self::Held<'_>) -> &'s [T::Of<Tensor>] {
        held
    }
    fn slots(slots: &mut Vec<Option<Slot>>) {
        slots.push(slot_of::<T>(|inside| match inside {
            Slot::Tensor => Some(Slot::List),
            Slot::Optional => Some(Slot::OptionalList),
            Slot::List | Slot::OptionalList => None,
        }));
    }
    fn lengths(layout: &Self::Layout, lengths: &mut impl FnMut(usize)) {
        lengths(layout.len());
    }
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout {
        next().into_iter().map(|is_there| T::arrange(&mut || smallvec![is_there])).collect()
    }
    fn take_grads(
        grads: Self::Grads,
        layout: Option<&Self::Layout>,
        f: &mut impl FnMut(Option<Tensor>),
    ) -> Result<(), Mismatch> {
        let layout = layout.map_or(&[][..], |l| l);
        if grads.len() != layout.len() {
            return Err(Mismatch { expected: layout.len(), found: grads.len() });
        }
        grads.into_iter().zip(layout).try_for_each(|(g, l)| T::take_grads(g, Some(l), f))
    }
}

impl<T: Shape, const N: usize> Shape for [T; N] {
    type Refs<'a, V: Value> = [T::Refs<'a, V>; N];
    type Of<V: Value> = [T::Of<V>; N];
    type Grads = [T::Grads; N];
    type Layout = [T::Layout; N];
    type Held<'a> = [T::Held<'a>; N];
    const POSITIONS: usize = N * T::POSITIONS;

    fn layout<V: Value>(x: Self::Refs<'_, V>) -> Self::Layout {
        x.map(T::layout)
    }
    fn visit<'a, V: Value>(x: Self::Refs<'a, V>, f: &mut impl FnMut(Option<&'a V>)) {
        x.into_iter().for_each(|x| T::visit(x, f))
    }
    fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>)) {
        x.into_iter().for_each(|x| T::take(x, f))
    }
    fn borrow<V: Value>(x: &Self::Of<V>) -> Self::Refs<'_, V> {
        x.each_ref().map(T::borrow)
    }
    fn build<V: Value>(layout: &Self::Layout, next: &mut impl FnMut() -> Option<V>) -> Self::Of<V> {
        layout.each_ref().map(|layout| T::build(layout, next))
    }
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a> {
        x.map(T::hold)
    }
    fn lend<'s>(held: &'s Self::Held<'_>) -> Self::Refs<'s, Tensor> {
        held.each_ref().map(T::lend)
    }
    fn slots(slots: &mut Vec<Option<Slot>>) {
        (0..N).for_each(|_| T::slots(slots));
    }
    fn lengths(layout: &Self::Layout, lengths: &mut impl FnMut(usize)) {
        layout.iter().for_each(|layout| T::lengths(layout, lengths));
    }
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout {
        std::array::from_fn(|_| T::arrange(next))
    }
    fn take_grads(
        grads: Self::Grads,
        layout: Option<&Self::Layout>,
        f: &mut impl FnMut(Option<Tensor>),
    ) -> Result<(), Mismatch> {
        let mut grads = grads.into_iter().enumerate();
        grads.try_for_each(|(i, g)| T::take_grads(g, layout.map(|l| &l[i]), f))
    }
}

impl<T: Shape> Shape for Option<T> {
    type Refs<'a, V: Value> = Option<T::Refs<'a, V>>;
    type Of<V: Value> = Option<T::Of<V>>;
    type Grads = T::Grads;
    type Layout = Option<T::Layout>;
    type Held<'a> = Option<T::Held<'a>>;
    const POSITIONS: usize = T::POSITIONS;

    fn layout<V: Value>(x: Self::Refs<'_, V>) -> Self::Layout {
        x.map(T::layout)
    }
    fn visit<'a, V: Value>(x: Self::Refs<'a, V>, f: &mut impl FnMut(Option<&'a V>)) {
        match x {
            Some(x) => T::visit(x, f),
            None => skip(T::POSITIONS, f),
        }
    }
    fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>)) {
        match x {
            Some(x) => T::take(x, f),
            None => skip(T::POSITIONS, f),
        }
    }
    fn borrow<V: Value>(x: &Self::Of<V>) -> Self::Refs<'_, V> {
        x.as_ref().map(T::borrow)
    }
    fn build<V: Value>(layout: &Self::Layout, next: &mut impl FnMut() -> Option<V>) -> Self::Of<V> {
        match layout {
            Some(layout) => Some(T::build(layout, next)),
            None => {
                (0..T::POSITIONS).for_each(|_| drop(next()));
                None
            }
        }
    }
    fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a> {
        x.map(T::hold)
    }
    fn lend<'s>(held: &'s Self::Held<'_>) -> Self::Refs<'s, Tensor> {
        held.as_ref().map(T::lend)
    }
    fn slots(slots: &mut Vec<Option<Slot>>) {
        let inside = |inside| (inside == Slot::Tensor).then_some(Slot::Optional);
        slots.push(slot_of::<T>(inside));
    }
    fn lengths(_: &Self::Layout, lengths: &mut impl FnMut(usize)) {
        lengths(1);
    }
    fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout {
        let is_there = next().first() == Some(&true);
        is_there.then(|| T::arrange(&mut || smallvec![true]))
    }
    fn take_grads(
        grads: T::Grads,
        layout: Option<&Self::Layout>,
        f: &mut impl FnMut(Option<Tensor>),
    ) -> Result<(), Mismatch> {
        if let Some(Some(layout)) = layout {
            return T::take_grads(grads, Some(layout), f);
        }
        let mut found = 0;
        T::take_grads(grads, None, &mut |grad: Option<Tensor>| {
            found += usize::from(grad.is_some());
            f(None)
        })?;
        if found == 0 { Ok(()) } else { Err(Mismatch { expected: 0, found }) }
    }
}

macro_rules! tuple {
    ($($T:ident $i:tt),+) => {
        impl<$($T: Shape),+> Shape for ($($T,)+) {
            type Refs<'a, V: Value> = ($($T::Refs<'a, V>,)+);
            type Of<V: Value> = ($($T::Of<V>,)+);
            type Grads = ($($T::Grads,)+);
            type Layout = ($($T::Layout,)+);
            type Held<'a> = ($($T::Held<'a>,)+);
            const POSITIONS: usize = 0 $(+ $T::POSITIONS)+;

            fn layout<V: Value>(x: Self::Refs<'_, V>) -> Self::Layout {
                ($($T::layout(x.$i),)+)
            }
            #[inline]
            fn visit<'a, V: Value>(x: Self::Refs<'a, V>, f: &mut impl FnMut(Option<&'a V>)) {
                $($T::visit(x.$i, f);)+
            }
            #[inline]
            fn take<V: Value>(x: Self::Of<V>, f: &mut impl FnMut(Option<V>)) {
                $($T::take(x.$i, f);)+
            }
            fn borrow<V: Value>(x: &Self::Of<V>) -> Self::Refs<'_, V> {
                ($($T::borrow(&x.$i),)+)
            }
            #[inline]
            fn build<V: Value>(
                layout: &Self::Layout,
                next: &mut impl FnMut() -> Option<V>,
            ) -> Self::Of<V> {
                ($($T::build(&layout.$i, next),)+)
            }
            fn hold<'a, V: Value>(x: Self::Refs<'a, V>) -> Self::Held<'a> {
                ($($T::hold(x.$i),)+)
            }
            fn lend<'s>(held: &'s Self::Held<'_>) -> Self::Refs<'s, Tensor> {
                ($($T::lend(&held.$i),)+)
            }
            fn slots(slots: &mut Vec<Option<Slot>>) {
                $($T::slots(slots);)+
            }
            fn lengths(layout: &Self::Layout, lengths: &mut impl FnMut(usize)) {
                $($T::lengths(&layout.$i, lengths);)+
            }
            fn arrange(next: &mut dyn FnMut() -> SmallVec<[bool; 1]>) -> Self::Layout {
                ($($T::arrange(next),)+)
            }
            #[inline]
            fn take_grads(
                grads: Self::Grads,
                layout: Option<&Self::Layout>,
                f: &mut impl FnMut(Option<Tensor>),
            ) -> Result<(), Mismatch> {
                $($T::take_grads(grads.$i, layout.map(|l| &l.$i), f)?;)+
                Ok(())
            }
        }
    };
}
tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
