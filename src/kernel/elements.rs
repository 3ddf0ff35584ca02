//! [`Elements`]: the shapes that a kernel's arguments and results take.

use super::element::{Element, Stored};
use super::layout::StoredAs;
use super::view::{Blocks, Place, Source, Target};
use crate::Result;
use smallvec::SmallVec;
use std::mem::MaybeUninit;
use tch::Tensor;

/// The arguments or results of a kernel's closure: an [`Element`], an array
/// `[T; N]`, or a tuple of two to eight of these.
///
/// | in the closure | tensors that are read | that are made | that are given |
/// |---|---|---|---|
/// | `f32` | `&x` | `Tensor` | `&mut y` |
/// | `(f32, i64)` | `(&x, &t)` | `(Tensor, Tensor)` | `(&mut y, &mut t)` |
/// | `[f32; 2]` | `[&a, &b]` | `[Tensor; 2]` | `[&mut y, &mut z]` |
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a kernel's closure takes or returns",
    label = "no element of a kernel, nor an array or tuple of them",
    note = "for each tensor write f32, f64, u8, i8, i16, i32, i64 or bool; several are an array \
            `[T; N]` or a tuple of two to eight: `|(x, n): (f32, i64)| ..` for `(&x, &n)`"
)]
pub trait Elements: sealed::Elements {}
impl<E: sealed::Elements> Elements for E {}

/// A tensor's place, its number of units, and whether it is a target too.
pub type At<'t> = (Place<'t>, usize, bool);

pub mod sealed {
    use super::*;

    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not what a kernel's closure takes or returns",
        label = "no element of a kernel, nor an array or tuple of them",
        note = "for each tensor write f32, f64, u8, i8, i16, i32, i64 or bool; several are an array \
                `[T; N]` or a tuple of two to eight: `|(x, n): (f32, i64)| ..` for `(&x, &n)`"
    )]
    pub trait Elements: Blocks {
        type Tensors<'t>: Copy;
        type Outputs;
        type OutputsMut<'t>;
        /// A number for each.
        type Lengths;
        const ARITY: usize;

        fn lengths(lengths: &Self::Lengths) -> SmallVec<[i64; 4]>;

        fn visit<'t>(
            x: Self::Tensors<'t>,
            f: &mut impl FnMut(&'t Tensor, StoredAs, i8) -> Result<()>,
        ) -> Result<()>;
        fn lend<'s>(outputs: &'s Self::OutputsMut<'_>) -> Self::Tensors<'s>;
        fn sources<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Sources<'t>;
        fn targets<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Targets<'t>;
        /// Makes new outputs: `next` receives the type's dtype.
        fn make<'t>(
            next: &mut impl FnMut(i8, StoredAs) -> Result<(Tensor, At<'t>)>,
        ) -> Result<(Self::Outputs, Self::Targets<'t>)>;

        /// The first `n` of each.
        fn cut<'b>(slices: Self::Slices<'b>, n: usize) -> Self::Slices<'b>;
        fn get(slices: Self::Slices<'_>, i: usize) -> Self;
        fn len(slots: &Self::Slots<'_>) -> usize;
        fn put(slots: &mut Self::Slots<'_>, i: usize, value: Self);
    }
}

impl<T: Element> sealed::Elements for T {
    type Tensors<'t> = &'t Tensor;
    type Outputs = Tensor;
    type OutputsMut<'t> = &'t mut Tensor;
    type Lengths = i64;
    const ARITY: usize = 1;

    fn lengths(length: &i64) -> SmallVec<[i64; 4]> {
        SmallVec::from_slice(&[*length])
    }

    #[inline]
    fn visit<'t>(
        x: &'t Tensor,
        f: &mut impl FnMut(&'t Tensor, StoredAs, i8) -> Result<()>,
    ) -> Result<()> {
        f(x, T::stored, T::DTYPE)
    }
    fn lend<'s>(output: &'s &mut Tensor) -> &'s Tensor {
        output
    }
    #[inline]
    fn sources<'t>(next: &mut impl FnMut() -> At<'t>) -> Source<'t, T> {
        let (place, count, shared) = next();
        Source::new(place, count, shared)
    }
    #[inline]
    fn targets<'t>(next: &mut impl FnMut() -> At<'t>) -> Target<'t, T> {
        let (place, count, _) = next();
        Target::new(place, count)
    }
    #[inline]
    fn make<'t>(
        next: &mut impl FnMut(i8, StoredAs) -> Result<(Tensor, At<'t>)>,
    ) -> Result<(Tensor, Target<'t, T>)> {
        let (output, (place, count, _)) = next(T::DTYPE, T::stored)?;
        Ok((output, Target::new(place, count)))
    }
    #[inline(always)]
    fn cut<'b>(slice: Self::Slices<'b>, n: usize) -> Self::Slices<'b> {
        &slice[..n]
    }
    #[inline(always)]
    fn get(slice: &[T], i: usize) -> T {
        slice[i]
    }
    #[inline(always)]
    fn len(slots: &&mut [MaybeUninit<T>]) -> usize {
        slots.len()
    }
    #[inline(always)]
    fn put(slots: &mut &mut [MaybeUninit<T>], i: usize, value: T) {
        slots[i].write(value);
    }
}

impl<T: Element, const N: usize> sealed::Elements for [T; N] {
    type Tensors<'t> = [&'t Tensor; N];
    type Outputs = [Tensor; N];
    type OutputsMut<'t> = [&'t mut Tensor; N];
    type Lengths = [i64; N];
    const ARITY: usize = N;

    fn lengths(lengths: &[i64; N]) -> SmallVec<[i64; 4]> {
        SmallVec::from_slice(lengths)
    }

    #[inline]
    fn visit<'t>(
        x: [&'t Tensor; N],
        f: &mut impl FnMut(&'t Tensor, StoredAs, i8) -> Result<()>,
    ) -> Result<()> {
        x.into_iter().try_for_each(|x| f(x, T::stored, T::DTYPE))
    }
    fn lend<'s>(outputs: &'s [&mut Tensor; N]) -> [&'s Tensor; N] {
        outputs.each_ref().map(|t| &**t)
    }
    #[inline]
    fn sources<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Sources<'t> {
        std::array::from_fn(|_| T::sources(next))
    }
    #[inline]
    fn targets<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Targets<'t> {
        std::array::from_fn(|_| T::targets(next))
    }
    #[inline]
    fn make<'t>(
        next: &mut impl FnMut(i8, StoredAs) -> Result<(Tensor, At<'t>)>,
    ) -> Result<([Tensor; N], Self::Targets<'t>)> {
        let mut outputs = [const { None }; N];
        let mut targets = [const { None }; N];
        for (output, target) in outputs.iter_mut().zip(&mut targets) {
            let (made, at) = T::make(next)?;
            (*output, *target) = (Some(made), Some(at));
        }
        let all = "each was made";
        Ok((outputs.map(|t| t.expect(all)), targets.map(|t| t.expect(all))))
    }
    #[inline(always)]
    fn cut<'b>(slices: Self::Slices<'b>, n: usize) -> Self::Slices<'b> {
        let mut cut = slices;
        for slice in &mut cut {
            *slice = &slice[..n];
        }
        cut
    }
    #[inline(always)]
    fn get(slices: [&[T]; N], i: usize) -> [T; N] {
        let mut values = [T::default(); N];
        for (value, slice) in values.iter_mut().zip(slices) {
            *value = slice[i];
        }
        values
    }
    #[inline(always)]
    fn len(slots: &Self::Slots<'_>) -> usize {
        slots[0].len()
    }
    #[inline(always)]
    fn put(slots: &mut Self::Slots<'_>, i: usize, values: [T; N]) {
        for (slot, value) in slots.iter_mut().zip(values) {
            slot[i].write(value);
        }
    }
}

macro_rules! tuple {
    ($($T:ident $i:tt),+) => {
        impl<$($T: sealed::Elements),+> sealed::Elements for ($($T,)+) {
            type Tensors<'t> = ($($T::Tensors<'t>,)+);
            type Outputs = ($($T::Outputs,)+);
            type OutputsMut<'t> = ($($T::OutputsMut<'t>,)+);
            type Lengths = ($($T::Lengths,)+);
            const ARITY: usize = 0 $(+ $T::ARITY)+;

            fn lengths(lengths: &Self::Lengths) -> SmallVec<[i64; 4]> {
                let mut all = SmallVec::new();
                $(all.extend($T::lengths(&lengths.$i));)+
                all
            }

            #[inline]
            fn visit<'t>(
                x: Self::Tensors<'t>,
                f: &mut impl FnMut(&'t Tensor, StoredAs, i8) -> Result<()>,
            ) -> Result<()> {
                $($T::visit(x.$i, f)?;)+
                Ok(())
            }
            fn lend<'s>(outputs: &'s Self::OutputsMut<'_>) -> Self::Tensors<'s> {
                ($($T::lend(&outputs.$i),)+)
            }
            #[inline]
            fn sources<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Sources<'t> {
                ($($T::sources(next),)+)
            }
            #[inline]
            fn targets<'t>(next: &mut impl FnMut() -> At<'t>) -> Self::Targets<'t> {
                ($($T::targets(next),)+)
            }
            #[inline]
            fn make<'t>(
                next: &mut impl FnMut(i8, StoredAs) -> Result<(Tensor, At<'t>)>,
            ) -> Result<(Self::Outputs, Self::Targets<'t>)> {
                let made = ($($T::make(next)?,)+);
                Ok((($(made.$i.0,)+), ($(made.$i.1,)+)))
            }
            #[inline(always)]
            fn cut<'b>(slices: Self::Slices<'b>, n: usize) -> Self::Slices<'b> {
                ($($T::cut(slices.$i, n),)+)
            }
            #[inline(always)]
            fn get(slices: Self::Slices<'_>, i: usize) -> Self {
                ($($T::get(slices.$i, i),)+)
            }
            #[inline(always)]
            fn len(slots: &Self::Slots<'_>) -> usize {
                A::len(&slots.0)
            }
            #[inline(always)]
            fn put(slots: &mut Self::Slots<'_>, i: usize, values: Self) {
                $($T::put(&mut slots.$i, i, values.$i);)+
            }
        }
    };
}
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// The dtype of a new output of the type whose own is `dtype`: where the `f32`s
/// of all inputs are kept in one narrower dtype, results are as well.
#[inline]
pub(super) fn output_dtype(dtype: i8, inputs: impl Iterator<Item = (i8, i8)>) -> i8 {
    let mut found = None;
    for (seen, dtype_in_memory) in inputs {
        if seen == dtype {
            match found {
                None => found = Some(dtype_in_memory),
                Some(other) if other == dtype_in_memory => {}
                Some(_) => return dtype,
            }
        }
    }
    found.unwrap_or(dtype)
}

/// Returns how a dtype of `output_dtype` is kept.
#[inline]
pub(super) fn stored(as_stored: StoredAs, dtype: i8) -> Stored {
    as_stored(dtype).expect("a dtype of the same element type")
}
