//! Forward mode: the tangents of a Function's outputs.

use super::gradients::is_nonzero;
use super::{flatten, run_user};
use crate::error::{Error, Result, torch};
use crate::ffi::modes::is_mode_on;
use crate::ffi::refusal::{Refused, refuse};
use crate::ffi::{self, GradMode, Meta};
use crate::function::{Ctx, Function, Origin, Refs, Saved, Shape};
use tch::Tensor;

/// Returns the tangents of the inputs. Call it before forward mode is switched off:
/// then tensors show none.
pub(crate) fn tangents_of(inputs: &[Option<&Tensor>]) -> Vec<Option<Tensor>> {
    inputs.iter().map(|t| t.and_then(ffi::tangent)).collect()
}

/// Runs the user's `jvp` on the tangents of the inputs, `None` where there is none: `jvp` gets
/// zeros there, or an undefined tensor if it asked for that.
/// Returns one tangent per output, `None` for an output that can have none. If they are
/// `followed`, they can be differentiated in turn, or refuse to be where how they depend on the
/// inputs is not known.
///
/// # Errors
/// [`Error::Forward`], [`Error::Panic`], and [`Error::Argument`] for tangents that do
/// not fit the outputs `y`.
pub(crate) fn jvp<F: Function>(
    f: &F,
    ctx: &Ctx,
    x: Refs<'_, F::Inputs>,
    dx: &[Option<Tensor>],
    y: &[Option<&Tensor>],
    followed: bool,
) -> Result<Vec<Option<Tensor>>> {
    let inputs = flatten::<F::Inputs, Tensor>(x);
    let mut filled = Vec::new();
    for (tangent, input) in dx.iter().zip(&inputs) {
        filled.push(match (tangent, input) {
            (None, Some(_)) if !ctx.frame.materialize_grads => Some(Tensor::new()),
            (None, Some(x)) => Some(no_tangent(ctx.op(), x)?),
            (tangent, _) => tangent.as_ref().map(Tensor::shallow_clone),
        });
    }
    let run = |ctx: &Ctx, dx: &[Option<Tensor>]| {
        let mut dx = dx.iter().map(|dx| dx.as_ref().map(Tensor::shallow_clone));
        let dx = F::Inputs::build(&F::Inputs::layout(x), &mut || dx.next().flatten());
        run(f, ctx, x, F::Inputs::borrow(&dx), y)
    };
    let wants_gradient = |t: &&Tensor| t.requires_grad();
    let given: Vec<_> = inputs.iter().flatten().copied().filter(wants_gradient).collect();
    let moving: Vec<_> = filled.iter().flatten().filter(wants_gradient).collect();
    if !followed || given.is_empty() && moving.is_empty() {
        return run(ctx, &filled);
    }
    let shared = |t: &&Tensor| t.shallow_clone();
    let given: Vec<Tensor> = given.iter().map(shared).collect();
    let leaves: Vec<Tensor> = given.iter().chain(moving).map(|t| shared(&t)).collect();
    let recorded = {
        let _recorded = GradMode::set(true);
        let dx: Vec<_> =
            filled.iter().map(|dx| dx.as_ref().map(|dx| watched(ctx.op(), dx))).collect();
        run(&with_history(ctx, &given)?, &dx)
    };
    let mut tangents = match recorded {
        // A kernel does not run where libtorch records.
        Err(e) if e.is_about_kernels() => {
            let _unrecorded = GradMode::set(false);
            run(ctx, &filled)?
        }
        recorded => recorded?,
    };
    let _recorded = GradMode::set(true);
    for tangent in tangents.iter_mut().flatten() {
        if !tangent.requires_grad() && is_nonzero(tangent) {
            *tangent = refuse(ctx.op(), tangent, &leaves, Refused::Tangent)?;
        }
    }
    Ok(tangents)
}

/// A tangent that libtorch follows: those of the outputs are linear in it, so one without
/// history has lost it.
fn watched(op: &'static str, dx: &Tensor) -> Tensor {
    let can_be_leaf = ffi::describe(op, dx).is_ok_and(|d| {
        d.is_defined() && d.is_differentiable() && !d.requires_grad && !d.is_inference
    });
    match can_be_leaf && !is_mode_on() {
        true => dx.detach().set_requires_grad(true),
        false => dx.shallow_clone(),
    }
}

/// The context with saved tensors that refuse to be differentiated where they are no inputs and
/// libtorch does not know their history.
fn with_history(ctx: &Ctx, inputs: &[Tensor]) -> Result<Ctx> {
    let mut context = ctx.share();
    for saved in &mut context.saved {
        let d = ffi::describe(ctx.op(), &saved.tensor)?;
        let is_unknown = matches!(saved.origin, Origin::Intermediate | Origin::Output(_));
        if is_unknown && !inputs.is_empty() && !d.requires_grad && d.is_differentiable() {
            let refused = refuse(ctx.op(), &saved.tensor, inputs, Refused::Tangent)?;
            *saved = Saved::of(refused, saved.origin);
        }
    }
    Ok(context)
}

fn run<F: Function>(
    f: &F,
    ctx: &Ctx,
    x: Refs<'_, F::Inputs>,
    dx: Refs<'_, F::Inputs>,
    y: &[Option<&Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let op = ctx.op();
    let dy = run_user(op, "jvp", Error::forward, || f.jvp(ctx, x, dx))?;
    let mut tangents = Vec::new();
    F::Outputs::take(dy, &mut |t| tangents.push(t));
    if tangents.len() != y.len() {
        let (found, expected) = (tangents.len(), y.len());
        let message = format!("jvp returned {found} tangents for {expected} outputs");
        return Err(Error::Argument { op, message });
    }
    let inputs = flatten::<F::Inputs, Tensor>(x);
    for (i, (tangent, y)) in tangents.iter_mut().zip(y).enumerate() {
        match y {
            Some(y) => check(op, i, tangent, y, &inputs)?,
            None => *tangent = None,
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
