//! The life of one `apply`: check the inputs, run `forward`, check what it
//! did, record a node.

use super::node::{Applied, Edge, Inputs, Node, Output, Outputs, Recorded, Role, lock};
use super::var::Var;
use crate::ctx::{Input, Marks};
use crate::tensors::{Of, Refs, sealed::Shape};
use crate::{Ctx, Error, Function, Result, error::run_user, ffi, meta::Meta};
use smallvec::{SmallVec, smallvec};
use std::sync::Arc;
use tch::Tensor;

pub(crate) fn apply<F: Function>(
    f: F,
    x: Refs<'_, F::Inputs, Var>,
) -> Result<Of<F::Outputs, Var>> {
    let op = f.name();
    let mut vars = Inputs::new();
    F::Inputs::visit(x, &mut |v| vars.push(v));

    let grad_mode = ffi::GradMode::set(false);
    let recording = grad_mode.was && vars.iter().any(|v| v.is_some_and(Var::requires_grad));
    let mut ctx = Box::new(Ctx::new(op, recording));
    for (i, v) in vars.iter().enumerate() {
        ctx.push_input(describe_input(op, i, *v, recording)?);
    }
    let held = F::Inputs::hold(x);
    let y = run_user(op, "forward", Error::forward, || {
        f.forward(&mut ctx, F::Inputs::lend(&held))
    })?;

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut tensors = Outputs::new();
    F::Outputs::take(y, &mut |t| tensors.push(t));
    let mut outputs = Outputs::new();
    for (i, t) in tensors.iter_mut().enumerate() {
        outputs.push(describe_output(op, i, t, recording)?);
    }
    let marks = ctx.take_marks();
    if let Some(marks) = &marks {
        marks.check_outputs(op, &tensors, &mut outputs, &vars, ctx.inputs())?;
    }
    check_unchanged(op, &vars, ctx.inputs(), marks.as_deref())?;

    let node = outputs.iter().any(|o| o.differentiable).then(|| {
        let applied = Applied { f, inputs: F::Inputs::layout(x), outputs: layout.clone() };
        let recorded = Recorded::new(Box::new(applied), edges(&vars), ctx);
        Node::new(std::mem::take(&mut outputs), Role::Op(recorded))
    });
    let blocked_by = match recording {
        true => Some(op),
        false if grad_mode.was => inherited_block(&vars),
        false => None,
    };
    let mut vars = tensors.into_iter().enumerate().map(|(i, tensor)| {
        let tensor = tensor?;
        Some(match &node {
            Some(node) if node.outputs[i].differentiable => Var::from_edge(tensor, node.clone(), i),
            Some(node) => constant(tensor, node.outputs[i].again(), blocked_by),
            None => constant(tensor, outputs[i].again(), blocked_by),
        })
    });
    Ok(F::Outputs::build(&layout, &mut || vars.next().flatten()))
}

fn constant(tensor: Tensor, output: Output, blocked_by: Option<&'static str>) -> Var {
    Var::from_edge(tensor, Node::new(smallvec![output], Role::Constant { blocked_by }), 0)
}

fn edges(vars: &[Option<&Var>]) -> Inputs<Option<Edge>> {
    let mut edges = Inputs::new();
    for v in vars {
        edges.push(v.filter(|v| v.requires_grad()).map(|v| v.edge().clone()));
    }
    edges
}

/// The op without a gradient that stands between these inputs and all leaves.
fn inherited_block(vars: &[Option<&Var>]) -> Option<&'static str> {
    vars.iter().flatten().find_map(|v| match v.node().role {
        Role::Constant { blocked_by } => blocked_by,
        _ => None,
    })
}

fn describe_input(
    op: &'static str,
    input: usize,
    var: Option<&Var>,
    recording: bool,
) -> Result<Input> {
    let Some(var) = var else { return Ok(Input::absent()) };
    let d = ffi::describe(op, var.value())?;
    if let Some(by) = var.output().superseded_by() {
        return Err(Error::Superseded { op, input, by });
    }
    if d.version != var.output().version() && !stands_for_parameter(var) {
        return Err(Error::ValueChanged { op, input });
    }
    Ok(Input {
        meta: Meta::of(&d),
        identity: d.identity,
        version: d.version,
        needs_grad: recording && var.requires_grad(),
        is_leaf: matches!(var.node().role, Role::Leaf(_)),
    })
}

/// Leaves that stand for a parameter of libtorch's change when tch's
/// optimizers step.
fn stands_for_parameter(var: &Var) -> bool {
    matches!(&var.node().role, Role::Leaf(leaf) if lock(leaf).source.is_some())
}

fn describe_output(
    op: &'static str,
    i: usize,
    tensor: &mut Option<Tensor>,
    recording: bool,
) -> Result<Output> {
    let Some(tensor) = tensor else { return Ok(Output::absent()) };
    if ffi::describe(op, tensor)?.requires_grad {
        // A tensor that libtorch's autograd follows, such as a captured
        // parameter: its value is meant.
        *tensor = tensor.detach();
    }
    let mut output = Output::of(&ffi::describe(op, tensor)?);
    if !output.meta.is_defined() {
        return Err(Error::Undefined { op, what: format!("output {i} of forward") });
    }
    output.differentiable = recording && output.meta.is_differentiable();
    Ok(output)
}

/// Refuses changes to inputs that `forward` did not declare.
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
    fn check_outputs(
        &self,
        op: &'static str,
        tensors: &[Option<Tensor>],
        outputs: &mut [Output],
        vars: &[Option<&Var>],
        inputs: &[Input],
    ) -> Result<()> {
        let identity = |t: &Tensor| ffi::describe(op, t).map(|d| d.identity);
        let mut returned = SmallVec::<[usize; 4]>::new();
        for t in tensors {
            returned.push(t.as_ref().map_or(Ok(0), identity)?);
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
            vars[i].inspect(|var| var.output().supersede(op));
            if !returned.contains(&inputs[i].identity) {
                return Err(Error::DirtyNotReturned { op, input: i });
            }
        }
        Ok(())
    }
}
