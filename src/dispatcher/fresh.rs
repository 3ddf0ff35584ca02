//! [`Fresh`]: a Function as the dispatcher wants an op.

use super::memory::{has_no_data, separated};
use super::signature::Signature;
use crate::function::{Grads, Of, Refs, Shape, delegate_function};
use crate::{Ctx, DoubleBackward, Error, Function, Vmap};
use std::sync::Arc;
use tch::Tensor;

/// The op that a schema promises: its outputs share no memory with arguments that the
/// schema does not return, it changes no argument that the schema does not write, and
/// tensors without data go to `fake`.
pub(super) struct Fresh<F> {
    pub f: F,
    pub signature: Arc<Signature>,
}

impl<F: Function> Function for Fresh<F> {
    type Inputs = F::Inputs;
    type Outputs = F::Outputs;

    fn forward(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, F::Inputs>,
    ) -> anyhow::Result<Of<F::Outputs, Tensor>> {
        let mut inputs = Vec::new();
        F::Inputs::visit(x, &mut |t: Option<&Tensor>| inputs.push(t));
        if self.signature.is_pure() {
            ctx.pure = true;
        }
        let is_fake = inputs.iter().flatten().any(|t| has_no_data(t));
        let y = if is_fake { self.f.fake(ctx, x) } else { self.f.forward(ctx, x) }?;
        let written = self.signature.written::<F::Inputs>(&F::Inputs::layout(x));
        self.check_written(ctx.dirty(), &written, |i| is_fake || inputs[i].is_none())?;
        let kept = inputs.iter().zip(&written).filter(|(_, written)| !**written);
        let kept: Vec<&Tensor> = kept.filter_map(|(x, _)| *x).collect();
        let layout = F::Outputs::layout(F::Outputs::borrow(&y));
        let mut outputs = Vec::new();
        F::Outputs::take(y, &mut |t: Option<Tensor>| outputs.push(t));
        let mut outputs = separated(outputs, &kept).into_iter();
        Ok(F::Outputs::build(&layout, &mut || outputs.next().flatten()))
    }

    delegate_function!(self => self.f);
}

impl<F> Fresh<F> {
    /// Checks that the op marks dirty exactly the inputs that its schema writes.
    fn check_written(
        &self,
        dirty: &[usize],
        written: &[bool],
        is_excused: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        let fail = |message| Err(Error::Argument { op: self.signature.name, message });
        if let Some(&i) = dirty.iter().find(|&&i| !written[i]) {
            return fail(format!("it changes input {i}, and its schema does not say so: (a!)"));
        }
        let unchanged = |i: &usize| written[*i] && !dirty.contains(i) && !is_excused(*i);
        match (0..written.len()).find(unchanged) {
            Some(i) => fail(format!(
                "its schema says that it changes input {i}, (a!), and forward did not mark it dirty"
            )),
            None => Ok(()),
        }
    }
}
