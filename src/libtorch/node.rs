//! [`FunctionNode`]: a Function as a node of libtorch's graph.

use crate::application::{Applied, Backward, differentiate};
use crate::error::Result;
use crate::ffi;
use crate::ffi::node::{Callback, OptionalTensors, SecondOrder, gather};
use crate::function::{Ctx, DoubleBackward, Frame, Function, Input, Origin, Saved, Stage};
use std::mem::needs_drop;
use tch::Tensor;

/// The op, and what `forward` left besides tensors.
pub(super) struct FunctionNode<F: Function> {
    pub frame: Frame,
    pub applied: Applied<F>,
}

impl<F: Function> Callback for FunctionNode<F> {
    fn op(&self) -> &'static str {
        self.frame.op
    }

    fn second_order(&self) -> SecondOrder {
        match self.applied.double_backward() {
            DoubleBackward::ThroughSaved => SecondOrder::ThroughSaved,
            DoubleBackward::Recompute => SecondOrder::Recomputed,
            DoubleBackward::Once => SecondOrder::Once,
        }
    }

    fn drops_user_code(&self) -> bool {
        needs_drop::<F>() || self.frame.state().is_some()
    }

    fn dispose(self) {
        ffi::drop_in_turn(self.frame);
        ffi::drop_in_turn(self.applied);
    }

    fn backward(
        &self,
        dy: OptionalTensors,
        saved: OptionalTensors,
        needs: &[bool],
        give: &mut dyn FnMut(usize, Tensor),
    ) -> Result<()> {
        backward(&self.frame, &self.applied, dy, saved, needs, give)
    }
}

fn backward(
    frame: &Frame,
    op: &dyn Backward,
    mut dy: OptionalTensors,
    saved: OptionalTensors,
    needs: &[bool],
    give: &mut dyn FnMut(usize, Tensor),
) -> Result<()> {
    let mut ctx = Ctx::new(frame.clone(), Stage::Backward);
    ctx.frame.set_needs(|i| needs[i]);
    if !saved.is_empty() {
        restore(&mut ctx, op, saved)?;
    }
    differentiate(op, &ctx, &mut dy, |i, grad| {
        give(i, grad);
        Ok(())
    })
}

/// Puts the saved tensors into the context. If `forward` is to run again, the inputs
/// were saved too, behind what `forward` saved.
fn restore(ctx: &mut Ctx, op: &dyn Backward, mut saved: OptionalTensors) -> Result<()> {
    let mut inputs = OptionalTensors::new();
    if op.double_backward() == DoubleBackward::Recompute {
        let present = ctx.frame.inputs.iter().filter(|input| input.meta.is_defined()).count();
        inputs = saved.drain(saved.len() - present..).collect();
    }
    let saved = saved.into_iter().flatten();
    ctx.saved = gather(saved.map(|t| Saved::of(t, Origin::Intermediate)));
    if inputs.is_empty() || !ffi::grad_enabled() {
        return Ok(());
    }
    let positions = ctx.frame.inputs.iter();
    let mut inputs = inputs.into_iter();
    let mut next = positions.map(|x: &Input| x.meta.is_defined().then(|| inputs.next())?.flatten());
    *ctx = op.recompute(ctx, &mut next)?;
    Ok(())
}
