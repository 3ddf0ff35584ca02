//! One application to Vars: an adapter around the core, and the node that it records.

use super::node::{Edge, Inputs, Node, Operation, Role};
use super::var::Var;
use crate::application::{self, Applied, Operand, Output};
use crate::error::Result;
use crate::ffi::{self, Quiet};
use crate::function::{Ctx, Function, Input, Of, Refs, Shape};

pub(super) fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Var>) -> Result<Of<F::Outputs, Var>> {
    let vars = application::flatten::<F::Inputs, Var>(x);
    let grad_mode = ffi::GradMode::set(false);
    let f = Quiet::new(f);
    let mut ctx = Box::new(Ctx::start(f.name()));
    application::begin(&mut ctx, &vars, grad_mode.was)?;
    let held = F::Inputs::hold(x);
    let y = application::run(&*f, &mut ctx, F::Inputs::lend(&held))?;
    let layout = F::Outputs::layout(F::Outputs::borrow(&y));
    let mut outputs = application::collect::<F::Outputs>(y);
    application::finish(&mut ctx, &mut outputs, &vars, |_, _| false)?;

    for y in &mut outputs {
        y.in_leaf = lies_in_leaf(y, &ctx, &vars);
    }
    let blocked_by = match ctx.frame.recording {
        true => Some(ctx.op()),
        false if grad_mode.was => inherited_block(&vars),
        false => None,
    };
    let mut node = None;
    if outputs.iter().any(|y| y.differentiable) {
        let applied = Applied::new(f, &mut ctx, x, &vars, layout.clone());
        let recorded = Operation::new(Box::new(applied), edges(&vars), ctx);
        node = Some(Node::new(outputs.len() as u32, Role::Op(recorded)));
    }
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

/// Returns whether the output is in the memory of a leaf, as one of the inputs is.
#[inline]
fn lies_in_leaf(output: &Output, ctx: &Ctx, vars: &[Option<&Var>]) -> bool {
    let shares =
        |x: &Var| output.tensor.as_ref().is_some_and(|y| ffi::shares_storage(x.value(), y));
    vars.iter().zip(&ctx.frame.inputs).any(|(x, input)| {
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

/// Returns the op without a gradient that stands between these inputs and all
/// leaves.
fn inherited_block(vars: &[Option<&Var>]) -> Option<&'static str> {
    vars.iter().flatten().find_map(|v| v.node().blocked_by())
}

/// Makes the error about an input of an op one about an output of a pass.
fn about_output(i: usize, error: &crate::Error) -> crate::Error {
    let message = match error {
        crate::Error::Superseded { by, .. } => {
            format!("output {i} was changed in place by {by}; use the output of {by} in its place")
        }
        _ => format!(
            "the tensor of output {i} was changed in place after the Var was made; compute the \
             output anew"
        ),
    };
    crate::Error::Argument { op: "a pass", message }
}

impl Operand for Var {
    #[inline]
    fn describe(&self, op: &'static str, i: usize, grad_mode: bool, _: &mut bool) -> Result<Input> {
        let d = ffi::describe(op, self.value())?;
        self.check_current(op, i, d.version)?;
        Ok(Input::new(&d, grad_mode && self.requires_grad(), self.is_in_leaf()))
    }

    fn supersede(&self, op: &'static str) {
        self.node().supersede(self.edge().output, op);
    }

    fn check_output(&self, i: usize) -> Result<&'static str> {
        self.check_requires_grad(|| crate::Error::NoGraph { output: i })?;
        self.check_current("a pass", i, ffi::version(self.value()))
            .map_err(|e| about_output(i, &e))?;
        Ok(self.node().name())
    }

    fn check_input(&self, input: usize) -> Result<()> {
        self.check_requires_grad(|| crate::Error::InputNoGrad { input })?;
        // No op changes a leaf, so its place in the graph is still the one.
        match self.node().leaf() {
            Some(leaf) if leaf.parameter().is_none() => Ok(()),
            _ => self.check_current("grad", input, ffi::version(self.value())),
        }
    }
}
