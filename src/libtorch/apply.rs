//! The life of one `apply` on tensors: `forward` runs unrecorded, then its
//! outputs get a node of libtorch's as their history.

use super::jvp;
use crate::ctx::{Input, Marks};
use crate::erased::Applied;
use crate::ffi::node::Recording;
use crate::forward::{self, Output};
use crate::tensors::{Of, Refs, sealed::Shape};
use crate::{Ctx, DoubleBackward, Error, Function, Result, error::run_user, ffi, meta::Meta};
use smallvec::SmallVec;
use tch::Tensor;

type Tensors<'a> = SmallVec<[Option<&'a Tensor>; 4]>;

pub(crate) fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
    let op = f.name();
    let mut inputs = Tensors::new();
    F::Inputs::visit(x, &mut |t| inputs.push(t));

    let grad_mode = ffi::GradMode::set(false);
    let mut ctx = Ctx::new(op, false);
    let mut dual = false;
    for (i, t) in inputs.iter().enumerate() {
        ctx.push_input(match t {
            Some(t) => describe(op, i, t, grad_mode.was, &mut dual)?,
            None => Input::absent(),
        });
    }
    ctx.record();
    let dx = dual.then(|| jvp::tangents_of(&inputs));
    let _no_forward_mode = dual.then(|| {
        ctx.expect_jvp();
        ffi::NoForwardMode::enter()
    });
    let y = run_user(op, "forward", Error::forward, || f.forward(&mut ctx, x))?;
    if dx.is_none() && is_done::<F>(&ctx, F::Outputs::borrow(&y), &inputs) {
        return Ok(y);
    }

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = SmallVec::<[Output; 2]>::new();
    F::Outputs::take(y, &mut |t| outputs.push(Output::new(t)));
    let marks = forward::settle(&mut ctx, &mut outputs, |i| inputs[i], history_follows)?;

    let tangents = dx.map(|dx| jvp::run(&f, &ctx, x, &inputs, dx, &outputs)).transpose()?;
    if outputs.iter().any(|y| y.differentiable) {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        record(applied, ctx, marks.as_deref(), &inputs, &mut outputs)?;
    }
    if let Some(tangents) = tangents {
        set_tangents(op, &outputs, &tangents)?;
    }
    let mut outputs = outputs.iter_mut();
    Ok(F::Outputs::build(&layout, &mut || outputs.next()?.tensor.take()))
}

/// Whether libtorch knows the history of an output before the op is recorded.
fn history_follows(ctx: &Ctx, output: &Output) -> bool {
    let view = output.differentiable && output.only_as_view;
    view || ctx.is_recording() && output.is_input(ctx)
}

/// Whether nothing is left to do for the outputs, and nothing is wrong with
/// them: most calls where no gradient is recorded.
#[inline]
fn is_done<F: Function>(ctx: &Ctx, y: Refs<'_, F::Outputs>, inputs: &[Option<&Tensor>]) -> bool {
    if ctx.is_recording() || ctx.has_marks() {
        return false;
    }
    let is_plain = |y| ffi::describe(ctx.op(), y).is_ok_and(|d| d.is_defined() && !d.requires_grad);
    let mut done = forward::check_unchanged(ctx, None, |i| inputs[i]).is_ok();
    F::Outputs::visit(y, &mut |y| done &= y.is_none_or(is_plain));
    done
}

fn set_tangents(op: &'static str, outputs: &[Output], tangents: &[Option<Tensor>]) -> Result<()> {
    for (y, tangent) in outputs.iter().zip(tangents) {
        if let (Some(y), Some(tangent)) = (&y.tensor, tangent) {
            ffi::set_tangent(op, y, tangent)?;
        }
    }
    Ok(())
}

#[inline(always)]
fn record<F: Function>(
    applied: Applied<F>,
    mut ctx: Ctx,
    marks: Option<&Marks>,
    inputs: &[Option<&Tensor>],
    outputs: &mut [Output],
) -> Result<()> {
    let op = ctx.op();
    let dirty = marks.map_or(&[][..], |marks| &marks.dirty);
    if applied.f.double_backward() == DoubleBackward::Recompute {
        ctx.keep_inputs(|i| inputs[i].map(Tensor::shallow_clone));
    }
    let saved = ctx.take_saved()?;
    for &i in dirty {
        inputs[i].map_or(Ok(()), |t| ffi::bump_version(op, t))?;
    }
    let recording = Recording { inputs, dirty, outputs, saved: &saved };
    ffi::node::record(recording, applied, ctx.keep())
}

/// Sets `dual` if the tensor carries a forward-mode tangent.
fn describe(
    op: &'static str,
    i: usize,
    t: &Tensor,
    grad_mode: bool,
    dual: &mut bool,
) -> Result<Input> {
    let (d, has_tangent) = ffi::describe_input(op, t)?;
    if !d.is_defined() {
        return Err(Error::Undefined { op, what: format!("input {i}") });
    }
    *dual |= has_tangent;
    Ok(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: grad_mode && d.requires_grad,
        in_leaf: false,
    })
}
