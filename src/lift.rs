//! [`lift`]: any tch closure or module as one node of this crate's graph.

use crate::application::run_user;
use crate::error::{Error, Result};
use crate::ffi;
use crate::grad::Handles;
use crate::graph::{Var, lifted};
use tch::Tensor;

const OP: &str = "lift";

/// Runs a closure of tch operations on the values of `inputs`, as one graph
/// node that libtorch differentiates: for operators that this crate lacks, and
/// whole modules.
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
/// [`Error::Undefined`] for an undefined output. The backward of the node returns
/// libtorch's errors as [`Error::Backward`].
pub fn lift<'a>(
    inputs: impl Handles<'a, Var>,
    f: impl FnOnce(&[Tensor]) -> anyhow::Result<Tensor>,
) -> Result<Var> {
    let mut y = lift_all(inputs, |x| Ok(vec![f(x)?]))?;
    Ok(y.remove(0))
}

/// Runs a closure like that of [`lift`], with any number of outputs.
///
/// # Errors
/// Those of [`lift`].
pub fn lift_all<'a>(
    inputs: impl Handles<'a, Var>,
    f: impl FnOnce(&[Tensor]) -> anyhow::Result<Vec<Tensor>>,
) -> Result<Vec<Var>> {
    let inputs = inputs.list();
    let mut leaves = Vec::with_capacity(inputs.len());
    for (i, x) in inputs.iter().enumerate() {
        x.check_current(OP, i, ffi::version(x.value()))?;
        leaves.push(lifted::torch_leaf(OP, x, &leaves)?);
    }
    let start = ffi::next_sequence_number();
    let outputs = run_user(OP, "forward", Error::forward, || f(&leaves))?;
    if let Some(i) = outputs.iter().position(|y| !y.defined()) {
        return Err(Error::Undefined { op: OP, what: format!("output {i} of the closure") });
    }

    let vars = inputs.into_iter().cloned().collect();
    lifted::node_of(OP, vars, leaves, outputs, start)
}
