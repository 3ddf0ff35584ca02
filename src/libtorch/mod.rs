//! The same Functions inside libtorch's autograd, on ordinary tensors.

mod apply;
mod hooks;
mod jvp;
mod module;

pub use hooks::{GradFn, HookHandle, NodeGradients, grad_fn, register_hook};
pub use module::FunctionModule;

use crate::value::Engine;
use crate::{Error, Function, GradOptions, Of, Refs, Result, ffi, ffi::Pass, rules};
use tch::Tensor;

impl Engine for Tensor {
    fn apply<F: Function>(f: F, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
        apply::apply(f, x)
    }

    fn share(&self) -> Tensor {
        self.shallow_clone()
    }

    fn grad(
        outputs: &[&Tensor],
        inputs: &[&Tensor],
        options: &GradOptions<'_, Tensor>,
    ) -> Result<Vec<Option<Tensor>>> {
        if let Some(input) = inputs.iter().position(|x| !x.requires_grad()) {
            return Err(Error::InputNoGrad { input });
        }
        let seeds = seeds(outputs, options)?;
        let found = ffi::torch_grad("grad", &pass(outputs, inputs, &seeds, options))?;
        match found.iter().position(Option::is_none) {
            Some(input) if !options.allow_unused => Err(Error::Unused { input }),
            _ => Ok(found),
        }
    }

    fn backward(outputs: &[&Tensor], options: &GradOptions<'_, Tensor>) -> Result<()> {
        let seeds = seeds(outputs, options)?;
        ffi::torch_backward("backward", &pass(outputs, &[], &seeds, options))
    }
}

fn pass<'a>(
    outputs: &'a [&'a Tensor],
    inputs: &'a [&'a Tensor],
    seeds: &'a [Tensor],
    options: &GradOptions<'_, Tensor>,
) -> Pass<'a> {
    let GradOptions { retain_graph, create_graph, .. } = *options;
    // As in PyTorch, a pass that is recorded keeps what it was recorded from.
    let retain_graph = retain_graph || create_graph;
    Pass { outputs, seeds, inputs, retain_graph, create_graph }
}

fn seeds(outputs: &[&Tensor], options: &GradOptions<'_, Tensor>) -> Result<Vec<Tensor>> {
    let given = &options.seeds;
    if !given.is_empty() && given.len() != outputs.len() {
        return Err(Error::SeedCount { expected: outputs.len(), found: given.len() });
    }
    let seed = |(i, y): (usize, &&Tensor)| match y.requires_grad() {
        false => Err(Error::NoGraph { output: i }),
        true => rules::seed("grad", i, y, given.get(i).copied()),
    };
    outputs.iter().enumerate().map(seed).collect()
}
