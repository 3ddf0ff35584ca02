//! `forward`, and what is read, made true and checked after it.

use super::marks::{settle_marks, settle_saved};
use super::{Operand, run_user};
use crate::error::{Error, Result};
use crate::ffi::modes::AutocastState;
use crate::ffi::rng::Generators;
use crate::ffi::{self, Meta};
use crate::function::{Ctx, DoubleBackward, Function, Marks, Of, Refs, Shape, Value};
use smallvec::SmallVec;
use tch::Tensor;

/// The tensor that `forward` returned at one position, and the facts about it.
pub(crate) struct Output {
    pub tensor: Option<Tensor>,
    pub version: u32,
    pub identity: usize,
    pub differentiable: bool,
    /// libtorch's autograd follows it, such as a captured parameter.
    pub followed: bool,
    /// libtorch follows it only because it follows what this is a view of.
    pub only_as_view: bool,
    /// It lies in the memory of a leaf, as the engine finds.
    pub in_leaf: bool,
}

/// The outputs of one application, one per position.
pub(crate) type Outputs = SmallVec<[Output; 1]>;

/// Returns the values of a shape, one per position.
#[inline(always)]
pub(crate) fn flatten<'a, T: Shape, V: Value>(x: T::Refs<'a, V>) -> SmallVec<[Option<&'a V>; 2]> {
    let mut flat = SmallVec::new();
    T::visit(x, &mut |v| flat.push(v));
    flat
}

/// Runs the user's `forward`.
///
/// # Errors
/// [`Error::Forward`], [`Error::Panic`].
#[inline]
pub(crate) fn run<F: Function>(
    f: &F,
    ctx: &mut Ctx,
    x: Refs<'_, F::Inputs>,
) -> Result<Of<F::Outputs, Tensor>> {
    let recomputed = ctx.frame.recording && f.double_backward() == DoubleBackward::Recompute;
    let before = recomputed.then(|| before_recomputed::<F>(ctx, x)).transpose()?;
    let done = run_user(ctx.op(), "forward", Error::forward, || f.forward(ctx, x));
    if let Some(before) = before.filter(|_| done.is_ok()) {
        let after = before.again()?;
        if before != after {
            ctx.frame.set_drawn(before.until(&after));
        }
    }
    done.map_err(|e| {
        if ctx.dirty().is_empty() { e } else { half_done(ctx, &flatten::<F::Inputs, Tensor>(x), e) }
    })
}

/// Checks that the inputs can be kept, notes what autocast is, and reads the random number
/// generators.
fn before_recomputed<F: Function>(ctx: &mut Ctx, x: Refs<'_, F::Inputs>) -> Result<Generators> {
    for (i, x) in flatten::<F::Inputs, Tensor>(x).into_iter().enumerate() {
        if x.map_or(Ok(false), |x| Ok(ffi::describe(ctx.op(), x)?.is_inference))? {
            let what = format!("input {i}, which DoubleBackward::Recompute keeps,");
            return Err(Error::SavedInference { op: ctx.op(), what });
        }
    }
    ctx.frame.set_autocast(AutocastState::now());
    generators(ctx)
}

/// Reads the random number generators that `forward` may draw from.
pub(crate) fn generators(ctx: &Ctx) -> Result<Generators> {
    Generators::now(ctx.frame.inputs.iter().map(|input| &input.meta))
}

/// Adds to the error of a `forward` which of its inputs it has changed before it failed.
#[cold]
fn half_done(ctx: &Ctx, x: &[Option<&Tensor>], error: Error) -> Error {
    let is_changed =
        |&&i: &&usize| x[i].is_some_and(|x| ffi::version(x) != ctx.frame.inputs[i].version);
    match ctx.dirty().iter().find(is_changed) {
        Some(i) => {
            let changed = format!("input {i} was changed in place before forward failed");
            Error::forward(ctx.op(), anyhow::Error::new(error).context(changed))
        }
        None => error,
    }
}

/// Returns what `forward` returned, one output per position.
#[inline(always)]
pub(crate) fn collect<O: Shape>(y: Of<O, Tensor>) -> Outputs {
    let mut outputs = Outputs::new();
    O::take(y, &mut |tensor| outputs.push(Output::new(tensor)));
    outputs
}

/// Reads the outputs, makes the marks true and returns them, and checks that the
/// inputs are as they were. Outputs lose their history in libtorch unless
/// `keeps_history`.
///
/// # Errors
/// A broken rule of [`Ctx`], or an undefined output.
#[inline(always)]
pub(crate) fn finish<V: Operand>(
    ctx: &mut Ctx,
    outputs: &mut [Output],
    inputs: &[Option<&V>],
    keeps_history: impl Fn(&Ctx, &Output) -> bool,
) -> Result<Option<Box<Marks>>> {
    // Dirty inputs hold other values now, even if they are not returned.
    for x in ctx.dirty().iter().filter_map(|&i| inputs[i]) {
        x.supersede(ctx.op());
    }
    let several = outputs.len() > 1;
    for (i, output) in outputs.iter_mut().enumerate() {
        output.describe(ctx, i, several)?;
    }
    let marks = ctx.marks.take();
    if let Some(marks) = &marks {
        settle_marks(ctx, marks, outputs)?;
    }
    for output in &mut *outputs {
        if output.followed && !keeps_history(ctx, output) {
            output.tensor = output.tensor.as_ref().map(Tensor::detach);
        }
    }
    if ctx.has_saved {
        settle_saved(ctx, outputs, marks.as_deref())?;
    }
    inputs_are_unchanged(ctx, marks.as_deref(), inputs)?;
    Ok(marks)
}

/// Checks that `forward` changed no input but those that it declared.
///
/// # Errors
/// [`Error::InputChanged`].
#[inline]
pub(crate) fn inputs_are_unchanged<V: Value>(
    ctx: &Ctx,
    marks: Option<&Marks>,
    inputs: &[Option<&V>],
) -> Result<()> {
    for (i, (input, value)) in ctx.frame.inputs.iter().zip(inputs).enumerate() {
        if let Some(value) = value
            && ffi::version(value.tensor()) != input.version
            && !marks.is_some_and(|marks| marks.dirty.contains(&i))
        {
            return Err(Error::InputChanged { op: ctx.op(), input: i });
        }
    }
    Ok(())
}

impl Output {
    fn new(tensor: Option<Tensor>) -> Output {
        Output {
            tensor,
            version: 0,
            identity: 0,
            differentiable: false,
            followed: false,
            only_as_view: false,
            in_leaf: false,
        }
    }

    /// Reads the tensor; adds its description to the context if there are `several`
    /// outputs.
    fn describe(&mut self, ctx: &mut Ctx, i: usize, several: bool) -> Result<()> {
        let Some(tensor) = &self.tensor else {
            if several {
                ctx.frame.push_output(Meta::undefined());
            }
            return Ok(());
        };
        let d = ffi::describe(ctx.op(), tensor)?;
        if !d.is_defined() {
            let what = format!("output {i} of forward");
            return Err(Error::Undefined { op: ctx.op(), what });
        }
        self.version = d.version;
        self.followed = d.requires_grad;
        self.only_as_view = d.only_as_view;
        self.identity = d.identity;
        self.differentiable = ctx.frame.recording && d.is_differentiable();
        if several {
            ctx.frame.push_output(Meta::of(&d));
        }
        Ok(())
    }

    pub fn is_input(&self, ctx: &Ctx) -> bool {
        ctx.frame.inputs.iter().any(|input| input.identity == self.identity)
    }
}
