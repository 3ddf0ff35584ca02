//! `backward`, of a Function whose types are forgotten.

use super::gradients::{are_followed, checked_gradient, materialize};
use super::{off_for, run_user};
use crate::error::{Error, Result};
use crate::ffi::modes::AutocastAgain;
use crate::ffi::{self, Quiet};
use crate::function::{Ctx, DoubleBackward, Function, Origin, Refs, Saved, Shape, Stage, Value};
use smallvec::SmallVec;
use tch::Tensor;

/// The backward half of a Function, as a node holds it.
pub(crate) trait Backward: Send + Sync {
    fn name(&self) -> &'static str;
    fn double_backward(&self) -> DoubleBackward;
    /// Runs `forward` again on the same inputs, one per position, in the grad mode
    /// that is on; returns the context that it leaves.
    fn recompute(&self, ctx: &Ctx, inputs: &mut dyn Iterator<Item = Option<Tensor>>)
    -> Result<Ctx>;
    /// Takes the gradients of the outputs, one per position, and hands those of the
    /// inputs to `give`, one per position, unchecked.
    fn backward(&self, ctx: &Ctx, dy: &mut [Option<Tensor>], give: Give<'_>) -> Result<()>;
}

type Give<'a> = &'a mut dyn FnMut(usize, Option<Tensor>) -> Result<()>;

/// Runs `op`'s backward on the gradients of its outputs, one per position, of which
/// missing ones are filled in. `give` takes each gradient that `ctx` needs, checked,
/// with the position of its input.
///
/// # Errors
/// Those of the user's `backward`, of a gradient that does not fit its input, and of
/// `give`.
#[inline]
pub(crate) fn differentiate(
    op: &dyn Backward,
    ctx: &Ctx,
    dy: &mut [Option<Tensor>],
    mut give: impl FnMut(usize, Tensor) -> Result<()>,
) -> Result<()> {
    let followed = are_followed(dy) && op.double_backward() != DoubleBackward::Once;
    materialize(&ctx.frame, dy)?;
    op.backward(ctx, dy, &mut |i, grad| match grad {
        Some(grad) if ctx.needs(i) => give(i, checked_gradient(&ctx.frame, i, grad, followed)?),
        _ => Ok(()),
    })
}

/// A Function and the layouts of one application.
pub(crate) struct Applied<F: Function> {
    pub f: Quiet<F>,
    pub inputs: <F::Inputs as Shape>::Layout,
    pub outputs: <F::Outputs as Shape>::Layout,
}

impl<F: Function> Applied<F> {
    /// Makes what a node holds of `f`, applied to `x`. Keeps the inputs in the
    /// context if `forward` is to run again.
    #[inline(always)]
    pub fn new<V: Value>(
        f: Quiet<F>,
        ctx: &mut Ctx,
        x: Refs<'_, F::Inputs, V>,
        inputs: &[Option<&V>],
        y: <F::Outputs as Shape>::Layout,
    ) -> Applied<F> {
        if f.double_backward() == DoubleBackward::Recompute {
            keep_inputs(ctx, inputs);
        }
        Applied { f, inputs: F::Inputs::layout(x), outputs: y }
    }
}

fn keep_inputs<V: Value>(ctx: &mut Ctx, inputs: &[Option<&V>]) {
    let saved = ctx.saved.len();
    let present = inputs.iter().zip(0..).filter_map(|(x, i)| Some(((*x)?, i)));
    ctx.saved.extend(present.map(|(x, i)| Saved::of(x.tensor().shallow_clone(), Origin::Input(i))));
    ctx.kept_inputs = (ctx.saved.len() - saved) as u32;
}

impl<F: Function> Backward for Applied<F> {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn double_backward(&self) -> DoubleBackward {
        self.f.double_backward()
    }

    fn recompute(
        &self,
        ctx: &Ctx,
        inputs: &mut dyn Iterator<Item = Option<Tensor>>,
    ) -> Result<Ctx> {
        let mut frame = ctx.frame.clone();
        if frame.state().is_some() {
            frame.set_state(None);
        }
        let _autocast = AutocastAgain::enter(frame.autocast());
        let drawn = frame.drawn().cloned();
        let mut ctx = Ctx::new(frame, Stage::Recomputation);
        let x = F::Inputs::build(&self.inputs, &mut || inputs.next().flatten());
        let op = ctx.op();
        let mut run = || {
            run_user(op, "forward", Error::forward, || {
                self.f.forward(&mut ctx, F::Inputs::borrow(&x)).map(drop)
            })
        };
        match drawn {
            Some(drawn) => drawn.again(op, run)?,
            None => run()?,
        }
        Ok(ctx)
    }

    fn backward(&self, ctx: &Ctx, dy: &mut [Option<Tensor>], give: Give<'_>) -> Result<()> {
        let op = ctx.op();
        let mut versions = SmallVec::<[u32; 4]>::new();
        dy.iter().for_each(|t| versions.push(t.as_ref().map_or(0, ffi::version)));
        let mut dy = dy.iter_mut();
        let dy = F::Outputs::build(&self.outputs, &mut || dy.next().and_then(Option::take));
        let _no_autocast = off_for(&*self.f, &ctx.frame);
        let grads = run_user(op, "backward", Error::backward, || {
            self.f.backward(ctx, F::Outputs::borrow(&dy))
        })?;
        check_seeds::<F::Outputs>(op, F::Outputs::borrow(&dy), &versions)?;
        // Before the gradients are summed, which may need memory of this size.
        drop(dy);
        let (mut i, mut given) = (0, Ok(()));
        let counted = F::Inputs::take_grads(grads, Some(&self.inputs), &mut |grad| {
            if given.is_ok() {
                given = give(i, grad);
            }
            i += 1;
        });
        counted.map_err(|m| Error::GradientCount { op, expected: m.expected, found: m.found })?;
        given
    }
}

/// Checks that `backward` changed none of the gradients that it was given: others
/// may hold the same tensor, such as the other term of a sum.
///
/// # Errors
/// [`Error::SeedChanged`].
#[inline]
fn check_seeds<O: Shape>(op: &'static str, dy: Refs<'_, O>, versions: &[u32]) -> Result<()> {
    let mut output = 0;
    let mut changed = None;
    O::visit(dy, &mut |t: Option<&Tensor>| {
        if t.map_or(0, ffi::version) != versions[output] {
            changed = Some(output);
        }
        output += 1;
    });
    changed.map_or(Ok(()), |output| Err(Error::SeedChanged { op, output }))
}
