//! A Function as a node of libtorch's autograd: what the C++ node calls back.

use super::{check, grad_enabled};
use crate::erased::Backward;
use crate::{Ctx, DoubleBackward, Error, Result, rules};
use std::ffi::{CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use tch::Tensor;
use torch_sys::C_tensor;

/// `tf_callbacks` of shim.h.
#[repr(C)]
struct Callbacks {
    backward: extern "C" fn(
        *const c_void,
        *mut *mut C_tensor,
        usize,
        *mut *mut C_tensor,
        usize,
        *const bool,
        usize,
        *mut *mut C_tensor,
    ) -> *mut c_void,
    graph_freed: extern "C" fn(*const c_void) -> *mut c_void,
    saved_changed: extern "C" fn(*const c_void, usize, u32, u32) -> *mut c_void,
    no_second_order: extern "C" fn(*const c_char, usize, isize) -> *mut c_void,
    error_text: extern "C" fn(*mut c_void) -> *const c_char,
    drop_error: extern "C" fn(*mut c_void),
    drop_state: extern "C" fn(*mut c_void),
}

static CALLBACKS: Callbacks = Callbacks {
    backward,
    graph_freed,
    saved_changed,
    no_second_order,
    error_text,
    drop_error,
    drop_state,
};

/// `tf_recording` of shim.h.
#[repr(C)]
struct RawRecording {
    callbacks: *const Callbacks,
    name: *const c_char,
    name_len: usize,
    inputs: *const *const C_tensor,
    dirty: *const bool,
    n_inputs: usize,
    outputs: *const *mut C_tensor,
    differentiable: *const bool,
    n_outputs: usize,
    saved: *const *const C_tensor,
    constant: *const bool,
    n_saved: usize,
    second_order: u8,
}

unsafe extern "C" {
    fn tf_record(what: *const RawRecording, state: *mut c_void) -> bool;
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

/// What a C++ node owns: the op, and what `forward` left besides tensors.
pub(crate) struct State {
    pub op: Box<dyn Backward>,
    pub ctx: Mutex<Ctx>,
}

/// What is to become a node.
pub(crate) struct Recording<'a> {
    pub inputs: &'a [Option<&'a Tensor>],
    pub dirty: &'a [bool],
    /// `None` where an optional output is absent. They get their history in
    /// place, or are replaced.
    pub outputs: &'a mut [Option<Tensor>],
    pub differentiable: &'a [bool],
    pub saved: &'a [Tensor],
    /// Per saved tensor: declared to be a constant.
    pub constant: &'a [bool],
}

/// Makes the outputs' history a new node.
pub(crate) fn record(what: Recording<'_>, state: State) -> Result<()> {
    let op = lock(&state.ctx).op();
    assert_eq!(what.inputs.len(), what.dirty.len());
    assert_eq!(what.outputs.len(), what.differentiable.len());
    assert_eq!(what.saved.len(), what.constant.len());
    let handle = |t: &Option<&Tensor>| t.map_or(std::ptr::null(), Tensor::as_ptr);
    let inputs: Vec<_> = what.inputs.iter().map(handle).collect();
    let output =
        |t: &mut Option<Tensor>| t.as_mut().map_or(std::ptr::null_mut(), Tensor::as_mut_ptr);
    let outputs: Vec<_> = what.outputs.iter_mut().map(output).collect();
    let saved = super::handles(what.saved);
    let raw = RawRecording {
        callbacks: &CALLBACKS,
        name: op.as_ptr().cast(),
        name_len: op.len(),
        inputs: inputs.as_ptr(),
        dirty: what.dirty.as_ptr(),
        n_inputs: inputs.len(),
        outputs: outputs.as_ptr(),
        differentiable: what.differentiable.as_ptr(),
        n_outputs: outputs.len(),
        saved: saved.as_ptr(),
        constant: what.constant.as_ptr(),
        n_saved: saved.len(),
        second_order: state.op.double_backward() as u8,
    };
    let state = Box::into_raw(Box::new(state)).cast();
    // SAFETY: the arrays hold valid handles (null where absent) and have the
    // lengths given; `op` is static. The shim owns `state` from here on if and
    // only if it returns true.
    let done = unsafe { tf_record(&raw, state) };
    if !done {
        drop_state(state);
    }
    check(op, done)
}

/// The values of `t`, refusing to be differentiated further where the gradient
/// would go on to `leaves`: as saved tensor `position`, or as a gradient of an
/// op that is differentiable once.
pub(crate) fn refuse(
    op: &'static str,
    t: &Tensor,
    leaves: &[Tensor],
    position: Option<usize>,
) -> Result<Tensor> {
    let leaves = super::handles(leaves);
    let position = position.map_or(-1, |i| i as isize);
    // SAFETY: the handles are valid, `CALLBACKS` and `op` are static.
    super::own(op, unsafe {
        tf_refuse(
            t.as_ptr(),
            leaves.as_ptr(),
            leaves.len(),
            &CALLBACKS,
            op.as_ptr().cast(),
            op.len(),
            position,
        )
    })
}

/// An error in C++'s hands.
struct Failure {
    text: CString,
    error: Error,
}

fn into_raw(error: Error) -> *mut c_void {
    // The text may come from user code (an error's Display), which may panic.
    let text = catch_unwind(AssertUnwindSafe(|| error.to_string().replace('\0', " ")));
    let text = text.unwrap_or_else(|_| "an error whose text panicked".to_owned());
    let text = CString::new(text).unwrap_or_default();
    Box::into_raw(Box::new(Failure { text, error })).cast()
}

/// The error that this thread's last failure carried, if it was one of ours.
pub(super) fn take_error(failure: *mut c_void) -> Option<Error> {
    // SAFETY: null, or made by `into_raw` and given up by the shim.
    (!failure.is_null()).then(|| unsafe { Box::from_raw(failure.cast::<Failure>()) }.error)
}

extern "C" fn error_text(failure: *mut c_void) -> *const c_char {
    // SAFETY: the shim passes a failure that it owns.
    unsafe { &*failure.cast::<Failure>() }.text.as_ptr()
}

extern "C" fn drop_error(failure: *mut c_void) {
    drop_quietly(take_error(failure));
}

extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: made by `record`; whoever calls this owns it and forgets it.
    drop_quietly(unsafe { Box::from_raw(state.cast::<State>()) });
}

/// A panic in user code's drop must not reach C++; there is nobody to report
/// it to but the panic hook, which has printed it.
fn drop_quietly<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
}

fn state_of<'a>(state: *const c_void) -> &'a State {
    // SAFETY: the shim passes the state that its node owns, and keeps the node
    // alive during the call; the callers do not keep the reference.
    unsafe { &*state.cast::<State>() }
}

fn lock(ctx: &Mutex<Ctx>) -> std::sync::MutexGuard<'_, Ctx> {
    ctx.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn graph_freed(state: *const c_void) -> *mut c_void {
    into_raw(Error::GraphFreed { op: lock(&state_of(state).ctx).op() })
}

extern "C" fn saved_changed(
    state: *const c_void,
    position: usize,
    expected: u32,
    found: u32,
) -> *mut c_void {
    let op = lock(&state_of(state).ctx).op();
    into_raw(Error::SavedChanged { op, position, expected, found })
}

extern "C" fn no_second_order(op: *const c_char, len: usize, position: isize) -> *mut c_void {
    // SAFETY: the shim passes back the static name that `record` gave it.
    let op = unsafe { std::slice::from_raw_parts(op.cast::<u8>(), len) };
    let op = std::str::from_utf8(op).unwrap_or("a Function");
    into_raw(match usize::try_from(position) {
        Ok(position) => Error::SavedIntermediate { op, position },
        Err(_) => Error::OnceDifferentiable { op },
    })
}

extern "C" fn backward(
    state: *const c_void,
    dy: *mut *mut C_tensor,
    n_dy: usize,
    saved: *mut *mut C_tensor,
    n_saved: usize,
    needs: *const bool,
    n_inputs: usize,
    grads: *mut *mut C_tensor,
) -> *mut c_void {
    let state = state_of(state);
    // SAFETY: the shim gives arrays of these lengths; the handles in `dy` and
    // `saved` are ours from here on.
    let (dy, saved, needs) =
        unsafe { (take_all(dy, n_dy), take_all(saved, n_saved), read_all(needs, n_inputs)) };
    let run = AssertUnwindSafe(|| run_backward(state, dy, saved, needs));
    let found = catch_unwind(run).unwrap_or_else(|payload| {
        let message = crate::error::panic_message(payload);
        Err(Error::Panic { op: lock(&state.ctx).op(), stage: "backward", message })
    });
    match found {
        Err(error) => into_raw(error),
        Ok(found) => {
            for (i, grad) in found.into_iter().enumerate().take(n_inputs) {
                if let Some(mut grad) = grad {
                    // SAFETY: `grads` has room for one handle per input, and
                    // takes this one over.
                    unsafe { *grads.add(i) = grad.as_mut_ptr() };
                    std::mem::forget(grad);
                }
            }
            std::ptr::null_mut()
        }
    }
}

/// # Safety
/// `handles` are `n` valid handles that the caller gives up.
unsafe fn take_all(handles: *mut *mut C_tensor, n: usize) -> Vec<Tensor> {
    // SAFETY: as the caller promises.
    (0..n).map(|i| unsafe { Tensor::from_ptr(*handles.add(i)) }).collect()
}

/// # Safety
/// `flags` are `n` bools, or `n` is 0.
unsafe fn read_all(flags: *const bool, n: usize) -> Vec<bool> {
    // SAFETY: as the caller promises.
    (0..n).map(|i| unsafe { *flags.add(i) }).collect()
}

/// Runs the user's backward in the pass that libtorch runs.
fn run_backward(
    state: &State,
    dy: Vec<Tensor>,
    saved: Vec<Tensor>,
    needs: Vec<bool>,
) -> Result<Vec<Option<Tensor>>> {
    let mut ctx = context(state, saved)?;
    ctx.set_needs(|i| needs[i]);
    let mut dy: Vec<_> = dy.into_iter().map(|t| t.defined().then_some(t)).collect();
    rules::materialize(&ctx, &mut dy)?;
    let mut found: Vec<Option<Tensor>> = needs.iter().map(|_| None).collect();
    state.op.backward(&ctx, &mut dy, &mut |i, grad| {
        if let (Some(grad), true) = (grad, needs[i]) {
            rules::check_gradient(&ctx, i, &grad)?;
            found[i] = Some(grad);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The context for this run of backward.
fn context(state: &State, mut saved: Vec<Tensor>) -> Result<Ctx> {
    let ctx = lock(&state.ctx);
    if state.op.double_backward() != DoubleBackward::Recompute {
        return Ok(ctx.with_saved(saved));
    }
    // The inputs are behind what forward saved.
    let is_there: Vec<bool> = ctx.inputs().iter().map(|input| input.meta.is_defined()).collect();
    let count = is_there.iter().filter(|there| **there).count();
    let mut inputs = saved.split_off(saved.len() - count).into_iter();
    let ctx = ctx.with_saved(saved);
    if !grad_enabled() {
        return Ok(ctx);
    }
    let inputs = is_there.into_iter().map(|there| there.then(|| inputs.next()).flatten()).collect();
    state.op.recompute(&ctx, inputs)
}
