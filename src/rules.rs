//! The rules of meaning that every engine shares: what a user's backward may
//! return and what a seed may be.

use crate::{Ctx, Error, Result, ffi, meta::Meta};
use tch::Tensor;

/// Checks the gradient of input `i`: exactly the input's shape, dtype and
/// device. libtorch would sum and cast silently, which hides mistakes and
/// turns 1e300 into infinity.
pub(crate) fn check_gradient(ctx: &Ctx, i: usize, grad: &Tensor) -> Result<()> {
    let op = ctx.op();
    let expected = &ctx.inputs()[i].meta;
    let found = ffi::describe(op, grad)?;
    if expected.may_fit(&found) {
        return Ok(());
    }
    Err(misfit(op, i, expected, &Meta::of(&found)))
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
    Error::GradientDevice { op, input, expected: expected.device(), found: found.device() }
}

/// The seed of output `output`: what the user gave, if it fits, or ones for an
/// output that is one real number.
pub(crate) fn seed(
    op: &'static str,
    output: usize,
    value: &Tensor,
    given: Option<&Tensor>,
) -> Result<Tensor> {
    let expected = ffi::describe(op, value)?;
    let Some(given) = given else {
        let single = expected.sizes.iter().product::<i64>() == 1;
        return match single && !expected.is_complex() {
            true => Ok(value.ones_like()),
            false => Err(Error::SeedMissing { op, output, shape: expected.sizes.to_vec() }),
        };
    };
    let expected = Meta::of(&expected);
    let found = ffi::describe(op, given)?;
    if expected.fits(&found) {
        return Ok(given.shallow_clone());
    }
    let found = Meta::of(&found);
    if !found.is_defined() {
        return Err(Error::Undefined { op, what: format!("the seed of output {output}") });
    }
    Err(Error::Seed { op, output, expected: expected.to_string(), found: found.to_string() })
}

/// Fills in the gradients that are not there, with zeros or undefined tensors.
pub(crate) fn materialize(ctx: &Ctx, grads: &mut [Option<Tensor>]) -> Result<()> {
    for (grad, output) in grads.iter_mut().zip(ctx.outputs()) {
        if grad.is_none() && output.is_defined() {
            let zeros = ctx.materialize_grads().then(|| output.zeros(ctx.op())).transpose()?;
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
    let on = |device| ffi::Description {
        sizes: &sizes,
        identity: 0,
        version: 0,
        dtype: 6,
        device,
        only_as_view: false,
        symbolic: false,
        requires_grad: false,
    };
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
