//! [`Lift`]: a graph that libtorch has recorded, as one node of this crate's.

use super::node::lock;
use super::var::Var;
use crate::error::{Error, Result};
use crate::ffi::{self, Pass};
use crate::function::{Ctx, Function, Origin, Saved};
use std::collections::HashMap;
use std::sync::Mutex;
use tch::Tensor;

/// Makes what libtorch has recorded, from `leaves` to `outputs`, since the number `start`, a
/// node named `op`. `vars` are what the leaves stand for. Outputs that libtorch does not
/// follow become constants.
pub(crate) fn node_of(
    op: &'static str,
    mut vars: Vec<Var>,
    mut leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
    start: u64,
) -> Result<Vec<Var>> {
    if !ffi::grad_enabled() || !outputs.iter().any(Tensor::requires_grad) {
        return Ok(outputs.into_iter().map(|y| constant(op, y)).collect());
    }
    // The place of each leaf. A parameter's is taken by its tap, where its gradient has not
    // met its hooks.
    let mut places = HashMap::new();
    for (i, (leaf, var)) in leaves.iter_mut().zip(&vars).enumerate() {
        places.insert(identity(op, leaf)?, i);
        if let Some(parameter) = var.parameter()
            && identity(op, leaf)? == identity(op, &parameter)?
        {
            *leaf = var.tap()?;
            places.insert(identity(op, leaf)?, i);
        }
    }
    let followed: Vec<bool> = outputs.iter().map(Tensor::requires_grad).collect();
    let (recorded, constants): (Vec<_>, Vec<_>) =
        outputs.into_iter().partition(Tensor::requires_grad);
    // Handles that nobody else has: the user may detach_ theirs.
    let mut recorded: Vec<Tensor> =
        recorded.iter().map(|y| ffi::with_same_history(op, y)).collect::<Result<_>>()?;
    ffi::graph_leaves(op, &mut recorded, start, &mut |leaf, alone| {
        let known = places.get(&identity(op, &leaf)?).copied();
        if known.is_some_and(|i| vars[i].parameter().is_none()) {
            return Ok(None); // a stand-in
        }
        let var = Var::try_leaf(&leaf)?;
        // Where an older node leads to the parameter, its gradient is there alone.
        let end = if alone { leaf } else { var.tap()? };
        match known.or_else(|| places.get(&identity(op, &end).ok()?).copied()) {
            Some(i) => leaves[i] = end.shallow_clone(),
            None => {
                places.insert(identity(op, &end)?, leaves.len());
                vars.push(var);
                leaves.push(end.shallow_clone());
            }
        }
        Ok((!alone).then_some(end))
    })?;
    let recorded = Mutex::new(Some(TorchGraph { leaves, outputs: recorded }));
    let mut recorded = Lift { op, recorded }.apply(&vars)?.into_iter();
    let mut constants = constants.into_iter().map(|y| constant(op, y));
    let next = |is_followed| if is_followed { recorded.next() } else { constants.next() };
    Ok(followed.into_iter().filter_map(next).collect())
}

/// Returns what stands for `x` inside libtorch: the parameter that `x` was made from,
/// or a new leaf.
pub(crate) fn torch_leaf(op: &'static str, x: &Var, others: &[Tensor]) -> Result<Tensor> {
    if let Some(parameter) = x.parameter() {
        let own = identity(op, &parameter)?;
        let others = others.iter().map(|other| identity(op, other)).collect::<Result<Vec<_>>>()?;
        if !others.contains(&own) {
            return Ok(parameter);
        }
    }
    stand_in(op, x.value(), x.requires_grad())
}

/// Returns a leaf of libtorch's with these values.
///
/// # Errors
/// [`Error::SavedInference`]: an inference tensor can be no leaf.
pub(crate) fn stand_in(op: &'static str, value: &Tensor, requires_grad: bool) -> Result<Tensor> {
    if requires_grad && ffi::describe(op, value)?.is_inference {
        return Err(Error::SavedInference { op, what: "a value to be differentiated".to_owned() });
    }
    Ok(value.detach().set_requires_grad(requires_grad))
}

/// Makes an output that libtorch does not follow a Var.
fn constant(op: &'static str, y: Tensor) -> Var {
    let is_number = y.is_floating_point() || y.is_complex();
    let version = ffi::version(&y);
    // Only what can have no gradient is blocked; another one was detached, say.
    Var::blocked(y.detach(), version, (!is_number).then_some(op))
}

/// Returns what is equal for handles of one tensor.
fn identity(op: &'static str, t: &Tensor) -> Result<usize> {
    Ok(ffi::describe(op, t)?.identity)
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
        let is_wanted = |&i: &usize| ctx.needs_input_grad(i) && leaves[i].requires_grad();
        let wanted: Vec<usize> = (0..leaves.len()).filter(is_wanted).collect();
        let inputs: Vec<&Tensor> = wanted.iter().map(|&i| leaves[i]).collect();
        if inputs.iter().any(|leaf| leaf.is_leaf() && ffi::hooks::has_hooks(leaf)) {
            anyhow::bail!(
                "a parameter has a hook, and the closure used it through a value that was \
                 computed outside; the hook would be called for a part of the gradient; compute \
                 the value inside, or remove the hook"
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
