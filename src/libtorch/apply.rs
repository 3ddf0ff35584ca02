//! The life of one `apply` on tensors: `forward` runs unrecorded, then its
//! outputs get a node of libtorch's as their history.

use super::jvp;
use crate::ctx::{Input, Marks, Origin};
use crate::erased::Applied;
use crate::ffi::node::{Recording, State};
use crate::forward::{self, Output};
use crate::tensors::{Of, Refs, sealed::Shape};
use crate::{Ctx, DoubleBackward, Error, Function, Result, error::run_user, ffi, meta::Meta};
use smallvec::SmallVec;
use std::sync::Mutex;
use tch::Tensor;

type Tensors<'a> = SmallVec<[Option<&'a Tensor>; 4]>;

pub(crate) fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
    let op = f.name();
    let mut inputs = Tensors::new();
    F::Inputs::visit(x, &mut |t| inputs.push(t));
    let grad_mode = ffi::GradMode::set(false);
    let recording = grad_mode.was && inputs.iter().flatten().any(|t| t.requires_grad());
    let mut ctx = Ctx::new(op, recording);
    for (i, t) in inputs.iter().enumerate() {
        describe_input(&mut ctx, i, *t)?;
    }
    let tangents = jvp::tangents_of(&inputs);
    let _no_forward_mode = tangents.as_ref().map(|_| {
        ctx.expect_jvp();
        ffi::NoForwardMode::enter()
    });
    let y = run_user(op, "forward", Error::forward, || f.forward(&mut ctx, x))?;

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = SmallVec::<[Output; 2]>::new();
    F::Outputs::take(y, &mut |t| outputs.push(Output::new(t)));
    for (i, output) in outputs.iter_mut().enumerate() {
        output.describe(&mut ctx, i, true)?;
    }
    let marks = ctx.take_marks();
    if let Some(marks) = &marks {
        marks.settle(&ctx, &mut outputs)?;
    }
    ctx.settle_origins(&outputs, marks.as_deref())?;
    forward::check_unchanged(&ctx, marks.as_deref(), |i| inputs[i])?;

    let differentiable: SmallVec<[bool; 4]> = outputs.iter().map(|y| y.differentiable).collect();
    let mut tensors: SmallVec<[Option<Tensor>; 4]> =
        outputs.into_iter().map(|y| y.tensor).collect();
    let tangents = match tangents {
        Some(dx) => Some(jvp::run(&f, &ctx, x, &inputs, dx, &tensors)?),
        None => None,
    };
    if differentiable.contains(&true) {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        let (inputs, differentiable) = (&inputs[..], &differentiable[..]);
        record(applied, ctx, marks, inputs, &mut tensors, differentiable)?;
    }
    for (y, tangent) in tensors.iter().zip(tangents.into_iter().flatten()) {
        if let (Some(y), Some(tangent)) = (y, tangent) {
            ffi::set_tangent(op, y, &tangent)?;
        }
    }
    let mut tensors = tensors.into_iter();
    Ok(F::Outputs::build(&layout, &mut || tensors.next().flatten()))
}

fn record<F: Function>(
    applied: Applied<F>,
    mut ctx: Ctx,
    marks: Option<Box<Marks>>,
    inputs: &[Option<&Tensor>],
    outputs: &mut [Option<Tensor>],
    differentiable: &[bool],
) -> Result<()> {
    let op = ctx.op();
    let marks = marks.unwrap_or_default();
    let dirty: SmallVec<[bool; 4]> = (0..inputs.len()).map(|i| marks.dirty.contains(&i)).collect();
    if applied.f.double_backward() == DoubleBackward::Recompute {
        ctx.keep_inputs(|i| inputs[i].map(Tensor::shallow_clone));
    }
    let mut saved = ctx.take_saved()?;
    saved.extend(ctx.take_kept());
    let constant: SmallVec<[bool; 4]> =
        saved.iter().map(|s| s.origin == Origin::Constant).collect();
    let saved: SmallVec<[Tensor; 4]> = saved.into_iter().map(|s| s.tensor).collect();
    for &i in &marks.dirty {
        inputs[i].map_or(Ok(()), |t| ffi::bump_version(op, t))?;
    }
    let saved = &saved[..];
    let recording =
        Recording { inputs, dirty: &dirty, outputs, differentiable, saved, constant: &constant };
    ffi::node::record(recording, State { op: Box::new(applied), ctx: Mutex::new(ctx) })
}

fn describe_input(ctx: &mut Ctx, i: usize, t: Option<&Tensor>) -> Result<()> {
    let Some(t) = t else {
        ctx.push_input(Input::absent());
        return Ok(());
    };
    let d = ffi::describe(ctx.op(), t)?;
    if !d.is_defined() {
        return Err(Error::Undefined { op: ctx.op(), what: format!("input {i}") });
    }
    ctx.push_input(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: ctx.is_recording() && d.requires_grad,
        in_leaf: ffi::in_leaf(t),
    });
    Ok(())
}
