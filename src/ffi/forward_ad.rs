//! libtorch's forward mode.

use super::check;
use crate::error::Error;
use std::marker::PhantomData;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    safe fn tf_enter_dual_level() -> bool;
    safe fn tf_exit_dual_level();
    safe fn tf_set_forward_mode(enabled: bool) -> bool;
    fn tf_tangent(t: *const C_tensor) -> *mut C_tensor;
    fn tf_set_tangent(t: *const C_tensor, tangent: *const C_tensor) -> bool;
}

/// Enters libtorch's one level of forward mode.
pub(crate) fn enter_dual_level(op: &'static str) -> Result<(), Error> {
    check(op, tf_enter_dual_level())
}

/// Leaves the level; its tangents are gone.
pub(crate) fn exit_dual_level() {
    tf_exit_dual_level();
}

/// Stops libtorch's ops on this thread from propagating tangents, while it lives.
pub(crate) struct NoForwardMode {
    was: bool,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl NoForwardMode {
    pub fn enter() -> NoForwardMode {
        NoForwardMode { was: tf_set_forward_mode(false), _not_send: PhantomData }
    }
}

impl Drop for NoForwardMode {
    fn drop(&mut self) {
        tf_set_forward_mode(self.was);
    }
}

/// Returns the forward-mode tangent of `t`.
#[inline]
pub(crate) fn tangent(t: &Tensor) -> Option<Tensor> {
    // SAFETY: `t` owns a valid handle.
    let handle = unsafe { tf_tangent(t.as_ptr()) };
    // SAFETY: the shim gave a new handle, which the Tensor now owns alone.
    (!handle.is_null()).then(|| unsafe { Tensor::from_ptr(handle) })
}

pub(crate) fn set_tangent(op: &'static str, t: &Tensor, tangent: &Tensor) -> Result<(), Error> {
    // SAFETY: both own valid handles; libtorch shares ownership of `tangent`.
    check(op, unsafe { tf_set_tangent(t.as_ptr(), tangent.as_ptr()) })
}
