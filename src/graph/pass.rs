//! The backward pass: reverse accumulation over this crate's graph.
//!
//! It seeds `dx_N/dx_N = 1`, visits nodes in reverse topological order (Note
//! [Sequence numbers] in `node.rs`), and sums each node's gradient over its
//! children: `dx_N/dx_i = sum over children j of dx_N/dx_j * dx_j/dx_i`.

use super::node::{Edge, Node, Operation, Role};
use super::queue::{Queue, Waiting};
use super::relevant::{Seqs, relevant};
use super::var::Var;
use crate::application::differentiate;
use crate::error::Result;
use crate::ffi;
use crate::function::Ctx;
use tch::Tensor;

pub(crate) struct Pass<'g> {
    queue: Queue<'g>,
    /// The nodes that lead to the targets; all nodes if `None`.
    relevant: Option<Seqs>,
    retain: bool,
}

impl<'g> Pass<'g> {
    /// Prepares a pass from `outputs`, with one seed each. With `targets` it runs only
    /// the nodes between them and the outputs.
    pub fn new(
        outputs: &[&'g Var],
        seeds: Vec<Tensor>,
        targets: Option<&[&'g Var]>,
        retain: bool,
    ) -> Result<Pass<'g>> {
        let relevant = targets.map(|targets| relevant(outputs, targets));
        let mut pass = Pass { queue: Queue::default(), relevant, retain };
        for (output, seed) in outputs.iter().zip(seeds) {
            pass.queue.add(output.node().name(), output.edge(), seed)?;
        }
        Ok(pass)
    }

    /// Runs to the end. `visit` receives every node with its complete gradients before
    /// the node runs; it must leave them in place if the node is to run.
    pub fn run(
        &mut self,
        visit: impl FnMut(&'g Node, &mut [Option<Tensor>]) -> Result<()>,
    ) -> Result<()> {
        with_stack(|| self.run_here(visit))
    }

    fn run_here(
        &mut self,
        mut visit: impl FnMut(&'g Node, &mut [Option<Tensor>]) -> Result<()>,
    ) -> Result<()> {
        let _no_grad = ffi::GradMode::set(false);
        while let Some(Waiting { node, mut grads }) = self.queue.pop() {
            visit(node, &mut grads)?;
            let Role::Op(recorded) = &node.role else { continue };
            if recorded.edges.iter().flatten().any(|edge| self.wants(edge)) {
                self.step(recorded, &mut grads)?;
            }
        }
        Ok(())
    }

    /// Runs one node: turns the gradients of its outputs into those of its parents.
    fn step(&mut self, recorded: &'g Operation, grads: &mut [Option<Tensor>]) -> Result<()> {
        let mut ctx = recorded.take_ctx(self.retain)?;
        if self.relevant.is_some() {
            ctx.frame
                .set_needs(|i| recorded.edges[i].as_ref().is_some_and(|edge| self.wants(edge)));
        }
        let done = self.differentiate(recorded, &ctx, grads);
        if done.is_err() {
            // The next pass may need other gradients.
            ctx.frame.set_needs(|i| recorded.edges[i].is_some());
            recorded.put_back(ctx);
        }
        done
    }

    /// Runs the node's backward, and sums the gradients that it returns.
    fn differentiate(
        &mut self,
        recorded: &'g Operation,
        ctx: &Ctx,
        grads: &mut [Option<Tensor>],
    ) -> Result<()> {
        differentiate(&*recorded.op, ctx, grads, |i, grad| match &recorded.edges[i] {
            Some(edge) => self.queue.add(ctx.op(), edge, grad),
            None => Ok(()),
        })
    }

    fn wants(&self, edge: &Edge) -> bool {
        self.relevant.as_ref().is_none_or(|relevant| relevant.contains(edge.node.seq))
    }
}

/// Runs a pass with room on the stack: a `backward` may run a pass, in which one runs
/// another one, and so on. And outside inference mode: gradients that are added up must
/// not be tensors that cannot be changed later.
pub(super) fn with_stack<T>(pass: impl FnOnce() -> T) -> T {
    let _normal = ffi::modes::InferenceMode::leave();
    const LEAST: usize = 256 << 10;
    const MORE: usize = 4 << 20;
    stacker::maybe_grow(LEAST, MORE, pass)
}
