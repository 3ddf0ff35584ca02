//! Ops of a tensor and a number. Those of tch panic where libtorch reports an error: a
//! `Scalar` that it drops meets the error first.

use super::own;
use crate::error::Result;
use tch::Tensor;
use torch_sys::C_tensor;

/// `tf_scalar_op` of the shim.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Op {
    Add = 0,
    Sub,
    Rsub,
    Mul,
    Div,
    Pow,
}

unsafe extern "C" {
    fn tf_with_scalar(op: Op, x: *const C_tensor, c: f64, integer: bool) -> *mut C_tensor;
    fn tf_where_else(
        condition: *const C_tensor,
        x: *const C_tensor,
        c: f64,
        integer: bool,
    ) -> *mut C_tensor;
    fn tf_masked_fill(
        x: *const C_tensor,
        mask: *const C_tensor,
        c: f64,
        integer: bool,
    ) -> *mut C_tensor;
    fn tf_result_type(x: *const *const C_tensor, n: usize) -> i8;
    fn tf_clamp(x: *const C_tensor, least: f64, greatest: f64) -> *mut C_tensor;
}

/// A number beside a tensor. An integer one promotes dtypes as an integer does.
#[derive(Clone, Copy)]
pub(crate) struct Number {
    value: f64,
    integer: bool,
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number { value, integer: false }
    }
}

impl From<i32> for Number {
    fn from(value: i32) -> Number {
        Number { value: value.into(), integer: true }
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Number {
        Number { value: value as f64, integer: true }
    }
}

macro_rules! ops {
    ($($name:ident $op:ident, $torch:literal, $what:literal;)+) => {
        /// A tensor and a number, with libtorch's errors as errors.
        pub(crate) trait WithScalar {$(
            #[doc = concat!("Returns `", $what, "`.")]
            fn $name(&self, c: impl Into<Number>) -> Result<Tensor>;
        )+
            /// Returns the elements where the condition holds, `c` elsewhere.
            fn where_else(&self, condition: &Tensor, c: impl Into<Number>) -> Result<Tensor>;
            /// Returns `c` where the mask holds, the elements elsewhere.
            fn filled(&self, mask: &Tensor, c: impl Into<Number>) -> Result<Tensor>;
            /// Returns the elements, at least `least` and at most `greatest`.
            fn clamped(&self, least: f64, greatest: f64) -> Result<Tensor>;
        }

        impl WithScalar for Tensor {$(
            #[inline]
            fn $name(&self, c: impl Into<Number>) -> Result<Tensor> {
                let Number { value, integer } = c.into();
                // SAFETY: the tensor owns a valid handle.
                own($torch, unsafe {
                    tf_with_scalar(Op::$op, self.as_ptr(), value, integer)
                })
            }
        )+
            fn where_else(&self, condition: &Tensor, c: impl Into<Number>) -> Result<Tensor> {
                let Number { value, integer } = c.into();
                // SAFETY: both own valid handles.
                own("where", unsafe {
                    tf_where_else(condition.as_ptr(), self.as_ptr(), value, integer)
                })
            }
            fn filled(&self, mask: &Tensor, c: impl Into<Number>) -> Result<Tensor> {
                let Number { value, integer } = c.into();
                // SAFETY: both own valid handles.
                own("masked_fill", unsafe {
                    tf_masked_fill(self.as_ptr(), mask.as_ptr(), value, integer)
                })
            }
            fn clamped(&self, least: f64, greatest: f64) -> Result<Tensor> {
                // SAFETY: the tensor owns a valid handle.
                own("clamp", unsafe { tf_clamp(self.as_ptr(), least, greatest) })
            }
        }
    };
}
ops! {
    add_number Add, "add", "x + c";
    sub_number Sub, "sub", "x - c";
    rsub_number Rsub, "rsub", "c - x";
    mul_number Mul, "mul", "x c";
    div_number Div, "div", "x / c";
    pow_number Pow, "pow", "x^c";
}

/// Returns the dtype in which libtorch's ops compute with these tensors together.
pub(crate) fn result_type(op: &'static str, x: &[&Tensor]) -> Result<i8> {
    let handles = super::handles(x);
    // SAFETY: the handles are valid.
    let dtype = unsafe { tf_result_type(handles.as_ptr(), handles.len()) };
    if dtype < 0 { Err(super::last_error(op)) } else { Ok(dtype) }
}
