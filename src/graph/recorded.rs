//! A backward pass that is itself recorded (`create_graph`).
//!
//! The same loop as in `pass.rs`, over Vars: the backward of each node runs on
//! leaves of libtorch's, with libtorch recording, and what it recorded becomes
//! a node of this crate's graph. So the user's backward code is differentiated as it
//! stands, to any order, and a Function needs no second formula.

use super::lifted;
use super::node::{Edge, Node, Operation, Role};
use super::pass::with_stack;
use super::relevant::{Seqs, relevant};
use super::sum::Sum;
use super::var::Var;
use crate::application::differentiate;
use crate::error::Result;
use crate::ffi;
use crate::ffi::refusal::{Refused, refuse};
use crate::function::{Ctx, DoubleBackward, Function, Origin, Saved, Stage};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::Tensor;

/// The nodes that wait for their gradient to be complete.
type Queue = BTreeMap<u64, (Arc<Node>, Vec<Option<Var>>)>;

/// Runs from `outputs` with one seed each; `visit` receives each node with its
/// complete gradients.
pub(crate) fn run(
    outputs: &[&Var],
    seeds: Vec<Var>,
    targets: &[&Var],
    visit: impl FnMut(&Node, &[Option<Var>]) -> Result<()>,
) -> Result<()> {
    with_stack(|| run_here(outputs, seeds, targets, visit))
}

fn run_here(
    outputs: &[&Var],
    seeds: Vec<Var>,
    targets: &[&Var],
    mut visit: impl FnMut(&Node, &[Option<Var>]) -> Result<()>,
) -> Result<()> {
    let _grad = ffi::GradMode::set(true);
    let relevant = relevant(outputs, targets);
    let mut queue = Queue::new();
    for (output, seed) in outputs.iter().zip(seeds) {
        add(&mut queue, output.edge(), seed)?;
    }
    while let Some((_, (node, grads))) = queue.pop_last() {
        visit(&node, &grads)?;
        let Role::Op(recorded) = &node.role else { continue };
        if recorded.edges.iter().flatten().any(|edge| relevant.contains(edge.node.seq)) {
            for (i, grad) in Step::new(&node, recorded, &relevant)?.run(grads)? {
                recorded.edges[i]
                    .iter()
                    .try_for_each(|edge| add(&mut queue, edge, grad.clone()))?;
            }
        }
    }
    Ok(())
}

fn add(queue: &mut Queue, edge: &Edge, grad: Var) -> Result<()> {
    let node = &edge.node;
    let nothing = || (node.clone(), vec![None; node.outputs as usize]);
    let slot = &mut queue.entry(node.seq).or_insert_with(nothing).1[edge.output as usize];
    *slot = Some(match slot.take() {
        Some(sum) => Sum.apply((&sum, &grad))?,
        None => grad,
    });
    Ok(())
}

/// The backward of one node, recorded by libtorch.
struct Step<'a> {
    node: &'a Arc<Node>,
    recorded: &'a Operation,
    ctx: Ctx,
    /// The leaves that libtorch records from, and the Var that each stands for.
    leaves: Vec<Tensor>,
    vars: Vec<Var>,
}

impl<'a> Step<'a> {
    fn new(node: &'a Arc<Node>, recorded: &'a Operation, relevant: &Seqs) -> Result<Step<'a>> {
        let mut ctx = recorded.take_ctx(true)?;
        let wants = |edge: &Edge| relevant.contains(edge.node.seq);
        ctx.frame.set_needs(|i| recorded.edges[i].as_ref().is_some_and(wants));
        Ok(Step { node, recorded, ctx: *ctx, leaves: Vec::new(), vars: Vec::new() })
    }

    /// Returns the gradients of the inputs that need one, with their positions.
    fn run(mut self, grads: Vec<Option<Var>>) -> Result<Vec<(usize, Var)>> {
        let start = ffi::next_sequence_number();
        let mut dy: Vec<Option<Tensor>> = Vec::new();
        for grad in grads {
            dy.push(grad.map(|grad| self.leaf(grad.value(), grad.clone())).transpose()?);
        }
        let double_backward = self.recorded.op.double_backward();
        let ctx = match double_backward {
            DoubleBackward::Recompute => self.recompute()?,
            DoubleBackward::ThroughSaved => self.through_saved()?,
            DoubleBackward::Once => self.ctx.share(),
        };
        let mut found = self.differentiate(&ctx, &mut dy, double_backward)?;
        if double_backward == DoubleBackward::Once {
            self.leaves_for_inputs()?;
            for (_, grad) in &mut found {
                *grad = refuse(ctx.op(), grad, &self.differentiable_leaves(), Refused::Once)?;
            }
        }
        let (positions, grads): (Vec<usize>, Vec<Tensor>) = found.into_iter().unzip();
        let grads = lifted::node_of(self.ctx.op(), self.vars, self.leaves, grads, start)?;
        Ok(positions.into_iter().zip(grads).collect())
    }

    fn differentiate(
        &self,
        ctx: &Ctx,
        dy: &mut [Option<Tensor>],
        double_backward: DoubleBackward,
    ) -> Result<Vec<(usize, Tensor)>> {
        let _mode = ffi::GradMode::set(double_backward != DoubleBackward::Once);
        let mut found = Vec::new();
        differentiate(&*self.recorded.op, ctx, dy, |i, grad| {
            found.push((i, grad));
            Ok(())
        })?;
        Ok(found)
    }

    /// Makes a leaf of libtorch's graph that stands for `var`.
    fn leaf(&mut self, value: &Tensor, var: Var) -> Result<Tensor> {
        let leaf = lifted::stand_in(self.ctx.op(), value, var.requires_grad())?;
        self.adopt(leaf.shallow_clone(), var);
        Ok(leaf)
    }

    fn adopt(&mut self, leaf: Tensor, var: Var) {
        self.vars.push(var);
        self.leaves.push(leaf);
    }

    fn differentiable_leaves(&self) -> Vec<Tensor> {
        let leaves = self.leaves.iter().filter(|leaf| leaf.requires_grad());
        leaves.map(Tensor::shallow_clone).collect()
    }

    /// Makes the context with leaves in place of saved inputs and outputs; other saved
    /// tensors refuse to be differentiated.
    fn through_saved(&mut self) -> Result<Ctx> {
        let context = self.ctx.share();
        let mut saved = Vec::new();
        let mut behind = None;
        for (position, kept) in context.saved().iter().enumerate() {
            kept.check(self.ctx.op(), position)?;
            saved.push(match self.var_of(kept) {
                Some(var) if matches!(kept.origin, Origin::LeafFor(_)) => {
                    self.adopt(kept.tensor.shallow_clone(), var);
                    kept.tensor.shallow_clone()
                }
                Some(var) => self.leaf(&kept.tensor, var)?,
                None if self.is_refused(kept)? => {
                    if behind.is_none() {
                        behind = Some(self.leaves_for_inputs()?);
                    }
                    let behind = behind.as_deref().unwrap_or_default();
                    refuse(self.ctx.op(), &kept.tensor, behind, Refused::Saved(position))?
                }
                // A captured parameter brings its history; an input or an output has none here.
                None if kept.origin == Origin::Intermediate => kept.tensor.shallow_clone(),
                None => kept.tensor.detach(),
            });
        }
        let saved = saved.into_iter().map(|t| Saved::of(t, Origin::Intermediate));
        Ok(Ctx { saved: saved.collect(), ..Ctx::new(self.ctx.frame.clone(), Stage::Backward) })
    }

    /// Returns the input or output that was saved, if a gradient can flow to it.
    fn var_of(&self, kept: &Saved) -> Option<Var> {
        let edge = match kept.origin {
            Origin::Input(i) | Origin::LeafFor(i) => self.recorded.edges[i as usize].clone()?,
            Origin::Output(output) => Edge { node: self.node.clone(), output },
            _ => return None,
        };
        Some(Var::stand_in(kept.tensor.shallow_clone(), &edge))
    }

    fn is_refused(&self, kept: &Saved) -> Result<bool> {
        let d = ffi::describe(self.ctx.op(), &kept.tensor)?;
        Ok(kept.origin == Origin::Intermediate && !d.requires_grad && d.is_differentiable())
    }

    /// Makes leaves that stand for the inputs, whose values are not at hand.
    fn leaves_for_inputs(&mut self) -> Result<Vec<Tensor>> {
        let mut leaves = Vec::new();
        for (i, edge) in self.recorded.edges.iter().enumerate() {
            if let Some(edge) = edge {
                let nothing = self.ctx.frame.inputs[i].meta.expanded_zero(self.ctx.op())?;
                let var = Var::stand_in(nothing.shallow_clone(), edge);
                leaves.push(self.leaf(&nothing, var)?);
            }
        }
        Ok(leaves)
    }

    /// Makes the context that a second `forward` leaves, run on leaves in place of the
    /// inputs.
    fn recompute(&mut self) -> Result<Ctx> {
        let context = self.ctx.share();
        let mut leaves: Vec<Option<Tensor>> = context.frame.inputs.iter().map(|_| None).collect();
        for kept in context.kept_inputs() {
            let Origin::Input(position) = kept.origin else { continue };
            let position = position as usize;
            kept.check(self.ctx.op(), position)?;
            leaves[position] = Some(match self.var_of(kept) {
                Some(var) => self.leaf(&kept.tensor, var)?,
                None => kept.tensor.detach(),
            });
        }
        let mut ctx = self.recorded.op.recompute(&context, &mut leaves.into_iter())?;
        ctx.frame.set_needs(|i| self.ctx.needs(i));
        Ok(ctx)
    }
}
