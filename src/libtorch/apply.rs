//! One application to tensors: an adapter around the core. `forward` runs
//! unrecorded; then a node of libtorch's graph becomes the history of its outputs.

use super::node::FunctionNode;
use crate::application::{self, Applied, Operand, Output};
use crate::error::{Error, Result};
use crate::ffi::node::{self, Recording, gather};
use crate::ffi::{self, GradMode, NoForwardMode, Quiet};
use crate::function::{Ctx, Function, Input, Marks, Of, Origin, Refs, Saved, Shape, Stage};
use smallvec::SmallVec;
use tch::Tensor;

pub(super) fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
    let f = Quiet::new(f);
    let op = f.name();
    let inputs = application::flatten::<F::Inputs, Tensor>(x);
    let grad_mode = GradMode::set(false);
    let mut ctx = Ctx::start(op);
    application::begin(&mut ctx, &inputs, grad_mode.was)?;
    let dual = ctx.stage == Stage::Dual;
    let dx = dual.then(|| application::tangents_of(&inputs));
    let _no_forward_mode = dual.then(NoForwardMode::enter);
    let y = application::run(&*f, &mut ctx, x)?;
    if !dual && is_done::<F>(&ctx, F::Outputs::borrow(&y), &inputs) {
        return Ok(y);
    }
    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = application::collect::<F::Outputs>(y);
    let marks = application::finish(&mut ctx, &mut outputs, &inputs, history_follows)?;
    let tangents = dx.map(|dx| {
        let y: Vec<_> = outputs.iter().map(|y| y.tensor.as_ref()).collect();
        application::jvp(&*f, &ctx, x, &dx, &y, grad_mode.was)
    });
    let tangents = tangents.transpose()?;
    if outputs.iter().any(|y| y.differentiable) {
        let applied = Applied::new(f, &mut ctx, x, &inputs, layout.clone());
        record(applied, ctx, marks.as_deref(), &inputs, &mut outputs)?;
    }
    // libtorch copies a tangent whose strides are not those of its output.
    let _recorded = tangents.is_some().then(|| GradMode::set(grad_mode.was));
    for (y, tangent) in outputs.iter().zip(tangents.iter().flatten()) {
        if let (Some(y), Some(tangent)) = (&y.tensor, tangent) {
            ffi::set_tangent(op, y, tangent)?;
        }
    }
    let mut outputs = outputs.iter_mut();
    Ok(F::Outputs::build(&layout, &mut || outputs.next()?.tensor.take()))
}

/// Returns whether libtorch knows the history of an output before the op is
/// recorded.
fn history_follows(ctx: &Ctx, output: &Output) -> bool {
    let view = output.differentiable && output.only_as_view;
    view || ctx.frame.recording && output.is_input(ctx)
}

/// Returns whether nothing is left to do for the outputs, and nothing is wrong with
/// them: most calls that record no gradient.
#[inline]
fn is_done<F: Function>(ctx: &Ctx, y: Refs<'_, F::Outputs>, inputs: &[Option<&Tensor>]) -> bool {
    if ctx.frame.recording || ctx.marks.is_some() {
        return false;
    }
    let is_plain = |y| ffi::describe(ctx.op(), y).is_ok_and(|d| d.is_defined() && !d.requires_grad);
    let mut done = application::inputs_are_unchanged(ctx, None, inputs).is_ok();
    F::Outputs::visit(y, &mut |y| done &= y.is_none_or(is_plain));
    done
}

#[inline(always)]
fn record<F: Function>(
    applied: Applied<F>,
    ctx: Ctx,
    marks: Option<&Marks>,
    inputs: &[Option<&Tensor>],
    outputs: &mut [Output],
) -> Result<()> {
    let op = ctx.op();
    let dirty = marks.map_or(&[][..], |marks| &marks.dirty);
    ctx.saved.iter().enumerate().try_for_each(|(i, s)| s.check(op, i))?;
    for &i in dirty {
        inputs[i].map_or(Ok(()), |t| ffi::bump_version(op, t))?;
    }
    let outputs: SmallVec<[_; 2]> =
        gather(outputs.iter_mut().map(|y| node::Output::new(y.tensor.as_mut(), y.differentiable)));
    let constant = |s: &Saved| s.origin == Origin::Constant;
    let saved: SmallVec<[_; 2]> =
        gather(ctx.saved.iter().map(|s| node::Saved::new(&s.tensor, constant(s))));
    let recording = Recording { inputs, dirty, outputs: &outputs, saved: &saved };
    node::record(recording, FunctionNode { frame: ctx.frame, applied })
}

impl Operand for Tensor {
    #[inline]
    fn describe(
        &self,
        op: &'static str,
        i: usize,
        grad_mode: bool,
        dual: &mut bool,
    ) -> Result<Input> {
        let (d, has_tangent) = ffi::describe_input(op, self)?;
        if !d.is_defined() {
            return Err(Error::Undefined { op, what: format!("input {i}") });
        }
        *dual |= has_tangent;
        Ok(Input::new(&d, grad_mode && d.requires_grad, false))
    }

    fn check_output(&self, i: usize) -> Result<&'static str> {
        if self.requires_grad() { Ok("grad") } else { Err(Error::NoGraph { output: i }) }
    }

    fn check_input(&self, input: usize) -> Result<()> {
        if self.requires_grad() { Ok(()) } else { Err(Error::InputNoGrad { input }) }
    }
}
