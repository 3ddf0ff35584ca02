//! Ops that are formulas, and the choice between kernels and libtorch's operators.

use crate::Error;
use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// Returns the kernel's result, or that of `formula` if the kernel does not run.
#[inline]
pub(super) fn elsewhere<T>(
    done: crate::Result<T>,
    formula: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match done {
        Err(e) if is_elsewhere(&e) => formula(),
        done => Ok(done?),
    }
}

/// Returns whether the kernel does not run there: on another device or dtype, without
/// data, or where libtorch records.
fn is_elsewhere(e: &Error) -> bool {
    matches!(e, Error::NoKernel { .. } | Error::Argument { .. })
}

/// For formulas that round after each of many steps: on the CPU in f64. (Elsewhere f64 may
/// be slow, or absent: there in f32 at least.)
pub(super) fn exact(x: &Tensor) -> Result<Tensor> {
    Ok(match x.kind() {
        Kind::Half | Kind::BFloat16 | Kind::Float if x.device() == Device::Cpu => {
            x.f_to_kind(Kind::Double)?
        }
        Kind::Half | Kind::BFloat16 => x.f_to_kind(Kind::Float)?,
        _ => x.shallow_clone(),
    })
}

/// Makes ops of one tensor that are formulas Functions, with methods. `torch` is libtorch's
/// name for each.
macro_rules! derived {
    ($($(#[$doc:meta])* $Op:ident, $method:ident as $torch:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $Op;

        impl $crate::Function for $Op {
            type Inputs = tch::Tensor;
            type Outputs = tch::Tensor;

            fn autocast(&self) -> $crate::function::Autocast {
                $crate::function::Autocast::Wide($torch)
            }

            fn forward(&self, ctx: &mut $crate::Ctx, x: &tch::Tensor) -> anyhow::Result<tch::Tensor> {
                let [y] = $crate::formula::forward(self, $crate::formula::Author::Crate, ctx, [x])?;
                Ok(y)
            }

            fn backward(
                &self,
                ctx: &$crate::Ctx,
                dy: &tch::Tensor,
            ) -> anyhow::Result<Option<tch::Tensor>> {
                let [dx] = $crate::formula::backward(self, $crate::formula::Author::Crate, ctx, [dy])?;
                Ok(dx)
            }

            fn vmap(&self) -> $crate::Vmap {
                $crate::Vmap::Formulas
            }

            fn jvp(
                &self,
                ctx: &$crate::Ctx,
                x: &tch::Tensor,
                dx: &tch::Tensor,
            ) -> anyhow::Result<tch::Tensor> {
                let author = $crate::formula::Author::Crate;
                let [dy] = $crate::formula::jvp(self, author, ctx, [x], [dx])?;
                Ok(dy)
            }
        }

        $crate::ops::methods! {
            #[doc = concat!("[`", stringify!($Op), "`](crate::ops::", stringify!($Op), ") of every element.")]
            $method(self) => $Op;
        }
    )+};
}
pub(super) use derived;
