//! [`Var`]: a value in the crate's own graph.

use super::node::{Edge, Leaf, LeafState, Node, Role, Start, lock};
use crate::{Error, Gradients, Result, backward, error, ffi, grad::GradOptions, meta::Meta};
use std::borrow::Borrow;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use tch::Tensor;

/// A tensor with its place in the crate's own graph.
///
/// Cloning is cheap and keeps the identity; a Var can move to another thread.
/// Operators work on references (`&a + &b`, `&a * 2.0`) and panic where the
/// methods of the same ops return an `Err`.
pub struct Var {
    value: Tensor,
    edge: Edge,
    /// The in-place counter that `value` should have; a leaf's is in its node,
    /// for all its handles.
    version: u32,
}

impl Var {
    /// A value that gradients can be asked for. It shares memory with `value`.
    ///
    /// Made from a leaf of libtorch's that requires a gradient (a parameter of
    /// a `VarStore`), it stands for that parameter: [`backward`](Var::backward)
    /// adds to the parameter's own `.grad`, where tch's optimizers find it.
    ///
    /// # Panics
    /// For an undefined tensor and for a dtype that is not floating-point or
    /// complex, as [`try_leaf`](Var::try_leaf) reports.
    pub fn leaf(value: impl Borrow<Tensor>) -> Var {
        Var::try_leaf(value).unwrap_or_else(|e| panic!("{e}"))
    }

    /// As [`leaf`](Var::leaf).
    ///
    /// # Errors
    /// [`Error::Undefined`], [`Error::NotFloating`].
    pub fn try_leaf(value: impl Borrow<Tensor>) -> Result<Var> {
        const OP: &str = "Var::leaf";
        let given = value.borrow();
        let d = described(OP, given)?;
        if !d.is_differentiable() {
            return Err(Error::NotFloating { op: OP, found: Meta::of(&d).kind() });
        }
        let version = d.version;
        let source = (given.requires_grad() && given.is_leaf()).then(|| given.shallow_clone());
        let state = Mutex::new(LeafState { grad: None, source });
        let leaf = Start::Leaf(Box::new(Leaf { version: version.into(), state }));
        Ok(Var::new(outside_libtorch(given), version, Node::new(1, Role::Start(leaf)), 0))
    }

    /// A value without a gradient. It shares memory with `value`.
    ///
    /// # Panics
    /// For an undefined tensor.
    pub fn constant(value: impl Borrow<Tensor>) -> Var {
        let value = value.borrow();
        let d = described("Var::constant", value).unwrap_or_else(|e| panic!("{e}"));
        Var::blocked(outside_libtorch(value), d.version, None)
    }

    /// A constant that an op has made one.
    pub(crate) fn blocked(value: Tensor, version: u32, blocked_by: Option<&'static str>) -> Var {
        let constant = Role::Start(Start::Constant { blocked_by });
        Var::new(value, version, Node::new(1, constant), 0)
    }

    #[inline]
    pub(crate) fn new(value: Tensor, version: u32, node: Arc<Node>, output: u32) -> Var {
        Var { value, edge: Edge { node, output }, version }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether a gradient can be asked for.
    pub fn requires_grad(&self) -> bool {
        self.node().requires_grad()
    }

    /// The same value as a constant: no gradient flows back from it.
    pub fn detach(&self) -> Var {
        Var::constant(&self.value)
    }

    /// The gradient that [`backward`](Var::backward) has added up in this leaf.
    pub fn grad(&self) -> Option<Tensor> {
        lock(&self.node().leaf()?.state).grad()
    }

    /// Forgets the gradient added up in this leaf.
    pub fn zero_grad(&self) {
        let Some(leaf) = self.node().leaf() else { return };
        let mut state = lock(&leaf.state);
        state.grad = None;
        if let Some(source) = &mut state.source {
            source.zero_grad();
        }
    }

    /// Adds the gradient of this one-element value to every leaf behind it.
    /// [`GradOptions`](crate::GradOptions) has seeds and more.
    ///
    /// # Errors
    /// As [`backward`](crate::backward()).
    pub fn backward(&self) -> Result<()> {
        backward(self)
    }

    /// The gradient of this one-element value with respect to every value that
    /// it was computed from.
    ///
    /// # Errors
    /// As [`backward`](crate::backward()).
    pub fn gradients(&self) -> Result<Gradients> {
        GradOptions::new().gradients(self)
    }

    /// Changes a leaf's tensor in place, as an optimizer does: outside the
    /// graph, and so that the leaf stays usable. Graphs that saved the old
    /// value report it when they are differentiated.
    ///
    /// # Errors
    /// [`Error::Argument`] when it is no leaf; [`Error::Panic`].
    pub fn update(&self, change: impl FnOnce(&mut Tensor)) -> Result<()> {
        const OP: &str = "Var::update";
        let Some(leaf) = self.node().leaf() else {
            let message = format!("only a leaf can be updated, this is a {}", self.node().name());
            return Err(Error::Argument { op: OP, message });
        };
        let done = error::run_user(OP, "the closure", Error::forward, || {
            let _no_grad = ffi::GradMode::set(false);
            change(&mut self.value.shallow_clone());
            Ok(())
        });
        leaf.version.store(ffi::version(&self.value), Relaxed);
        done
    }

    /// The parameter of libtorch's that this leaf stands for.
    pub(crate) fn parameter(&self) -> Option<Tensor> {
        lock(&self.node().leaf()?.state).source.as_ref().map(Tensor::shallow_clone)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Why the value is not the one that the graph knows, if it is not; `found`
    /// is the tensor's in-place counter.
    #[inline]
    pub(crate) fn check_current(&self, op: &'static str, input: usize, found: u32) -> Result<()> {
        if let Some(by) = self.node().superseded_by(self.edge.output) {
            return Err(Error::Superseded { op, input, by });
        }
        let current = match self.node().leaf() {
            Some(leaf) => leaf.is_current(found),
            None => found == self.version,
        };
        if current { Ok(()) } else { Err(Error::ValueChanged { op, input }) }
    }
}

impl Leaf {
    /// Leaves that stand for a parameter of libtorch's change when tch's
    /// optimizers step.
    fn is_current(&self, version: u32) -> bool {
        version == self.version.load(Relaxed) || lock(&self.state).source.is_some()
    }
}

impl LeafState {
    pub fn grad(&self) -> Option<Tensor> {
        match &self.source {
            Some(source) => Some(source.grad()).filter(Tensor::defined),
            None => self.grad.as_ref().map(Tensor::shallow_clone),
        }
    }
}

fn described<'a>(op: &'static str, value: &'a Tensor) -> Result<ffi::Description<'a>> {
    let d = ffi::describe(op, value)?;
    match d.is_defined() {
        true => Ok(d),
        false => Err(Error::Undefined { op, what: "the value".to_owned() }),
    }
}

/// A handle that libtorch's autograd does not follow.
fn outside_libtorch(t: &Tensor) -> Tensor {
    if t.requires_grad() { t.detach() } else { t.shallow_clone() }
}

impl Clone for Var {
    fn clone(&self) -> Var {
        Var { value: self.value.shallow_clone(), edge: self.edge.clone(), version: self.version }
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({}, {:?})", self.node().name(), self.value)
    }
}
