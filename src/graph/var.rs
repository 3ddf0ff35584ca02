//! [`Var`]: a value in the crate's own graph.

use super::node::{Edge, Leaf, Node, Output, Role, lock};
use crate::{Error, Gradients, Result, backward, error, ffi, grad::GradOptions};
use smallvec::smallvec;
use std::borrow::Borrow;
use std::fmt;
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
        let output = described(OP, given)?;
        if !output.meta.is_differentiable() {
            return Err(Error::NotFloating { op: OP, found: output.meta.kind() });
        }
        let source = (given.requires_grad() && given.is_leaf()).then(|| given.shallow_clone());
        let leaf = Leaf { grad: None, source };
        Ok(Var::from_parts(outside_libtorch(given), output, Role::Leaf(Mutex::new(leaf))))
    }

    /// A value without a gradient. It shares memory with `value`.
    ///
    /// # Panics
    /// For an undefined tensor.
    pub fn constant(value: impl Borrow<Tensor>) -> Var {
        let value = value.borrow();
        let output = described("Var::constant", value).unwrap_or_else(|e| panic!("{e}"));
        Var::from_parts(outside_libtorch(value), output, Role::Constant { blocked_by: None })
    }

    fn from_parts(value: Tensor, output: Output, role: Role) -> Var {
        Var::from_edge(value, Node::new(smallvec![output], role), 0)
    }

    pub(crate) fn from_edge(value: Tensor, node: Arc<Node>, output: usize) -> Var {
        Var { value, edge: Edge { node, output: output as u32 } }
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
        let Role::Leaf(leaf) = &self.node().role else { return None };
        let leaf = lock(leaf);
        match &leaf.source {
            Some(source) => Some(source.grad()).filter(Tensor::defined),
            None => leaf.grad.as_ref().map(Tensor::shallow_clone),
        }
    }

    /// Forgets the gradient added up in this leaf.
    pub fn zero_grad(&self) {
        let Role::Leaf(leaf) = &self.node().role else { return };
        let mut leaf = lock(leaf);
        leaf.grad = None;
        if let Some(source) = &mut leaf.source {
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
        if !matches!(self.node().role, Role::Leaf(_)) {
            let message = format!("only a leaf can be updated, this is a {}", self.node().name());
            return Err(Error::Argument { op: OP, message });
        }
        let done = error::run_user(OP, "the closure", Error::forward, || {
            let _no_grad = ffi::GradMode::set(false);
            change(&mut self.value.shallow_clone());
            Ok(())
        });
        self.output().set_version(ffi::version(&self.value));
        done
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.edge.node
    }

    pub(crate) fn edge(&self) -> &Edge {
        &self.edge
    }

    pub(crate) fn output(&self) -> &Output {
        &self.edge.node.outputs[self.edge.output as usize]
    }
}

fn described(op: &'static str, value: &Tensor) -> Result<Output> {
    let output = Output::of(&ffi::describe(op, value)?);
    if output.meta.is_defined() {
        return Ok(output);
    }
    Err(Error::Undefined { op, what: "the value".to_owned() })
}

/// A handle that libtorch's autograd does not follow.
fn outside_libtorch(t: &Tensor) -> Tensor {
    if t.requires_grad() { t.detach() } else { t.shallow_clone() }
}

impl Clone for Var {
    fn clone(&self) -> Var {
        Var { value: self.value.shallow_clone(), edge: self.edge.clone() }
    }
}

impl fmt::Debug for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Var({}, {:?})", self.node().name(), self.value)
    }
}
