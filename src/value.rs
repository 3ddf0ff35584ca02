//! [`Value`]: what a Function's inputs and outputs are made of.

use crate::{
    Function, GradOptions, Result,
    tensors::{Of, Refs},
};
use tch::Tensor;

/// A plain [`Tensor`], or a [`Var`](crate::Var) of this crate's own graph.
pub trait Value: Sized + 'static {
    /// The plain tensor.
    fn tensor(&self) -> &Tensor;
}

/// Values that Functions can be applied to and that can be differentiated.
pub trait Differentiable: Value + Engine {}
impl<V: Value + Engine> Differentiable for V {}

/// What an engine does with values of its own.
pub trait Engine: Value {
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Self>) -> Result<Of<F::Outputs, Self>>;
    /// Another handle to the same value.
    fn share(&self) -> Self;
    fn grad(
        outputs: &[&Self],
        inputs: &[&Self],
        options: &GradOptions<'_, Self>,
    ) -> Result<Vec<Option<Self>>>;
    fn backward(outputs: &[&Self], options: &GradOptions<'_, Self>) -> Result<()>;
}

impl Value for Tensor {
    fn tensor(&self) -> &Tensor {
        self
    }
}
