//! [`Lift`]: a graph that libtorch has recorded, as one node of this crate's.

use super::node::lock;
use super::var::Var;
use crate::error::Result;
use crate::ffi::{self, Pass};
use crate::function::{Ctx, Function, Origin, Saved};
use std::sync::Mutex;
use tch::Tensor;

/// Makes what libtorch has recorded, from `leaves` to `outputs`, a node named `op`.
/// `vars` are what the leaves stand for.
pub(crate) fn node_of(
    op: &'static str,
    mut vars: Vec<Var>,
    mut leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
) -> Result<Vec<Var>> {
    for parameter in ffi::graph_leaves(op, &outputs)? {
        if !contains(op, &leaves, &parameter)? {
            vars.push(Var::try_leaf(&parameter)?);
            leaves.push(parameter);
        }
    }
    Lift { op, recorded: Mutex::new(Some(TorchGraph { leaves, outputs })) }.apply(&vars)
}

/// Returns what stands for `x` inside libtorch: the parameter that `x` was made from,
/// or a new leaf.
pub(crate) fn torch_leaf(op: &'static str, x: &Var, others: &[Tensor]) -> Result<Tensor> {
    if let Some(parameter) = x.parameter()
        && !contains(op, others, &parameter)?
    {
        return Ok(parameter);
    }
    let leaf = x.value().detach();
    Ok(if x.requires_grad() { leaf.set_requires_grad(true) } else { leaf })
}

fn contains(op: &'static str, tensors: &[Tensor], t: &Tensor) -> Result<bool> {
    let wanted = ffi::describe(op, t)?.identity;
    for other in tensors {
        if ffi::describe(op, other)?.identity == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A graph that libtorch has recorded, from leaves to outputs.
struct TorchGraph {
    leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Hands a recorded graph to its node.
struct Lift {
    op: &'static str,
    recorded: Mutex<Option<TorchGraph>>,
}

impl Function for Lift {
    type Inputs = Vec<Tensor>;
    type Outputs = Vec<Tensor>;

    fn name(&self) -> &'static str {
        self.op
    }

    fn forward(&self, ctx: &mut Ctx, _: &[Tensor]) -> anyhow::Result<Vec<Tensor>> {
        let TorchGraph { leaves, outputs } =
            lock(&self.recorded).take().expect("forward runs once");
        let values: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
        for (output, value) in outputs.iter().zip(&values) {
            if !output.requires_grad() {
                ctx.mark_non_differentiable(value);
            }
        }
        if ctx.frame.recording {
            let saved = |(t, i): (&Tensor, u32)| Saved::of(t.shallow_clone(), Origin::LeafFor(i));
            ctx.saved = leaves.iter().zip(0..).map(saved).collect();
            ctx.has_saved = true;
        }
        ctx.save(Mutex::new(outputs))?;
        Ok(values)
    }

    fn backward(&self, ctx: &Ctx, dy: &[Tensor]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let leaves = ctx.saved_tensors_vec()?;
        let recorded: Vec<Tensor> =
            lock(ctx.state::<Mutex<Vec<Tensor>>>()?).iter().map(Tensor::shallow_clone).collect();
        let (mut outputs, mut seeds) = (Vec::new(), Vec::new());
        for (y, dy) in recorded.iter().zip(dy).filter(|(y, _)| y.requires_grad()) {
            outputs.push(y);
            seeds.push(dy.shallow_clone());
        }
        let wanted: Vec<usize> = (0..leaves.len()).filter(|&i| ctx.needs_input_grad(i)).collect();
        let inputs: Vec<&Tensor> = wanted.iter().map(|&i| leaves[i]).collect();
        let pass = Pass {
            outputs: &outputs,
            seeds: &seeds,
            inputs: &inputs,
            // The context is dropped with this graph if the pass does not retain its own.
            retain_graph: true,
            create_graph: ffi::grad_enabled(),
        };
        let found = pass.grad(self.op)?;
        let mut grads: Vec<_> = leaves.iter().map(|_| None).collect();
        wanted.into_iter().zip(found).for_each(|(i, grad)| grads[i] = grad);
        Ok(grads)
    }
}
