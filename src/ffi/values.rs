//! The arguments of an op, as the shim lends them, and its results.

use smallvec::SmallVec;
use std::ffi::c_void;
use std::mem::ManuallyDrop;
use tch::Tensor;
use torch_sys::C_tensor;

unsafe extern "C" {
    fn tf_give_tensor(results: *mut c_void, t: *mut C_tensor);
    fn tf_give_tensors(results: *mut c_void, t: *const *mut C_tensor, n: usize);
    fn tf_give_ints(results: *mut c_void, ints: *const i64, n: usize);
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
    /// Returns another handle.
    pub(crate) fn handle(self) -> Option<Tensor> {
        // SAFETY: the shim keeps the tensor during the call that lends it, which
        // the lifetime stands for.
        (!self.0.is_null()).then(|| unsafe { Tensor::clone_from_ptr(self.0.cast_mut()) })
    }
}

/// The kind of a [`RawValue`]: `tf_tag` of the shim.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Tag {
    None = 0,
    Tensor,
    Tensors,
    Int,
    Float,
    Bool,
    Text,
    Ints,
    Floats,
    Bools,
    Other,
}

/// `tf_value` of the shim.
#[repr(C)]
pub(super) struct RawValue {
    pub(super) tag: Tag,
    pub(super) len: usize,
    pub(super) data: *const c_void,
    pub(super) i: i64,
    pub(super) f: f64,
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
                Tag::None => Value::None,
                Tag::Tensor => Value::Tensor(TensorRef(self.data.cast(), std::marker::PhantomData)),
                Tag::Tensors => Value::Tensors(list(self)),
                Tag::Int => Value::Int(self.i),
                Tag::Float => Value::Float(self.f),
                Tag::Bool => Value::Bool(self.i != 0),
                Tag::Text => std::str::from_utf8(list(self)).map_or(Value::Other, Value::Text),
                Tag::Ints => Value::Ints(list(self)),
                Tag::Floats => Value::Floats(list(self)),
                Tag::Bools => Value::Bools(list(self)),
                Tag::Other => Value::Other,
            }
        }
    }
}

/// The results of a kernel, in order.
pub(crate) struct Results<'a>(
    pub(super) *mut c_void,
    pub(super) std::marker::PhantomData<&'a mut c_void>,
);

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

pub(super) type Values<'a> = SmallVec<[Value<'a>; 8]>;

/// # Safety
/// The shim lends `n` values for `'a`, during a call.
pub(super) unsafe fn read_all<'a>(values: *const RawValue, n: usize) -> Values<'a> {
    // SAFETY: as the caller promises.
    let values =
        unsafe { std::slice::from_raw_parts(values, if values.is_null() { 0 } else { n }) };
    // SAFETY: the same.
    values.iter().map(|value| unsafe { value.read() }).collect()
}
