//! What the crate reads of a tensor and does to it, below autograd.

use super::errors::{check, last_error};
use crate::error::Error;
use std::borrow::Borrow;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tf_describe(t: *const C_tensor, out: *mut Description<'_>, has_tangent: *mut bool) -> bool;
    fn tf_version(t: *const C_tensor) -> u32;
    fn tf_zeros(sizes: *const i64, dim: usize, dtype: i8, device: i8, index: i8) -> *mut C_tensor;
    fn tf_is_unique(t: *const C_tensor) -> bool;
    fn tf_in_leaf(t: *const C_tensor) -> bool;
    fn tf_shares_storage(a: *const C_tensor, b: *const C_tensor) -> bool;
    fn tf_accumulate(sum: *mut C_tensor, term: *const C_tensor) -> bool;
    fn tf_zeros_like(t: *const C_tensor) -> *mut C_tensor;
    fn tf_as_leaf_gradient(leaf: *const C_tensor, grad: *const C_tensor) -> *mut C_tensor;
    fn tf_same_data(a: *const C_tensor, b: *const C_tensor) -> bool;
    fn tf_bump_version(t: *const C_tensor) -> bool;
}

/// The facts about a tensor that the checks need, borrowed from it: `tf_meta` of the
/// shim.
#[repr(C)]
pub(crate) struct Description<'t> {
    pub(super) sizes: *const i64,
    pub(super) dim: usize,
    /// An address that is equal for handles of one tensor, and for no two tensors that
    /// live.
    pub identity: usize,
    /// The in-place counter; 0 for inference tensors, which have none.
    pub version: u32,
    /// `c10::ScalarType`; -1 if the tensor is undefined.
    pub dtype: i8,
    /// `c10::DeviceType`.
    pub device_type: i8,
    pub device_index: i8,
    pub requires_grad: bool,
    /// The tensor requires a gradient only because the tensor that it views does.
    pub only_as_view: bool,
    /// The sizes are symbols of a tracer's; `sizes` is empty.
    pub symbolic: bool,
    /// It is one of libtorch's zeros without memory.
    pub zero: bool,
    /// The in-place counter moves when the tensor is changed: it is no inference tensor.
    pub watched: bool,
    /// It is a tensor of Python's, such as a fake one.
    pub python: bool,
    pub(super) tensor: PhantomData<&'t Tensor>,
}

impl<'t> Description<'t> {
    #[inline]
    pub fn sizes(&self) -> &'t [i64] {
        if self.dim == 0 {
            return &[];
        }
        // SAFETY: libtorch keeps `dim` sizes inside the tensor while it lives;
        // resizing it takes `&mut Tensor`, or another handle to it, which no
        // caller of `describe` uses while it reads the description.
        unsafe { std::slice::from_raw_parts(self.sizes, self.dim) }
    }

    #[cfg(test)]
    pub fn of_sizes(sizes: &'t [i64], device: (i8, i8)) -> Description<'t> {
        Description {
            sizes: sizes.as_ptr(),
            dim: sizes.len(),
            identity: 0,
            version: 0,
            dtype: 6,
            device_type: device.0,
            device_index: device.1,
            requires_grad: false,
            only_as_view: false,
            symbolic: false,
            zero: false,
            watched: true,
            python: false,
            tensor: PhantomData,
        }
    }
}

/// Reads the description of `t` in one call.
#[inline]
pub(crate) fn describe<'t>(op: &'static str, t: &'t Tensor) -> Result<Description<'t>, Error> {
    read(op, t, std::ptr::null_mut())
}

/// Reads the description of `t`, and whether `t` carries a forward-mode tangent.
#[inline]
pub(crate) fn describe_input<'t>(
    op: &'static str,
    t: &'t Tensor,
) -> Result<(Description<'t>, bool), Error> {
    let mut has_tangent = false;
    Ok((read(op, t, &mut has_tangent)?, has_tangent))
}

#[inline]
fn read<'t>(
    op: &'static str,
    t: &'t Tensor,
    has_tangent: *mut bool,
) -> Result<Description<'t>, Error> {
    let mut out = MaybeUninit::<Description<'t>>::uninit();
    // SAFETY: `t` owns a valid handle; `has_tangent` is null or a local of the caller;
    // the shim writes `out` whole before it returns true.
    unsafe {
        check(op, tf_describe(t.as_ptr(), out.as_mut_ptr(), has_tangent))?;
        Ok(out.assume_init())
    }
}

/// Returns the in-place counter; 0 for inference tensors, which have none.
#[inline]
pub(crate) fn version(t: &Tensor) -> u32 {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_version(t.as_ptr()) }
}

pub(super) fn own(op: &'static str, handle: *mut C_tensor) -> Result<Tensor, Error> {
    if handle.is_null() {
        return Err(last_error(op));
    }
    // SAFETY: the shim gave a new handle, which the Tensor now owns alone.
    Ok(unsafe { Tensor::from_ptr(handle) })
}

pub(crate) fn zeros(
    op: &'static str,
    sizes: &[i64],
    dtype: i8,
    device: (i8, i8),
) -> Result<Tensor, Error> {
    // SAFETY: `sizes` is valid for its length during the call.
    own(op, unsafe { tf_zeros(sizes.as_ptr(), sizes.len(), dtype, device.0, device.1) })
}

/// Returns whether `t` is the only handle to its tensor and its storage.
pub(crate) fn is_unique(t: &Tensor) -> bool {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_is_unique(t.as_ptr()) }
}

/// Returns whether `t` is a leaf of libtorch's that requires a gradient, or a view of one.
pub(crate) fn in_leaf(t: &Tensor) -> bool {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_in_leaf(t.as_ptr()) }
}

/// Returns whether both lie in the same memory, in any parts of it.
#[inline]
pub(crate) fn shares_storage(a: &Tensor, b: &Tensor) -> bool {
    // SAFETY: both own valid handles.
    unsafe { tf_shares_storage(a.as_ptr(), b.as_ptr()) }
}

/// Returns zeros in memory like `t`.
pub(crate) fn zeros_like(op: &'static str, t: &Tensor) -> Result<Tensor, Error> {
    // SAFETY: `t` owns a valid handle.
    own(op, unsafe { tf_zeros_like(t.as_ptr()) })
}

/// Returns `grad` as the gradient of a leaf: with the leaf's strides, and with no other
/// handle that could see it change.
pub(crate) fn as_leaf_gradient(
    op: &'static str,
    leaf: &Tensor,
    grad: Tensor,
) -> Result<Tensor, Error> {
    // SAFETY: both own valid handles.
    own(op, unsafe { tf_as_leaf_gradient(leaf.as_ptr(), grad.as_ptr()) })
}

/// Returns whether both show the same elements of the same memory, with one dtype.
pub(crate) fn same_data(a: &Tensor, b: &Tensor) -> bool {
    // SAFETY: both own valid handles.
    unsafe { tf_same_data(a.as_ptr(), b.as_ptr()) }
}

/// Computes `sum += term`, in place only if no other handle sees the memory. They must
/// have one shape, dtype and device.
pub(crate) fn accumulate(op: &'static str, sum: &mut Tensor, term: &Tensor) -> Result<(), Error> {
    // SAFETY: both own valid handles; the shim writes only through `sum`'s
    // handle and into storage of which it has checked that `sum` or `term`
    // holds the only reference.
    check(op, unsafe { tf_accumulate(sum.as_mut_ptr(), term.as_ptr()) })
}

/// Marks `t` as changed in place.
pub(crate) fn bump_version(op: &'static str, t: &Tensor) -> Result<(), Error> {
    // SAFETY: `t` owns a valid handle.
    check(op, unsafe { tf_bump_version(t.as_ptr()) })
}

pub(super) fn handles(tensors: &[impl Borrow<Tensor>]) -> Vec<*const C_tensor> {
    tensors.iter().map(|t| t.borrow().as_ptr()).collect()
}
