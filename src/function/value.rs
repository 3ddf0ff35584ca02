//! [`Value`]: what a Function's inputs and outputs are made of, and [`Engine`]:
//! what differentiates them.

use super::{Function, Of, Refs};
use crate::error::Result;
use tch::Tensor;

/// A plain [`Tensor`], or a [`Var`](crate::Var) in this crate's graph.
pub trait Value: Sized + 'static {
    /// The plain tensor.
    fn tensor(&self) -> &Tensor;
}

/// Values that Functions can be applied to and that can be differentiated.
pub trait Differentiable: Value + Engine {}
impl<V: Value + Engine> Differentiable for V {}

/// The operations of an engine on its values.
pub trait Engine: Value {
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Self>) -> Result<Of<F::Outputs, Self>>;
    /// Returns another handle to the same value.
    fn share(&self) -> Self;
    fn grad(
        outputs: &[&Self],
        inputs: &[&Self],
        options: &PassOptions<'_, Self>,
    ) -> Result<Vec<Option<Self>>>;
    fn backward(outputs: &[&Self], options: &PassOptions<'_, Self>) -> Result<()>;
}

/// The options of one backward pass.
pub struct PassOptions<'a, V> {
    pub seeds: Vec<&'a V>,
    pub retain_graph: bool,
    pub create_graph: bool,
    pub allow_unused: bool,
}

impl<V> Default for PassOptions<'_, V> {
    fn default() -> Self {
        PassOptions {
            seeds: Vec::new(),
            retain_graph: false,
            create_graph: false,
            allow_unused: false,
        }
    }
}

impl Value for Tensor {
    fn tensor(&self) -> &Tensor {
        self
    }
}
