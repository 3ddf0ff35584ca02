//! [`Argument`]: how a parameter of a constructor is written in a schema.

use crate::ffi::dispatcher::Value;
use sealed::FromValue;
use tch::Kind;

/// A type that an argument of a schema becomes.
///
/// | in the schema | in Rust |
/// |---|---|
/// | `float` | `f64` |
/// | `int`, `SymInt` | `i64` |
/// | `bool` | `bool` |
/// | `str` | `String` |
/// | `int[]`, `SymInt[]` | `Vec<i64>` |
/// | `float[]` | `Vec<f64>` |
/// | `bool[]` | `Vec<bool>` |
/// | `ScalarType` | [`Kind`] |
/// | `T?` | `Option<T>` |
pub trait Argument: FromValue {}
impl<T: FromValue> Argument for T {}

pub(crate) mod sealed {
    use super::Value;

    pub trait FromValue: Sized {
        /// The types of a schema that it can come from.
        fn types() -> Vec<String>;
        /// `None` for a value of another type.
        fn from_value(value: Value<'_>) -> Option<Self>;
    }
}

macro_rules! argument {
    ($($T:ty: $types:expr, $pattern:pat => $value:expr;)+) => {
        $(impl FromValue for $T {
            fn types() -> Vec<String> {
                $types.map(str::to_owned).into()
            }
            fn from_value(value: Value<'_>) -> Option<$T> {
                match value {
                    $pattern => $value,
                    _ => None,
                }
            }
        })+
    };
}

argument! {
    f64: ["float"], Value::Float(f) => Some(f);
    i64: ["int", "SymInt"], Value::Int(i) => Some(i);
    bool: ["bool"], Value::Bool(b) => Some(b);
    String: ["str"], Value::Text(text) => Some(text.to_owned());
    Vec<i64>: ["int[]", "SymInt[]"], Value::Ints(ints) => Some(ints.to_vec());
    Vec<f64>: ["float[]"], Value::Floats(floats) => Some(floats.to_vec());
    Vec<bool>: ["bool[]"], Value::Bools(bools) => Some(bools.iter().map(|&b| b != 0).collect());
    Kind: ["ScalarType"], Value::Int(dtype) => Some(crate::ffi::kind_of(i8::try_from(dtype).ok()?));
}

impl<T: FromValue> FromValue for Option<T> {
    fn types() -> Vec<String> {
        T::types().iter().map(|inner| format!("{inner}?")).collect()
    }
    fn from_value(value: Value<'_>) -> Option<Self> {
        match value {
            Value::None => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
