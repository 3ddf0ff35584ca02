//! Makes true what `forward` declared about its outputs and saved tensors.

use super::Output;
use crate::error::{Error, Result};
use crate::ffi;
use crate::function::{Ctx, Marks, Origin};
use smallvec::SmallVec;
use tch::Tensor;

/// Applies the marks to the outputs.
///
/// # Errors
/// [`Error::NotAnOutput`], [`Error::DirtyNotReturned`]; [`Error::Argument`] for a dirty
/// input that is returned twice.
pub(super) fn settle_marks(ctx: &Ctx, marks: &Marks, outputs: &mut [Output]) -> Result<()> {
    let op = ctx.op();
    for t in &marks.non_differentiable {
        let marked = identity(op, t)?;
        let mut found = false;
        for output in outputs.iter_mut().filter(|output| output.identity == marked) {
            output.differentiable = false;
            found = true;
        }
        if !found {
            return Err(Error::NotAnOutput { op });
        }
    }
    let returned: SmallVec<[usize; 4]> = outputs.iter().map(|y| y.identity).collect();
    for &input in &marks.dirty {
        let of_input = |&&y: &&usize| y == ctx.frame.inputs[input].identity;
        match returned.iter().filter(of_input).count() {
            0 => return Err(Error::DirtyNotReturned { op, input }),
            1 => {}
            // The tensor has one place in libtorch's graph.
            n if ctx.frame.recording => {
                let message = format!(
                    "input {input} is marked dirty, and forward returns it as {n} outputs; \
                     return it once"
                );
                return Err(Error::Argument { op, message });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Tells outputs and constants from other saved tensors; dirty inputs are outputs
/// now. Constants are those declared, and outputs without a gradient.
///
/// # Errors
/// [`Error::Argument`] if a declared constant was not saved.
pub(super) fn settle_saved(ctx: &mut Ctx, outputs: &[Output], marks: Option<&Marks>) -> Result<()> {
    let op = ctx.op();
    let dirty = marks.map_or(&[][..], |marks| &marks.dirty);
    let constants = marks.map_or(&[][..], |marks| &marks.constant);
    let mut found = 0;
    for saved in &mut ctx.saved {
        match saved.origin {
            Origin::LeafFor(_) => continue,
            Origin::Input(i) if !dirty.contains(&(i as usize)) => continue,
            _ => {}
        }
        let own = identity(op, &saved.tensor)?;
        if let Some(k) = outputs.iter().position(|y| y.identity == own) {
            saved.origin = match outputs[k].differentiable {
                true => Origin::Output(k as u32),
                false => Origin::Constant,
            };
        }
        for declared in constants {
            if identity(op, declared)? == own {
                saved.origin = Origin::Constant;
                found += 1;
            }
        }
    }
    if ctx.frame.recording && found < constants.len() {
        let message = "mark_constant was given a tensor that is an input or an output, or that \
                       save_for_backward was not given";
        return Err(Error::Argument { op, message: message.to_owned() });
    }
    Ok(())
}

fn identity(op: &'static str, t: &Tensor) -> Result<usize> {
    Ok(ffi::describe(op, t)?.identity)
}
