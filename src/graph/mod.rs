//! This crate's engine: a graph of Functions and reverse accumulation.

mod apply;
mod gradients;
mod leaf;
pub(crate) mod lifted;
mod node;
mod pass;
mod queue;
mod recorded;
mod relevant;
mod sum;
mod var;

pub use gradients::Gradients;
pub(crate) use gradients::gradients;
pub use var::Var;

use crate::application::cast_inputs;
use crate::error::Result;
use crate::function::{Engine, Function, Of, PassOptions, Refs, Value};
use tch::Tensor;

impl Value for Var {
    fn tensor(&self) -> &Tensor {
        self.value()
    }
}
impl Engine for Var {
    #[inline]
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Var>) -> Result<Of<F::Outputs, Var>> {
        cast_inputs(f, x, apply::apply)
    }
    fn share(&self) -> Var {
        self.clone()
    }
    fn grad(
        outputs: &[&Var],
        inputs: &[&Var],
        options: &PassOptions<'_, Var>,
    ) -> Result<Vec<Option<Var>>> {
        gradients::grad(outputs, inputs, options)
    }
    fn backward(outputs: &[&Var], options: &PassOptions<'_, Var>) -> Result<()> {
        gradients::backward(outputs, options)
    }
}
