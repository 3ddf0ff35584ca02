//! A node of libtorch's graph that calls back into Rust.

use super::check;
use super::errors::{call_back, drop_error, error_text, into_raw};
use super::refusal::Refused;
use crate::error::{Error, Result};
use smallvec::SmallVec;
use std::ffi::{c_char, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, needs_drop};
use tch::Tensor;
use torch_sys::C_tensor;

/// The Rust side of a node. libtorch may run a node on any of its threads, and on
/// several at once.
pub(crate) trait Callback: Send + Sync + 'static {
    /// Returns the name that errors and the node's own name show.
    fn op(&self) -> &'static str;
    /// Returns how the node is differentiated itself.
    fn second_order(&self) -> SecondOrder;
    /// Returns whether dropping this may run user code.
    fn drops_user_code(&self) -> bool;
    /// Drops this, each part that may panic apart: two panics at once end the process.
    fn dispose(self);
    /// Turns the gradients of the outputs into those of the inputs. `saved` are the
    /// tensors that were recorded as saved; `needs` says which inputs' gradients the
    /// pass needs; `give` takes each with its position.
    fn backward(
        &self,
        dy: OptionalTensors,
        saved: OptionalTensors,
        needs: &[bool],
        give: &mut dyn FnMut(usize, Tensor),
    ) -> Result<()>;
}

/// The way in which a node is differentiated itself: `tf_second_order` of the shim.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum SecondOrder {
    /// Derivatives go through saved inputs and outputs; other saved tensors refuse.
    ThroughSaved = 0,
    /// `backward` computes its saved tensors anew.
    Recomputed = 1,
    /// A second derivative refuses.
    Once = 2,
}

/// Owned tensors, one per position, `None` for an absent one.
pub(crate) type OptionalTensors = SmallVec<[Option<Tensor>; 2]>;

/// Collects lists of one or two items; SmallVec's own `collect` costs more than
/// such items do.
#[inline(always)]
pub(crate) fn gather<A: smallvec::Array>(items: impl Iterator<Item = A::Item>) -> SmallVec<A> {
    let mut list = SmallVec::new();
    for item in items {
        list.push(item);
    }
    list
}

/// `tf_callbacks` of the shim.
#[repr(C)]
pub(super) struct Callbacks {
    pub(super) backward: extern "C" fn(
        *const c_void,
        *mut *mut C_tensor,
        usize,
        *mut *mut C_tensor,
        usize,
        *const bool,
        usize,
        *mut *mut C_tensor,
    ) -> *mut c_void,
    pub(super) name: extern "C" fn(*const c_void, *mut usize) -> *const c_char,
    pub(super) graph_freed: extern "C" fn(*const c_char, usize) -> *mut c_void,
    pub(super) saved_changed: extern "C" fn(*const c_char, usize, usize, u32, u32) -> *mut c_void,
    pub(super) no_second_order: extern "C" fn(*const c_char, usize, isize) -> *mut c_void,
    pub(super) error_text: extern "C" fn(*mut c_void) -> *const c_char,
    pub(super) drop_error: extern "C" fn(*mut c_void),
    pub(super) drop_state: extern "C" fn(*mut c_void),
    pub(super) state_size: usize,
    pub(super) state_align: usize,
}

const fn callbacks<C: Callback>() -> Callbacks {
    Callbacks {
        backward: backward::<C>,
        name: name::<C>,
        graph_freed,
        saved_changed,
        no_second_order,
        error_text,
        drop_error,
        drop_state: drop_state::<C>,
        state_size: size_of::<C>(),
        state_align: align_of::<C>(),
    }
}

/// An output to be given a history: `tf_output` of the shim.
#[repr(C)]
pub(crate) struct Output<'a> {
    pub(super) tensor: *mut C_tensor,
    pub(super) differentiable: bool,
    pub(super) borrowed: PhantomData<&'a mut Tensor>,
}

impl<'a> Output<'a> {
    /// `tensor` gets its history in place, or is replaced.
    #[inline]
    pub fn new(tensor: Option<&'a mut Tensor>, differentiable: bool) -> Output<'a> {
        let tensor = tensor.map_or(std::ptr::null_mut(), Tensor::as_mut_ptr);
        Output { tensor, differentiable, borrowed: PhantomData }
    }
}

/// A tensor to be saved: `tf_saved` of the shim.
#[repr(C)]
pub(crate) struct Saved<'a> {
    pub(super) tensor: *const C_tensor,
    pub(super) constant: bool,
    pub(super) borrowed: PhantomData<&'a Tensor>,
}

impl<'a> Saved<'a> {
    /// `constant`: it was declared not to depend on the inputs.
    #[inline]
    pub fn new(tensor: &'a Tensor, constant: bool) -> Saved<'a> {
        Saved { tensor: tensor.as_ptr(), constant, borrowed: PhantomData }
    }
}

/// `tf_recording` of the shim.
#[repr(C)]
pub(super) struct RawRecording<'a> {
    pub(super) callbacks: *const Callbacks,
    pub(super) inputs: *const *const C_tensor,
    pub(super) n_inputs: usize,
    pub(super) dirty: *const usize,
    pub(super) n_dirty: usize,
    pub(super) outputs: *const Output<'a>,
    pub(super) n_outputs: usize,
    pub(super) saved: *const Saved<'a>,
    pub(super) n_saved: usize,
    pub(super) second_order: SecondOrder,
    pub(super) state: *const c_void,
}

unsafe extern "C" {
    fn tf_record(what: *const RawRecording<'_>, taken: *mut bool) -> bool;
}

/// One application that is to become a node.
pub(crate) struct Recording<'a> {
    pub inputs: &'a [Option<&'a Tensor>],
    /// Positions of inputs that were changed in place.
    pub dirty: &'a [usize],
    pub outputs: &'a [Output<'a>],
    pub saved: &'a [Saved<'a>],
}

/// Makes a new node the history of the outputs.
#[inline(always)]
pub(crate) fn record<C: Callback>(what: Recording<'_>, callback: C) -> Result<()> {
    let op = callback.op();
    let state = ManuallyDrop::new(callback);
    let inputs: SmallVec<[_; 4]> =
        gather(what.inputs.iter().map(|t| t.map_or(std::ptr::null(), Tensor::as_ptr)));
    let raw = RawRecording {
        callbacks: const { &callbacks::<C>() },
        inputs: inputs.as_ptr(),
        n_inputs: inputs.len(),
        dirty: what.dirty.as_ptr(),
        n_dirty: what.dirty.len(),
        outputs: what.outputs.as_ptr(),
        n_outputs: what.outputs.len(),
        saved: what.saved.as_ptr(),
        n_saved: what.saved.len(),
        second_order: state.second_order(),
        state: (&raw const *state).cast(),
    };
    let mut taken = false;
    // SAFETY: the arrays hold valid handles (null where absent) and have the
    // lengths given; the callbacks are static. The shim says whether it has moved
    // `state` into its node.
    let done = unsafe { tf_record(&raw, &mut taken) };
    if !taken {
        ManuallyDrop::into_inner(state).dispose();
    }
    check(op, done)
}

/// The callbacks of a refusal, a hook and a registered op, which need only those
/// that make errors.
pub(super) static ERRORS: Callbacks = callbacks::<Never>();

/// A callback that no node has.
enum Never {}

#[rustfmt::skip] // no value can be asked anything
impl Callback for Never {
    fn op(&self) -> &'static str { match *self {} }
    fn second_order(&self) -> SecondOrder { match *self {} }
    fn drops_user_code(&self) -> bool { match *self {} }
    fn dispose(self) { match self {} }
    fn backward(&self, _: OptionalTensors, _: OptionalTensors, _: &[bool],
                _: &mut dyn FnMut(usize, Tensor)) -> Result<()> { match *self {} }
}

extern "C" fn drop_state<C: Callback>(state: *mut c_void) {
    let state = state.cast::<C>();
    // SAFETY: moved in by `record` for this `C`; the node that calls this owns it
    // and forgets it. The same holds below.
    if unsafe { &*state }.drops_user_code() {
        // SAFETY: see above.
        unsafe { state.read() }.dispose();
    } else if needs_drop::<C>() {
        // SAFETY: see above.
        unsafe { state.drop_in_place() };
    }
}

extern "C" fn name<C: Callback>(state: *const c_void, len: *mut usize) -> *const c_char {
    // SAFETY: the shim passes the state that its node owns, which `record` made
    // for this `C`, and room for the length.
    let name = unsafe { &*state.cast::<C>() }.op();
    // SAFETY: see above.
    unsafe { len.write(name.len()) };
    name.as_ptr().cast()
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
        Err(_) if position == Refused::Tangent.code() => Error::UnrecordedTangent { op },
        Err(_) => Error::OnceDifferentiable { op },
    })
}

extern "C" fn backward<C: Callback>(
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
    // for this `C`, and keeps the node alive during the call.
    let callback: &dyn Callback = unsafe { &*state.cast::<C>() };
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
    call_back(callback.op(), "backward", || {
        callback.backward(dy, saved, needs, &mut |i, grad| {
            grads[i] = ManuallyDrop::new(grad).as_mut_ptr();
        })
    })
}

/// Makes owned tensors of handles.
///
/// # Safety
/// `handles` are `n` handles, valid or null, that the caller gives up.
unsafe fn take_all(handles: *mut *mut C_tensor, n: usize) -> OptionalTensors {
    // SAFETY: as the caller promises.
    let handles = unsafe { std::slice::from_raw_parts(handles, n) };
    // SAFETY: the same.
    gather(handles.iter().map(|&t| (!t.is_null()).then(|| unsafe { Tensor::from_ptr(t) })))
}
