//! [`Element`]: what a kernel's closure sees of a tensor's elements.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};

/// The type of an element inside a kernel: `f32`, `f64`, `u8`, `i8`, `i16`,
/// `i32`, `i64` or `bool`.
///
/// Each reads and writes tensors of its own dtype. `f32` reads those of f16 and
/// bf16 too, and results are rounded to that dtype once.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a kernel's closure takes or returns",
    label = "no element of a kernel, nor an array or tuple of them",
    note = "for each tensor write f32, f64, u8, i8, i16, i32, i64 or bool; several are an array \
            `[T; N]` or a tuple of two to eight: `|(x, n): (f32, i64)| ..` for `(&x, &n)`"
)]
pub trait Element: sealed::Element {}
impl<T: sealed::Element> Element for T {}

/// The form of an element in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The type itself.
    Same,
    Half,
    BFloat16,
    /// A byte that is 0 or not.
    Bool,
}

pub mod sealed {
    use super::{Stored, bf16, f16};

    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not what a kernel's closure takes or returns",
        label = "no element of a kernel, nor an array or tuple of them",
        note = "for each tensor write f32, f64, u8, i8, i16, i32, i64 or bool; several are an array \
                `[T; N]` or a tuple of two to eight: `|(x, n): (f32, i64)| ..` for `(&x, &n)`"
    )]
    pub trait Element: Copy + Default + Send + Sync + 'static {
        /// libtorch's code of the type's own dtype.
        const DTYPE: i8;
        /// Returns how a tensor of `dtype` keeps elements of this type, if it can.
        #[inline]
        fn stored(dtype: i8) -> Option<Stored> {
            (dtype == Self::DTYPE).then_some(Stored::Same)
        }
        /// The rest is called only for what `stored` returns.
        /// Converts slices of one length.
        fn from_halves(_: &[f16], _: &mut [Self]) {
            unreachable!("not kept so")
        }
        fn from_bfloat16(_: bf16) -> Self {
            unreachable!("not kept so")
        }
        fn from_byte(_: u8) -> Self {
            unreachable!("not kept so")
        }
        /// Converts slices of one length.
        fn to_halves(_: &[Self], _: &mut [f16]) {
            unreachable!("not kept so")
        }
        fn to_bfloat16(self) -> bf16 {
            unreachable!("not kept so")
        }
        fn to_byte(self) -> u8 {
            unreachable!("not kept so")
        }
    }
}

macro_rules! plain {
    ($($T:ty = $code:literal),+) => {$(
        impl sealed::Element for $T {
            const DTYPE: i8 = $code;
        }
    )+};
}
// The codes of `c10::ScalarType`.
plain!(u8 = 0, i8 = 1, i16 = 2, i32 = 3, i64 = 4, f64 = 7);

const HALF: i8 = 5;
const BFLOAT16: i8 = 15;

impl sealed::Element for f32 {
    const DTYPE: i8 = 6;
    #[inline]
    fn stored(dtype: i8) -> Option<Stored> {
        match dtype {
            Self::DTYPE => Some(Stored::Same),
            HALF => Some(Stored::Half),
            BFLOAT16 => Some(Stored::BFloat16),
            _ => None,
        }
    }
    fn from_halves(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    #[inline]
    fn from_bfloat16(x: bf16) -> f32 {
        x.to_f32()
    }
    fn to_halves(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
    #[inline]
    fn to_bfloat16(self) -> bf16 {
        bf16::from_f32(self)
    }
}

/// A byte of a boolean tensor can be another than 0 and 1, which a Rust `bool`
/// cannot, so it is always converted.
impl sealed::Element for bool {
    const DTYPE: i8 = 11;
    #[inline]
    fn stored(dtype: i8) -> Option<Stored> {
        (dtype == Self::DTYPE).then_some(Stored::Bool)
    }
    fn from_byte(x: u8) -> bool {
        x != 0
    }
    fn to_byte(self) -> u8 {
        u8::from(self)
    }
}
