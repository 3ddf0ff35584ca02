//! Handles with a history of their own: one that refuses to be differentiated, and one whose
//! derivatives are zero.

use super::node::{Callbacks, ERRORS};
use super::{handles, own};
use crate::error::Result;
use std::ffi::c_char;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tf_constant(t: *const C_tensor) -> *mut C_tensor;
    fn tf_refuse(
        t: *const C_tensor,
        leaves: *const *const C_tensor,
        n_leaves: usize,
        callbacks: *const Callbacks,
        op: *const c_char,
        op_len: usize,
        position: isize,
    ) -> *mut C_tensor;
}

/// Returns the values of `t` in a tensor that libtorch follows, and whose derivatives are
/// zero.
pub(crate) fn constant(op: &'static str, t: &Tensor) -> Result<Tensor> {
    // SAFETY: `t` owns a valid handle.
    own(op, unsafe { tf_constant(t.as_ptr()) })
}

/// What refuses to be differentiated: the error that it gives.
#[derive(Clone, Copy)]
pub(crate) enum Refused {
    /// A saved tensor, by its position.
    Saved(usize),
    /// A gradient of an op that is differentiable once.
    Once,
    /// A tangent, or what it is computed from.
    Tangent,
}

impl Refused {
    /// The number by which the shim passes it on.
    pub(super) fn code(self) -> isize {
        match self {
            Refused::Saved(position) => position as isize,
            Refused::Once => -1,
            Refused::Tangent => -2,
        }
    }
}

/// Returns the values of `t` in a tensor that refuses to be differentiated further
/// if the gradient would go on to `leaves`.
pub(crate) fn refuse(
    op: &'static str,
    t: &Tensor,
    leaves: &[Tensor],
    what: Refused,
) -> Result<Tensor> {
    let leaves = handles(leaves);
    // SAFETY: the handles are valid, the callbacks and `op` are static.
    own(op, unsafe {
        tf_refuse(
            t.as_ptr(),
            leaves.as_ptr(),
            leaves.len(),
            &ERRORS,
            op.as_ptr().cast(),
            op.len(),
            what.code(),
        )
    })
}
