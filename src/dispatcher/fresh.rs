//! [`Fresh`]: a Function as the dispatcher wants an op.

use super::signature::Signature;
use crate::tensors::{Grads, Of, Refs, sealed::Shape};
use crate::{Ctx, DoubleBackward, Error, Function, Vmap, ffi};
use std::sync::Arc;
use tch::Tensor;

/// The same op, except that its outputs are tensors of their own where its schema
/// does not say that they are arguments, that it changes no argument which the
/// schema does not say is written, and that tensors without data go to `fake`.
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
        let y = match inputs.iter().flatten().any(|t| has_no_data(t)) {
            true => self.f.fake(ctx, x),
            false => self.f.forward(ctx, x),
        }?;
        let written = self.signature.written::<F::Inputs>(&F::Inputs::layout(x));
        if let Some(&i) = ctx.dirty().iter().find(|&&i| !written[i]) {
            let message = format!("it changes input {i}, and its schema does not say so: (a!)");
            return Err(Error::Argument { op: self.signature.name, message }.into());
        }
        let shared = |t: &Tensor| {
            let of = inputs.iter().zip(&written).filter(|(_, written)| !**written);
            of.flat_map(|(x, _)| x).any(|x| ffi::shares_storage(x, t))
        };
        let layout = F::Outputs::layout(F::Outputs::borrow(&y));
        let mut outputs = Vec::new();
        F::Outputs::take(y, &mut |t: Option<Tensor>| {
            outputs.push(t.map(|t| if shared(&t) { t.copy() } else { t }));
        });
        let mut outputs = outputs.into_iter();
        Ok(F::Outputs::build(&layout, &mut || outputs.next().flatten()))
    }

    fn backward(&self, ctx: &Ctx, dy: Refs<'_, F::Outputs>) -> anyhow::Result<Grads<F::Inputs>> {
        self.f.backward(ctx, dy)
    }

    fn jvp(
        &self,
        ctx: &Ctx,
        x: Refs<'_, F::Inputs>,
        dx: Refs<'_, F::Inputs>,
    ) -> anyhow::Result<Of<F::Outputs, Tensor>> {
        self.f.jvp(ctx, x, dx)
    }

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn double_backward(&self) -> DoubleBackward {
        self.f.double_backward()
    }

    fn cast_inputs(&self) -> Option<tch::Kind> {
        self.f.cast_inputs()
    }

    fn vmap(&self) -> Vmap {
        self.f.vmap()
    }
}

/// Whether it is a meta tensor, as fake ones are inside an op.
pub(super) fn has_no_data(t: &Tensor) -> bool {
    ffi::describe("dispatcher", t).is_ok_and(|d| d.device.0 == META)
}

/// libtorch's number for the type of device.
const META: i8 = 14;
