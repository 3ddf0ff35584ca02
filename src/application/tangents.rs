//! Forward mode: the tangents of a Function's outputs.

use super::{flatten, run_user};
use crate::error::{Error, Result, torch};
use crate::ffi::{self, Meta};
use crate::function::{Ctx, Function, Refs, Shape};
use tch::Tensor;

/// Returns the tangents of the inputs. Call it before forward mode is switched off:
/// then tensors show none.
pub(crate) fn tangents_of(inputs: &[Option<&Tensor>]) -> Vec<Option<Tensor>> {
    inputs.iter().map(|t| t.and_then(ffi::tangent)).collect()
}

/// Runs the user's `jvp` on the tangents of the inputs, `None` where there is none: `jvp` gets
/// zeros there, or an undefined tensor if it asked for that.
/// Returns one tangent per output, `None` for an output that can have none.
///
/// # Errors
/// [`Error::Forward`], [`Error::Panic`], and [`Error::Argument`] for tangents that do
/// not fit the outputs `y`.
pub(crate) fn jvp<F: Function>(
    f: &F,
    ctx: &Ctx,
    x: Refs<'_, F::Inputs>,
    dx: impl Iterator<Item = Option<Tensor>>,
    y: &[Option<&Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let op = ctx.op();
    let mut filled = Vec::new();
    let inputs = flatten::<F::Inputs, Tensor>(x);
    for (tangent, input) in dx.zip(&inputs) {
        filled.push(match (tangent, input) {
            (None, Some(_)) if !ctx.frame.materialize_grads => Some(Tensor::new()),
            (None, Some(x)) => Some(no_tangent(op, x)?),
            (tangent, _) => tangent,
        });
    }
    let mut filled = filled.into_iter();
    let dx = F::Inputs::build(&F::Inputs::layout(x), &mut || filled.next().flatten());
    let dy = run_user(op, "jvp", Error::forward, || f.jvp(ctx, x, F::Inputs::borrow(&dx)))?;
    let mut tangents = Vec::new();
    F::Outputs::take(dy, &mut |t| tangents.push(t));
    if tangents.len() != y.len() {
        let (found, expected) = (tangents.len(), y.len());
        let message = format!("jvp returned {found} tangents for {expected} outputs");
        return Err(Error::Argument { op, message });
    }
    for (i, (tangent, y)) in tangents.iter_mut().zip(y).enumerate() {
        if let Some(y) = y {
            check(op, i, tangent, y, &inputs)?;
        }
    }
    Ok(tangents)
}

/// Returns zeros, or an undefined tensor if the dtype has no derivative.
fn no_tangent(op: &'static str, x: &Tensor) -> Result<Tensor> {
    match ffi::describe(op, x)?.is_differentiable() {
        true => x.f_zeros_like().map_err(torch(op)),
        false => Ok(Tensor::new()),
    }
}

/// Checks that a tangent has exactly its output's shape, dtype and device; drops one
/// for an output that can have none. In libtorch the tangent of a view is a view of
/// its base's tangent, which a `jvp` cannot promise.
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
    let found = ffi::describe(op, &dy)?;
    if !expected.may_fit(&found) {
        let found = Meta::of(&found);
        let message = format!("jvp returned a tangent of {found} for output {i} of {expected}");
        return Err(Error::Argument { op, message });
    }
    *tangent = Some(dy);
    Ok(())
}
