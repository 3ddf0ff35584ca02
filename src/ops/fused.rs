//! What the ops compute where no kernel runs.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// Returns what a kernel made, or what `formula` makes where kernels do not run. Shapes that do
/// not fit are the formula's to refuse, so that the message is libtorch's.
#[inline]
pub(super) fn elsewhere<T>(
    done: crate::Result<T>,
    formula: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match done {
        Err(crate::Error::Argument { .. }) => formula(),
        done => crate::kernel::or_formula(done, formula),
    }
}

/// The error of a kernel that leaves `what` to the formula.
pub(super) fn not_ours(op: &'static str, what: &str) -> crate::Error {
    let (found, instead) = ("is not for this kernel", "compute it with tch operators");
    crate::Error::NoKernel { op, what: what.to_owned(), found, instead }
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
