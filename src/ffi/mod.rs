//! The border to libtorch: every extern declaration and every callback.
#![allow(unsafe_code)]

pub(crate) mod dispatcher;
pub(crate) mod hooks;
pub(crate) mod memory;
pub(crate) mod modes;
pub(crate) mod node;
pub(crate) mod parallel;

use crate::error::Error;
use std::borrow::Borrow;
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};
use tch::Tensor;
use torch_sys::C_tensor;

/// `tf_meta` of shim.h.
#[repr(C)]
struct RawMeta {
    sizes: *const i64,
    dim: usize,
    tensor: *const c_void,
    version: u32,
    dtype: i8,
    device_type: i8,
    device_index: i8,
    requires_grad: bool,
    only_as_view: bool,
    symbolic: bool,
}

unsafe extern "C-unwind" {
    /// A panic in `body` goes on through it.
    fn tf_try(body: extern "C-unwind" fn(*mut c_void), data: *mut c_void) -> bool;
}

unsafe extern "C" {
    fn tf_last_error() -> *const c_char;
    fn tf_take_error() -> *mut c_void;
    safe fn tf_grad_enabled() -> bool;
    safe fn tf_enter_dual_level() -> bool;
    safe fn tf_exit_dual_level();
    safe fn tf_set_forward_mode(enabled: bool) -> bool;
    fn tf_tangent(t: *const C_tensor) -> *mut C_tensor;
    fn tf_set_tangent(t: *const C_tensor, tangent: *const C_tensor) -> bool;
    fn tf_bump_version(t: *const C_tensor) -> bool;
    fn tf_backward(
        outputs: *const *const C_tensor,
        seeds: *const *const C_tensor,
        n_outputs: usize,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        retain_graph: bool,
        create_graph: bool,
    ) -> bool;
    fn tf_describe(t: *const C_tensor, out: *mut RawMeta) -> bool;
    fn tf_describe_input(t: *const C_tensor, out: *mut RawMeta, has_tangent: *mut bool) -> bool;
    fn tf_version(t: *const C_tensor) -> u32;
    safe fn tf_set_grad_enabled(enabled: bool) -> bool;
    fn tf_zeros(sizes: *const i64, dim: usize, dtype: i8, device: i8, index: i8) -> *mut C_tensor;
    fn tf_is_unique(t: *const C_tensor) -> bool;
    fn tf_in_leaf(t: *const C_tensor) -> bool;
    fn tf_shares_storage(a: *const C_tensor, b: *const C_tensor) -> bool;
    fn tf_accumulate(sum: *mut C_tensor, term: *const C_tensor) -> bool;
    fn tf_set_grad(leaf: *const C_tensor, grad: *const C_tensor) -> bool;
    fn tf_grad(
        outputs: *const *const C_tensor,
        seeds: *const *const C_tensor,
        n_outputs: usize,
        inputs: *const *const C_tensor,
        n_inputs: usize,
        retain_graph: bool,
        create_graph: bool,
        grads: *mut *mut C_tensor,
    ) -> bool;
    fn tf_graph_leaves(
        outputs: *const *const C_tensor,
        n_outputs: usize,
        visit: extern "C" fn(*mut c_void, *mut C_tensor),
        data: *mut c_void,
    ) -> bool;
}

/// What this thread's last failure was.
#[cold]
pub(crate) fn last_error(op: &'static str) -> Error {
    // SAFETY: gives up the error that it returns.
    if let Some(error) = node::take_error(unsafe { tf_take_error() }) {
        return error;
    }
    // SAFETY: the shim keeps the text of this thread's last failure, always
    // nul-terminated, until the next call into it.
    let text = unsafe { CStr::from_ptr(tf_last_error()) };
    Error::Torch { op, message: text.to_string_lossy().into_owned() }
}

fn check(op: &'static str, done: bool) -> Result<(), Error> {
    if done { Ok(()) } else { Err(last_error(op)) }
}

/// Runs `body`; `None` if it let a C++ exception through, which [`last_error`]
/// then tells. (Rust's own `catch_unwind` aborts on one.)
#[inline(always)]
pub(crate) fn catch_cpp<T, F: FnOnce() -> T>(body: F) -> Option<T> {
    struct Call<F, T> {
        body: ManuallyDrop<F>,
        value: MaybeUninit<T>,
    }
    extern "C-unwind" fn run<T, F: FnOnce() -> T>(call: *mut c_void) {
        // SAFETY: `call` is the Call below, which nobody else uses meanwhile; it
        // is run once, so that its body is taken once.
        unsafe {
            let call = &mut *call.cast::<Call<F, T>>();
            call.value.write(ManuallyDrop::take(&mut call.body)());
        }
    }
    let mut call = Call { body: ManuallyDrop::new(body), value: MaybeUninit::uninit() };
    // SAFETY: `run` gets the Call that it is made for, during the call alone, and
    // has written the value if the shim returns true.
    unsafe { tf_try(run::<T, F>, (&raw mut call).cast()).then(|| call.value.assume_init()) }
}

/// A tensor's description, borrowed from the tensor; `dtype` is -1 when it is
/// undefined.
pub(crate) struct Description<'a> {
    pub sizes: &'a [i64],
    /// Equal for handles of the same tensor.
    pub identity: usize,
    pub version: u32,
    pub dtype: i8,
    /// libtorch's device type and index.
    pub device: (i8, i8),
    pub requires_grad: bool,
    /// It requires a gradient because what it views does, not by itself.
    pub only_as_view: bool,
    /// Its sizes are symbols of a tracer's; `sizes` is empty.
    pub symbolic: bool,
}

/// Reads all that the checks need in one call.
#[inline]
pub(crate) fn describe<'a>(op: &'static str, t: &'a Tensor) -> Result<Description<'a>, Error> {
    let mut raw = MaybeUninit::<RawMeta>::uninit();
    // SAFETY: `t` owns a valid handle; the shim writes `raw` whole before it
    // returns true.
    let raw = unsafe {
        check(op, tf_describe(t.as_ptr(), raw.as_mut_ptr()))?;
        raw.assume_init()
    };
    Ok(description(raw))
}

/// As `describe`, and whether forward-mode AD has attached a tangent to `t`.
#[inline]
pub(crate) fn describe_input<'a>(
    op: &'static str,
    t: &'a Tensor,
) -> Result<(Description<'a>, bool), Error> {
    let mut raw = MaybeUninit::<RawMeta>::uninit();
    let mut has_tangent = false;
    // SAFETY: as in `describe`.
    let raw = unsafe {
        check(op, tf_describe_input(t.as_ptr(), raw.as_mut_ptr(), &mut has_tangent))?;
        raw.assume_init()
    };
    Ok((description(raw), has_tangent))
}

/// Of a tensor that lives for `'a`.
#[inline]
fn description<'a>(raw: RawMeta) -> Description<'a> {
    let sizes = if raw.dim == 0 {
        &[]
    } else {
        // SAFETY: libtorch keeps `dim` sizes inside the tensor while it lives;
        // resizing it takes `&mut Tensor`, or another handle to it, which no
        // caller of this crate-internal function holds on to.
        unsafe { std::slice::from_raw_parts(raw.sizes, raw.dim) }
    };
    Description {
        sizes,
        identity: raw.tensor as usize,
        version: raw.version,
        dtype: raw.dtype,
        device: (raw.device_type, raw.device_index),
        requires_grad: raw.requires_grad,
        only_as_view: raw.only_as_view,
        symbolic: raw.symbolic,
    }
}

/// The in-place counter; 0 for inference tensors, which have none.
#[inline]
pub(crate) fn version(t: &Tensor) -> u32 {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_version(t.as_ptr()) }
}

/// While it lives, libtorch's grad mode on this thread is what it was set to.
pub(crate) struct GradMode {
    /// What it was before, and will be again.
    pub was: bool,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl GradMode {
    #[inline]
    pub fn set(enabled: bool) -> GradMode {
        GradMode { was: tf_set_grad_enabled(enabled), _not_send: PhantomData }
    }
}

impl Drop for GradMode {
    #[inline]
    fn drop(&mut self) {
        tf_set_grad_enabled(self.was);
    }
}

fn own(op: &'static str, handle: *mut C_tensor) -> Result<Tensor, Error> {
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

/// Whether `t` is the only handle to its tensor and its storage.
pub(crate) fn is_unique(t: &Tensor) -> bool {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_is_unique(t.as_ptr()) }
}

/// Whether `t` is a leaf of libtorch's that requires a gradient, or a view of one.
pub(crate) fn in_leaf(t: &Tensor) -> bool {
    // SAFETY: `t` owns a valid handle.
    unsafe { tf_in_leaf(t.as_ptr()) }
}

/// Whether both lie in the same memory, in whichever parts of it.
#[inline]
pub(crate) fn shares_storage(a: &Tensor, b: &Tensor) -> bool {
    // SAFETY: both own valid handles.
    unsafe { tf_shares_storage(a.as_ptr(), b.as_ptr()) }
}

/// `sum += term`, in memory that nobody else can see, or in new memory.
pub(crate) fn accumulate(op: &'static str, sum: &mut Tensor, term: &Tensor) -> Result<(), Error> {
    // SAFETY: both own valid handles; the shim writes only through `sum`'s
    // handle and into storage of which it has checked that `sum` or `term`
    // holds the only reference.
    check(op, unsafe { tf_accumulate(sum.as_mut_ptr(), term.as_ptr()) })
}

/// Makes `grad` the `.grad` of libtorch's leaf.
pub(crate) fn set_grad(op: &'static str, leaf: &Tensor, grad: &Tensor) -> Result<(), Error> {
    // SAFETY: both own valid handles; libtorch shares ownership of `grad`.
    check(op, unsafe { tf_set_grad(leaf.as_ptr(), grad.as_ptr()) })
}

fn handles(tensors: &[impl Borrow<Tensor>]) -> Vec<*const C_tensor> {
    tensors.iter().map(|t| t.borrow().as_ptr()).collect()
}

/// What libtorch's engine is asked for.
pub(crate) struct Pass<'a> {
    pub outputs: &'a [&'a Tensor],
    pub seeds: &'a [Tensor],
    pub inputs: &'a [&'a Tensor],
    pub retain_graph: bool,
    pub create_graph: bool,
}

/// libtorch's gradients of `outputs`, one per input, `None` where none flows.
pub(crate) fn torch_grad(op: &'static str, pass: &Pass<'_>) -> Result<Vec<Option<Tensor>>, Error> {
    assert_eq!(pass.outputs.len(), pass.seeds.len());
    let (outputs, inputs) = (handles(pass.outputs), handles(pass.inputs));
    let seeds = handles(pass.seeds);
    let mut grads = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: the arrays hold valid handles and have the lengths given;
    // `grads` has room for one handle per input.
    let done = unsafe {
        tf_grad(
            outputs.as_ptr(),
            seeds.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            pass.retain_graph,
            pass.create_graph,
            grads.as_mut_ptr(),
        )
    };
    check(op, done)?;
    grads.into_iter().map(|g| (!g.is_null()).then(|| own(op, g)).transpose()).collect()
}

/// Adds libtorch's gradients to the leaves behind `outputs`.
pub(crate) fn torch_backward(op: &'static str, pass: &Pass<'_>) -> Result<(), Error> {
    assert_eq!(pass.outputs.len(), pass.seeds.len());
    let (outputs, inputs) = (handles(pass.outputs), handles(pass.inputs));
    let seeds = handles(pass.seeds);
    // SAFETY: the arrays hold valid handles and have the lengths given.
    let done = unsafe {
        tf_backward(
            outputs.as_ptr(),
            seeds.as_ptr(),
            outputs.len(),
            inputs.as_ptr(),
            inputs.len(),
            pass.retain_graph,
            pass.create_graph,
        )
    };
    check(op, done)
}

/// Whether libtorch records gradients on this thread.
#[inline]
pub(crate) fn grad_enabled() -> bool {
    tf_grad_enabled()
}

/// Enters libtorch's one level of forward mode.
pub(crate) fn enter_dual_level(op: &'static str) -> Result<(), Error> {
    check(op, tf_enter_dual_level())
}

/// Leaves it; tangents on that level are gone.
pub(crate) fn exit_dual_level() {
    tf_exit_dual_level();
}

/// While it lives, libtorch's ops on this thread pass no tangents on.
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

/// The forward-mode tangent of `t`.
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

/// Marks `t` as changed in place.
pub(crate) fn bump_version(op: &'static str, t: &Tensor) -> Result<(), Error> {
    // SAFETY: `t` owns a valid handle.
    check(op, unsafe { tf_bump_version(t.as_ptr()) })
}

extern "C" fn push_tensor(data: *mut c_void, handle: *mut C_tensor) {
    // SAFETY: `graph_leaves` passes its own Vec as `data`, and the shim hands
    // over a new handle that nobody else owns. A push aborts on exhausted
    // memory but does not unwind.
    unsafe { (*data.cast::<Vec<Tensor>>()).push(Tensor::from_ptr(handle)) }
}

/// The leaves that require a gradient in the libtorch graphs behind `outputs`.
pub(crate) fn graph_leaves(op: &'static str, outputs: &[Tensor]) -> Result<Vec<Tensor>, Error> {
    let mut leaves = Vec::<Tensor>::new();
    let outputs = handles(outputs);
    // SAFETY: the handles are valid; `leaves` outlives the call and is not
    // touched otherwise while it runs.
    let done = unsafe {
        let data = (&raw mut leaves).cast();
        tf_graph_leaves(outputs.as_ptr(), outputs.len(), push_tensor, data)
    };
    check(op, done)?;
    Ok(leaves)
}
