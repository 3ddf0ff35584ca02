//! The choice between kernels and libtorch's operators.

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
