//! The errors of kernels about the tensors that they are given.

use super::layout::Role;
use crate::Error;
use crate::ffi::memory::Unfit;

#[cold]
pub(super) fn unfit(op: &'static str, (what, i): (Role, usize), why: Unfit) -> Error {
    let (found, instead) = match why {
        Unfit::Failed => return crate::ffi::last_error(op),
        Unfit::Undefined => return Error::Undefined { op, what: format!("{what} {i}") },
        Unfit::Fit | Unfit::NoData => (
            "has no data: it is a meta or fake tensor, or a wrapper as under vmap",
            "ask kernel::runs_on, and compute it with tch operators there; if the outputs' \
             shapes are enough, write Function::fake",
        ),
        Unfit::OtherDevice => (
            "is not on the CPU",
            "ask kernel::runs_on, and compute it with tch operators there, or move it with \
             to_device(Device::Cpu)",
        ),
        Unfit::Quantised => ("is quantised", "call dequantize() on it first"),
        Unfit::NotStrided => ("is sparse, or of another layout", "call to_dense() on it first"),
        Unfit::Lazy => {
            ("is conjugated or negated lazily", "call resolve_conj() and resolve_neg() on it first")
        }
        Unfit::Recorded => (
            "requires a gradient and libtorch is recording, which a kernel cannot be",
            "call the kernel in the forward of a Function; in a backward that is differentiated \
             again, apply another Function or compute with tch operators",
        ),
        Unfit::Tangent => (
            "carries a forward-mode tangent, which a kernel would lose",
            "call the kernel in the forward of a Function that has a jvp",
        ),
        Unfit::Traced => (
            "is being traced: libtorch records only operators, and would record a kernel's output as \
             a constant",
            "ask kernel::runs_on, and compute it with tch operators there",
        ),
        Unfit::Unaligned => (
            "lies at an address that is no multiple of its elements' size",
            "call copy() on it first",
        ),
        Unfit::Inference => {
            ("was made in inference mode, and cannot be changed outside", "call copy() on it first")
        }
        Unfit::Beyond => (
            "has strides that are negative or reach further than memory can",
            "call contiguous() on it first",
        ),
    };
    Error::NoKernel { op, what: format!("{what} {i}"), found, instead }
}

#[cold]
pub(super) fn nothing(op: &'static str, what: Role) -> Error {
    Error::Argument { op, message: format!("the closure has no {what}; give it at least one") }
}

#[cold]
pub(super) fn other_dtype(
    op: &'static str,
    (what, i): (Role, usize),
    seen: i8,
    found: i8,
) -> Error {
    let (seen, found) = (crate::ffi::kind_of(seen), crate::ffi::kind_of(found));
    Error::KernelDtype { op, what: format!("{what} {i}"), expected: seen, found }
}

#[cold]
pub(super) fn shape(
    op: &'static str,
    (what, i): (Role, usize),
    found: &[i64],
    expected: &[i64],
) -> Error {
    let message = format!(
        "{what} {i} has shape {found:?}, which does not broadcast to that of the others, \
         {expected:?}; reshape it"
    );
    Error::Argument { op, message }
}

#[cold]
pub(super) fn overlapping(op: &'static str, i: usize) -> Error {
    let message = format!(
        "elements of output {i} share memory (it is expanded, say), so they cannot be written \
         one by one; pass a copy of it"
    );
    Error::Argument { op, message }
}

#[cold]
pub(super) fn shared(op: &'static str, (what, i): (Role, usize)) -> Error {
    let message = format!(
        "{what} {i} overlaps an output in memory without being that same view; pass a copy of it"
    );
    Error::Argument { op, message }
}
