//! What every engine does around a call of `forward`: looks at what came back
//! and at what became of the inputs.

use crate::ctx::Marks;
use crate::{Ctx, Error, Result, ffi, meta::Meta};
use tch::Tensor;

/// What `forward` returned at one position.
pub(crate) struct Output {
    pub tensor: Option<Tensor>,
    pub version: u32,
    pub identity: usize,
    pub differentiable: bool,
    /// libtorch's autograd follows it, such as a captured parameter.
    pub followed: bool,
    /// It does so only because it follows what this is a view of.
    pub only_as_view: bool,
    /// It lies in the memory of a leaf of the own graph.
    pub in_leaf: bool,
}

impl Output {
    pub fn new(tensor: Option<Tensor>) -> Output {
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

    /// Reads the tensor; adds its description to the context if there are
    /// `several` outputs.
    fn describe(&mut self, ctx: &mut Ctx, i: usize, several: bool) -> Result<()> {
        let Some(tensor) = &self.tensor else {
            if several {
                ctx.push_output(Meta::undefined());
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
        self.differentiable = ctx.is_recording() && d.is_differentiable();
        if several {
            ctx.push_output(Meta::of(&d));
        }
        Ok(())
    }

    pub fn is_input(&self, ctx: &Ctx) -> bool {
        ctx.inputs().iter().any(|input| input.identity == self.identity)
    }
}

/// Reads what `forward` returned, makes its marks true, and checks that what it
/// was given is as it was; gives the marks. Outputs lose their history in
/// libtorch, unless it is said to follow.
#[inline(always)]
pub(crate) fn settle<'a>(
    ctx: &mut Ctx,
    outputs: &mut [Output],
    input: impl Fn(usize) -> Option<&'a Tensor>,
    history_follows: impl Fn(&Ctx, &Output) -> bool,
) -> Result<Option<Box<Marks>>> {
    let several = outputs.len() > 1;
    for (i, output) in outputs.iter_mut().enumerate() {
        output.describe(ctx, i, several)?;
    }
    let marks = ctx.take_marks();
    if let Some(marks) = &marks {
        marks.settle(ctx, outputs)?;
    }
    for output in &mut *outputs {
        if output.followed && !history_follows(ctx, output) {
            output.tensor = output.tensor.as_ref().map(Tensor::detach);
        }
    }
    ctx.settle_origins(outputs, marks.as_deref())?;
    check_unchanged(ctx, marks.as_deref(), input)?;
    Ok(marks)
}

/// Refuses changes to inputs that `forward` did not declare.
#[inline]
pub(crate) fn check_unchanged<'a>(
    ctx: &Ctx,
    marks: Option<&Marks>,
    value: impl Fn(usize) -> Option<&'a Tensor>,
) -> Result<()> {
    for (i, input) in ctx.inputs().iter().enumerate() {
        if let Some(value) = value(i)
            && ffi::version(value) != input.version
            && !marks.is_some_and(|marks| marks.dirty.contains(&i))
        {
            return Err(Error::InputChanged { op: ctx.op(), input: i });
        }
    }
    Ok(())
}
