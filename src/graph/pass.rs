//! The backward pass: reverse accumulation over the own graph.
//!
//! It seeds `dx_N/dx_N = 1`, visits nodes in reverse topological order (Note
//! [Sequence numbers] in `node.rs`), and sums each node's gradient over its
//! children: `dx_N/dx_i = sum over children j of dx_N/dx_j * dx_j/dx_i`.

use super::node::{Edge, Inputs, Node, Outputs, Recorded, Role};
use super::var::Var;
use crate::{Ctx, Result, ffi, meta::Meta, rules};
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use tch::Tensor;

/// The nodes that wait for their gradient to be complete, by sequence number.
pub(crate) struct Pass<'g> {
    waiting: BTreeMap<u64, Waiting<'g>>,
    relevant: Option<Seqs>,
    retain: bool,
}

struct Waiting<'g> {
    node: &'g Node,
    grads: Outputs<Option<Tensor>>,
}

impl<'g> Waiting<'g> {
    fn of(node: &'g Node) -> Waiting<'g> {
        let mut grads = Outputs::new();
        grads.resize_with(node.outputs.len(), || None);
        Waiting { node, grads }
    }
}

impl<'g> Pass<'g> {
    /// A pass from `outputs`, with one seed each. With `targets` it runs only
    /// the nodes between them and the outputs.
    pub fn new(
        outputs: &[&'g Var],
        seeds: Vec<Tensor>,
        targets: Option<&[&'g Var]>,
        retain: bool,
    ) -> Result<Pass<'g>> {
        let relevant = targets.map(|targets| relevant(outputs, targets));
        let mut pass = Pass { waiting: BTreeMap::new(), relevant, retain };
        for (output, seed) in outputs.iter().zip(seeds) {
            pass.add(output.node().name(), output.edge(), seed)?;
        }
        Ok(pass)
    }

    /// Runs to the end. `visit` sees every node with its complete gradients,
    /// before the node runs; it must leave them there if the node is to run.
    pub fn run(
        &mut self,
        mut visit: impl FnMut(&'g Node, &mut [Option<Tensor>]) -> Result<()>,
    ) -> Result<()> {
        while let Some((_, Waiting { node, mut grads })) = self.waiting.pop_last() {
            visit(node, &mut grads)?;
            let Role::Op(recorded) = &node.role else { continue };
            if recorded.edges.iter().flatten().any(|edge| self.wants(edge)) {
                self.step(node, recorded, grads)?;
            }
        }
        Ok(())
    }

    /// One node: from the gradients of its outputs to those of its parents.
    fn step(
        &mut self,
        node: &'g Node,
        recorded: &'g Recorded,
        grads: Outputs<Option<Tensor>>,
    ) -> Result<()> {
        let mut ctx = recorded.take_ctx(self.retain)?;
        if self.relevant.is_some() {
            ctx.set_needs(|i| recorded.edges[i].as_ref().is_some_and(|edge| self.wants(edge)));
        }
        match gradients(node, recorded, &ctx, grads) {
            Ok(found) => self.pass_on(&ctx, recorded, found),
            Err(e) => {
                recorded.put_back(ctx);
                Err(e)
            }
        }
    }

    fn pass_on(
        &mut self,
        ctx: &Ctx,
        recorded: &'g Recorded,
        found: Inputs<Option<Tensor>>,
    ) -> Result<()> {
        for (i, grad) in found.into_iter().enumerate() {
            if let (Some(edge), Some(grad), true) = (&recorded.edges[i], grad, ctx.needs(i)) {
                self.add(ctx.op(), edge, grad)?;
            }
        }
        Ok(())
    }

    fn wants(&self, edge: &Edge) -> bool {
        self.relevant.as_ref().is_none_or(|relevant| relevant.contains(&edge.node.seq))
    }

    /// Sums `grad` into what the node has from its other children.
    fn add(&mut self, op: &'static str, edge: &'g Edge, grad: Tensor) -> Result<()> {
        let node = &*edge.node;
        let waiting = self.waiting.entry(node.seq).or_insert_with(|| Waiting::of(node));
        match &mut waiting.grads[edge.output as usize] {
            Some(sum) => ffi::accumulate(op, sum, &grad)?,
            empty => *empty = Some(grad),
        }
        Ok(())
    }
}

/// What the node's backward returns, checked where it is needed.
fn gradients(
    node: &Node,
    recorded: &Recorded,
    ctx: &Ctx,
    mut grads: Outputs<Option<Tensor>>,
) -> Result<Inputs<Option<Tensor>>> {
    for (grad, output) in grads.iter_mut().zip(&node.outputs) {
        if grad.is_none() && output.meta.is_defined() {
            *grad = Some(materialize(ctx, &output.meta)?);
        }
    }
    let found = recorded.op.backward(ctx, grads)?;
    for (i, grad) in found.iter().enumerate() {
        if let (Some(grad), true) = (grad, ctx.needs(i)) {
            rules::check_gradient(ctx, i, grad)?;
        }
    }
    Ok(found)
}

/// A gradient that is not there.
fn materialize(ctx: &Ctx, meta: &Meta) -> Result<Tensor> {
    if ctx.materialize_grads() { meta.zeros(ctx.op()) } else { Ok(Tensor::new()) }
}

/// Sequence numbers are unique, so a multiplication spreads them well enough.
#[derive(Default)]
struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }
    fn write_u64(&mut self, seq: u64) {
        self.0 = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }
}

type Seqs = HashSet<u64, BuildHasherDefault<SeqHasher>>;

/// The targets and every node behind `outputs` from which one can be reached.
fn relevant(outputs: &[&Var], targets: &[&Var]) -> Seqs {
    let mut relevant: Seqs = targets.iter().map(|t| t.node().seq).collect();
    let Some(&oldest) = relevant.iter().min() else { return relevant };
    let mut nodes = reachable(outputs, oldest);
    nodes.sort_unstable_by_key(|node| node.seq);
    for node in nodes {
        if node.edges().iter().flatten().any(|edge| relevant.contains(&edge.node.seq)) {
            relevant.insert(node.seq);
        }
    }
    relevant
}

/// Every node behind `outputs` that is younger than `oldest`.
fn reachable<'g>(outputs: &[&'g Var], oldest: u64) -> Vec<&'g Node> {
    let mut seen = Seqs::default();
    let mut nodes: Vec<&Node> = Vec::new();
    let mut next = 0;
    let mut reach = |nodes: &mut Vec<&'g Node>, edge: &'g Edge| {
        if edge.node.seq > oldest && seen.insert(edge.node.seq) {
            nodes.push(&edge.node);
        }
    };
    outputs.iter().for_each(|output| reach(&mut nodes, output.edge()));
    while let Some(&node) = nodes.get(next) {
        next += 1;
        node.edges().iter().flatten().for_each(|edge| reach(&mut nodes, edge));
    }
    nodes
}
