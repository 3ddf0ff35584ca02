//! Ops in libtorch's dispatcher: what their kernels call back, and definitions.

use super::check;
use super::errors::into_raw;
use super::node::{Callbacks, ERRORS};
use crate::error::{Error, Result};
use crate::quiet::quietly;
use smallvec::SmallVec;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;
use torch_sys::C_tensor;

/// An op whose types are forgotten.
pub(crate) trait Op: Send + Sync {
    /// `ns::name`.
    fn name(&self) -> &'static str;
    /// (arguments) -> outputs, recorded if grad mode is on.
    fn apply(&self, args: &[Value<'_>], results: &mut Results<'_>) -> Result<()>;
    /// (arguments, needs) -> outputs, saved intermediates, plan.
    fn forward(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()>;
    /// Whether what `backward` is to be given comes from this op's `forward`.
    fn check_plan(&self, values: &[Value<'_>]) -> Result<()>;
    /// (gradients of the outputs, saved, plan, needs, arguments) -> gradients.
    fn backward(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()>;
    /// (tangents of the inputs, outputs, saved, plan, needs, arguments) -> tangents.
    fn jvp(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()>;
    /// libtorch's number of the dtype that autocast is to convert inputs to.
    fn cast(&self, args: &[Value<'_>]) -> Option<i8>;
    /// Whether the op's formulas take tensors that vmap has batched.
    fn batches(&self, args: &[Value<'_>]) -> bool;
}

/// An argument of an op.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    None,
    Tensor(TensorRef<'a>),
    Tensors(&'a [TensorRef<'a>]),
    Int(i64),
    Float(f64),
    Bool(bool),
    Text(&'a str),
    Ints(&'a [i64]),
    Floats(&'a [f64]),
    Bools(&'a [i64]),
    Other,
}

/// A tensor of the caller's, null where absent.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct TensorRef<'a>(*const C_tensor, std::marker::PhantomData<&'a C_tensor>);

impl TensorRef<'_> {
    /// A handle of one's own.
    pub(crate) fn handle(self) -> Option<Tensor> {
        // SAFETY: the shim keeps the tensor during the call that lends it, which
        // the lifetime stands for.
        (!self.0.is_null()).then(|| unsafe { Tensor::clone_from_ptr(self.0.cast_mut()) })
    }
}

/// `tf_value` of shim.h.
#[repr(C)]
struct RawValue {
    tag: u8,
    len: usize,
    data: *const c_void,
    i: i64,
    f: f64,
}

impl RawValue {
    /// # Safety
    /// It is the shim's, and is lent for `'a`.
    unsafe fn read<'a>(&self) -> Value<'a> {
        /// # Safety
        /// `value` holds `len` items of type `T`, lent for `'a`.
        unsafe fn list<'a, T>(value: &RawValue) -> &'a [T] {
            if value.len == 0 {
                return &[];
            }
            // SAFETY: as the caller promises.
            unsafe { std::slice::from_raw_parts(value.data.cast(), value.len) }
        }
        // SAFETY: the shim's tag says what `data` and `len` are.
        unsafe {
            match self.tag {
                0 => Value::None,
                1 => Value::Tensor(TensorRef(self.data.cast(), std::marker::PhantomData)),
                2 => Value::Tensors(list(self)),
                3 => Value::Int(self.i),
                4 => Value::Float(self.f),
                5 => Value::Bool(self.i != 0),
                6 => std::str::from_utf8(list(self)).map_or(Value::Other, Value::Text),
                7 => Value::Ints(list(self)),
                8 => Value::Floats(list(self)),
                9 => Value::Bools(list(self)),
                _ => Value::Other,
            }
        }
    }
}

/// Where a kernel puts its results, in order.
pub(crate) struct Results<'a>(*mut c_void, std::marker::PhantomData<&'a mut c_void>);

impl Results<'_> {
    pub fn tensor(&mut self, t: Option<Tensor>) {
        // SAFETY: the shim lends its results during the call; it takes the handle.
        unsafe { tf_give_tensor(self.0, into_handle(t)) }
    }

    pub fn tensors(&mut self, tensors: impl IntoIterator<Item = Option<Tensor>>) {
        let handles: Vec<_> = tensors.into_iter().map(into_handle).collect();
        // SAFETY: as above; the list has the length given.
        unsafe { tf_give_tensors(self.0, handles.as_ptr(), handles.len()) }
    }

    pub fn ints(&mut self, ints: &[i64]) {
        // SAFETY: as above.
        unsafe { tf_give_ints(self.0, ints.as_ptr(), ints.len()) }
    }
}

fn into_handle(t: Option<Tensor>) -> *mut C_tensor {
    t.map_or(std::ptr::null_mut(), |t| ManuallyDrop::new(t).as_mut_ptr())
}

/// `tf_op` of shim.h.
#[repr(C)]
struct RawOp {
    errors: *const Callbacks,
    state: *mut c_void,
    call: extern "C" fn(
        *const c_void,
        u8,
        *const RawValue,
        usize,
        *mut c_void,
        *mut bool,
        bool,
    ) -> *mut c_void,
    cast: extern "C" fn(*const c_void, *const RawValue, usize) -> i8,
    batches: extern "C" fn(*const c_void, *const RawValue, usize) -> bool,
    drop: extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    fn tf_give_tensor(results: *mut c_void, t: *mut C_tensor);
    fn tf_give_tensors(results: *mut c_void, t: *const *mut C_tensor, n: usize);
    fn tf_give_ints(results: *mut c_void, ints: *const i64, n: usize);
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
    ) -> bool;
    fn tf_close_library(library: *mut c_void);
    fn tf_stay_loaded(address: *const c_void);
    fn tf_raise_in_python(message: *const c_char);
}

type Values<'a> = SmallVec<[Value<'a>; 8]>;

/// # Safety
/// The shim lends `n` values for `'a`, during a call.
unsafe fn read_all<'a>(values: *const RawValue, n: usize) -> Values<'a> {
    // SAFETY: as the caller promises.
    let values =
        unsafe { std::slice::from_raw_parts(values, if values.is_null() { 0 } else { n }) };
    // SAFETY: the same.
    values.iter().map(|value| unsafe { value.read() }).collect()
}

/// # Safety
/// The shim passes the state of a registered op.
unsafe fn op_of<'a>(state: *const c_void) -> &'a dyn Op {
    // SAFETY: `define` made it, and the registration keeps it.
    unsafe { &**state.cast::<Box<dyn Op>>() }
}

extern "C" fn call(
    state: *const c_void,
    kernel: u8,
    values: *const RawValue,
    n: usize,
    results: *mut c_void,
    no_formula: *mut bool,
    attempt: bool,
) -> *mut c_void {
    // SAFETY: the shim's op, and values and results that it lends for this call.
    let (op, values) = unsafe { (op_of(state), read_all(values, n)) };
    let mut results = Results(results, std::marker::PhantomData);
    let mut run = || match kernel {
        0 => op.apply(&values, &mut results),
        1 => op.forward(&values, &mut results),
        2 => op.check_plan(&values).and_then(|()| op.backward(&values, &mut results)),
        3 => op.jvp(&values, &mut results),
        _ => op.backward(&values, &mut results),
    };
    let run = || if attempt { quietly(run) } else { run() };
    let done = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        let message = super::panic_message(payload);
        Err(Error::Panic { op: op.name(), stage: "a kernel", message })
    });
    let Err(error) = done else { return std::ptr::null_mut() };
    // SAFETY: the shim lends the flag for this call.
    unsafe { *no_formula = error.is_about_kernels() };
    into_raw(error)
}

extern "C" fn cast(state: *const c_void, args: *const RawValue, n: usize) -> i8 {
    // SAFETY: as in `call`.
    let (op, args) = unsafe { (op_of(state), read_all(args, n)) };
    let dtype = catch_unwind(AssertUnwindSafe(|| op.cast(&args)));
    dtype.ok().flatten().unwrap_or(-1)
}

extern "C" fn batches(state: *const c_void, args: *const RawValue, n: usize) -> bool {
    // SAFETY: as in `call`.
    let (op, args) = unsafe { (op_of(state), read_all(args, n)) };
    catch_unwind(AssertUnwindSafe(|| op.batches(&args))).unwrap_or(false)
}

extern "C" fn drop_op(state: *mut c_void) {
    // SAFETY: made by `define`; the shim gives it up.
    let op = unsafe { Box::from_raw(state.cast::<Box<dyn Op>>()) };
    super::drop_quietly(op);
}

/// What a schema says of one argument or return.
pub(crate) struct Part {
    pub is_return: bool,
    pub name: String,
    /// As in the schema: `Tensor?`, `int[]`.
    pub dtype: String,
    pub is_written: bool,
}

/// The parts of a schema of libtorch's.
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

    pub fn define(&mut self, schema: &str, op: Box<dyn Op>) -> Result<()> {
        let op = RawOp {
            errors: &ERRORS,
            state: Box::into_raw(Box::new(op)).cast(),
            call,
            cast,
            batches,
            drop: drop_op,
        };
        let (schema, ns) = (text(schema), self.namespace.as_ptr());
        // SAFETY: the library is open, the texts end in nuls, and the shim takes
        // the op's state.
        check("dispatcher", unsafe { tf_define(self.library, ns, schema.as_ptr(), &op) })
    }

    /// Leaves them for the life of the process.
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
