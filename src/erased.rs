//! A Function whose types are forgotten: what a node of either engine holds.

use crate::tensors::sealed::Shape;
use crate::{Ctx, DoubleBackward, Error, Function, Result, error::run_user, ffi};
use smallvec::SmallVec;
use tch::Tensor;

/// The backward half of a Function.
pub(crate) trait Backward: Send + Sync {
    fn name(&self) -> &'static str;
    fn double_backward(&self) -> DoubleBackward;
    /// Runs `forward` again on the same inputs, one per position, in the grad
    /// mode that is on; gives the context that it leaves.
    fn recompute(&self, ctx: &Ctx, inputs: Vec<Option<Tensor>>) -> Result<Ctx>;
    /// Takes the gradients of the outputs, one per position, and hands those of
    /// the inputs to `give`, one per position, unchecked.
    fn backward(&self, ctx: &Ctx, dy: &mut [Option<Tensor>], give: Give<'_>) -> Result<()>;
}

pub(crate) type Give<'a> = &'a mut dyn FnMut(usize, Option<Tensor>) -> Result<()>;

/// A Function and the layouts of one application.
pub(crate) struct Applied<F: Function> {
    pub f: F,
    pub inputs: <F::Inputs as Shape>::Layout,
    pub outputs: <F::Outputs as Shape>::Layout,
}

impl<F: Function> Backward for Applied<F> {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn double_backward(&self) -> DoubleBackward {
        self.f.double_backward()
    }

    fn recompute(&self, ctx: &Ctx, inputs: Vec<Option<Tensor>>) -> Result<Ctx> {
        let mut ctx = ctx.for_recomputation();
        let mut inputs = inputs.into_iter();
        let x = F::Inputs::build(&self.inputs, &mut || inputs.next().flatten());
        run_user(ctx.op(), "forward", Error::forward, || {
            self.f.forward(&mut ctx, F::Inputs::borrow(&x)).map(drop)
        })?;
        Ok(ctx)
    }

    fn backward(&self, ctx: &Ctx, dy: &mut [Option<Tensor>], give: Give<'_>) -> Result<()> {
        let op = ctx.op();
        let mut versions = SmallVec::<[u32; 4]>::new();
        dy.iter().for_each(|t| versions.push(t.as_ref().map_or(0, ffi::version)));
        let mut dy = dy.iter_mut();
        let dy = F::Outputs::build(&self.outputs, &mut || dy.next().and_then(Option::take));
        let _no_autocast = self.f.cast_inputs().map(|_| ffi::modes::NoAutocast::enter());
        let grads = run_user(op, "backward", Error::backward, || {
            self.f.backward(ctx, F::Outputs::borrow(&dy))
        })?;
        // Others may hold the same tensor: the other term of a sum, the user.
        let mut output = 0;
        let mut changed = None;
        F::Outputs::visit(F::Outputs::borrow(&dy), &mut |t: Option<&Tensor>| {
            if t.map_or(0, ffi::version) != versions[output] {
                changed = Some(output);
            }
            output += 1;
        });
        if let Some(output) = changed {
            return Err(Error::SeedChanged { op, output });
        }
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
