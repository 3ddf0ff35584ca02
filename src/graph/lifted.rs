//! [`Lift`]: a graph that libtorch has recorded, as one node of this crate's.

use super::node::lock;
use super::var::Var;
use crate::error::Result;
use crate::ffi::{self, Pass};
use crate::function::{Ctx, Function, Origin, Saved};
use std::sync::Mutex;
use tch::Tensor;

/// Makes what libtorch has recorded, from `leaves` to `outputs`, a node named `op`.
/// `vars` are what the leaves stand for. Outputs that libtorch does not follow become
/// constants.
pub(crate) fn node_of(
    op: &'static str,
    mut vars: Vec<Var>,
    mut leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
) -> Result<Vec<Var>> {
    if !ffi::grad_enabled() || !outputs.iter().any(Tensor::requires_grad) {
        return Ok(outputs.into_iter().map(Var::constant).collect());
    }
    for parameter in ffi::graph_leaves(op, &outputs)? {
        if !contains(op, &leaves, &parameter)? {
            vars.push(Var::try_leaf(&parameter)?);
            leaves.push(parameter);
        }
    }
    let followed: Vec<bool> = outputs.iter().map(Tensor::requires_grad).collect();
    let (recorded, constants): (Vec<_>, Vec<_>) =
        outputs.into_iter().partition(Tensor::requires_grad);
    // Handles that nobody else has: the user may detach_ theirs.
    let recorded = recorded.iter().map(|y| ffi::other_handle(op, y)).collect::<Result<_>>()?;
    let recorded = Mutex::new(Some(TorchGraph { leaves, outputs: recorded }));
    let mut recorded = Lift { op, recorded }.apply(&vars)?.into_iter();
    let mut constants = constants.into_iter().map(Var::constant);
    let next = |is_followed| if is_followed { recorded.next() } else { constants.next() };
    Ok(followed.into_iter().filter_map(next).collect())
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
        let seeds: Vec<Tensor> = dy.iter().map(Tensor::shallow_clone).collect();
        let outputs: Vec<&Tensor> = recorded.iter().collect();
        // A parameter that was frozen since gets no gradient.
        let is_wanted = |&i: &usize| ctx.needs_input_grad(i) && leaves[i].requires_grad();
        let wanted: Vec<usize> = (0..leaves.len()).filter(is_wanted).collect();
        let inputs: Vec<&Tensor> = wanted.iter().map(|&i| leaves[i]).collect();
        if inputs.iter().any(|leaf| ffi::has_hooks(leaf)) {
            anyhow::bail!(
                "a parameter has a hook, which would be called for a part of its gradient and \
                 again for the whole; put the hook on a Var's tensor, or remove it"
            );
        }
        if inputs.is_empty() {
            return Ok(leaves.iter().map(|_| None).collect());
        }
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
