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
    forward::check_unchanged(&ctx, marks.as_deref(), |i| inputs[i])?;

    let differentiable: SmallVec<[bool; 4]> = outputs.iter().map(|y| y.differentiable).collect();
    let mut tensors: SmallVec<[Option<Tensor>; 4]> =
        outputs.into_iter().map(|y| y.tensor).collect();
    if differentiable.contains(&true) {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        let (inputs, differentiable) = (&inputs[..], &differentiable[..]);
        record(applied, ctx, marks.as_deref(), inputs, &mut tensors, differentiable)?;
    }
    let mut tensors = tensors.into_iter();
    Ok(F::Outputs::build(&layout, &mut || tensors.next().flatten()))
}

fn record<F: Function>(
    applied: Applied<F>,
    mut ctx: Ctx,
    marks: Option<&Marks>,
    inputs: &[Option<&Tensor>],
    outputs: &mut [Option<Tensor>],
    differentiable: &[bool],
) -> Result<()> {
    let op = ctx.op();
    let none = Marks::default();
    let marks = marks.unwrap_or(&none);
    let dirty: SmallVec<[bool; 4]> = (0..inputs.len()).map(|i| marks.dirty.contains(&i)).collect();
    let mut saved = ctx.take_saved()?;
    let mut constant = constants(op, marks, &saved)?;
    if applied.f.double_backward() == DoubleBackward::Recompute {
        saved.extend(inputs.iter().flatten().map(|t| t.shallow_clone()));
        constant.resize(saved.len(), false);
    }
    for &i in &marks.dirty {
        inputs[i].map_or(Ok(()), |t| ffi::bump_version(op, t))?;
    }
    let saved = &saved[..];
    let recording =
        Recording { inputs, dirty: &dirty, outputs, differentiable, saved, constant: &constant };
    ffi::node::record(recording, applied, ctx.keep())
}

/// Which saved tensors were declared to be constants.
fn constants(op: &'static str, marks: &Marks, saved: &[Tensor]) -> Result<SmallVec<[bool; 4]>> {
    if marks.constant.is_empty() {
        return Ok(SmallVec::from_elem(false, saved.len()));
    }
    let identity = |t: &Tensor| Ok(ffi::describe(op, t)?.identity);
    let declared = marks.constant.iter().map(identity).collect::<Result<Vec<_>>>()?;
    saved.iter().map(|t| Ok(declared.contains(&identity(t)?))).collect()
}

fn describe(op: &'static str, i: usize, t: &Tensor, grad_mode: bool) -> Result<Input> {
    let d = ffi::describe(op, t)?;
    if !d.is_defined() {
        return Err(Error::Undefined { op, what: format!("input {i}") });
    }
    if d.has_tangent {
        return Err(Error::NoForwardMode { op, input: i });
    }
    Ok(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: grad_mode && d.requires_grad,
        is_leaf: d.is_leaf,
    })
}
