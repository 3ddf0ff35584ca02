//! [`Leaf`]: a value that gradients are asked for, and where they are added up.

use super::node::{Node, Role, Start, lock};
use crate::error::{Error, Result};
use crate::ffi::{self, Meta, Pass, hooks};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tch::Tensor;

const OP: &str = "leaf";

const OTHER_DATA: &str = "stands for a parameter that got other data after the Var was made (by \
                          set_data, resize_, or a conversion to another dtype or device); make \
                          the Var anew with Var::leaf";

pub(crate) struct Leaf {
    /// The version that the leaf's tensor should have.
    pub version: AtomicU32,
    /// Whether the leaf stands for a parameter of libtorch's.
    is_parameter: bool,
    state: Mutex<State>,
}

struct State {
    /// The parameter itself; or the leaf's tensor.
    tensor: Tensor,
    /// The sum of a leaf that is no parameter. That of a parameter is its `.grad`, which
    /// tch's optimizers read.
    grad: Option<Tensor>,
    /// What stands for a parameter in graphs of libtorch's that this crate differentiates,
    /// kept so that its node lives as long as the leaf.
    tap: Option<Tensor>,
}

/// The leaves that stand for parameters, by the parameter's identity. However often one
/// is asked for, on whichever thread, a parameter has one leaf.
static PARAMETERS: Mutex<BTreeMap<usize, Weak<Node>>> = Mutex::new(BTreeMap::new());

impl Leaf {
    /// Makes the node of a leaf of its own.
    pub fn of_value(version: u32, value: Tensor) -> Arc<Node> {
        Leaf::node(version, value, false)
    }

    /// Returns the node of the leaf that stands for a parameter.
    pub fn of_parameter(identity: usize, version: u32, parameter: &Tensor) -> Arc<Node> {
        let mut parameters = lock(&PARAMETERS);
        if let Some(node) = parameters.get(&identity).and_then(Weak::upgrade) {
            return node;
        }
        let node = Leaf::node(version, parameter.shallow_clone(), true);
        parameters.insert(identity, Arc::downgrade(&node));
        node
    }

    fn node(version: u32, tensor: Tensor, is_parameter: bool) -> Arc<Node> {
        let state = Mutex::new(State { tensor, grad: None, tap: None });
        let leaf = Leaf { version: version.into(), is_parameter, state };
        Node::new(1, Role::Start(Start::Leaf(Box::new(leaf))))
    }

    /// Returns the parameter that the leaf stands for.
    pub fn parameter(&self) -> Option<Tensor> {
        self.is_parameter.then(|| lock(&self.state).tensor.shallow_clone())
    }

    /// Returns the tensor that stands for the parameter in graphs of libtorch's.
    pub fn tap(&self) -> Result<Tensor> {
        let (parameter, known) = {
            let state = lock(&self.state);
            (state.tensor.shallow_clone(), state.tap.as_ref().map(Tensor::shallow_clone))
        };
        // Without the lock: in some modes libtorch calls Python for each node that it makes.
        let tap = ffi::tap(OP, &parameter, known.as_ref())?;
        let _was = lock(&self.state).tap.replace(tap.shallow_clone());
        Ok(tap)
    }

    /// Returns whether the leaf gets gradients: a parameter may be frozen.
    #[inline]
    pub fn requires_grad(&self) -> bool {
        !self.is_parameter || lock(&self.state).tensor.requires_grad()
    }

    /// Checks that `value`, of this version, is still the leaf's: a parameter may have any
    /// version, since tch's optimizers change it, but must show the same memory.
    ///
    /// # Errors
    /// [`Error::ValueChanged`], [`Error::Argument`].
    pub fn check(
        &self,
        op: &'static str,
        input: usize,
        value: &Tensor,
        version: u32,
    ) -> Result<()> {
        if !self.is_parameter {
            let known = version == self.version.load(Relaxed);
            return if known { Ok(()) } else { Err(Error::ValueChanged { op, input }) };
        }
        if self.has_data_of(value) {
            return Ok(());
        }
        Err(Error::Argument { op, message: format!("input {input} {OTHER_DATA}") })
    }

    /// Checks that `value` may be changed in the place of the leaf.
    ///
    /// # Errors
    /// [`Error::Argument`].
    pub fn check_update(&self, op: &'static str, value: &Tensor) -> Result<()> {
        match !self.is_parameter || self.has_data_of(value) {
            true => Ok(()),
            false => Err(Error::Argument { op, message: format!("the Var {OTHER_DATA}") }),
        }
    }

    /// Returns whether `value` shows the memory that the parameter has now.
    fn has_data_of(&self, value: &Tensor) -> bool {
        ffi::same_data(value, &lock(&self.state).tensor)
    }

    /// Returns the gradient so far.
    pub fn grad(&self) -> Option<Tensor> {
        if let Some(parameter) = self.parameter() {
            return ffi::grad_of(&parameter);
        }
        lock(&self.state).grad.as_ref().map(Tensor::shallow_clone)
    }

    /// Forgets the gradient so far.
    pub fn zero_grad(&self) {
        if let Some(parameter) = self.parameter() {
            // None rather than zeros in place, as tch does: the user may hold the gradient.
            let none = Tensor::new();
            ffi::set_grad(OP, &parameter, &none).expect("a leaf may have no gradient");
        }
        // Dropped without the lock.
        let _was = lock(&self.state).grad.take();
    }

    /// Returns `grad` after the hooks that libtorch has on the parameter.
    pub fn hooked(&self, grad: Tensor) -> Result<Tensor> {
        let Some(parameter) = self.parameter().filter(hooks::has_hooks) else { return Ok(grad) };
        let pass = Pass {
            outputs: &[&parameter],
            seeds: &[grad],
            inputs: &[&parameter],
            retain_graph: false,
            create_graph: false,
        };
        let mut found = pass.grad(OP)?;
        Ok(found.pop().flatten().unwrap_or_else(Tensor::new))
    }

    /// Checks that a recorded pass may give the leaf's gradient.
    ///
    /// # Errors
    /// [`Error::NotYet`] for a parameter with a hook, which would not be recorded.
    pub fn check_recorded(&self) -> Result<()> {
        match self.parameter() {
            Some(parameter) if hooks::has_hooks(&parameter) => Err(Error::NotYet {
                what: "create_graph with the Var of a parameter that has a hook",
                instead: "remove the hook, or use tensors instead of Vars",
            }),
            _ => Ok(()),
        }
    }

    /// Checks that `grad` fits the leaf's tensor as it is now.
    fn check_gradient(&self, grad: &Tensor) -> Result<()> {
        let tensor = lock(&self.state).tensor.shallow_clone();
        if self.is_parameter && !tensor.is_leaf() {
            let message = "it stands for a parameter that an operation in place has made part of \
                           a graph since; make the Var anew with Var::leaf";
            return Err(Error::Argument { op: OP, message: message.to_owned() });
        }
        let (expected, found) = (ffi::describe(OP, &tensor)?, ffi::describe(OP, grad)?);
        let expected = Meta::of(&expected);
        if expected.fits(&found) {
            return Ok(());
        }
        let found = Meta::of(&found);
        let message = format!(
            "its gradient has {found}, its tensor now has {expected}: the tensor was resized or \
             converted after it was used; run backward before, or compute the outputs again"
        );
        Err(Error::Argument { op: OP, message })
    }

    fn accumulate(&self, grad: Tensor) -> Result<()> {
        let mut state = lock(&self.state);
        let sum = match state.grad.take() {
            Some(mut sum) => {
                // Where the sum fails, what was there stays.
                let added = ffi::accumulate(OP, &mut sum, &grad);
                state.grad = Some(sum);
                return added;
            }
            None => ffi::as_leaf_gradient(OP, &state.tensor, grad)?,
        };
        state.grad = Some(sum);
        Ok(())
    }
}

/// Adds gradients to leaves: to parameters in one pass of libtorch's engine, in which
/// their own nodes do it, with their lock, hooks and layout. A frozen parameter gets none.
///
/// # Errors
/// [`Error::Argument`] for a gradient that does not fit its leaf; nothing is added then.
/// Those of the hooks of parameters.
pub(super) fn accumulate(gradients: Vec<(&Leaf, Tensor)>) -> Result<()> {
    let _normal = ffi::modes::InferenceMode::leave();
    let gradients: Vec<_> =
        gradients.into_iter().filter(|(leaf, _)| leaf.requires_grad()).collect();
    gradients.iter().try_for_each(|(leaf, grad)| leaf.check_gradient(grad))?;
    let (mut parameters, mut seeds) = (Vec::new(), Vec::new());
    let mut own = Vec::new();
    for (leaf, grad) in gradients {
        match leaf.parameter() {
            Some(parameter) => {
                parameters.push(parameter);
                seeds.push(grad);
            }
            None => own.push((leaf, grad)),
        }
    }
    if !parameters.is_empty() {
        let outputs: Vec<&Tensor> = parameters.iter().collect();
        let pass = Pass {
            outputs: &outputs,
            seeds: &seeds,
            inputs: &[],
            retain_graph: false,
            create_graph: false,
        };
        pass.backward(OP)?;
    }
    own.into_iter().try_for_each(|(leaf, grad)| leaf.accumulate(grad))
}

/// Removes the leaf from `PARAMETERS`, unless a new leaf has its place.
impl Drop for Leaf {
    fn drop(&mut self) {
        if !self.is_parameter {
            return;
        }
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Ok(described) = ffi::describe(OP, &state.tensor) else { return };
        let mut parameters = lock(&PARAMETERS);
        if parameters.get(&described.identity).is_some_and(|node| node.strong_count() == 0) {
            parameters.remove(&described.identity);
        }
    }
}
