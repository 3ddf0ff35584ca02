//! Plain tch: what the engines are compared with.

use super::engine::{Done, Engine, How, Pass, text, within};
use super::op::Op;
use tch::{Kind, TchError, Tensor};
use tch_function::{GradOptions, Var};

/// A tensor in libtorch's own graph. With `VARS` it follows the documented rules of
/// Vars where these differ from those of tensors.
pub struct Plain<const VARS: bool>(Tensor);

impl<const VARS: bool> Engine for Plain<VARS> {
    const VARS: bool = VARS;
    const PLAIN: bool = true;
    fn leaf(x: &Tensor) -> Done<Self> {
        Ok(Plain(x.shallow_clone().set_requires_grad(true)))
    }
    /// A Var stands for a leaf of libtorch's that requires a gradient, and is a new
    /// leaf if it is made from anything else.
    fn leaf_again(&self, parameter: Option<&Tensor>) -> Done<Self> {
        match parameter {
            Some(p) if VARS && p.requires_grad() && p.is_leaf() => Ok(Plain(p.shallow_clone())),
            _ if VARS => Ok(Plain(self.0.detach().set_requires_grad(true))),
            _ => Ok(self.share()),
        }
    }
    fn constant(x: &Tensor) -> Self {
        Plain(x.shallow_clone())
    }
    fn tensor(&self) -> &Tensor {
        &self.0
    }
    fn share(&self) -> Self {
        Plain(self.0.shallow_clone())
    }
    fn detach(&self) -> Self {
        Plain(self.0.detach())
    }
    fn requires_grad(&self) -> bool {
        self.0.requires_grad()
    }
    fn added(&self) -> Option<Tensor> {
        self.0.added()
    }
    fn zero_grad(&self) -> Done<()> {
        if VARS {
            forget_gradient(&self.0);
            return Ok(());
        }
        Engine::zero_grad(&self.0)
    }
    fn update(&self, change: impl FnOnce(&mut Tensor)) -> Done<()> {
        self.0.update(change)
    }
    fn apply(op: Op, x: &[&Self], captured: &Tensor) -> Done<Vec<Self>> {
        let x: Vec<&Tensor> = x.iter().map(|x| &x.0).collect();
        let y = op.theirs(&x, captured).map_err(text)?;
        Ok(y.into_iter().map(Plain).collect())
    }
    /// tch itself cannot retain the graph here, so that this crate starts libtorch's
    /// engine then.
    fn backward(pass: Pass<'_, Self>) -> Done<()> {
        let loss = loss(&pass).map_err(text)?;
        within(pass.scope, || match pass.retain {
            true => GradOptions::new().retain_graph(true).backward(&loss).map_err(text),
            false => loss.f_backward().map_err(text),
        })
    }
    fn grad(pass: Pass<'_, Self>, x: &[&Self], how: How) -> Done<Vec<Option<Self>>> {
        let loss = loss(&pass).map_err(text)?;
        let x: Vec<&Tensor> = x.iter().map(|x| &x.0).collect();
        let keep = pass.retain || how.create;
        if how.odd {
            let options = GradOptions::new().retain_graph(keep).create_graph(how.create);
            let grads = options.allow_unused(true).grad(&loss, &x[..]).map_err(text)?;
            return Ok(grads.into_iter().map(|grad| grad.map(Plain)).collect());
        }
        let grads = Tensor::f_run_backward(&[&loss], &x, keep, how.create).map_err(text)?;
        Ok(grads.into_iter().map(|grad| grad.defined().then(|| Plain(grad))).collect())
    }
}

/// One number whose gradients are those of the outputs with the seeds.
fn loss<const VARS: bool>(pass: &Pass<'_, Plain<VARS>>) -> Result<Tensor, TchError> {
    let mut sum = Tensor::from(0.0);
    for (y, seed) in pass.y.iter().zip(pass.seeds) {
        sum = sum.f_add(&y.0.f_mul(seed)?.f_sum(Kind::Double)?)?;
    }
    Ok(sum)
}

/// tch can only make a gradient zeros; `Var::zero_grad` of a parameter makes it undefined.
pub fn forget_gradient(leaf: &Tensor) {
    if leaf.is_leaf() && leaf.grad().defined() {
        // Also that of one that is frozen.
        let requires_grad = leaf.requires_grad();
        let _ = leaf.set_requires_grad(true);
        Var::leaf(leaf).zero_grad();
        let _ = leaf.set_requires_grad(requires_grad);
    }
}
