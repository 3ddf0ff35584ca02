//! The life of one `apply`: check the inputs, run `forward`, check what it
//! did, record a node.

use super::node::{Edge, Inputs, Node, Outputs, Recorded, Role};
use super::var::Var;
use crate::ctx::Input;
use crate::erased::Applied;
use crate::forward::{self, Output};
use crate::tensors::{Of, Refs, sealed::Shape};
use crate::{Ctx, DoubleBackward, Error, Function, Result, error::run_user, ffi, meta::Meta};

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
    F::Outputs::take(y, &mut |t| outputs.push(Output::new(t)));
    // Whether returned or not, the old handles hold other values now.
    for var in ctx.dirty().iter().filter_map(|&i| vars[i]) {
        var.node().supersede(var.edge().output, op);
    }
    forward::settle(&mut ctx, &mut outputs, |i| vars[i].map(Var::value), |_, _| false)?;
    for output in &mut outputs {
        output.in_leaf = lies_in_leaf(output, &ctx, &vars);
    }

    let mut node = outputs.iter().any(|y| y.differentiable).then(|| {
        if f.double_backward() == DoubleBackward::Recompute {
            ctx.keep_inputs(|i| vars[i].map(|v| v.value().shallow_clone()));
        }
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
    let mut made = outputs.into_iter().zip(0..).map(|(y, i)| {
        if !y.differentiable {
            return Some(Var::blocked(y.tensor?, y.version, blocked_by).lying_in_leaf(y.in_leaf));
        }
        // The last one moves its handle of the node into the Var.
        let node = if i + 1 == count { node.take() } else { node.clone() };
        Some(Var::new(y.tensor?, y.version, node?, i).lying_in_leaf(y.in_leaf))
    });
    Ok(F::Outputs::build(&layout, &mut || made.next().flatten()))
}

/// Whether the output is in the memory of a leaf, as one of the inputs is.
#[inline]
fn lies_in_leaf(output: &Output, ctx: &Ctx, vars: &[Option<&Var>]) -> bool {
    let shares =
        |x: &Var| output.tensor.as_ref().is_some_and(|y| ffi::shares_storage(x.value(), y));
    vars.iter().zip(ctx.inputs()).any(|(x, input)| {
        input.in_leaf && (input.identity == output.identity || x.is_some_and(shares))
    })
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
        in_leaf: var.is_in_leaf(),
    });
    Ok(())
}
