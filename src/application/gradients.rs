//! The gradients that a user's `backward` may return, and those that it is given.

use crate::error::{Error, Result};
use crate::ffi::{self, Meta};
use crate::function::Frame;
use tch::Tensor;

/// Checks the gradient of input `i`: exactly the input's shape, dtype and
/// device. libtorch would sum and cast silently, which hides mistakes and
/// turns 1e300 into infinity.
///
/// Returns the gradient, in memory. With `followed`, the pass is recorded and differentiates
/// `dy`: then the gradient must depend on `dy`, unless it is zero.
#[inline]
pub(super) fn checked_gradient(
    frame: &Frame,
    i: usize,
    grad: Tensor,
    followed: bool,
) -> Result<Tensor> {
    let op = frame.op;
    let expected = &frame.inputs[i].meta;
    let found = ffi::describe(op, &grad)?;
    if !expected.may_fit(&found) {
        return Err(misfit(op, i, expected, &Meta::of(&found)));
    }
    if found.zero && !found.symbolic {
        return ffi::zeros_like(op, &grad);
    }
    if followed && !found.requires_grad && found.is_differentiable() && is_nonzero(&grad) {
        return Err(Error::UnrecordedBackward { op, input: i });
    }
    Ok(grad)
}

/// Returns whether an element is not zero. Values that cannot be read, while a tracer or
/// vmap looks on, count as zero.
pub(super) fn is_nonzero(t: &Tensor) -> bool {
    let _unrecorded = ffi::GradMode::set(false);
    let count = t.f_count_nonzero(None::<i64>).and_then(|n| n.f_int64_value(&[]));
    // What a mode of Python's raised must not stay pending.
    count.map_err(|_| ffi::take_python_error()).is_ok_and(|n| n > 0)
}

/// Returns whether a recorded pass differentiates each gradient of an output that has come.
/// What depends on one of several is not known.
#[inline]
pub(super) fn are_followed(dy: &[Option<Tensor>]) -> bool {
    let mut came = dy.iter().flatten().filter(|dy| dy.defined());
    ffi::grad_enabled() && came.all(Tensor::requires_grad)
}

fn misfit(op: &'static str, input: usize, expected: &Meta, found: &Meta) -> Error {
    if !found.is_defined() {
        let what =
            format!("the gradient of input {input}; return None where no gradient flows; it");
        return Error::Undefined { op, what };
    }
    if expected.sizes() != found.sizes() {
        let (expected, found) = (expected.sizes().to_vec(), found.sizes().to_vec());
        return Error::GradientShape { op, input, expected, found };
    }
    if expected.kind() != found.kind() {
        let (expected, found) = (expected.kind(), found.kind());
        return Error::GradientDtype { op, input, expected, found };
    }
    if !expected.has_tch_device() || !found.has_tch_device() {
        let (expected, found) = (expected.device_name(), found.device_name());
        let message = format!(
            "backward returned a gradient on {found} for input {input} on {expected}; return it \
             on the input's device"
        );
        return Error::Argument { op, message };
    }
    Error::GradientDevice { op, input, expected: expected.device(), found: found.device() }
}

/// Fills in the gradients that are not there, with zeros or undefined tensors.
#[inline]
pub(super) fn materialize(frame: &Frame, grads: &mut [Option<Tensor>]) -> Result<()> {
    for (grad, output) in grads.iter_mut().zip(frame.outputs()) {
        if grad.is_none() && output.is_defined() {
            let zeros = frame.materialize_grads.then(|| output.zeros(frame.op)).transpose()?;
            *grad = Some(zeros.unwrap_or_else(Tensor::new));
        }
    }
    Ok(())
}

/// There is no second device on most machines, so this rule is tested on
/// descriptions alone.
#[test]
fn a_gradient_on_another_device_is_an_error() {
    let sizes = [2, 3];
    let on = |device| ffi::Description::of_sizes(&sizes, device);
    let (cpu, cuda) = (on((0, -1)), on((1, 1)));
    assert!(!Meta::of(&cpu).fits(&cuda));
    let error = misfit("Op", 0, &Meta::of(&cpu), &Meta::of(&cuda));
    assert!(matches!(error, Error::GradientDevice { op: "Op", input: 0, .. }));
    let text = error.to_string();
    assert!(
        text.contains("Cuda(1) for input 0 on Cpu") && text.contains("to_device(Cpu)"),
        "{text}"
    );
}
