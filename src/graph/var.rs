//! [`Var`]: a value in this crate's graph.

use super::gradients::{self, Gradients};
use super::leaf::Leaf;
use super::node::{Edge, Node, Role, Start};
use crate::application::run_user;
use crate::error::{Error, Result};
use crate::ffi::{self, Meta};
use crate::function::PassOptions;
use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tch::Tensor;

/// A tensor with its place in this crate's graph.
///
/// Cloning is cheap and keeps the identity; a Var can move to another thread.
/// Operators work on references (`&a + &b`, `&a * 2.0`) and panic where the
/// methods of the same ops return an `Err`.
pub struct Var {
    value: Tensor,
    edge: Edge,
    /// The in-place counter that `value` should have. A leaf has it in its node, for
    /// all its handles.
    version: u32,
    /// Whether the value lies in the memory of a leaf, which no op may change.
    in_leaf: bool,
}

/// The version of a Var whose value is never read, only its place in the graph.
const STAND_IN: u32 = u32::MAX;

impl Var {
    /// Makes a value that gradients can be asked for. It shares memory with `value`.
    ///
    /// Made from a leaf of libtorch's that requires a gradient (a parameter of
    /// a `VarStore`), it stands for that parameter: [`backward`](Var::backward)
    /// adds to the parameter's own `.grad`, where tch's optimizers find it. All
    /// leaves made from one parameter are the same leaf, which follows what optimizers do to
    /// it. A parameter that is frozen when a Var is made cannot be told from other
    /// tensors: the Var is a leaf of its own then. Make Vars before `freeze`.
    ///
    /// # Panics
    /// For an undefined tensor and for a dtype that is not floating-point or
    /// complex, as [`try_leaf`](Var::try_leaf) reports.
    pub fn leaf(value: impl Borrow<Tensor>) -> Var {
        Var::try_leaf(value).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Does what [`leaf`](Var::leaf) does.
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
        let (version, value) = (d.version, outside_libtorch(given, &d));
        let node = if d.requires_grad && given.is_leaf() {
            Leaf::of_parameter(d.identity, version, given)
        } else {
            Leaf::of_value(version, value.shallow_clone())
        };
        Ok(Var::new(value, version, node, 0))
    }

    /// Makes a value without a gradient. It shares memory with `value`.
    ///
    /// # Panics
    /// For an undefined tensor.
    pub fn constant(value: impl Borrow<Tensor>) -> Var {
        let value = value.borrow();
        let d = described("Var::constant", value).unwrap_or_else(|e| panic!("{e}"));
        Var::blocked(outside_libtorch(value, &d), d.version, None)
    }

    /// Makes a constant; `blocked_by` is the op that took the gradient away.
    pub(crate) fn blocked(value: Tensor, version: u32, blocked_by: Option<&'static str>) -> Var {
        let constant = Role::Start(Start::Constant { blocked_by });
        Var::new(value, version, Node::new(1, constant), 0)
    }

    /// Makes a Var at an edge of the graph, whose value only has the right shape.
    pub(crate) fn stand_in(value: Tensor, edge: &Edge) -> Var {
        Var { value, edge: edge.clone(), version: STAND_IN, in_leaf: false }
    }

    #[inline]
    pub(crate) fn new(value: Tensor, version: u32, node: Arc<Node>, output: u32) -> Var {
        let in_leaf = node.leaf().is_some();
        Var { value, edge: Edge { node, output }, version, in_leaf }
    }

    /// Notes whether the value lies in the memory of a leaf.
    #[inline]
    pub(crate) fn lying_in_leaf(mut self, in_leaf: bool) -> Var {
        self.in_leaf |= in_leaf;
        self
    }

    pub(crate) fn is_in_leaf(&self) -> bool {
        self.in_leaf
    }

    /// Returns the tensor. Changing it in place makes the Var unusable; for leaves use
    /// [`update`](Var::update).
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Returns whether a gradient can be asked for.
    pub fn requires_grad(&self) -> bool {
        self.node().requires_grad()
    }

    /// Returns the same value as a constant: no gradient flows back from it. A parameter's
    /// Var gives the data that the parameter has now.
    pub fn detach(&self) -> Var {
        let parameter = self.node().leaf().and_then(Leaf::parameter);
        Var::constant(parameter.as_ref().unwrap_or(&self.value)).lying_in_leaf(self.in_leaf)
    }

    /// Returns the gradient that [`backward`](Var::backward) has added up in this leaf.
    pub fn grad(&self) -> Option<Tensor> {
        self.node().leaf()?.grad()
    }

    /// Forgets the gradient added up in this leaf.
    pub fn zero_grad(&self) {
        if let Some(leaf) = self.node().leaf() {
            leaf.zero_grad();
        }
    }

    /// Adds the gradient of this one-element value to every leaf behind it.
    /// [`GradOptions`](crate::GradOptions) has seeds and more.
    ///
    /// # Errors
    /// Those of [`backward`](crate::backward()).
    pub fn backward(&self) -> Result<()> {
        gradients::backward(&[self], &PassOptions::default())
    }

    /// Returns the gradient of this one-element value with respect to every value that
    /// it was computed from.
    ///
    /// # Errors
    /// Those of [`backward`](crate::backward()).
    pub fn gradients(&self) -> Result<Gradients> {
        gradients::gradients(&[self], &PassOptions::default())
    }

    /// Changes a leaf's tensor in place, as an optimizer does: outside the
    /// graph, and so that the leaf stays usable. Graphs that saved the old
    /// value report it when they are differentiated.
    ///
    /// # Errors
    /// [`Error::Argument`] when it is no leaf, and when the closure assigns
    /// another tensor (`*t = ...`), which would leave the leaf as it was, and when the
    /// parameter that the leaf stands for got other data;
    /// [`Error::Panic`].
    pub fn update(&self, change: impl FnOnce(&mut Tensor)) -> Result<()> {
        const OP: &str = "Var::update";
        let Some(leaf) = self.node().leaf() else {
            let message = format!("only a leaf can be updated, this is a {}", self.node().name());
            return Err(Error::Argument { op: OP, message });
        };
        leaf.check_update(OP, &self.value)?;
        let mut value = self.value.shallow_clone();
        let done = run_user(OP, "the closure", Error::forward, || {
            let _no_grad = ffi::GradMode::set(false);
            change(&mut value);
            Ok(())
        });
        leaf.version.store(ffi::version(&self.value), Relaxed);
        if ffi::describe(OP, &value)?.identity != ffi::describe(OP, &self.value)?.identity {
            let message = "the closure assigned another tensor, which the leaf knows nothing of; \
                           change the tensor in place (copy_, g_sub_, ...)";
            return Err(Error::Argument { op: OP, message: message.to_owned() });
        }
        done
    }

    /// Checks that a gradient can be asked for.
    ///
    /// # Errors
    /// [`Error::NotDifferentiable`] if an op took the gradient away, else `missing`.
    pub(crate) fn check_requires_grad(&self, missing: impl FnOnce() -> Error) -> Result<()> {
        match self.node().blocked_by() {
            Some(op) => Err(Error::NotDifferentiable { op }),
            None if !self.requires_grad() => Err(missing()),
            None => Ok(()),
        }
    }

    /// Returns the tch parameter that this leaf stands for.
    pub(crate) fn parameter(&self) -> Option<Tensor> {
        self.node().leaf()?.parameter()
    }

    /// Returns the tensor that stands for the parameter in graphs of libtorch's; the value
    /// if there is none.
    pub(crate) fn tap(&self) -> Result<Tensor> {
        self.node().leaf().map_or_else(|| Ok(self.value.shallow_clone()), Leaf::tap)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Checks that the value is the one that the graph knows; `found` is the tensor's
    /// in-place counter.
    ///
    /// # Errors
    /// [`Error::Superseded`], [`Error::ValueChanged`]; [`Error::Argument`] for a parameter
    /// that got other data.
    #[inline]
    pub(crate) fn check_current(&self, op: &'static str, input: usize, found: u32) -> Result<()> {
        if self.version == STAND_IN {
            return Ok(());
        }
        if let Some(by) = self.node().superseded_by(self.edge.output) {
            return Err(Error::Superseded { op, input, by });
        }
        match self.node().leaf() {
            Some(leaf) => leaf.check(op, input, &self.value, found),
            None if found == self.version => Ok(()),
            None => Err(Error::ValueChanged { op, input }),
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

/// Returns a tensor with the same memory and in-place counter that libtorch's autograd
/// does not follow, whatever becomes of `t`. An inference tensor stays one: a view of it
/// would have a counter, which does not see its changes.
fn outside_libtorch(t: &Tensor, d: &ffi::Description<'_>) -> Tensor {
    if d.is_inference { t.shallow_clone() } else { t.detach() }
}

impl Clone for Var {
    fn clone(&self) -> Var {
        let (value, edge) = (self.value.shallow_clone(), self.edge.clone());
        Var { value, edge, version: self.version, in_leaf: self.in_leaf }
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({}, {:?})", self.node().name(), self.value)
    }
}
