//! [`Registered`]: what the kernels of an op run.

use super::constructor::{Constructor, sealed::Construct};
use super::fresh::{Fresh, has_no_data};
use super::plan::{Plan, Plans, Source};
use super::signature::{Signature, arranged};
use crate::application::{self, Applied, Backward, Output, differentiate};
use crate::error::{Error, Result};
use crate::ffi;
use crate::ffi::dispatcher::{Op, Results, Value};
use crate::function::{Ctx, DoubleBackward, Function, Of, Origin, Saved, Shape, Slot, Stage, Vmap};
use std::marker::PhantomData;
use std::sync::Arc;
use tch::Tensor;

pub(super) struct Registered<C, A> {
    pub constructor: C,
    pub signature: Arc<Signature>,
    pub plans: Plans,
    pub parameters: PhantomData<fn(A)>,
}

type Made<C, A> = Fresh<<C as Construct<A>>::Function>;
type Inputs<C, A> = <<C as Construct<A>>::Function as Function>::Inputs;
type Outputs<C, A> = <<C as Construct<A>>::Function as Function>::Outputs;

impl<A: 'static, C: Constructor<A>> Registered<C, A> {
    fn make(&self, args: &[Value<'_>]) -> Result<Made<C, A>> {
        let signature = self.signature.clone();
        let mut parameters = signature.parameters(args);
        let f = self.constructor.construct(signature.name, &mut parameters)?;
        drop(parameters);
        Ok(Fresh { f, signature })
    }

    /// The inputs, as `forward` takes them.
    fn inputs(&self, args: &[Value<'_>]) -> Of<Inputs<C, A>, Tensor> {
        let (flat, layout) = arranged::<Inputs<C, A>>(self.signature.tensors(args));
        let mut flat = flat.into_iter();
        Inputs::<C, A>::build(&layout, &mut || flat.next().flatten())
    }

    fn give_outputs(&self, y: Of<Outputs<C, A>, Tensor>, results: &mut Results<'_>) {
        let layout = Outputs::<C, A>::layout(Outputs::<C, A>::borrow(&y));
        let mut flat = Vec::new();
        Outputs::<C, A>::take(y, &mut |t: Option<Tensor>| flat.push(t));
        if self.signature.returns {
            give::<Outputs<C, A>>(&self.signature.outputs, &layout, flat, results);
        }
    }
}

/// Gives tensors as the slots of a schema.
fn give<T: Shape>(
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

impl<A: 'static, C: Constructor<A>> Op for Registered<C, A> {
    fn name(&self) -> &'static str {
        self.signature.name
    }

    fn apply(&self, args: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let x = self.inputs(args);
        let y = self.make(args)?.apply::<Tensor>(Inputs::<C, A>::borrow(&x))?;
        self.give_outputs(y, results);
        Ok(())
    }

    fn forward(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let (needs, args) = split_needs(self.name(), values)?;
        let f = self.make(args)?;
        let op = f.name();
        let x = self.inputs(args);
        let x = Inputs::<C, A>::borrow(&x);
        let inputs = application::flatten::<Inputs<C, A>, Tensor>(x);
        let mut ctx = context(op, &inputs, needs)?;
        let y = application::run(&f, &mut ctx, x)?;
        let layout = Outputs::<C, A>::layout(Outputs::<C, A>::borrow(&y));
        let mut outputs = application::collect::<Outputs<C, A>>(y);
        application::finish(&mut ctx, &mut outputs, &inputs, |_, _| false)?;
        let second_order = f.double_backward();
        if ctx.frame.state().is_some() && second_order != DoubleBackward::Recompute {
            return Err(lost_state(op));
        }
        let (intermediates, sources) = sort(op, ctx.saved, &outputs)?;
        let plan = Plan {
            second_order,
            materialize: ctx.frame.materialize_grads,
            differentiable: outputs.iter().map(|y| y.differentiable).collect(),
            saved: sources,
        };
        let flat = outputs.into_iter().map(|y| y.tensor).collect();
        give::<Outputs<C, A>>(&self.signature.outputs, &layout, flat, results);
        results.tensors(intermediates.into_iter().map(Some));
        let plan = plan.write();
        if !inputs.iter().flatten().any(|t| has_no_data(t)) {
            self.plans.add(&plan);
        }
        results.ints(&plan);
        Ok(())
    }

    fn check_plan(&self, values: &[Value<'_>]) -> Result<()> {
        let [_, Value::Ints(plan), _, ref args @ ..] = values[self.signature.outputs.len()..]
        else {
            return Err(misused(self.name()));
        };
        let (x, _) = arranged::<Inputs<C, A>>(self.signature.tensors(args));
        let traced = x.iter().flatten().any(has_no_data);
        if traced { Ok(()) } else { self.plans.check(self.name(), plan) }
    }

    fn backward(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let (dy, rest) = values.split_at(self.signature.outputs.len());
        let (mut ctx, f, args) = self.restored(rest)?;
        let (x, inputs) = arranged::<Inputs<C, A>>(self.signature.tensors(args));

        let (mut dy, outputs) = arranged::<Outputs<C, A>>(dy.iter().copied());
        for t in &mut dy {
            t.get_or_insert_with(Tensor::new);
        }
        let applied = Applied { f, inputs, outputs };
        if applied.double_backward() == DoubleBackward::Recompute {
            ctx = applied.recompute(&ctx, &mut x.iter().map(share))?;
        }
        let mut grads: Vec<Option<Tensor>> = x.iter().map(|_| None).collect();
        let done = differentiate(&applied, &ctx, &mut dy, |i, grad| {
            grads[i] = Some(grad);
            Ok(())
        });
        let traced = x.iter().flatten().any(has_no_data);
        done.or_else(|e| if traced && e.is_about_kernels() { Ok(()) } else { Err(e) })?;
        self.give_gradients(&ctx, &applied.inputs, &x, grads, results);
        Ok(())
    }

    fn jvp(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let (dx, rest) = values.split_at(self.signature.inputs.len());
        let (y, rest) = rest.split_at(self.signature.outputs.len());
        let (ctx, f, args) = self.restored(rest)?;
        let x = self.inputs(args);
        let (dx, _) = arranged::<Inputs<C, A>>(dx.iter().copied());
        let (y, layout) = arranged::<Outputs<C, A>>(y.iter().copied());
        let y: Vec<_> = y.iter().map(Option::as_ref).collect();
        let x = Inputs::<C, A>::borrow(&x);
        let tangents = application::jvp(&f, &ctx, x, dx.into_iter(), &y)?;
        give::<Outputs<C, A>>(&self.signature.outputs, &layout, tangents, results);
        Ok(())
    }

    fn cast(&self, args: &[Value<'_>]) -> Option<i8> {
        Some(ffi::dtype_of(self.make(args).ok()?.cast_inputs()?))
    }

    fn batches(&self, args: &[Value<'_>]) -> bool {
        self.make(args).is_ok_and(|f| f.vmap() == Vmap::Formulas)
    }
}

type Restored<'a, 'v, C, A> = (Ctx, Made<C, A>, &'a [Value<'v>]);

impl<A: 'static, C: Constructor<A>> Registered<C, A> {
    /// The context that `forward` left, from (saved, plan, needs, arguments).
    fn restored<'a, 'v>(&self, values: &'a [Value<'v>]) -> Result<Restored<'a, 'v, C, A>> {
        let [Value::Tensors(saved), Value::Ints(plan), Value::Bools(needs), ref args @ ..] =
            *values
        else {
            return Err(misused(self.name()));
        };
        let f = self.make(args)?;
        let (x, _) = arranged::<Inputs<C, A>>(self.signature.tensors(args));
        let x: Vec<_> = x.iter().map(Option::as_ref).collect();
        let mut ctx = context(f.name(), &x, needs)?;
        let (materialize, origins) = Plan::read(plan);
        let saved = saved.iter().filter_map(|t| t.handle());
        (ctx.saved, ctx.stage) =
            (saved.zip(origins).map(|(t, origin)| Saved::of(t, origin)).collect(), Stage::Backward);
        ctx.frame.materialize_grads = materialize;
        Ok((ctx, f, args))
    }

    /// A graph that was traced counts on a tensor for each input that needs one,
    /// so that `None` is zeros; a list has no holes.
    fn give_gradients(
        &self,
        ctx: &Ctx,
        layout: &<Inputs<C, A> as Shape>::Layout,
        x: &[Option<Tensor>],
        mut grads: Vec<Option<Tensor>>,
        results: &mut Results<'_>,
    ) {
        let mut i = 0;
        let mut slots = self.signature.inputs.iter();
        Inputs::<C, A>::lengths(layout, &mut |n| {
            let is_list = matches!(slots.next(), Some(Slot::List | Slot::OptionalList));
            let mut next = || {
                let x = x[i].as_ref();
                let wanted = is_list || ctx.needs(i);
                i += 1;
                grads[i - 1].take().or_else(|| x.filter(|_| wanted).map(Tensor::zeros_like))
            };
            match is_list {
                true => results.tensors((0..n).map(|_| next()).collect::<Vec<_>>()),
                false => results.tensor(next()),
            }
        });
    }
}

fn share(t: &Option<Tensor>) -> Option<Tensor> {
    t.as_ref().map(Tensor::shallow_clone)
}

/// Makes the context of an application whose inputs' gradients are needed as `needs`
/// says.
fn context(op: &'static str, inputs: &[Option<&Tensor>], needs: &[i64]) -> Result<Ctx> {
    let mut ctx = Ctx::start(op);
    application::begin(&mut ctx, inputs, false)?;
    ctx.frame.set_needs(|i| needs.get(i).is_some_and(|&needs| needs != 0));
    (ctx.frame.recording, ctx.stage) = (true, Stage::Forward);
    Ok(ctx)
}

/// The needs stand behind the arguments.
fn split_needs<'a, 'v>(
    op: &'static str,
    values: &'a [Value<'v>],
) -> Result<(&'v [i64], &'a [Value<'v>])> {
    match values {
        [args @ .., Value::Bools(needs)] => Ok((needs, args)),
        _ => Err(misused(op)),
    }
}

/// The saved tensors that are neither inputs nor outputs, and where each is.
fn sort(
    op: &'static str,
    saved: impl IntoIterator<Item = Saved>,
    outputs: &[Output],
) -> Result<(Vec<Tensor>, Vec<Source>)> {
    let (mut intermediates, mut sources) = (Vec::new(), Vec::new());
    for Saved { tensor, origin, .. } in saved {
        let identity = ffi::describe(op, &tensor)?.identity;
        let output = outputs.iter().position(|y| y.identity == identity);
        let next = intermediates.len();
        sources.push(match (origin, output) {
            (Origin::Input(i) | Origin::LeafFor(i), _) => Source::Input(i as usize),
            (Origin::Output(i), _) => Source::Output(i as usize),
            (Origin::Constant, Some(i)) => Source::ConstantOutput(i),
            (Origin::Constant, None) => Source::Constant(next),
            (Origin::Intermediate, _) => Source::Intermediate(next),
        });
        if matches!(sources.last(), Some(Source::Constant(_) | Source::Intermediate(_))) {
            intermediates.push(tensor);
        }
    }
    Ok((intermediates, sources))
}

fn misused(op: &'static str) -> Error {
    let message = "its inner forward and backward ops are called by it alone".to_owned();
    Error::Argument { op, message }
}

fn lost_state(op: &'static str) -> Error {
    let message = "what ctx.save keeps is not a tensor, and cannot go through torch.compile, \
                   torch.func or a mode of PyTorch's; save a tensor, make it a field of the \
                   Function, or let double_backward return DoubleBackward::Recompute";
    Error::Argument { op, message: message.to_owned() }
}
