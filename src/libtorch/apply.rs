//! The life of one `apply` on tensors: `forward` runs unrecorded, then its
//! outputs get a node of libtorch's as their history.

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
    for (i, t) in inputs.iter().enumerate() {
        let input = t.map_or_else(|| Ok(Input::absent()), |t| describe(op, i, t, grad_mode.was))?;
        ctx.push_input(input);
    }
    ctx.record();
    let y = run_user(op, "forward", Error::forward, || f.forward(&mut ctx, x))?;

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = SmallVec::<[Output; 2]>::new();
    F::Outputs::take(y, &mut |t| outputs.push(Output::new(t)));
    let several = outputs.len() > 1;
    for (i, output) in outputs.iter_mut().enumerate() {
        output.describe(&mut ctx, i, several)?;
    }
    let marks = ctx.take_marks();
    if let Some(marks) = &marks {
        marks.settle(&ctx, &mut outputs)?;
    }
    for output in &mut outputs {
        let view = output.differentiable && output.only_as_view;
        let history_follows = view || ctx.is_recording() && output.is_input(&ctx);
        if !history_follows {
            output.unfollow();
        }
    }
    forward::check_unchanged(&ctx, marks.as_deref(), |i| inputs[i])?;

    if outputs.iter().any(|y| y.differentiable) {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        record(applied, &mut ctx, marks.as_deref(), &inputs, &mut outputs)?;
    }
    let mut outputs = outputs.iter_mut();
    Ok(F::Outputs::build(&layout, &mut || outputs.next()?.tensor.take()))
}

fn record<F: Function>(
    applied: Applied<F>,
    ctx: &mut Ctx,
    marks: Option<&Marks>,
    inputs: &[Option<&Tensor>],
    outputs: &mut [Output],
) -> Result<()> {
    let op = ctx.op();
    let mut saved = ctx.take_saved()?;
    let (mut dirty, mut constant) = (&[][..], Vec::new());
    if let Some(marks) = marks {
        dirty = &marks.dirty;
        constant = constants(op, marks, &saved)?;
    }
    if applied.f.double_backward() == DoubleBackward::Recompute {
        saved.extend(inputs.iter().flatten().map(|t| t.shallow_clone()));
    }
    for &i in dirty {
        inputs[i].map_or(Ok(()), |t| ffi::bump_version(op, t))?;
    }
    let recording = Recording { inputs, dirty, outputs, saved: &saved, constant: &constant };
    ffi::node::record(recording, applied, ctx.keep())
}

/// The positions of the saved tensors that were declared to be constants.
fn constants(op: &'static str, marks: &Marks, saved: &[Tensor]) -> Result<Vec<usize>> {
    let identity = |t: &Tensor| Ok(ffi::describe(op, t)?.identity);
    let declared = marks.constant.iter().map(identity).collect::<Result<Vec<_>>>()?;
    let saved = saved.iter().map(identity).collect::<Result<Vec<_>>>()?;
    Ok((0..saved.len()).filter(|&i| declared.contains(&saved[i])).collect())
}

fn describe(op: &'static str, i: usize, t: &Tensor, grad_mode: bool) -> Result<Input> {
    let (d, has_tangent) = ffi::describe_input(op, t)?;
    if !d.is_defined() {
        return Err(Error::Undefined { op, what: format!("input {i}") });
    }
    if has_tangent {
        return Err(Error::NoForwardMode { op, input: i });
    }
    Ok(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: grad_mode && d.requires_grad,
        is_leaf: false,
    })
}
