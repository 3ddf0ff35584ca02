//! The life of one `apply`: check the inputs, run `forward`, check what it
//! did, record a node.

use super::node::{Applied, Edge, Inputs, Node, Outputs, Recorded, Role};
use super::var::Var;
use crate::ctx::{Input, Marks};
use crate::tensors::{Of, Refs, sealed::Shape};
use crate::{Ctx, Error, Function, Result, error::run_user, ffi, meta::Meta};
use smallvec::SmallVec;
use tch::Tensor;

pub(crate) fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Var>) -> Result<Of<F::Outputs, Var>> {
    let op = f.name();
    let mut vars = Inputs::new();
    F::Inputs::visit(x, &mut |v| vars.push(v));

    let grad_mode = ffi::GradMode::set(false);
    let recording = grad_mode.was && vars.iter().any(|v| v.is_some_and(Var::requires_grad));
    let mut ctx = Box::new(Ctx::new(op, recording));
    for (i, v) in vars.iter().enumerate() {
        describe_input(&mut ctx, i, *v)?;
    }
    let held = F::Inputs::hold(x);
    let y =
        run_user(op, "forward", Error::forward, || f.forward(&mut ctx, F::Inputs::lend(&held)))?;

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = Outputs::new();
    F::Outputs::take(y, &mut |t| outputs.push(Output::of(t)));
    let several = outputs.len() > 1;
    for (i, output) in outputs.iter_mut().enumerate() {
        output.describe(&mut ctx, i, several)?;
    }
    let marks = ctx.take_marks();
    if let Some(marks) = &marks {
        marks.apply(op, &mut outputs, &vars, ctx.inputs())?;
    }
    check_unchanged(op, &vars, ctx.inputs(), marks.as_deref())?;

    let mut node = outputs.iter().any(|y| y.differentiable).then(|| {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        let recorded = Recorded::new(Box::new(applied), edges(&vars), ctx);
        Node::new(outputs.len() as u32, Role::Op(recorded))
    });
    let blocked_by = match recording {
        true => Some(op),
        false if grad_mode.was => inherited_block(&vars),
        false => None,
    };
    let count = outputs.len() as u32;
    let mut vars = outputs.into_iter().zip(0..).map(|(y, i)| {
        if !y.differentiable {
            return Some(Var::blocked(y.tensor?, y.version, blocked_by));
        }
        // The last one moves its handle of the node into the Var.
        let node = if i + 1 == count { node.take() } else { node.clone() };
        Some(Var::new(y.tensor?, y.version, node?, i))
    });
    Ok(F::Outputs::build(&layout, &mut || vars.next().flatten()))
}

#[inline]
fn edges(vars: &[Option<&Var>]) -> Inputs<Option<Edge>> {
    let mut edges = Inputs::new();
    for v in vars {
        edges.push(v.filter(|v| v.requires_grad()).map(|v| v.edge().clone()));
    }
    edges
}

/// The op without a gradient that stands between these inputs and all leaves.
fn inherited_block(vars: &[Option<&Var>]) -> Option<&'static str> {
    vars.iter().flatten().find_map(|v| v.node().blocked_by())
}

#[inline]
fn describe_input(ctx: &mut Ctx, i: usize, var: Option<&Var>) -> Result<()> {
    let Some(var) = var else {
        ctx.push_input(Input::absent());
        return Ok(());
    };
    let d = ffi::describe(ctx.op(), var.value())?;
    var.check_current(ctx.op(), i, d.version)?;
    ctx.push_input(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: ctx.is_recording() && var.requires_grad(),
        is_leaf: var.node().leaf().is_some(),
    });
    Ok(())
}

/// What `forward` returned at one position.
struct Output {
    tensor: Option<Tensor>,
    version: u32,
    differentiable: bool,
}

impl Output {
    fn of(tensor: Option<Tensor>) -> Output {
        Output { tensor, version: 0, differentiable: false }
    }

    /// Adds its description to the context if there are `several` outputs.
    fn describe(&mut self, ctx: &mut Ctx, i: usize, several: bool) -> Result<()> {
        let Some(tensor) = &mut self.tensor else {
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
        self.differentiable = ctx.is_recording() && d.is_differentiable();
        if several {
            ctx.push_output(Meta::of(&d));
        }
        if d.requires_grad {
            // A tensor that libtorch's autograd follows, such as a captured
            // parameter: its value is meant.
            *tensor = tensor.detach();
        }
        Ok(())
    }
}

/// Refuses changes to inputs that `forward` did not declare.
#[inline]
fn check_unchanged(
    op: &'static str,
    vars: &[Option<&Var>],
    inputs: &[Input],
    marks: Option<&Marks>,
) -> Result<()> {
    for (i, (var, input)) in vars.iter().zip(inputs).enumerate() {
        let Some(var) = var else { continue };
        if ffi::version(var.value()) != input.version
            && !marks.is_some_and(|marks| marks.dirty.contains(&i))
        {
            return Err(Error::InputChanged { op, input: i });
        }
    }
    Ok(())
}

impl Marks {
    /// Makes the marks true: marked outputs have no gradient, and the old
    /// handles of dirty inputs name the op that changed them.
    fn apply(
        &self,
        op: &'static str,
        outputs: &mut [Output],
        vars: &[Option<&Var>],
        inputs: &[Input],
    ) -> Result<()> {
        let identity = |t: &Tensor| ffi::describe(op, t).map(|d| d.identity);
        let mut returned = SmallVec::<[usize; 4]>::new();
        for y in outputs.iter() {
            returned.push(y.tensor.as_ref().map_or(Ok(0), identity)?);
        }
        for t in &self.non_differentiable {
            let marked = identity(t)?;
            if !returned.contains(&marked) {
                return Err(Error::NotAnOutput { op });
            }
            let marked = outputs.iter_mut().zip(&returned).filter(|(_, id)| **id == marked);
            marked.for_each(|(output, _)| output.differentiable = false);
        }
        for &i in &self.dirty {
            // Whether returned or not, the old handle holds another value now.
            vars[i].inspect(|var| var.node().supersede(var.edge().output, op));
            if !returned.contains(&inputs[i].identity) {
                return Err(Error::DirtyNotReturned { op, input: i });
            }
        }
        Ok(())
    }
}
