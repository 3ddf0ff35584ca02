//! The same Functions inside libtorch's autograd, on ordinary tensors; and what tch
//! does not offer of it: hooks, forward mode, autocast and inference mode.

mod apply;
mod forward_ad;
mod hooks;
mod modes;
mod node;

pub use forward_ad::DualLevel;
pub use hooks::{GradFn, HookHandle, NodeGradients, grad_fn, register_hook};
pub use modes::{autocast, inference_mode};

use crate::application::{Operand, all_used, cast_inputs, seeds};
use crate::error::Result;
use crate::ffi::Pass;
use crate::function::{Engine, Function, Of, PassOptions, Refs};
use tch::Tensor;

impl Engine for Tensor {
    #[inline]
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
        cast_inputs(f, x, apply::apply)
    }

    fn share(&self) -> Tensor {
        self.shallow_clone()
    }

    fn grad(
        outputs: &[&Tensor],
        inputs: &[&Tensor],
        options: &PassOptions<'_, Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        inputs.iter().enumerate().try_for_each(|(i, x)| x.check_input(i))?;
        let seeds = seeds(outputs, options)?;
        if inputs.is_empty() {
            return Ok(Vec::new()); // libtorch would call it a bug of its own
        }
        let found = pass(outputs, inputs, &seeds, options).grad("grad")?;
        all_used(found, options)
    }

    fn backward(outputs: &[&Tensor], options: &PassOptions<'_, Tensor>) -> Result<()> {
        let seeds = seeds(outputs, options)?;
        pass(outputs, &[], &seeds, options).backward("backward")
    }
}

fn pass<'a>(
    outputs: &'a [&'a Tensor],
    inputs: &'a [&'a Tensor],
    seeds: &'a [Tensor],
    options: &PassOptions<'_, Tensor>,
) -> Pass<'a> {
    let PassOptions { retain_graph, create_graph, .. } = *options;
    // As in PyTorch, a pass that is recorded keeps what it was recorded from.
    let retain_graph = retain_graph || create_graph;
    Pass { outputs, seeds, inputs, retain_graph, create_graph }
}
