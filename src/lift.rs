//! [`lift`]: any tch closure or module as one node of the own graph.

use crate::{Ctx, Error, Function, Handles, Result, Var, error::run_user, ffi, ffi::Pass};
use std::sync::{Mutex, PoisonError};
use tch::Tensor;

const OP: &str = "lift";

/// Runs a closure of tch operations on the values of `inputs`, as one node of
/// the own graph that libtorch differentiates: what this crate has no
/// Function for, and whole modules.
///
/// Parameters that the closure uses need not be among the inputs: like leaves
/// made from them with [`Var::leaf`], they get their gradient in their own
/// `.grad` when [`backward`](crate::backward()) runs, so that tch's optimizers
/// work unchanged. [`grad`](crate::grad()) gives the gradient of a parameter whose
/// `Var::leaf` is among the inputs.
///
/// ```
/// use tch::{Tensor, nn, nn::Module};
/// use tch_function::{Var, lift};
///
/// let vs = nn::VarStore::new(tch::Device::Cpu);
/// let net = nn::linear(vs.root(), 3, 1, Default::default());
/// let x = Var::leaf(Tensor::from_slice(&[1.0f32, 2.0, 3.0]));
/// let y = lift(&x, |x| Ok(net.forward(&x[0])))?;
/// y.backward()?;
/// assert_eq!(x.grad().unwrap(), net.ws.view(3));
/// assert_eq!(net.ws.grad().view(3), *x.value());
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// [`Error::Forward`] and [`Error::Panic`] from the closure;
/// [`Error::Undefined`] for an undefined output. The backward of the node gives
/// libtorch's errors as [`Error::Backward`].
pub fn lift<'a>(
    inputs: impl Handles<'a, Var>,
    f: impl FnOnce(&[Tensor]) -> anyhow::Result<Tensor>,
) -> Result<Var> {
    let mut y = lift_all(inputs, |x| Ok(vec![f(x)?]))?;
    Ok(y.remove(0))
}

/// As [`lift`], with any number of outputs.
///
/// # Errors
/// As [`lift`].
pub fn lift_all<'a>(
    inputs: impl Handles<'a, Var>,
    f: impl FnOnce(&[Tensor]) -> anyhow::Result<Vec<Tensor>>,
) -> Result<Vec<Var>> {
    let inputs = inputs.list();
    let mut leaves = Vec::with_capacity(inputs.len());
    for (i, x) in inputs.iter().enumerate() {
        x.check_current(OP, i, ffi::version(x.value()))?;
        leaves.push(torch_leaf(x, &leaves)?);
    }
    let outputs = run_user(OP, "forward", Error::forward, || f(&leaves))?;
    if let Some(i) = outputs.iter().position(|y| !y.defined()) {
        return Err(Error::Undefined { op: OP, what: format!("output {i} of the closure") });
    }

    let mut vars: Vec<Var> = inputs.into_iter().cloned().collect();
    for parameter in ffi::graph_leaves(OP, &outputs)? {
        if !contains(&leaves, &parameter)? {
            vars.push(Var::try_leaf(&parameter)?);
            leaves.push(parameter);
        }
    }
    Lift(Mutex::new(Some(Recorded { leaves, outputs }))).apply(&vars)
}

/// What stands for `x` inside libtorch: the parameter that `x` was made from,
/// or a leaf of its own.
fn torch_leaf(x: &Var, others: &[Tensor]) -> Result<Tensor> {
    if let Some(parameter) = x.parameter()
        && !contains(others, &parameter)?
    {
        return Ok(parameter);
    }
    let leaf = x.value().detach();
    Ok(if x.requires_grad() { leaf.set_requires_grad(true) } else { leaf })
}

fn contains(tensors: &[Tensor], t: &Tensor) -> Result<bool> {
    let wanted = ffi::describe(OP, t)?.identity;
    for other in tensors {
        if ffi::describe(OP, other)?.identity == wanted {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A graph of libtorch's, from leaves to outputs.
struct Recorded {
    leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// Hands what libtorch has recorded already to its node.
struct Lift(Mutex<Option<Recorded>>);

impl Function for Lift {
    type Inputs = Vec<Tensor>;
    type Outputs = Vec<Tensor>;

    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&self, ctx: &mut Ctx, _: &[Tensor]) -> anyhow::Result<Vec<Tensor>> {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let recorded = recorded.expect("apply runs forward once");
        let outputs: Vec<Tensor> = recorded.outputs.iter().map(Tensor::detach).collect();
        for (recorded, output) in recorded.outputs.iter().zip(&outputs) {
            if !recorded.requires_grad() {
                ctx.mark_non_differentiable(output);
            }
        }
        ctx.save(Mutex::new(recorded))?;
        Ok(outputs)
    }

    fn backward(&self, ctx: &Ctx, dy: &[Tensor]) -> anyhow::Result<Vec<Option<Tensor>>> {
        let recorded = ctx.state::<Mutex<Recorded>>()?;
        let recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut outputs, mut seeds) = (Vec::new(), Vec::new());
        for (y, dy) in recorded.outputs.iter().zip(dy).filter(|(y, _)| y.requires_grad()) {
            outputs.push(y);
            seeds.push(dy.shallow_clone());
        }
        let wanted: Vec<usize> =
            (0..recorded.leaves.len()).filter(|&i| ctx.needs_input_grad(i)).collect();
        let inputs: Vec<&Tensor> = wanted.iter().map(|&i| &recorded.leaves[i]).collect();
        // Retained: the context is dropped with this graph if the pass does
        // not retain its own.
        let (outputs, inputs) = (&outputs, &inputs);
        let pass = Pass { outputs, seeds: &seeds, inputs, retain_graph: true, create_graph: false };
        let found = ffi::torch_grad(OP, &pass)?;
        let mut grads: Vec<_> = recorded.leaves.iter().map(|_| None).collect();
        wanted.into_iter().zip(found).for_each(|(i, grad)| grads[i] = grad);
        Ok(grads)
    }
}
