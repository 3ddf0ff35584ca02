//! The life of one `apply`: check the inputs, run `forward`, check what it
//! did, record a node.

use super::node::{Applied, Edge, Inputs, Node, Output, Outputs, Recorded, Role};
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
    let grad_enabled = ffi::grad_enabled();
    let recording = grad_enabled && vars.iter().flatten().any(|v| v.requires_grad());
    let mut ctx = Ctx::new(op, describe_inputs(op, &vars, recording)?, recording);

    let y = {
        let _no_grad = tch::no_grad_guard();
        let held = F::Inputs::hold(x);
        run_user(op, "forward", Error::forward, || f.forward(&mut ctx, F::Inputs::lend(&held)))?
    };

    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut made = Made::default();
    F::Outputs::take(y, &mut |t| made.tensors.push(t));
    let marks = ctx.take_marks();
    made.describe(op, recording, marks.as_deref())?;
    check_inputs(op, &vars, ctx.inputs(), marks.as_deref(), &made)?;

    let node = (recording && made.differentiable.contains(&true)).then(|| {
        let inputs = F::Inputs::layout(x);
        let applied = Applied { f, inputs, outputs: layout.clone() };
        let edges = vars.iter().map(|v| edge_of(*v)).collect();
        let recorded = Recorded::new(Box::new(applied), edges, ctx);
        Node::new(std::mem::take(&mut made.outputs), Role::Op(recorded))
    });
    let blocked_by = if recording { Some(op) } else { inherited_block(grad_enabled, &vars) };
    let mut flat = made.into_vars(node, blocked_by);
    Ok(F::Outputs::build(&layout, &mut || flat.next().flatten()))
}

fn edge_of(v: Option<&Var>) -> Option<Edge> {
    v.filter(|v| v.requires_grad()).map(|v| v.edge().clone())
}

/// The op without a gradient that stands between these inputs and all leaves.
fn inherited_block(grad_enabled: bool, vars: &[Option<&Var>]) -> Option<&'static str> {
    let block = |v: &&Var| match v.node().role {
        Role::Constant { blocked_by } => blocked_by,
        _ => None,
    };
    grad_enabled.then(|| vars.iter().flatten().find_map(block)).flatten()
}

fn describe_inputs(
    op: &'static str,
    vars: &[Option<&Var>],
    recording: bool,
) -> Result<SmallVec<[Input; 1]>> {
    vars.iter().enumerate().map(|(i, v)| describe_input(op, i, *v, recording)).collect()
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
    matches!(&var.node().role, Role::Leaf(leaf) if super::node::lock(leaf).source.is_some())
}

/// Refuses changes that `forward` did not declare, and marks the old handles
/// of those that it did.
fn check_inputs(
    op: &'static str,
    vars: &[Option<&Var>],
    inputs: &[Input],
    marks: Option<&Marks>,
    made: &Made,
) -> Result<()> {
    let dirty = marks.map_or(&[][..], |m| &m.dirty);
    for (i, (var, input)) in vars.iter().zip(inputs).enumerate() {
        let Some(var) = var else { continue };
        if dirty.contains(&i) {
            // Whether returned or not, the old handle holds another value now.
            var.output().supersede(op);
            if !made.identities.contains(&input.identity) {
                return Err(Error::DirtyNotReturned { op, input: i });
            }
        } else if ffi::version(var.value()) != input.version {
            return Err(Error::InputChanged { op, input: i });
        }
    }
    Ok(())
}

/// What `forward` returned, one entry per position.
#[derive(Default)]
struct Made {
    tensors: Outputs<Option<Tensor>>,
    outputs: Outputs<Output>,
    identities: Outputs<usize>,
    differentiable: Outputs<bool>,
}

impl Made {
    fn describe(&mut self, op: &'static str, recording: bool, marks: Option<&Marks>) -> Result<()> {
        let marked = marks.map_or(&[][..], |m| &m.non_differentiable);
        let marked = marked.iter().map(|t| Ok(ffi::describe(op, t)?.identity));
        let marked = marked.collect::<Result<SmallVec<[usize; 4]>>>()?;
        for (i, tensor) in self.tensors.iter_mut().enumerate() {
            let (output, identity) = describe_output(op, i, tensor)?;
            let differentiable = recording
                && tensor.is_some()
                && output.meta.is_differentiable()
                && !marked.contains(&identity);
            self.outputs.push(output);
            self.identities.push(identity);
            self.differentiable.push(differentiable);
        }
        match marked.iter().all(|m| self.identities.contains(m)) {
            true => Ok(()),
            false => Err(Error::NotAnOutput { op }),
        }
    }

    /// Differentiable outputs point at `node`; each other is a constant.
    fn into_vars(
        self,
        node: Option<Arc<Node>>,
        blocked_by: Option<&'static str>,
    ) -> impl Iterator<Item = Option<Var>> {
        let Made { tensors, outputs, differentiable, .. } = self;
        let mut outputs = outputs.into_iter();
        let tensors = tensors.into_iter().zip(differentiable).enumerate();
        tensors.map(move |(i, (tensor, differentiable))| {
            // Empty where `node` has taken them.
            let output = outputs.next();
            let tensor = tensor?;
            if let (true, Some(node)) = (differentiable, &node) {
                return Some(Var::from_edge(tensor, node.clone(), i));
            }
            let output = output.unwrap_or_else(|| node.as_ref().expect("took them").outputs[i].again());
            let constant = Node::new(smallvec![output], Role::Constant { blocked_by });
            Some(Var::from_edge(tensor, constant, 0))
        })
    }
}

fn describe_output(
    op: &'static str,
    i: usize,
    tensor: &mut Option<Tensor>,
) -> Result<(Output, usize)> {
    let Some(tensor) = tensor else { return Ok((Output::absent(), 0)) };
    let mut d = ffi::describe(op, tensor)?;
    if d.requires_grad {
        // A tensor that libtorch's autograd follows, such as a captured
        // parameter: its value is meant.
        let plain = tensor.detach();
        *tensor = plain;
        d = ffi::describe(op, tensor)?;
    }
    let output = Output::of(&d);
    if output.meta.is_defined() {
        return Ok((output, d.identity));
    }
    Err(Error::Undefined { op, what: format!("output {i} of forward") })
}
