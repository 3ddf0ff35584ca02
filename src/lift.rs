//! [`lift`]: any tch closure or module as one node of the own graph.

use crate::{Ctx, Error, Function, Handles, Result, Var, error::run_user, ffi, ffi::Pass};
use std::sync::{Mutex, MutexGuard, PoisonError};
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

    let vars = inputs.into_iter().cloned().collect();
    node_of(OP, vars, leaves, outputs)
}

/// Makes what libtorch has recorded, from `leaves` to `outputs`, a node named
/// `op` of the own graph. `vars` are what the leaves stand for.
pub(crate) fn node_of(
    op: &'static str,
    mut vars: Vec<Var>,
    mut leaves: Vec<Tensor>,
    outputs: Vec<Tensor>,
) -> Result<Vec<Var>> {
    for parameter in ffi::graph_leaves(op, &outputs)? {
        if !contains(&leaves, &parameter)? {
            vars.push(Var::try_leaf(&parameter)?);
            leaves.push(parameter);
        }
    }
    Lift { op, recorded: Mutex::new(Some(Recorded { leaves, outputs })) }.apply(&vars)
}

/// What stands for `x` inside libtorch: the parameter that `x` was made from,
/// or a leaf of its own.
pub(crate) fn torch_leaf(x: &Var, others: &[Tensor]) -> Result<Tensor> {
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
struct Lift {
    op: &'static str,
    recorded: Mutex<Option<Recorded>>,
}

impl Function for Lift {
    type Inputs = Vec<Tensor>;
    type Outputs = Vec<Tensor>;

    fn name(&self) -> &'static str {
        self.op
    }

    fn forward(&self, ctx: &mut Ctx, _: &[Tensor]) -> anyhow::Result<Vec<Tensor>> {
        let Recorded { leaves, outputs } = lock(&self.recorded).take().expect("forward runs once");
        let values: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
        for (output, value) in outputs.iter().zip(&values) {
            if !output.requires_grad() {
                ctx.mark_non_differentiable(value);
            }
        }
        ctx.save_leaves(&leaves);
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
        let found = ffi::torch_grad(
            self.op,
            &Pass {
                outputs: &outputs,
                seeds: &seeds,
                inputs: &inputs,
                // The context is dropped with this graph if the pass does not
                // retain its own.
                retain_graph: true,
                create_graph: ffi::grad_enabled(),
            },
        )?;
        let mut grads: Vec<_> = leaves.iter().map(|_| None).collect();
        wanted.into_iter().zip(found).for_each(|(i, grad)| grads[i] = grad);
        Ok(grads)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
