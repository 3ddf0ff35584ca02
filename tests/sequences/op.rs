//! What `Call::Apply` applies, as a Function and in plain tch. The plain formulas
//! save what the Functions save, so that a change of a saved tensor that one of
//! them notices is noticed by the other. tch's calls with a scalar panic where they
//! should return an error, so that numbers are tensors here.

use super::functions::*;
use std::sync::atomic::AtomicBool;
use tch::{Kind, TchError, Tensor};
use tch_function::{Differentiable, DoubleBackward, Function, Result, ops};
use test_support::functions::{Gate, Silu};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    Add,
    Mul,
    MulScalar(f64),
    Exp,
    Relu,
    Log1pExp,
    Sum,
    /// A view of its input.
    Reshape,
    SinCos,
    Gate,
    /// Saves an intermediate.
    Silu,
    SiluRecomputed,
    Same,
    ScaleInPlace(f64),
    /// Breaks the rule that what was changed is returned.
    FailInPlace(f64),
    TanhInPlace,
    AddInPlace,
    ShiftAndSum(f64),
    /// Fails in its first backward.
    Errs,
    Panics,
    /// Run a pass in their backward.
    NestedVars,
    NestedTensors,
    /// The product with the first parameter, which a lifted closure captures.
    TimesCaptured,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Add => "Add",
            Op::Mul => "Mul",
            Op::MulScalar(_) => "MulScalar",
            Op::Exp => "Exp",
            Op::Relu => "Relu",
            Op::Log1pExp => "Log1pExp",
            Op::Sum => "Sum",
            Op::Reshape => "Reshape",
            Op::SinCos => "SinCos",
            Op::Gate => "Gate",
            Op::Silu => "Silu",
            Op::SiluRecomputed => "SiluRecomputed",
            Op::Same => "Same",
            Op::ScaleInPlace(_) => "ScaleInPlace",
            Op::FailInPlace(_) => "FailInPlace",
            Op::TanhInPlace => "TanhInPlace",
            Op::AddInPlace => "AddInPlace",
            Op::ShiftAndSum(_) => "ShiftAndSum",
            Op::Errs => "Errs",
            Op::Panics => "Panics",
            Op::NestedVars => "NestedVars",
            Op::NestedTensors => "NestedTensors",
            Op::TimesCaptured => "TimesCaptured",
        }
    }

    pub fn arity(self) -> usize {
        match self {
            Op::Add | Op::Mul | Op::AddInPlace => 2,
            _ => 1,
        }
    }

    pub fn results(self) -> usize {
        if matches!(self, Op::SinCos | Op::Gate | Op::ShiftAndSum(_)) { 2 } else { 1 }
    }

    /// Changes its first input.
    pub fn is_in_place(self) -> bool {
        let fails = matches!(self, Op::FailInPlace(_));
        let scalar = matches!(self, Op::ScaleInPlace(_) | Op::ShiftAndSum(_));
        fails || scalar || matches!(self, Op::TanhInPlace | Op::AddInPlace)
    }

    /// As a Function, on Vars or inside libtorch's autograd. Each engine has its own
    /// way to `TimesCaptured`.
    pub fn ours<V: Differentiable>(self, x: &[&V]) -> Result<Vec<V>> {
        let a = x[0];
        let silu = |double_backward| Counted::new(Silu { double_backward }).apply(a);
        let flaky =
            |panics| Counted::new(Flaky { panics, failed: AtomicBool::new(false) }).apply(a);
        let scale = |c, fails| Counted::new(ScaleInPlace { c, fails }).apply(a);
        let y = match self {
            Op::Add => Counted::new(ops::Add).apply((a, x[1])),
            Op::Mul => Counted::new(ops::Mul).apply((a, x[1])),
            Op::MulScalar(c) => Counted::new(ops::MulScalar { c }).apply(a),
            Op::Exp => Counted::new(ops::Exp).apply(a),
            Op::Relu => Counted::new(ops::Relu).apply(a),
            Op::Log1pExp => Counted::new(ops::Log1pExp).apply(a),
            Op::Sum => Counted::new(ops::Sum { dims: vec![], keepdim: false }).apply(a),
            Op::Reshape => Counted::new(ops::Reshape { shape: vec![1, -1] }).apply(a),
            Op::SinCos => return both(Counted::new(SinCos).apply(a)),
            Op::Gate => return both(Counted::new(Gate).apply(a)),
            Op::Silu => silu(DoubleBackward::ThroughSaved),
            Op::SiluRecomputed => silu(DoubleBackward::Recompute),
            Op::Same => Counted::new(Same).apply(a),
            Op::ScaleInPlace(c) => scale(c, false),
            Op::FailInPlace(c) => scale(c, true),
            Op::TanhInPlace => Counted::new(TanhInPlace).apply(a),
            Op::AddInPlace => Counted::new(AddInPlace).apply((a, x[1])),
            Op::ShiftAndSum(c) => return both(Counted::new(ShiftAndSum { c }).apply(a)),
            Op::Errs => flaky(false),
            Op::Panics => flaky(true),
            Op::NestedVars => Counted::new(Nested { on_vars: true }).apply(a),
            Op::NestedTensors => Counted::new(Nested { on_vars: false }).apply(a),
            Op::TimesCaptured => unreachable!("the engines have their own ways"),
        };
        Ok(vec![y?])
    }

    /// In plain tch.
    pub fn theirs(self, x: &[&Tensor], captured: &Tensor) -> Result<Vec<Tensor>, TchError> {
        let a = x[0];
        let mut changed = a.shallow_clone();
        Ok(vec![match self {
            Op::Add => a.f_add(x[1])?,
            Op::Mul => a.f_mul(x[1])?,
            Op::MulScalar(c) => a.f_mul(&Tensor::from(c))?,
            Op::Exp => a.f_exp()?,
            Op::NestedVars | Op::NestedTensors => a.f_pow_tensor_scalar(3)?,
            Op::Relu => a.f_relu()?,
            // softplus is linear from 20 on, which is too coarse here.
            Op::Log1pExp => a.f_logaddexp(&a.detach().zeros_like())?,
            Op::Sum => a.f_sum(Kind::Double)?,
            Op::Reshape => a.f_reshape([1, -1])?,
            Op::SinCos => return Ok(vec![a.f_sin()?, a.f_cos()?]),
            Op::Gate => {
                let open = a.detach().gt(0.0).to_kind(Kind::Double);
                return Ok(vec![a.f_mul(&open)?, open]);
            }
            Op::Silu | Op::SiluRecomputed => a.f_mul(&a.f_sigmoid()?)?,
            Op::Same if a.requires_grad() => a.f_view_as(a)?,
            Op::Same => a.shallow_clone(),
            Op::ScaleInPlace(c) | Op::FailInPlace(c) => changed.f_mul_(&Tensor::from(c))?,
            Op::TanhInPlace => changed.f_tanh_()?,
            Op::AddInPlace => changed.f_add_(x[1])?,
            Op::ShiftAndSum(c) => {
                let sum = a.f_sum(Kind::Double)?;
                return Ok(vec![changed.f_add_(&Tensor::from(c))?, sum]);
            }
            Op::Errs | Op::Panics => a.f_mul(a)?,
            Op::TimesCaptured => captured.f_mul(a)?,
        }])
    }
}

fn both<V>(y: Result<(V, V)>) -> Result<Vec<V>> {
    y.map(|(a, b)| vec![a, b])
}
