//! Ops in libtorch's dispatcher: what their kernels call back, and definitions.

use super::check;
use super::errors::call_back;
use super::node::{Callbacks, ERRORS};
use super::values::{RawValue, read_all};
pub(crate) use super::values::{Results, TensorRef, Value};
use crate::error::Result;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A registered op, as libtorch's dispatcher calls it back.
pub(crate) trait Op: Send + Sync {
    /// Returns `ns::name`.
    fn name(&self) -> &'static str;
    /// Runs a kernel.
    fn call(&self, kernel: Kernel, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()>;
    /// Returns the facts about the Function that `args` make.
    fn facts(&self, args: &[Value<'_>]) -> Result<Facts>;
}

/// The facts that the dispatcher needs about a Function.
pub(crate) struct Facts {
    pub name: &'static str,
    /// Whether its formulas run on tensors that vmap has batched.
    pub batches: bool,
    /// Whether it wants its inputs in another dtype under autocast.
    pub casts: bool,
}

/// A kernel of an op: `tf_kernel` of the shim.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kernel {
    /// (arguments) -> outputs, recorded if grad mode is on.
    Apply = 0,
    /// (arguments, needs) -> outputs, saved intermediates, plan.
    Forward = 1,
    /// (gradients of the outputs, saved, plan, needs, arguments) -> gradients.
    Backward = 2,
    /// (tangents of the inputs, outputs, saved, plan, needs, arguments) -> tangents.
    Jvp = 3,
    /// `Backward` at a level of torch.func or recorded: on tensors that may
    /// hold others, without data of their own.
    BackwardAbove = 4,
    /// (arguments) -> the tensor arguments, in the dtype that autocast asks for.
    Cast = 5,
}

/// What PyTorch's compiler may assume of an op: `torch.Tag`. The op's forward and backward
/// ops get it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Tag {
    /// Draws random numbers: `nondeterministic_seeded`. Two runs give different results.
    NondeterministicSeeded = 0,
    /// Gives other results in other runs, whatever the seed: `nondeterministic_bitwise`.
    NondeterministicBitwise = 1,
    /// The shapes of the outputs depend on the data: `dynamic_output_shape`.
    DynamicOutputShape = 2,
    /// A number that it returns depends on the data: `data_dependent_output`.
    DataDependentOutput = 3,
    /// Each element of the outputs depends on one element of each input: `pointwise`.
    Pointwise = 4,
    /// The inputs may have any strides: `flexible_layout`.
    FlexibleLayout = 5,
    /// The inputs must have their order of strides: `needs_fixed_stride_order`.
    NeedsFixedStrideOrder = 6,
    /// The inputs must have exactly their strides: `needs_exact_strides`.
    NeedsExactStrides = 7,
    /// The inputs must be contiguous: `needs_contiguous_strides`.
    NeedsContiguousStrides = 8,
    /// Cannot be recorded in a CUDA graph: `cudagraph_unsafe`.
    CudagraphUnsafe = 9,
}

/// The place of a saved tensor, as a plan has it: `tf_source` of the shim.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Source {
    Input = 0,
    Output = 1,
    /// The list of saved tensors that are neither inputs nor outputs.
    Intermediate = 2,
    /// The same list.
    Constant = 3,
    /// An output without a gradient.
    ConstantOutput = 4,
}

/// A plan writes `index * SOURCES + source`.
pub(crate) const SOURCES: usize = 8;

/// `tf_facts` of the shim.
#[repr(C)]
pub(super) struct RawFacts {
    pub(super) name: *const c_char,
    pub(super) name_len: usize,
    pub(super) batches: bool,
    pub(super) casts: bool,
}

/// `tf_op` of the shim.
#[repr(C)]
pub(super) struct RawOp {
    pub(super) errors: *const Callbacks,
    pub(super) state: *mut c_void,
    pub(super) call: extern "C" fn(
        *const c_void,
        Kernel,
        *const RawValue,
        usize,
        *mut c_void,
        *mut bool,
    ) -> *mut c_void,
    pub(super) facts: extern "C" fn(*const c_void, *const RawValue, usize, *mut RawFacts),
    pub(super) drop: extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn tf_read_schema(
        schema: *const c_char,
        visit: extern "C" fn(*mut c_void, bool, *const c_char, *const c_char, bool),
        data: *mut c_void,
    ) -> bool;
    fn tf_open_library(ns: *const c_char) -> *mut c_void;
    fn tf_define(
        library: *mut c_void,
        ns: *const c_char,
        schema: *const c_char,
        op: *const RawOp,
        tags: *const Tag,
        n_tags: usize,
    ) -> bool;
    fn tf_close_library(library: *mut c_void);
    fn tf_stay_loaded(address: *const c_void);
    fn tf_raise_in_python(message: *const c_char);
}

/// # Safety
/// The shim passes the state of a registered op.
unsafe fn op_of<'a>(state: *const c_void) -> &'a dyn Op {
    // SAFETY: `define` made it, and the registration keeps it.
    unsafe { &**state.cast::<Box<dyn Op>>() }
}

extern "C" fn call(
    state: *const c_void,
    kernel: Kernel,
    values: *const RawValue,
    n: usize,
    results: *mut c_void,
    no_formula: *mut bool,
) -> *mut c_void {
    // SAFETY: the shim's op, and values and results that it lends for this call.
    let (op, values) = unsafe { (op_of(state), read_all(values, n)) };
    let mut results = Results(results, std::marker::PhantomData);
    call_back(op.name(), "a kernel", || {
        let done = op.call(kernel, &values, &mut results);
        // SAFETY: the shim lends the flag for this call.
        done.inspect_err(|error| unsafe { *no_formula = error.is_about_kernels() })
    })
}

extern "C" fn facts(state: *const c_void, args: *const RawValue, n: usize, out: *mut RawFacts) {
    // SAFETY: as in `call`.
    let (op, args) = unsafe { (op_of(state), read_all(args, n)) };
    let found = catch_unwind(AssertUnwindSafe(|| op.facts(&args)));
    let Ok(Ok(Facts { name, batches, casts })) = found else { return };
    let found = RawFacts { name: name.as_ptr().cast(), name_len: name.len(), batches, casts };
    // SAFETY: the shim lends `out` for this call.
    unsafe { out.write(found) };
}

extern "C" fn drop_op(state: *mut c_void) {
    // SAFETY: made by `define`; the shim gives it up.
    let op = unsafe { Box::from_raw(state.cast::<Box<dyn Op>>()) };
    super::drop_quietly(op);
}

/// One argument or return of a schema.
pub(crate) struct Part {
    pub is_return: bool,
    pub name: String,
    /// The type as the schema writes it: `Tensor?`, `int[]`.
    pub dtype: String,
    pub is_written: bool,
}

/// Returns the arguments and returns of a schema.
pub(crate) fn read_schema(schema: &str) -> Result<Vec<Part>> {
    extern "C" fn visit(
        parts: *mut c_void,
        is_return: bool,
        name: *const c_char,
        dtype: *const c_char,
        is_written: bool,
    ) {
        // SAFETY: `read_schema` passes its own list, and the shim two texts that
        // it keeps during this call. A push does not unwind.
        unsafe {
            let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
            let part = Part { is_return, name: text(name), dtype: text(dtype), is_written };
            (*parts.cast::<Vec<Part>>()).push(part);
        }
    }
    let mut parts = Vec::<Part>::new();
    let schema = text(schema);
    // SAFETY: the text ends in a nul; `parts` is used by `visit` alone meanwhile.
    let done = unsafe { tf_read_schema(schema.as_ptr(), visit, (&raw mut parts).cast()) };
    check("dispatcher", done)?;
    Ok(parts)
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

/// The definitions of a namespace; taken back when dropped, unless kept.
pub(crate) struct Definitions {
    library: *mut c_void,
    namespace: CString,
}

impl Definitions {
    pub fn open(namespace: &str) -> Result<Definitions> {
        let namespace = text(namespace);
        // SAFETY: the text ends in a nul.
        let library = unsafe { tf_open_library(namespace.as_ptr()) };
        check("dispatcher", !library.is_null())?;
        Ok(Definitions { library, namespace })
    }

    pub fn define(&mut self, schema: &str, tags: &[Tag], op: Box<dyn Op>) -> Result<()> {
        let op = RawOp {
            errors: &ERRORS,
            state: Box::into_raw(Box::new(op)).cast(),
            call,
            facts,
            drop: drop_op,
        };
        let (schema, ns) = (text(schema), self.namespace.as_ptr());
        // SAFETY: the library is open, the texts end in nuls, the list has its length, and
        // the shim takes the op's state.
        check("dispatcher", unsafe {
            tf_define(self.library, ns, schema.as_ptr(), &op, tags.as_ptr(), tags.len())
        })
    }

    /// Leaves the definitions for the life of the process.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Definitions {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and closed once.
        unsafe { tf_close_library(self.library) }
    }
}

/// Keeps the library that `code` is in, which holds the kernels.
pub(crate) fn stay_loaded(code: fn() -> Result<()>) {
    // SAFETY: the address is looked up, not read.
    unsafe { tf_stay_loaded(code as *const c_void) }
}

/// Raises a RuntimeError in a Python process, or prints the message if this is not
/// its main thread.
pub(crate) fn raise_in_python(message: &str) {
    let message = text(message);
    // SAFETY: the text ends in a nul; the shim copies it.
    unsafe { tf_raise_in_python(message.as_ptr()) }
}
