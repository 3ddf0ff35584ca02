//! Forward mode: the tangents of a Function's outputs.

use crate::forward::Output;
use crate::tensors::{Refs, sealed::Shape};
use crate::{Ctx, Error, Function, Result, error::run_user, ffi, meta::Meta};
use tch::Tensor;

type Tangents = Vec<Option<Tensor>>;

/// The tangents of the inputs. Asked for before forward mode is switched off,
/// when tensors show none.
pub(super) fn tangents_of(inputs: &[Option<&Tensor>]) -> Tangents {
    inputs.iter().map(|t| t.and_then(ffi::tangent)).collect()
}

/// Runs the user's `jvp`; gives one tangent per output that can have one.
pub(super) fn run<F: Function>(
    f: &F,
    ctx: &Ctx,
    x: Refs<'_, F::Inputs>,
    inputs: &[Option<&Tensor>],
    dx: Tangents,
    outputs: &[Output],
) -> Result<Tangents> {
    let op = ctx.op();
    let mut filled = Vec::new();
    for (tangent, input) in dx.into_iter().zip(ctx.inputs()) {
        filled.push(match tangent {
            None if input.meta.is_defined() => Some(no_tangent(op, &input.meta)?),
            tangent => tangent,
        });
    }
    let mut filled = filled.into_iter();
    let dx = F::Inputs::build(&F::Inputs::layout(x), &mut || filled.next().flatten());
    let dy = run_user(op, "jvp", Error::forward, || f.jvp(ctx, x, F::Inputs::borrow(&dx)))?;
    let mut tangents = Vec::new();
    F::Outputs::take(dy, &mut |t| tangents.push(t));
    if tangents.len() != outputs.len() {
        let (found, expected) = (tangents.len(), outputs.len());
        let message = format!("jvp returned {found} tangents for {expected} outputs");
        return Err(Error::Argument { op, message });
    }
    for (i, (tangent, y)) in tangents.iter_mut().zip(outputs).enumerate() {
        if let Some(y) = &y.tensor {
            check(op, i, tangent, y, inputs)?;
        }
    }
    Ok(tangents)
}

/// Zeros, or an undefined tensor where the dtype has no derivative.
fn no_tangent(op: &'static str, meta: &Meta) -> Result<Tensor> {
    if meta.is_differentiable() { meta.zeros(op) } else { Ok(Tensor::new()) }
}

/// Exactly the output's shape, dtype and device; what is given for an output
/// that can have no tangent is dropped. In libtorch the tangent of a view is a
/// view of its base's tangent, which a `jvp` cannot promise.
fn check(
    op: &'static str,
    i: usize,
    tangent: &mut Option<Tensor>,
    y: &Tensor,
    inputs: &[Option<&Tensor>],
) -> Result<()> {
    let expected = Meta::of(&ffi::describe(op, y)?);
    let Some(dy) = tangent.take().filter(|_| expected.is_differentiable()) else {
        return Ok(());
    };
    if inputs.iter().flatten().any(|x| ffi::shares_storage(x, y)) {
        let message =
            format!("output {i} lies in the memory of an input; in forward mode return a copy");
        return Err(Error::Argument { op, message });
    }
    let found = Meta::of(&ffi::describe(op, &dy)?);
    if found != expected {
        let message = format!("jvp returned a tangent of {found} for output {i} of {expected}");
        return Err(Error::Argument { op, message });
    }
    *tangent = Some(dy);
    Ok(())
}
