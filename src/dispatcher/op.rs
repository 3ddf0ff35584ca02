//! [`Registered`]: what the kernels of an op run.

use super::call::{Call, Inputs, Outputs, context, give};
use super::constructor::Constructor;
use super::memory::{has_no_data, separated};
use super::plan::{Plan, Plans, Source};
use super::reasons;
use super::signature::{Signature, arranged};
use crate::application::{self, Applied, Backward, Output, converted, differentiate, jvp, run};
use crate::error::{Error, Result, torch};
use crate::ffi::dispatcher::{Facts, Kernel, Op, Results, TensorRef, Value};
use crate::ffi::modes::{AutocastState, NoAutocast};
use crate::ffi::{self, Quiet};
use crate::function::{Ctx, DoubleBackward, Function, Origin, Saved, Shape, Stage, Vmap};
use std::marker::PhantomData;
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

pub(super) struct Registered<C, A> {
    pub constructor: C,
    pub signature: Arc<Signature>,
    pub plans: Plans,
    /// Whether its tags say that it draws random numbers.
    pub is_random: bool,
    pub parameters: PhantomData<fn(A)>,
}

impl<A: 'static, C: Constructor<A>> Op for Registered<C, A> {
    fn name(&self) -> &'static str {
        self.signature.name
    }

    fn call(&self, kernel: Kernel, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let done = match kernel {
            Kernel::Apply => self.apply(values, results),
            Kernel::Forward => self.forward(values, results),
            Kernel::Backward | Kernel::BackwardAbove => self.backward(kernel, values, results),
            Kernel::Jvp => self.jvp(values, results),
            Kernel::Cast => self.cast(values, results),
        };
        done.map_err(|error| if are_traced(values) { reasons::without_data(error) } else { error })
    }

    fn facts(&self, args: &[Value<'_>]) -> Result<Facts> {
        let f = self.function(args)?;
        Ok(Facts {
            name: f.name(),
            batches: f.vmap() == Vmap::Formulas,
            casts: application::rule(&f).is_some(),
        })
    }
}

impl<A: 'static, C: Constructor<A>> Registered<C, A> {
    fn apply(&self, args: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let Call { f, x, .. } = self.open(args)?;
        let y = f.apply::<Tensor>(Inputs::<C, A>::borrow(&x))?;
        let layout = Outputs::<C, A>::layout(Outputs::<C, A>::borrow(&y));
        let mut flat = Vec::new();
        Outputs::<C, A>::take(y, &mut |t: Option<Tensor>| flat.push(t));
        if self.signature.returns {
            self.give_outputs(&layout, flat, results);
        }
        Ok(())
    }

    /// (arguments, needs) -> outputs, saved intermediates, plan.
    fn forward(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let [args @ .., Value::Bools(needs)] = values else { return Err(misused(self.name())) };
        let call = self.open(args)?;
        let (f, x) = (&call.f, call.inputs());
        let mut ctx = context(f.name(), &call.flat(), needs)?;
        let _no_autocast = application::off_for(f, &ctx.frame);
        let y = run(f, &mut ctx, x)?;
        let layout = Outputs::<C, A>::layout(Outputs::<C, A>::borrow(&y));
        let mut outputs = application::collect::<Outputs<C, A>>(y);
        application::finish(&mut ctx, &mut outputs, &call.flat(), |_, _| false)?;
        let second_order = f.double_backward();
        if ctx.frame.state().is_some() && second_order != DoubleBackward::Recompute {
            return Err(lost_state(ctx.op()));
        }
        let draws = ctx.frame.drawn().is_some();
        if draws && !self.is_random {
            return Err(untagged(self.name()));
        }
        let recomputed = second_order == DoubleBackward::Recompute;
        let drawn_from = (recomputed && self.is_random).then(|| generator_state(&ctx, &call));
        let drawn_from = drawn_from.transpose()?;
        let (mut intermediates, mut saved) = sort(ctx.op(), ctx.saved, &outputs)?;
        if let Some(state) = drawn_from {
            saved.push((Source::Constant, intermediates.len()));
            intermediates.push(Some(state));
        }
        let differentiable = outputs.iter().map(|y| y.differentiable).collect();
        let materialize = ctx.frame.materialize_grads;
        // A graph that is traced under autocast runs without it.
        let autocast = match call.is_traced() {
            true => AutocastState::OFF,
            false => ctx.frame.autocast(),
        };
        let plan = Plan { second_order, materialize, autocast, differentiable, saved }.write();

        let outputs: Vec<_> = outputs.into_iter().map(|y| y.tensor).collect();
        let kept = call.flat().into_iter().chain(outputs.iter().map(Option::as_ref));
        let intermediates = separated(intermediates, &kept.flatten().collect::<Vec<_>>());
        self.give_outputs(&layout, outputs, results);
        results.tensors(intermediates);
        self.plans.add(&plan, call.is_traced());
        results.ints(&plan);
        Ok(())
    }

    /// (gradients of the outputs, saved, plan, needs, arguments) -> gradients.
    fn backward(
        &self,
        kernel: Kernel,
        values: &[Value<'_>],
        results: &mut Results<'_>,
    ) -> Result<()> {
        let (dy, rest) = values.split_at_checked(self.signature.outputs.len()).unwrap_or_default();
        let (mut ctx, call) = self.restored(rest, true)?;
        let traced = call.is_traced();
        if let (Kernel::Backward, false, [_, Value::Ints(plan), ..]) = (kernel, traced, rest) {
            self.plans.check(self.name(), plan)?;
        }
        let (mut dy, outputs) = arranged::<Outputs<C, A>>(dy.iter().copied());
        for t in &mut dy {
            t.get_or_insert_with(Tensor::new);
        }
        let seeds: Vec<_> = dy.iter().map(share).collect();
        let Call { f, x, layout } = call;
        let mut inputs = Vec::new();
        Inputs::<C, A>::take(x, &mut |t: Option<Tensor>| inputs.push(t));
        let applied = Applied { f: Quiet::new(f), inputs: layout, outputs };
        if applied.double_backward() == DoubleBackward::Recompute {
            ctx = applied.recompute(&ctx, &mut inputs.iter().map(share))?;
        }
        let mut grads: Vec<Option<Tensor>> = inputs.iter().map(|_| None).collect();
        let done = differentiate(&applied, &ctx, &mut dy, |i, grad| {
            grads[i] = Some(grad);
            Ok(())
        });
        done.or_else(|e| if traced && e.is_about_kernels() { Ok(()) } else { Err(e) })?;
        if kernel == Kernel::Backward {
            let kept = inputs.iter().chain(&seeds).flatten();
            let kept: Vec<_> = kept.chain(ctx.saved.iter().map(|saved| &saved.tensor)).collect();
            grads = separated(grads, &kept);
        }
        self.give_gradients(&ctx, &applied.inputs, &inputs, grads, results);
        Ok(())
    }

    /// (tangents of the inputs, outputs, saved, plan, needs, arguments) -> tangents.
    fn jvp(&self, values: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let (dx, rest) = values.split_at_checked(self.signature.inputs.len()).unwrap_or_default();
        let (y, rest) = rest.split_at_checked(self.signature.outputs.len()).unwrap_or_default();
        let (ctx, call) = self.restored(rest, false)?;
        let (dx, _) = arranged::<Inputs<C, A>>(dx.iter().copied());
        let (y, layout) = arranged::<Outputs<C, A>>(y.iter().copied());
        let y: Vec<_> = y.iter().map(Option::as_ref).collect();
        let _off = application::off_for(&call.f, &ctx.frame);
        let tangents = jvp(&call.f, &ctx, call.inputs(), &dx, &y, ffi::grad_enabled())?;
        self.give_outputs(&layout, tangents, results);
        Ok(())
    }

    /// (arguments) -> the tensor arguments, in the dtype that autocast asks for.
    fn cast(&self, args: &[Value<'_>], results: &mut Results<'_>) -> Result<()> {
        let Call { f, x, layout } = self.open(args)?;
        let mut flat = Vec::new();
        Inputs::<C, A>::take(x, &mut |t: Option<Tensor>| flat.push(t));
        if let Some(rule) = application::rule(&f) {
            let off = NoAutocast::enter();
            for t in flat.iter_mut().flatten() {
                *t = converted(t, rule, &off)?;
            }
        }
        give::<Inputs<C, A>>(&self.signature.inputs, &layout, flat, results);
        Ok(())
    }

    /// Makes the context that `forward` left, from (saved, plan, needs, arguments).
    /// `forward` may run in it again if it `draws_again`.
    fn restored(
        &self,
        values: &[Value<'_>],
        draws_again: bool,
    ) -> Result<(Ctx, Call<C::Function>)> {
        let [Value::Tensors(saved), Value::Ints(plan), Value::Bools(needs), ref args @ ..] =
            *values
        else {
            return Err(misused(self.name()));
        };
        let call = self.open(args)?;
        let mut ctx = context(call.f.name(), &call.flat(), needs)?;
        let (materialize, autocast, origins) =
            Plan::read(plan).ok_or_else(|| misused(self.name()))?;
        let saved = saved.iter().filter_map(|t| t.handle()).zip(origins);
        ctx.saved = saved.map(|(t, origin)| Saved::of(t, origin)).collect();
        if call.f.double_backward() == DoubleBackward::Recompute
            && self.is_random
            && let Some(state) = ctx.saved.pop().map(|saved| saved.tensor)
            && draws_again
            && !call.is_traced()
        {
            let bytes = state.f_to(Device::Cpu).and_then(|state| Vec::<u8>::try_from(&state));
            let bytes = bytes.map_err(|_| levels_of_random_numbers(self.name()))?;
            let drawn = application::generators(&ctx)?.of_bytes(&bytes)?;
            ctx.frame.set_drawn(drawn);
        }
        ctx.stage = Stage::Backward;
        ctx.frame.set_autocast(autocast);
        ctx.frame.materialize_grads = materialize;
        Ok((ctx, call))
    }

    fn give_outputs(
        &self,
        layout: &<Outputs<C, A> as Shape>::Layout,
        flat: Vec<Option<Tensor>>,
        results: &mut Results<'_>,
    ) {
        give::<Outputs<C, A>>(&self.signature.outputs, layout, flat, results);
    }

    /// Returns the gradients. A graph that was traced counts on a tensor for each input
    /// that needs one, so `None` becomes zeros; a list has no holes.
    fn give_gradients(
        &self,
        ctx: &Ctx,
        layout: &<Inputs<C, A> as Shape>::Layout,
        x: &[Option<Tensor>],
        mut grads: Vec<Option<Tensor>>,
        results: &mut Results<'_>,
    ) {
        let is_list = self.signature.list_positions::<Inputs<C, A>>(layout);
        let like = x.iter().flatten().next();
        for (i, (grad, x)) in grads.iter_mut().zip(x).enumerate() {
            if grad.is_none() && (is_list[i] || ctx.needs(i)) {
                // Nobody looks at the gradient of an absent input.
                let empty = || like.map(|x| x.flatten(0, -1).narrow(0, 0, 0).zeros_like());
                *grad = x.as_ref().map(Tensor::zeros_like).or_else(empty);
            }
        }
        give::<Inputs<C, A>>(&self.signature.inputs, layout, grads, results);
    }
}

/// Returns whether a tensor among the values may have no data: a tracer looks at shapes.
fn are_traced(values: &[Value<'_>]) -> bool {
    let is_traced =
        |t: Tensor| has_no_data(&t) || ffi::describe("dispatcher", &t).is_ok_and(|d| d.python);
    values.iter().any(|value| match value {
        Value::Tensor(t) => t.handle().is_some_and(is_traced),
        Value::Tensors(list) => list.iter().copied().filter_map(TensorRef::handle).any(is_traced),
        _ => false,
    })
}

fn share(t: &Option<Tensor>) -> Option<Tensor> {
    t.as_ref().map(Tensor::shallow_clone)
}

/// Saved tensors that are neither inputs nor outputs, and the source of each saved
/// tensor, with its index.
type Sorted = (Vec<Option<Tensor>>, Vec<(Source, usize)>);

/// Returns the saved tensors that are neither inputs nor outputs, and the source of
/// each saved tensor.
fn sort(
    op: &'static str,
    saved: impl IntoIterator<Item = Saved>,
    outputs: &[Output],
) -> Result<Sorted> {
    let (mut intermediates, mut sources) = (Vec::new(), Vec::new());
    for Saved { tensor, origin, .. } in saved {
        let identity = ffi::describe(op, &tensor)?.identity;
        let output = outputs.iter().position(|y| y.identity == identity);
        let source = match (origin, output) {
            (Origin::Input(i) | Origin::LeafFor(i), _) => (Source::Input, i as usize),
            (Origin::Output(i), _) => (Source::Output, i as usize),
            (Origin::Constant, Some(i)) => (Source::ConstantOutput, i),
            (Origin::Constant, None) => (Source::Constant, intermediates.len()),
            (Origin::Intermediate, _) => (Source::Intermediate, intermediates.len()),
        };
        if matches!(source.0, Source::Constant | Source::Intermediate) {
            intermediates.push(Some(tensor));
        }
        sources.push(source);
    }
    Ok((intermediates, sources))
}

/// Returns the state of the random number generators as a tensor on the device of the
/// first input, as which it goes to the backward op. Without data it only has the length.
fn generator_state<F: Function>(ctx: &Ctx, call: &Call<F>) -> Result<Tensor> {
    // A trace has the length that a run has, on whichever device.
    let bytes = match ctx.frame.drawn() {
        Some(drawn) => drawn.padded_bytes(),
        None => {
            let now = application::generators(ctx)?;
            now.again()?.until(&now).padded_bytes()
        }
    };
    let flat = call.flat();
    let state = match flat.into_iter().flatten().next() {
        Some(x) if call.is_traced() => {
            // tch cannot name the meta device.
            let d = ffi::describe(ctx.op(), x)?;
            let device = (d.device_type, d.device_index);
            return ffi::zeros(ctx.op(), &[bytes.len() as i64], ffi::dtype_of(Kind::Uint8), device);
        }
        Some(x) => Tensor::f_from_slice(&bytes).and_then(|state| state.f_to(x.device())),
        None => Tensor::f_from_slice(&bytes),
    };
    state.map_err(torch(ctx.op()))
}

fn untagged(op: &'static str) -> Error {
    let message = "it draws random numbers, which its second run must draw again: write \
                   [NondeterministicSeeded] behind its schema in library!";
    Error::Argument { op, message: message.to_owned() }
}

fn levels_of_random_numbers(op: &'static str) -> Error {
    let message = "it draws random numbers, and runs again at a level of torch.func that hides \
                   which; use torch.autograd.grad with create_graph=True";
    Error::Argument { op, message: message.to_owned() }
}

fn misused(op: &'static str) -> Error {
    let message = "do not call its inner forward and backward ops directly".to_owned();
    Error::Argument { op, message }
}

fn lost_state(op: &'static str) -> Error {
    let message = "what ctx.save keeps is not a tensor, and cannot go through torch.compile, \
                   torch.func or a mode of PyTorch's; save a tensor, make it a field of the \
                   Function, or let double_backward return DoubleBackward::Recompute";
    Error::Argument { op, message: message.to_owned() }
}
