//! [`Call`]: the arguments of one call, read once.

use super::constructor::{Constructor, sealed::Construct};
use super::fresh::Fresh;
use super::memory::has_no_data;
use super::op::Registered;
use super::signature::arranged;
use crate::application;
use crate::error::Result;
use crate::ffi::dispatcher::{Results, Value};
use crate::function::{Ctx, Function, Of, Refs, Shape, Slot, Stage};
use smallvec::SmallVec;
use tch::Tensor;

pub(super) type Inputs<C, A> = <<C as Construct<A>>::Function as Function>::Inputs;
pub(super) type Outputs<C, A> = <<C as Construct<A>>::Function as Function>::Outputs;

/// The Function that the arguments make, and its inputs.
pub(super) struct Call<F: Function> {
    pub f: Fresh<F>,
    pub x: Of<F::Inputs, Tensor>,
    pub layout: <F::Inputs as Shape>::Layout,
}

impl<F: Function> Call<F> {
    pub fn inputs(&self) -> Refs<'_, F::Inputs> {
        F::Inputs::borrow(&self.x)
    }

    pub fn flat(&self) -> SmallVec<[Option<&Tensor>; 2]> {
        application::flatten::<F::Inputs, Tensor>(self.inputs())
    }

    /// Returns whether an input has no data: a tracer runs the op on its shapes.
    pub fn is_traced(&self) -> bool {
        self.flat().into_iter().flatten().any(has_no_data)
    }
}

impl<A: 'static, C: Constructor<A>> Registered<C, A> {
    /// Makes the Function from the arguments that are not tensors.
    pub fn function(&self, args: &[Value<'_>]) -> Result<Fresh<C::Function>> {
        let signature = self.signature.clone();
        let mut parameters = signature.parameters(args);
        let f = self.constructor.construct(signature.name, &mut parameters)?;
        drop(parameters);
        Ok(Fresh { f, signature })
    }

    pub fn open(&self, args: &[Value<'_>]) -> Result<Call<<C as Construct<A>>::Function>> {
        let f = self.function(args)?;
        let (flat, layout) = arranged::<Inputs<C, A>>(self.signature.tensors(args));
        let mut flat = flat.into_iter();
        let x = Inputs::<C, A>::build(&layout, &mut || flat.next().flatten());
        Ok(Call { f, x, layout })
    }
}

/// Makes the context of an application whose inputs' gradients are needed as `needs`
/// says.
pub(super) fn context(op: &'static str, inputs: &[Option<&Tensor>], needs: &[i64]) -> Result<Ctx> {
    let mut ctx = Ctx::start(op);
    application::begin(&mut ctx, inputs, false)?;
    ctx.frame.set_needs(|i| needs.get(i).is_some_and(|&needs| needs != 0));
    (ctx.frame.recording, ctx.stage) = (true, Stage::Forward);
    Ok(ctx)
}

/// Hands over tensors, one per position, as the slots of a schema.
pub(super) fn give<T: Shape>(
    slots: &[Slot],
    layout: &T::Layout,
    flat: Vec<Option<Tensor>>,
    results: &mut Results<'_>,
) {
    let (mut flat, mut slots) = (flat.into_iter(), slots.iter());
    T::lengths(layout, &mut |n| match slots.next() {
        Some(Slot::List | Slot::OptionalList) => results.tensors(flat.by_ref().take(n)),
        _ => results.tensor(flat.next().flatten()),
    });
}
