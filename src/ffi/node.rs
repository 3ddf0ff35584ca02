//! A Function as a node of libtorch's autograd: what the C++ node calls back.

use super::{check, grad_enabled};
use crate::ctx::{Input, Kept, Origin, Saved, gather};
use crate::erased::{Backward, Give};
use crate::forward::Output;
use crate::{Ctx, DoubleBackward, Error, Result, rules};
use smallvec::SmallVec;
use std::ffi::{CString, c_char, c_void};
use std::mem::{ManuallyDrop, needs_drop};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;
use torch_sys::C_tensor;

/// `tf_callbacks` of shim.h.
#[repr(C)]
pub(super) struct Callbacks {
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
    name: extern "C" fn(*const c_void, *mut usize) -> *const c_char,
    graph_freed: extern "C" fn(*const c_char, usize) -> *mut c_void,
    saved_changed: extern "C" fn(*const c_char, usize, usize, u32, u32) -> *mut c_void,
    no_second_order: extern "C" fn(*const c_char, usize, isize) -> *mut c_void,
    error_text: extern "C" fn(*mut c_void) -> *const c_char,
    drop_error: extern "C" fn(*mut c_void),
    drop_state: extern "C" fn(*mut c_void),
    state_size: usize,
    state_align: usize,
}

/// For a node whose op is a `B`.
const fn callbacks<B: Backward + 'static>() -> Callbacks {
    Callbacks {
        backward: backward::<B>,
        name: name::<B>,
        graph_freed,
        saved_changed,
        no_second_order,
        error_text,
        drop_error,
        drop_state: drop_state::<B>,
        state_size: size_of::<State<B>>(),
        state_align: align_of::<State<B>>(),
    }
}

/// `tf_output` of shim.h.
#[repr(C)]
struct RawOutput {
    tensor: *mut C_tensor,
    differentiable: bool,
}

/// `tf_saved` of shim.h.
#[repr(C)]
struct RawSaved {
    tensor: *const C_tensor,
    constant: bool,
}

/// `tf_recording` of shim.h.
#[repr(C)]
struct RawRecording {
    callbacks: *const Callbacks,
    inputs: *const *const C_tensor,
    n_inputs: usize,
    dirty: *const usize,
    n_dirty: usize,
    outputs: *const RawOutput,
    n_outputs: usize,
    saved: *const RawSaved,
    n_saved: usize,
    second_order: u8,
    state: *const c_void,
}

unsafe extern "C" {
    fn tf_record(what: *const RawRecording, taken: *mut bool) -> bool;
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
struct State<B: ?Sized> {
    kept: Kept,
    op: B,
}
type Tensors = SmallVec<[Option<Tensor>; 2]>;

/// Any of libtorch's threads may run a node, several at once. `Backward` asks
/// for the same of the op.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Kept>();
};

// SAFETY: of a context only tch's tensors cannot be shared between threads, and
// `Ctx::keep` is given one whose tensors are taken out.
unsafe impl Sync for Kept {}

/// What is to become a node.
pub(crate) struct Recording<'a> {
    pub inputs: &'a [Option<&'a Tensor>],
    /// Positions of inputs.
    pub dirty: &'a [usize],
    /// They get their history in place, or are replaced.
    pub outputs: &'a mut [Output],
    pub saved: &'a [Saved],
}

/// Makes the outputs' history a new node.
#[inline(always)]
pub(crate) fn record<B: Backward + 'static>(what: Recording<'_>, op: B, kept: Kept) -> Result<()> {
    let name = kept.op();
    let state = ManuallyDrop::new(State { kept, op });
    let inputs: SmallVec<[_; 4]> =
        gather(what.inputs.iter().map(|t| t.map_or(std::ptr::null(), Tensor::as_ptr)));
    let output = |y: &mut Output| RawOutput {
        tensor: y.tensor.as_mut().map_or(std::ptr::null_mut(), Tensor::as_mut_ptr),
        differentiable: y.differentiable,
    };
    let outputs: SmallVec<[_; 2]> = gather(what.outputs.iter_mut().map(output));
    let save =
        |s: &Saved| RawSaved { tensor: s.tensor.as_ptr(), constant: s.origin == Origin::Constant };
    let saved: SmallVec<[_; 2]> = gather(what.saved.iter().map(save));
    let raw = RawRecording {
        callbacks: const { &callbacks::<B>() },
        inputs: inputs.as_ptr(),
        n_inputs: inputs.len(),
        dirty: what.dirty.as_ptr(),
        n_dirty: what.dirty.len(),
        outputs: outputs.as_ptr(),
        n_outputs: outputs.len(),
        saved: saved.as_ptr(),
        n_saved: saved.len(),
        second_order: state.op.double_backward() as u8,
        state: (&raw const *state).cast(),
    };
    let mut taken = false;
    // SAFETY: the arrays hold valid handles (null where absent) and have the
    // lengths given; the callbacks are static. The shim says whether it has moved `state`
    // into its node.
    let done = unsafe { tf_record(&raw, &mut taken) };
    if !taken {
        drop_quietly(ManuallyDrop::into_inner(state));
    }
    check(name, done)
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
    // SAFETY: the handles are valid, the callbacks and `op` are static.
    super::own(op, unsafe {
        tf_refuse(
            t.as_ptr(),
            leaves.as_ptr(),
            leaves.len(),
            &ERRORS,
            op.as_ptr().cast(),
            op.len(),
            position,
        )
    })
}

/// For what calls back for its errors alone: a refusal, a hook.
pub(super) static ERRORS: Callbacks = callbacks::<Nobody>();

/// Their op.
enum Nobody {}

impl Backward for Nobody {
    fn name(&self) -> &'static str {
        match *self {}
    }
    fn double_backward(&self) -> DoubleBackward {
        match *self {}
    }
    fn recompute(&self, _: &Ctx, _: Vec<Option<Tensor>>) -> Result<Ctx> {
        match *self {}
    }
    fn backward(&self, _: &Ctx, _: &mut [Option<Tensor>], _: Give<'_>) -> Result<()> {
        match *self {}
    }
}

/// An error in C++'s hands.
struct Failure {
    text: CString,
    error: Error,
}

pub(super) fn into_raw(error: Error) -> *mut c_void {
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

extern "C" fn drop_state<B>(state: *mut c_void) {
    let state = state.cast::<State<B>>();
    // SAFETY: made by `record` for this `B`; whoever calls this owns it and
    // forgets it. The same holds below.
    if needs_drop::<B>() || unsafe { &*state }.kept.holds_state() {
        // SAFETY: see above.
        drop_quietly(unsafe { state.read() });
    } else {
        // SAFETY: see above.
        unsafe { state.drop_in_place() };
    }
}

extern "C" fn name<B>(state: *const c_void, len: *mut usize) -> *const c_char {
    // SAFETY: the shim passes the state that its node owns, which `record` made
    // for this `B`, and room for the length.
    let name = unsafe { &*state.cast::<State<B>>() }.kept.op();
    // SAFETY: see above.
    unsafe { len.write(name.len()) };
    name.as_ptr().cast()
}

/// Neither a panic nor a C++ exception in user code's drop must reach C++; there
/// is nobody to report it to but the panic hook, which has printed it.
pub(crate) fn drop_quietly<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| super::catch_cpp(|| drop(value))));
}

fn static_name(op: *const c_char, len: usize) -> &'static str {
    // SAFETY: the shim passes back the static name that `name` or `refuse` gave it.
    let op = unsafe { std::slice::from_raw_parts(op.cast::<u8>(), len) };
    std::str::from_utf8(op).unwrap_or("a Function")
}

extern "C" fn graph_freed(op: *const c_char, len: usize) -> *mut c_void {
    into_raw(Error::GraphFreed { op: static_name(op, len) })
}

extern "C" fn saved_changed(
    op: *const c_char,
    len: usize,
    position: usize,
    expected: u32,
    found: u32,
) -> *mut c_void {
    into_raw(Error::SavedChanged { op: static_name(op, len), position, expected, found })
}

extern "C" fn no_second_order(op: *const c_char, len: usize, position: isize) -> *mut c_void {
    let op = static_name(op, len);
    into_raw(match usize::try_from(position) {
        Ok(position) => Error::SavedIntermediate { op, position },
        Err(_) => Error::OnceDifferentiable { op },
    })
}

extern "C" fn backward<B: Backward + 'static>(
    state: *const c_void,
    dy: *mut *mut C_tensor,
    n_dy: usize,
    saved: *mut *mut C_tensor,
    n_saved: usize,
    needs: *const bool,
    n_inputs: usize,
    grads: *mut *mut C_tensor,
) -> *mut c_void {
    // SAFETY: the shim passes the state that its node owns, which `record` made
    // for this `B`, and keeps the node alive during the call.
    let state: &State<dyn Backward> = unsafe { &*state.cast::<State<B>>() };
    // SAFETY: the shim gives arrays of these lengths, none of them null; the
    // handles in `dy` and `saved` are ours from here on, and those that we
    // write to `grads` are the shim's.
    let (dy, saved, needs, grads) = unsafe {
        (
            take_all(dy, n_dy),
            take_all(saved, n_saved),
            std::slice::from_raw_parts(needs, n_inputs),
            std::slice::from_raw_parts_mut(grads, n_inputs),
        )
    };
    let run = AssertUnwindSafe(|| run_backward(state, dy, saved, needs, grads));
    let done = catch_unwind(run).unwrap_or_else(|payload| {
        let message = crate::error::panic_message(payload);
        Err(Error::Panic { op: state.kept.op(), stage: "backward", message })
    });
    done.err().map_or(std::ptr::null_mut(), into_raw)
}

/// # Safety
/// `handles` are `n` handles, valid or null, that the caller gives up.
unsafe fn take_all(handles: *mut *mut C_tensor, n: usize) -> Tensors {
    // SAFETY: as the caller promises.
    let handles = unsafe { std::slice::from_raw_parts(handles, n) };
    // SAFETY: the same.
    gather(handles.iter().map(|&t| (!t.is_null()).then(|| unsafe { Tensor::from_ptr(t) })))
}

/// Runs the user's backward in the pass that libtorch runs.
fn run_backward(
    state: &State<dyn Backward>,
    mut dy: Tensors,
    saved: Tensors,
    needs: &[bool],
    grads: &mut [*mut C_tensor],
) -> Result<()> {
    let made;
    let ctx = match state.kept.as_it_is(saved.len(), needs) {
        Some(ctx) => ctx,
        None => {
            made = context(state, saved, needs)?;
            &made
        }
    };
    rules::materialize(ctx, &mut dy)?;
    state.op.backward(ctx, &mut dy, &mut |i, grad| {
        if let (Some(grad), true) = (grad, needs[i]) {
            rules::check_gradient(ctx, i, &grad)?;
            grads[i] = ManuallyDrop::new(grad).as_mut_ptr();
        }
        Ok(())
    })
}

/// The context for this run of backward.
fn context(state: &State<dyn Backward>, mut saved: Tensors, needs: &[bool]) -> Result<Ctx> {
    let State { kept, op } = state;
    if op.double_backward() != DoubleBackward::Recompute {
        return Ok(kept.ctx(saved.into_iter().flatten(), needs));
    }
    // The inputs were saved too, behind what forward saved.
    let at = saved.len() - kept.inputs_present();
    let inputs: Tensors = saved.drain(at..).collect();
    let ctx = kept.ctx(saved.into_iter().flatten(), needs);
    if !grad_enabled() {
        return Ok(ctx);
    }
    let mut inputs = inputs.into_iter().flatten();
    let place = |input: &Input| input.meta.is_defined().then(|| inputs.next()).flatten();
    let inputs = ctx.inputs().iter().map(place).collect();
    op.recompute(&ctx, inputs)
}
