//! Where a program runs: on Vars, and with Functions on tensors inside libtorch.
//! `plain.rs` has plain tch.

use super::call::Scope;
use super::op::Op;
use std::fmt::Display;
use tch::Tensor;
use tch_function::{Error, GradOptions, Var, inference_mode, lift};

/// The text of an error, which nothing is done with but to print it.
pub type Done<T> = Result<T, String>;

/// Without the stack of C++.
pub fn text(e: impl Display) -> String {
    let text = e.to_string();
    text.split("\nException raised").next().unwrap_or("").to_owned()
}

/// A value of one engine.
pub trait Engine: Sized + Send + 'static {
    /// By the rules of Vars: values are outside libtorch's graph, and take no hooks.
    const VARS: bool;
    /// The peer that the others are compared with.
    const PLAIN: bool = false;
    fn leaf(x: &Tensor) -> Done<Self>;
    /// `Var::leaf` of what a leaf was made from: its parameter, or its own tensor.
    fn leaf_again(&self, parameter: Option<&Tensor>) -> Done<Self>;
    fn constant(x: &Tensor) -> Self;
    fn tensor(&self) -> &Tensor;
    fn share(&self) -> Self;
    fn detach(&self) -> Self;
    fn requires_grad(&self) -> bool;
    /// What passes have added up in it, if it is a leaf.
    fn added(&self) -> Option<Tensor>;
    fn zero_grad(&self) -> Done<()>;
    fn update(&self, change: impl FnOnce(&mut Tensor)) -> Done<()>;
    fn apply(op: Op, x: &[&Self], captured: &Tensor) -> Done<Vec<Self>>;
    fn backward(pass: Pass<'_, Self>) -> Done<()>;
    fn grad(pass: Pass<'_, Self>, x: &[&Self], how: How) -> Done<Vec<Option<Self>>>;
    /// Whether the value was changed in place, so that ops refuse this handle.
    fn is_superseded(&self) -> bool {
        false
    }
    /// Whether ops refuse this handle, also because its parameter got other data.
    fn is_refused(&self) -> bool {
        false
    }
}

/// What a pass starts from.
pub struct Pass<'a, V> {
    pub y: Vec<&'a V>,
    pub seeds: &'a [Tensor],
    pub retain: bool,
    pub scope: Scope,
}

#[derive(Clone, Copy)]
pub struct How {
    pub create: bool,
    pub all: bool,
    /// A base may require a gradient of which there are views from before, on which tch's
    /// own pass reads through a null pointer.
    pub odd: bool,
}

/// Runs `f` in a scope.
pub fn within<T>(scope: Scope, f: impl FnOnce() -> T) -> T {
    match scope {
        Scope::Plain => f(),
        Scope::NoGrad => tch::no_grad(f),
        Scope::Inference => inference_mode(f),
    }
}

impl Engine for Var {
    const VARS: bool = true;
    fn leaf(x: &Tensor) -> Done<Var> {
        Var::try_leaf(x).map_err(text)
    }
    fn leaf_again(&self, parameter: Option<&Tensor>) -> Done<Var> {
        // Without the flag that a program may have given the value.
        let own = self.value().detach();
        Var::try_leaf(parameter.unwrap_or(&own)).map_err(text)
    }
    fn constant(x: &Tensor) -> Var {
        Var::constant(x)
    }
    fn tensor(&self) -> &Tensor {
        self.value()
    }
    fn share(&self) -> Var {
        self.clone()
    }
    fn detach(&self) -> Var {
        Var::detach(self)
    }
    fn requires_grad(&self) -> bool {
        Var::requires_grad(self)
    }
    fn added(&self) -> Option<Tensor> {
        self.grad()
    }
    fn zero_grad(&self) -> Done<()> {
        Var::zero_grad(self);
        Ok(())
    }
    fn update(&self, change: impl FnOnce(&mut Tensor)) -> Done<()> {
        Var::update(self, change).map_err(text)
    }
    fn apply(op: Op, x: &[&Var], captured: &Tensor) -> Done<Vec<Var>> {
        if op == Op::TimesCaptured {
            let y = lift(x[0], |x| Ok(captured.f_mul(&x[0])?));
            return y.map(|y| vec![y]).map_err(text);
        }
        op.ours(x).map_err(text)
    }
    fn backward(pass: Pass<'_, Var>) -> Done<()> {
        let seeds: Vec<Var> = pass.seeds.iter().map(Var::constant).collect();
        let options = GradOptions::new().seeds(&seeds).retain_graph(pass.retain);
        within(pass.scope, || options.backward(&pass.y[..])).map_err(text)
    }
    fn grad(pass: Pass<'_, Var>, x: &[&Var], how: How) -> Done<Vec<Option<Var>>> {
        let seeds: Vec<Var> = pass.seeds.iter().map(Var::constant).collect();
        let options = GradOptions::new().seeds(&seeds).retain_graph(pass.retain);
        if how.all {
            // It has nothing for them, where `grad` says what is wrong.
            if x.iter().any(|x| !x.requires_grad() || x.is_superseded()) {
                return Err("an input without a gradient".to_owned());
            }
            let found = options.gradients(&pass.y[..]).map_err(text)?;
            return Ok(x.iter().map(|x| found.get(x).map(Var::constant)).collect());
        }
        let options = options.create_graph(how.create).allow_unused(true);
        options.grad(&pass.y[..], x).map_err(text)
    }
    fn is_superseded(&self) -> bool {
        let sum = tch::no_grad(|| self.sum());
        matches!(sum, Err(Error::Superseded { .. } | Error::ValueChanged { .. }))
    }
    fn is_refused(&self) -> bool {
        let sum = tch::no_grad(|| self.sum());
        matches!(sum, Err(Error::Argument { .. })) || self.is_superseded()
    }
}

impl Engine for Tensor {
    const VARS: bool = false;
    fn leaf(x: &Tensor) -> Done<Tensor> {
        Ok(x.shallow_clone().set_requires_grad(true))
    }
    fn leaf_again(&self, _: Option<&Tensor>) -> Done<Tensor> {
        Ok(self.shallow_clone())
    }
    fn constant(x: &Tensor) -> Tensor {
        x.shallow_clone()
    }
    fn tensor(&self) -> &Tensor {
        self
    }
    fn share(&self) -> Tensor {
        self.shallow_clone()
    }
    fn detach(&self) -> Tensor {
        Tensor::detach(self)
    }
    fn requires_grad(&self) -> bool {
        Tensor::requires_grad(self)
    }
    fn added(&self) -> Option<Tensor> {
        // Of others libtorch warns.
        self.is_leaf().then(|| self.grad()).filter(Tensor::defined)
    }
    /// What tch's own does, which panics where it fails.
    fn zero_grad(&self) -> Done<()> {
        if let Some(mut grad) = self.added() {
            let _ = grad.f_detach_().and_then(|mut grad| grad.f_zero_()).map_err(text)?;
        }
        Ok(())
    }
    fn update(&self, change: impl FnOnce(&mut Tensor)) -> Done<()> {
        tch::no_grad(|| change(&mut self.shallow_clone()));
        Ok(())
    }
    fn apply(op: Op, x: &[&Tensor], captured: &Tensor) -> Done<Vec<Tensor>> {
        if op == Op::TimesCaptured {
            return op.theirs(x, captured).map_err(text);
        }
        op.ours(x).map_err(text)
    }
    fn backward(pass: Pass<'_, Tensor>) -> Done<()> {
        let options = GradOptions::new().seeds(pass.seeds).retain_graph(pass.retain);
        within(pass.scope, || options.backward(&pass.y[..])).map_err(text)
    }
    fn grad(pass: Pass<'_, Tensor>, x: &[&Tensor], how: How) -> Done<Vec<Option<Tensor>>> {
        let options = GradOptions::new().seeds(pass.seeds).retain_graph(pass.retain);
        let options = options.create_graph(how.create).allow_unused(true);
        options.grad(&pass.y[..], x).map_err(text)
    }
}
