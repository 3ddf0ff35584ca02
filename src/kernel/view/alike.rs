//! [`alike`]: small tensors as slices, in one call into libtorch.

use crate::ffi::memory::{self, Alike};
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
