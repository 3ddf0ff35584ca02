//! libtorch's own reverse mode.

use super::{check, handles, own};
use crate::error::Error;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tf_grad(leaf: *const C_tensor) -> *mut C_tensor;
    fn tf_set_grad(leaf: *const C_tensor, grad: *const C_tensor) -> bool;
    fn tf_with_same_history(t: *const C_tensor) -> *mut C_tensor;
    fn tf_run_pass(
        outputs: *const *const C_tensor,
        seeds: *const *const C_tensor,
        n_outputs: usize,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        retain_graph: bool,
        create_graph: bool,
        grads: *mut *mut C_tensor,
    ) -> bool;
    safe fn tf_next_sequence_number() -> u64;
    fn tf_tap(parameter: *const C_tensor, known: *const C_tensor) -> *mut C_tensor;
    fn tf_graph_leaves(
        outputs: *const *mut C_tensor,
        n_outputs: usize,
        start: u64,
        tap: extern "C" fn(*mut c_void, *mut C_tensor, bool) -> *mut C_tensor,
        data: *mut c_void,
    ) -> bool;
}

/// Returns the `.grad` of libtorch's leaf.
pub(crate) fn grad_of(leaf: &Tensor) -> Option<Tensor> {
    // SAFETY: `leaf` owns a valid handle; the new one that the shim gives is ours.
    let grad = unsafe { tf_grad(leaf.as_ptr()) };
    // SAFETY: see above.
    (!grad.is_null()).then(|| unsafe { Tensor::from_ptr(grad) })
}

/// Makes `grad`, which may be undefined, the `.grad` of libtorch's leaf.
pub(crate) fn set_grad(op: &'static str, leaf: &Tensor, grad: &Tensor) -> Result<(), Error> {
    // SAFETY: both own valid handles; libtorch shares ownership of `grad`.
    check(op, unsafe { tf_set_grad(leaf.as_ptr(), grad.as_ptr()) })
}

/// Returns another tensor with the values and the history of `t`, which keeps them
/// whatever becomes of `t`.
pub(crate) fn with_same_history(op: &'static str, t: &Tensor) -> Result<Tensor, Error> {
    // SAFETY: `t` owns a valid handle.
    own(op, unsafe { tf_with_same_history(t.as_ptr()) })
}

/// One pass of libtorch's engine.
pub(crate) struct Pass<'a> {
    pub outputs: &'a [&'a Tensor],
    pub seeds: &'a [Tensor],
    pub inputs: &'a [&'a Tensor],
    pub retain_graph: bool,
    pub create_graph: bool,
}

impl Pass<'_> {
    /// Writes one handle per input to `grads`, or adds to the leaves if that is null.
    fn run(&self, op: &'static str, grads: *mut *mut C_tensor) -> Result<(), Error> {
        assert_eq!(self.outputs.len(), self.seeds.len());
        let (outputs, inputs) = (handles(self.outputs), handles(self.inputs));
        let seeds = handles(self.seeds);
        // SAFETY: the arrays hold valid handles and have the lengths given; `grads` is
        // null or has room for one handle per input.
        check(op, unsafe {
            tf_run_pass(
                outputs.as_ptr(),
                seeds.as_ptr(),
                outputs.len(),
                inputs.as_ptr(),
                inputs.len(),
                self.retain_graph,
                self.create_graph,
                grads,
            )
        })
    }

    /// Returns the gradients of the inputs, `None` if none flows.
    pub fn grad(&self, op: &'static str) -> Result<Vec<Option<Tensor>>, Error> {
        let mut grads = vec![std::ptr::null_mut(); self.inputs.len()];
        self.run(op, grads.as_mut_ptr())?;
        grads.into_iter().map(|g| (!g.is_null()).then(|| own(op, g)).transpose()).collect()
    }

    /// Adds the gradients to the leaves behind the outputs.
    pub fn backward(&self, op: &'static str) -> Result<(), Error> {
        self.run(op, std::ptr::null_mut())
    }
}

/// Returns a tensor that stands for a parameter: its gradient is the one that reaches the
/// parameter, before the parameter's hooks. While one lives, all calls return its place in
/// the graph; and `known` itself, if it is one.
pub(crate) fn tap(
    op: &'static str,
    parameter: &Tensor,
    known: Option<&Tensor>,
) -> Result<Tensor, Error> {
    let known = known.map_or(std::ptr::null(), Tensor::as_ptr);
    // SAFETY: the handles are valid, or null where there is none.
    own(op, unsafe { tf_tap(parameter.as_ptr(), known) })
}

/// Returns the number that the next node gets which this thread records in libtorch.
pub(crate) fn next_sequence_number() -> u64 {
    tf_next_sequence_number()
}

/// Returns the tap of a leaf, or `None` for the leaf itself. The second argument says that
/// an older node leads to the leaf, so that it keeps its place.
type TapOf<'a> = dyn FnMut(Tensor, bool) -> Result<Option<Tensor>, Error> + 'a;

/// Calls `tap_of` with each leaf that requires a gradient in libtorch's graphs behind
/// `outputs`; what this thread has recorded since `start` leads to the taps from now on.
pub(crate) fn graph_leaves(
    op: &'static str,
    outputs: &mut [Tensor],
    start: u64,
    tap_of: &mut TapOf<'_>,
) -> Result<(), Error> {
    struct Call<'a, 'b> {
        tap_of: &'a mut TapOf<'b>,
        failed: Result<(), Error>,
    }
    extern "C" fn visit(data: *mut c_void, leaf: *mut C_tensor, alone: bool) -> *mut C_tensor {
        // SAFETY: `data` is the Call below, and the handle a new one that is ours.
        let (call, leaf) = unsafe { (&mut *data.cast::<Call<'_, '_>>(), Tensor::from_ptr(leaf)) };
        let tap = (call.tap_of)(leaf, alone).unwrap_or_else(|e| {
            call.failed = Err(e);
            None
        });
        tap.map_or(std::ptr::null_mut(), |tap| ManuallyDrop::new(tap).as_mut_ptr())
    }
    let mut call = Call { tap_of, failed: Ok(()) };
    let outputs: Vec<_> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
    // SAFETY: the handles are valid; `call` outlives the call of the shim.
    check(op, unsafe {
        tf_graph_leaves(outputs.as_ptr(), outputs.len(), start, visit, (&raw mut call).cast())
    })?;
    call.failed
}
