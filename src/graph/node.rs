//! [`Node`]: a vertex of this crate's graph, `x_i = f_i(x_parents(i))`.
//!
//! Note [Sequence numbers]: every node takes the next number of one global
//! counter when it is made, after its parents, which must exist by then. So a
//! child's number is greater than any of its parents', and visiting nodes from
//! the greatest number down is a reverse topological order.

use super::leaf::Leaf;
use crate::application::Backward;
use crate::error::{Error, Result};
use crate::ffi;
use crate::function::Ctx;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// One gradient per output of a node.
pub(crate) type Outputs<T> = SmallVec<[T; 1]>;
/// One entry per input of a node.
pub(crate) type Inputs<T> = SmallVec<[T; 2]>;

pub(crate) struct Node {
    pub seq: u64,
    /// Number of outputs.
    pub outputs: u32,
    pub role: Role,
    superseded: OnceLock<Box<Superseded>>,
}

/// The origin of a node's values. With two variants the enum needs no tag of its own,
/// which keeps a node small (`a_node_is_small`); a third one would need a tag.
pub(crate) enum Role {
    /// The outputs of an op.
    Op(Operation),
    /// A value that no op made.
    Start(Start),
}

pub(crate) enum Start {
    /// A value that gradients are asked for.
    Leaf(Box<Leaf>),
    /// A value without a gradient; the op that took it away, if one did.
    Constant { blocked_by: Option<&'static str> },
}

/// The outputs that were changed in place, each with the op that did it.
type Superseded = Mutex<Vec<(u32, &'static str)>>;

/// One application of a Function, and what its backward needs.
pub(crate) struct Operation {
    pub op: Box<dyn Backward>,
    pub edges: Inputs<Option<Edge>>,
    /// `None` after a pass that did not retain the graph.
    ctx: Mutex<Option<Box<Ctx>>>,
}

/// Output `output` of `node`.
#[derive(Clone)]
pub(crate) struct Edge {
    pub node: Arc<Node>,
    pub output: u32,
}

impl Node {
    #[inline]
    pub fn new(outputs: u32, role: Role) -> Arc<Node> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let seq = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Node { seq, outputs, role, superseded: OnceLock::new() })
    }

    /// Marks an output's value as changed in place by an op.
    pub fn supersede(&self, output: u32, by: &'static str) {
        lock(self.superseded.get_or_init(Box::default)).push((output, by));
    }

    /// Returns the op that last changed the output's value in place, if one did.
    #[inline]
    pub fn superseded_by(&self, output: u32) -> Option<&'static str> {
        let list = lock(self.superseded.get()?);
        list.iter().rev().find(|(i, _)| *i == output).map(|(_, by)| *by)
    }

    /// Returns whether a gradient can be asked for. A parameter may be frozen.
    #[inline]
    pub fn requires_grad(&self) -> bool {
        match &self.role {
            Role::Op(_) => true,
            Role::Start(Start::Leaf(leaf)) => leaf.requires_grad(),
            Role::Start(Start::Constant { .. }) => false,
        }
    }

    /// Returns the name of the op, or `leaf` or `constant`.
    pub fn name(&self) -> &'static str {
        match &self.role {
            Role::Op(recorded) => recorded.op.name(),
            Role::Start(Start::Leaf(_)) => "leaf",
            Role::Start(Start::Constant { .. }) => "constant",
        }
    }

    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.role {
            Role::Start(Start::Leaf(leaf)) => Some(leaf),
            _ => None,
        }
    }

    /// Returns the op that made this a constant.
    pub fn blocked_by(&self) -> Option<&'static str> {
        match self.role {
            Role::Start(Start::Constant { blocked_by }) => blocked_by,
            _ => None,
        }
    }

    pub fn edges(&self) -> &[Option<Edge>] {
        match &self.role {
            Role::Op(recorded) => &recorded.edges,
            _ => &[],
        }
    }
}

impl Operation {
    #[inline]
    pub fn new(op: Box<dyn Backward>, edges: Inputs<Option<Edge>>, ctx: Box<Ctx>) -> Operation {
        Operation { op, edges, ctx: Mutex::new(Some(ctx)) }
    }

    /// Returns the context for one pass: a copy if the graph is retained, else the
    /// context itself, so that saved tensors are freed as the pass goes.
    #[inline]
    pub fn take_ctx(&self, retain: bool) -> Result<Box<Ctx>> {
        let mut ctx = lock(&self.ctx);
        let taken = if retain { ctx.as_ref().map(|ctx| Box::new(ctx.share())) } else { ctx.take() };
        taken.ok_or_else(|| Error::GraphFreed { op: self.op.name() })
    }

    /// Undoes `take_ctx` after a pass that failed here.
    pub fn put_back(&self, ctx: Box<Ctx>) {
        let mut place = lock(&self.ctx);
        if place.is_none() {
            *place = Some(ctx);
        }
    }
}

/// Locks, also after a panic of another thread: the value is whole between any two
/// statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees the nodes behind this one in a loop, and graphs that its state owns in turn: a
/// recursive drop would need stack in proportion to the depth.
impl Drop for Node {
    fn drop(&mut self) {
        if !self.edges().is_empty() {
            let nothing = Role::Start(Start::Constant { blocked_by: None });
            ffi::drop_in_turn(Graph(std::mem::replace(&mut self.role, nothing)));
        }
    }
}

/// What a node that is gone leaves: its op, and the nodes behind it. `into_inner` returns a
/// node to exactly one of several threads that drop their handles at once.
struct Graph(Role);

impl Drop for Graph {
    fn drop(&mut self) {
        let mut orphans = take_apart(&mut self.0);
        while let Some(edge) = orphans.pop() {
            if let Some(mut node) = edge.and_then(|edge| Arc::into_inner(edge.node)) {
                match orphans.is_empty() {
                    true => orphans = take_apart(&mut node.role),
                    false => orphans.append(&mut take_apart(&mut node.role)),
                }
            }
        }
    }
}

/// Takes the edges.
fn take_apart(role: &mut Role) -> Inputs<Option<Edge>> {
    let Role::Op(recorded) = role else { return Inputs::new() };
    std::mem::take(&mut recorded.edges)
}

/// A chunk of at most 128 bytes (with the counters and malloc's own word) is
/// one that glibc's malloc hands out and takes back without searching or
/// merging; the engine's speed on chains of small ops needs it.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_node_is_small() {
    let counters = 2 * size_of::<usize>();
    assert!(size_of::<Node>() + counters + 8 <= 128, "{} bytes", size_of::<Node>());
}
