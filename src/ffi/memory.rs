//! The memory of tensors, for the kernel module.

use super::own;
use crate::error::Result;
use smallvec::{SmallVec, smallvec};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use tch::Tensor;
use torch_sys::C_tensor;

/// `tf_memory` of the shim.
#[repr(C)]
pub(super) struct RawMemory {
    pub(super) sizes: *const i64,
    pub(super) strides: *const i64,
    pub(super) dim: usize,
    pub(super) count: usize,
    pub(super) data: *const c_void,
    pub(super) dtype: i8,
    pub(super) contiguous: bool,
    pub(super) dense: bool,
}

unsafe extern "C" {
    fn tf_memory_of(t: *const C_tensor, written: bool, out: *mut RawMemory) -> Unfit;
    fn tf_pin(t: *const C_tensor, pin: *mut *mut c_void) -> bool;
    fn tf_unpin(pin: *mut c_void);
    fn tf_empty(
        sizes: *const i64,
        strides: *const i64,
        dim: usize,
        dtype: i8,
        data: *mut *mut c_void,
    ) -> *mut C_tensor;
    safe fn tf_set_cache_limit(bytes: usize);
    safe fn tf_empty_cache();
    fn tf_alike(
        x: *const *const C_tensor,
        n_x: usize,
        dtype: i8,
        limit: usize,
        data_x: *mut *const c_void,
        one_x: *mut bool,
        y: *mut *mut C_tensor,
        n_y: usize,
        data_y: *mut *mut c_void,
    ) -> usize;
}

/// The memory of a dense CPU tensor, borrowed from the tensor.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'t> {
    pub sizes: &'t [i64],
    pub strides: &'t [i64],
    /// Number of elements.
    pub count: usize,
    pub data: *const u8,
    pub dtype: i8,
    pub contiguous: bool,
    /// Each byte of a range belongs to one element.
    pub dense: bool,
}

/// Why a kernel cannot run on a tensor: `tf_unfit` of the shim.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It can; `memory` never returns this.
    Fit = 0,
    /// An exception; see [`last_error`](super::last_error).
    Failed,
    Undefined,
    NoData,
    OtherDevice,
    Quantised,
    NotStrided,
    Lazy,
    Recorded,
    Tangent,
    Traced,
    Unaligned,
    Beyond,
    Inference,
}

/// Holds a tensor's storage, which cannot be resized meanwhile.
pub(crate) struct Pin(*mut c_void);

impl Pin {
    pub fn of(op: &'static str, t: &Tensor) -> Result<Pin> {
        let mut pin = std::ptr::null_mut();
        // SAFETY: `t` owns a valid handle; `pin` is written during the call alone.
        super::check(op, unsafe { tf_pin(t.as_ptr(), &mut pin) })?;
        Ok(Pin(pin))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // SAFETY: made by `of`, given back once.
        unsafe { tf_unpin(self.0) }
    }
}

/// Returns the memory of `t` if a kernel can run on it. `written`: the kernel will
/// write to it.
#[inline]
pub(crate) fn memory<'t>(t: &'t Tensor, written: bool) -> Result<Memory<'t>, Unfit> {
    let mut raw = MaybeUninit::<RawMemory>::uninit();
    // SAFETY: `t` owns a valid handle.
    let unfit = unsafe { tf_memory_of(t.as_ptr(), written, raw.as_mut_ptr()) };
    if unfit != Unfit::Fit {
        return Err(unfit);
    }
    // SAFETY: the shim has written `raw` whole. libtorch keeps `dim` sizes and
    // strides inside the tensor while it lives and is not resized. Kernels read them before
    // they run code of the user's, which may have another handle and resize it.
    unsafe {
        let raw = raw.assume_init();
        let list = |p| if raw.dim == 0 { &[][..] } else { std::slice::from_raw_parts(p, raw.dim) };
        Ok(Memory {
            sizes: list(raw.sizes),
            strides: list(raw.strides),
            count: raw.count,
            data: raw.data.cast(),
            dtype: raw.dtype,
            contiguous: raw.contiguous,
            dense: raw.dense,
        })
    }
}

/// Returns a new CPU tensor, contiguous unless strides are given, and its memory,
/// which is not initialised.
#[inline]
pub(crate) fn empty(
    op: &'static str,
    sizes: &[i64],
    strides: Option<&[i64]>,
    dtype: i8,
) -> Result<(Tensor, *mut u8)> {
    let strides = strides.map(|strides| {
        assert_eq!(strides.len(), sizes.len());
        strides.as_ptr()
    });
    let mut data = std::ptr::null_mut();
    let strides = strides.unwrap_or(std::ptr::null());
    // SAFETY: both lists are valid for `sizes.len()` during the call.
    let handle = unsafe { tf_empty(sizes.as_ptr(), strides, sizes.len(), dtype, &mut data) };
    Ok((own(op, handle)?, data.cast()))
}

/// Inputs of one shape and dtype, and new tensors like the first.
pub(crate) struct Alike<const I: usize, const O: usize> {
    /// Number of elements of each; not 0.
    pub count: usize,
    /// The inputs' memory: contiguous, or a single element if `one`.
    pub x: [*const u8; I],
    pub one: [bool; I],
    /// The outputs' memory, not initialised.
    pub y: [*mut u8; O],
    pub outputs: [Tensor; O],
}

/// Returns the memory of `x` and new outputs if all `x` have one shape, `dtype` and at
/// most `limit` elements.
#[inline]
pub(crate) fn alike<const I: usize, const O: usize>(
    x: [&Tensor; I],
    dtype: i8,
    limit: usize,
) -> Option<Alike<I, O>> {
    let handles = x.map(Tensor::as_ptr);
    let (mut from, mut to) = ([std::ptr::null(); I], [std::ptr::null_mut(); O]);
    let (mut made, mut one) = ([std::ptr::null_mut(); O], [false; I]);
    // SAFETY: the handles are valid, and all arrays have the lengths given.
    let count = unsafe {
        let (from, to, one) = (from.as_mut_ptr(), to.as_mut_ptr(), one.as_mut_ptr());
        tf_alike(handles.as_ptr(), I, dtype, limit, from, one, made.as_mut_ptr(), O, to)
    };
    (count > 0).then(|| Alike {
        count,
        x: from.map(|p| p.cast()),
        one,
        y: to.map(|p| p.cast()),
        // SAFETY: the shim gave new handles, which the Tensors now own alone.
        outputs: made.map(|handle| unsafe { Tensor::from_ptr(handle) }),
    })
}

/// What [`alike`] returns, of as many tensors as there are.
pub(crate) struct AlikeList {
    pub count: usize,
    pub x: SmallVec<[*const c_void; 8]>,
    pub one: SmallVec<[bool; 8]>,
    pub y: SmallVec<[*mut c_void; 4]>,
    pub outputs: SmallVec<[Tensor; 4]>,
}

/// Does what [`alike`] does, for lists of tensors.
#[inline]
pub(crate) fn alike_list<'t>(
    x: impl Iterator<Item = &'t Tensor>,
    n_outputs: usize,
    dtype: i8,
    limit: usize,
) -> Option<AlikeList> {
    let handles: SmallVec<[_; 8]> = x.map(Tensor::as_ptr).collect();
    let n = handles.len();
    let (mut from, mut one) = (smallvec![std::ptr::null(); n], smallvec![false; n]);
    let (mut made, mut to) = (
        SmallVec::<[_; 4]>::from_elem(std::ptr::null_mut(), n_outputs),
        smallvec![std::ptr::null_mut(); n_outputs],
    );
    // SAFETY: the handles are valid, and all arrays have the lengths given.
    let count = unsafe {
        let (from, to, one) = (from.as_mut_ptr(), to.as_mut_ptr(), one.as_mut_ptr());
        let made = made.as_mut_ptr();
        tf_alike(handles.as_ptr(), n, dtype, limit, from, one, made, n_outputs, to)
    };
    (count > 0).then(|| AlikeList {
        count,
        x: from,
        one,
        y: to,
        // SAFETY: the shim gave new handles, which the Tensors now own alone.
        outputs: made.into_iter().map(|handle| unsafe { Tensor::from_ptr(handle) }).collect(),
    })
}

/// Limits the memory of freed large tensors that is kept for new ones.
pub(crate) fn set_cache_limit(bytes: usize) {
    tf_set_cache_limit(bytes);
}

/// Frees the memory that is kept.
pub(crate) fn empty_cache() {
    tf_empty_cache();
}
