//! [`Node`]: a vertex of the own graph, `x_i = f_i(x_parents(i))`.
//!
//! Note [Sequence numbers]: every node takes the next number of one global
//! counter when it is made, after its parents, which must exist by then. So a
//! child's number is greater than any of its parents', and visiting nodes from
//! the greatest number down is a reverse topological order.

use crate::{
    Ctx, Error, Function, Result,
    error::run_user,
    ffi,
    meta::Meta,
    tensors::sealed::Shape,
};
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tch::Tensor;

/// One gradient per output of a node.
pub(crate) type Outputs<T> = SmallVec<[T; 1]>;
/// One entry per input of a node.
pub(crate) type Inputs<T> = SmallVec<[T; 2]>;

pub(crate) struct Node {
    pub seq: u64,
    pub outputs: Outputs<Output>,
    pub role: Role,
}

pub(crate) enum Role {
    /// A value that gradients are asked for.
    Leaf(Mutex<Leaf>),
    /// A value without a gradient; the op that took it away, if one did.
    Constant { blocked_by: Option<&'static str> },
    /// The output of an op.
    Op(Recorded),
}

/// What is known of a value besides its tensor.
pub(crate) struct Output {
    pub meta: Meta,
    pub differentiable: bool,
    version: AtomicU32,
    superseded_by: OnceLock<&'static str>,
}

#[derive(Default)]
pub(crate) struct Leaf {
    pub grad: Option<Tensor>,
    /// The tch tensor that the leaf was made from, if that requires a gradient
    /// itself: then gradients go to its `.grad`, where tch's optimizers look.
    pub source: Option<Tensor>,
}

/// One application of a Function.
pub(crate) struct Recorded {
    pub op: Box<dyn Backward>,
    pub edges: Inputs<Option<Edge>>,
    /// `None` once it was used by a pass that did not retain the graph.
    ctx: Mutex<Option<Box<Ctx>>>,
}

/// Output `output` of `node`.
#[derive(Clone)]
pub(crate) struct Edge {
    pub node: Arc<Node>,
    pub output: u32,
}

/// A Function whose types are forgotten.
pub(crate) trait Backward: Send + Sync {
    fn name(&self) -> &'static str;
    /// The gradients of the inputs, one per position, unchecked. `dy` has one
    /// per output, `None` for absent optional ones.
    fn backward(&self, ctx: &Ctx, dy: Outputs<Option<Tensor>>) -> Result<Inputs<Option<Tensor>>>;
}

/// A Function and the layouts of one application.
pub(crate) struct Applied<F: Function> {
    pub f: F,
    pub inputs: <F::Inputs as Shape>::Layout,
    pub outputs: <F::Outputs as Shape>::Layout,
}

impl<F: Function> Backward for Applied<F> {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn backward(&self, ctx: &Ctx, dy: Outputs<Option<Tensor>>) -> Result<Inputs<Option<Tensor>>> {
        let op = ctx.op();
        let mut dy = dy.into_iter();
        let dy = F::Outputs::build(&self.outputs, &mut || dy.next().flatten());
        let grads = run_user(op, "backward", Error::backward, || {
            self.f.backward(ctx, F::Outputs::borrow(&dy))
        })?;
        let mut flat = Inputs::new();
        F::Inputs::take_grads(grads, Some(&self.inputs), &mut |g| flat.push(g))
            .map_err(|m| Error::GradientCount { op, expected: m.expected, found: m.found })?;
        Ok(flat)
    }
}

impl Node {
    pub fn new(outputs: Outputs<Output>, role: Role) -> Arc<Node> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Node { seq: NEXT.fetch_add(1, Ordering::Relaxed), outputs, role })
    }

    pub fn requires_grad(&self) -> bool {
        !matches!(self.role, Role::Constant { .. })
    }

    /// The name of the op that made it, or what it is instead.
    pub fn name(&self) -> &'static str {
        match &self.role {
            Role::Leaf(_) => "leaf",
            Role::Constant { .. } => "constant",
            Role::Op(recorded) => recorded.op.name(),
        }
    }

    pub fn edges(&self) -> &[Option<Edge>] {
        match &self.role {
            Role::Op(recorded) => &recorded.edges,
            _ => &[],
        }
    }
}

impl Recorded {
    pub fn new(op: Box<dyn Backward>, edges: Inputs<Option<Edge>>, ctx: Box<Ctx>) -> Recorded {
        Recorded { op, edges, ctx: Mutex::new(Some(ctx)) }
    }

    /// The context, for one pass: a copy if the graph is retained, else the
    /// context itself, so that saved tensors go as the pass goes.
    pub fn take_ctx(&self, retain: bool) -> Result<Box<Ctx>> {
        let mut ctx = lock(&self.ctx);
        let taken = if retain { ctx.as_ref().map(|ctx| Box::new(ctx.share())) } else { ctx.take() };
        taken.ok_or_else(|| Error::GraphFreed { op: self.op.name() })
    }

    /// Undoes `take_ctx` after a pass that failed here.
    pub fn put_back(&self, ctx: Box<Ctx>) {
        lock(&self.ctx).get_or_insert(ctx);
    }
}

impl Output {
    pub fn of(d: &ffi::Description) -> Output {
        Output::new(Meta::of(d), d.version)
    }

    /// Of an optional value that is not there.
    pub fn absent() -> Output {
        Output::new(Meta::undefined(), 0)
    }

    /// The same value for another node.
    pub fn again(&self) -> Output {
        Output::new(self.meta.clone(), self.version())
    }

    fn new(meta: Meta, version: u32) -> Output {
        Output {
            meta,
            differentiable: false,
            version: AtomicU32::new(version),
            superseded_by: OnceLock::new(),
        }
    }

    /// The version that the tensor should have.
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Relaxed)
    }

    pub fn set_version(&self, version: u32) {
        self.version.store(version, Ordering::Relaxed)
    }

    /// The op that changed the value in place, if one did.
    pub fn superseded_by(&self) -> Option<&'static str> {
        self.superseded_by.get().copied()
    }

    pub fn supersede(&self, by: &'static str) {
        self.superseded_by.get_or_init(|| by);
    }
}

/// A lock that a panic elsewhere does not take away: what it guards is whole
/// between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Iterative: a recursive drop would need stack in proportion to the depth of
/// the graph. `into_inner` gives the node to exactly one of several threads
/// that let go of it at once.
impl Drop for Node {
    fn drop(&mut self) {
        let mut orphans = take_edges(self);
        while let Some(edge) = orphans.pop() {
            if let Some(mut node) = edge.and_then(|edge| Arc::into_inner(edge.node)) {
                orphans.append(&mut take_edges(&mut node));
            }
        }
    }
}

fn take_edges(node: &mut Node) -> Inputs<Option<Edge>> {
    match &mut node.role {
        Role::Op(recorded) => std::mem::take(&mut recorded.edges),
        _ => Inputs::new(),
    }
}
