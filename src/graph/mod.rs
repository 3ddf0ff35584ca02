//! The crate's own engine: a graph of Functions and reverse accumulation.

mod apply;
mod gradients;
mod node;
mod pass;
mod queue;
mod recorded;
mod var;

pub use gradients::Gradients;
pub use var::Var;

use crate::value::{Engine, Value};
use crate::{Function, GradOptions, Of, Refs, Result};
use tch::Tensor;

pub(crate) use gradients::gradients;

impl Value for Var {
    fn tensor(&self) -> &Tensor {
        self.value()
    }
}
impl Engine for Var {
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs, Var>) -> Result<Of<F::Outputs, Var>> {
        apply::apply(f, x)
    }
    fn share(&self) -> Var {
        self.clone()
    }
    fn grad(
        outputs: &[&Var],
        inputs: &[&Var],
        options: &GradOptions<'_, Var>,
    ) -> Result<Vec<Option<Var>>> {
        gradients::grad(outputs, inputs, options)
    }
    fn backward(outputs: &[&Var], options: &GradOptions<'_, Var>) -> Result<()> {
        gradients::backward(outputs, options)
    }
}
