//! [`Gradients`], and what `grad` and `backward` do on this crate's graph.

use super::leaf::{self, Leaf};
use super::node::Node;
use super::pass::Pass;
use super::recorded;
use super::var::Var;
use crate::application::{Operand, all_used, seeds};
use crate::error::{Error, Result};
use crate::ffi;
use crate::function::PassOptions;
use std::collections::HashMap;
use tch::Tensor;

/// The gradient of an output with respect to every value that it was computed
/// from, not only leaves.
///
/// ```
/// use tch::Tensor;
/// use tch_function::Var;
///
/// let x = Var::leaf(Tensor::from(3.0));
/// let square = &x * &x;
/// let y = &square * 5.0;
/// let gradients = y.gradients()?;
/// assert_eq!(f64::try_from(&gradients[&square])?, 5.0);
/// assert_eq!(f64::try_from(&gradients[&x])?, 30.0);
/// # anyhow::Ok(())
/// ```
pub struct Gradients {
    by_output: HashMap<(u64, u32), Tensor>,
}

impl Gradients {
    /// Returns the gradient with respect to `x`; `None` if none flows to it, and if `x` was
    /// changed in place, after which every op refuses it.
    pub fn get(&self, x: &Var) -> Option<&Tensor> {
        x.check_current("Gradients", 0, ffi::version(x.value())).ok()?;
        self.by_output.get(&key(x))
    }

    /// Returns the number of values that have a gradient.
    pub fn len(&self) -> usize {
        self.by_output.len()
    }

    /// Returns whether no value has a gradient.
    pub fn is_empty(&self) -> bool {
        self.by_output.is_empty()
    }
}

/// # Panics
/// If [`get`](Gradients::get) returns `None`.
impl std::ops::Index<&Var> for Gradients {
    type Output = Tensor;
    fn index(&self, x: &Var) -> &Tensor {
        self.get(x).expect("no gradient flows to this Var; Gradients::get gives None for it")
    }
}

fn key(x: &Var) -> (u64, u32) {
    (x.node().seq, x.edge().output)
}

pub(crate) fn gradients(outputs: &[&Var], options: &PassOptions<'_, Var>) -> Result<Gradients> {
    let mut by_output = HashMap::new();
    start(outputs, None, options)?.run(|node, grads| {
        for (grad, i) in grads.iter().zip(0..) {
            if let Some(grad) = grad {
                by_output.insert((node.seq, i), hooked(node, grad)?);
            }
        }
        Ok(())
    })?;
    Ok(Gradients { by_output })
}

/// Returns a gradient as a pass gives it: after the hooks of a parameter.
fn hooked(node: &Node, grad: &Tensor) -> Result<Tensor> {
    let grad = grad.shallow_clone();
    match node.leaf() {
        Some(leaf) => leaf.hooked(grad),
        None => Ok(grad),
    }
}

pub(crate) fn grad(
    outputs: &[&Var],
    inputs: &[&Var],
    options: &PassOptions<'_, Var>,
) -> Result<Vec<Option<Var>>> {
    inputs.iter().enumerate().try_for_each(|(i, x)| x.check_input(i))?;
    let mut wanted: HashMap<(u64, u32), Vec<usize>> = HashMap::new();
    inputs.iter().enumerate().for_each(|(i, x)| wanted.entry(key(x)).or_default().push(i));
    let mut found: Vec<Option<Var>> = inputs.iter().map(|_| None).collect();
    let mut keep = |node: &Node, output: u32, grad: &dyn Fn() -> Result<Var>| {
        for &i in wanted.get(&(node.seq, output)).into_iter().flatten() {
            found[i] = Some(grad()?);
        }
        Ok(())
    };
    if options.create_graph {
        let mut leaves = inputs.iter().filter_map(|x| x.node().leaf());
        leaves.try_for_each(Leaf::check_recorded)?;
        recorded::run(outputs, seed_vars(outputs, options)?, inputs, |node, grads| {
            let mut grads = grads.iter().zip(0..);
            grads.try_for_each(|(grad, output)| {
                grad.iter().try_for_each(|grad| keep(node, output, &|| Ok(grad.clone())))
            })
        })?;
    } else {
        start(outputs, Some(inputs), options)?.run(|node, grads| {
            let mut grads = grads.iter().zip(0..);
            grads.try_for_each(|(grad, output)| {
                let var = |grad| Ok(Var::constant(hooked(node, grad)?));
                grad.iter().try_for_each(|grad| keep(node, output, &|| var(grad)))
            })
        })?;
    }
    all_used(found, options)
}

pub(crate) fn backward(outputs: &[&Var], options: &PassOptions<'_, Var>) -> Result<()> {
    let mut leaves: Vec<(&Leaf, Tensor)> = Vec::new();
    start(outputs, None, options)?.run(|node, grads| {
        if let Some(leaf) = node.leaf() {
            leaves.extend(grads[0].take().map(|grad| (leaf, grad)));
        }
        Ok(())
    })?;
    // At the end, so that a pass that fails changes no leaf.
    leaf::accumulate(leaves)
}

fn start<'g>(
    outputs: &[&'g Var],
    targets: Option<&[&'g Var]>,
    options: &PassOptions<'_, Var>,
) -> Result<Pass<'g>> {
    if options.create_graph {
        return Err(Error::NotYet {
            what: "create_graph in a pass that gives plain tensors",
            instead: "use grad, which gives Vars",
        });
    }
    Pass::new(outputs, seeds(outputs, options)?, targets, options.retain_graph)
}

/// Returns the seeds of a recorded pass; those that were given keep their history.
fn seed_vars(outputs: &[&Var], options: &PassOptions<'_, Var>) -> Result<Vec<Var>> {
    let seeds = seeds(outputs, options)?.into_iter().map(Var::constant);
    let given = &options.seeds;
    Ok(seeds.enumerate().map(|(i, ones)| given.get(i).map_or(ones, |g| (*g).clone())).collect())
}
