//! [`alike`]: small tensors as slices, in one call into libtorch.

use crate::ffi::memory::{self, Alike, AlikeList};
use crate::ffi::parallel::Payload;
use crate::kernel::element::{Element, Stored};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;

/// The short way for small tensors: where all inputs are contiguous or one
/// element that is expanded, of `T`s and of one shape, and there are at most
/// `limit` elements, calls `body` once, with all of each or the one, and returns
/// the new tensors that it has filled.
#[inline]
pub fn alike<T: Element, const I: usize, const O: usize>(
    x: [&Tensor; I],
    limit: usize,
    body: impl FnOnce([&[T]; I], [&mut [MaybeUninit<T>]; O]),
) -> Option<Result<[Tensor; O], Payload>> {
    let Alike { count, x: from, one, y: to, outputs } = memory::alike::<I, O>(x, T::DTYPE, limit)?;
    let aligned = from.iter().all(|data| (*data as usize).is_multiple_of(align_of::<T>()));
    if !aligned || T::stored(T::DTYPE) != Some(Stored::Same) {
        return None;
    }
    let mut slices = [&[][..]; I];
    for (i, slice) in slices.iter_mut().enumerate() {
        let length = if one[i] { 1 } else { count };
        // SAFETY: so many `T`s, says the shim, aligned; the inputs' handles are
        // held by the caller.
        *slice = unsafe { std::slice::from_raw_parts(from[i].cast(), length) };
    }
    // SAFETY: room for `count` `T`s each, in new memory that `outputs` hold.
    let slots = to.map(|data| unsafe { std::slice::from_raw_parts_mut(data.cast(), count) });
    let done = catch_unwind(AssertUnwindSafe(|| body(slices, slots)));
    Some(done.map(|()| outputs))
}

/// Slices of three groups of inputs.
type Inputs<'b, T, const A: usize, const B: usize, const C: usize> =
    ([&'b [T]; A], [&'b [T]; B], [&'b [T]; C]);
/// Places of two groups of outputs.
type Slots<'b, T, const D: usize, const E: usize> =
    ([&'b mut [MaybeUninit<T>]; D], [&'b mut [MaybeUninit<T>]; E]);
/// Tensors of two groups of outputs.
type Outputs<const D: usize, const E: usize> = ([Tensor; D], [Tensor; E]);

/// Does what [`alike`] does, for groups of tensors.
#[inline]
pub fn alike_groups<
    T: Element,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
>(
    (a, b, c): ([&Tensor; A], [&Tensor; B], [&Tensor; C]),
    limit: usize,
    body: impl FnOnce(Inputs<'_, T, A, B, C>, Slots<'_, T, D, E>),
) -> Option<Result<Outputs<D, E>, Payload>> {
    let all = a.into_iter().chain(b).chain(c);
    let AlikeList { count, x, one, y, outputs } = memory::alike_list(all, D + E, T::DTYPE, limit)?;
    let aligned = x.iter().all(|data| (*data as usize).is_multiple_of(align_of::<T>()));
    if !aligned || T::stored(T::DTYPE) != Some(Stored::Same) {
        return None;
    }
    let slice = |i: usize| {
        let length = if one[i] { 1 } else { count };
        // SAFETY: so many `T`s, says the shim, aligned; the inputs' handles are
        // held by the caller.
        unsafe { std::slice::from_raw_parts(x[i].cast::<T>(), length) }
    };
    let slices = (
        std::array::from_fn(slice),
        std::array::from_fn(|i| slice(A + i)),
        std::array::from_fn(|i| slice(A + B + i)),
    );
    // SAFETY: room for `count` `T`s each, in new memory that `outputs` hold, and each asked
    // for once.
    let slot = |i: usize| unsafe { std::slice::from_raw_parts_mut(y[i].cast(), count) };
    let slots = (std::array::from_fn(slot), std::array::from_fn(|i| slot(D + i)));
    let done = catch_unwind(AssertUnwindSafe(|| body(slices, slots)));
    Some(done.map(|()| {
        let mut outputs = outputs.into_iter();
        let mut next = || outputs.next().expect("one for each");
        (std::array::from_fn(|_| next()), std::array::from_fn(|_| next()))
    }))
}
