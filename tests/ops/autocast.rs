//! Under autocast each op gives what libtorch's own op gives, and its gradients.

use anyhow::Result;
use tch::{Device, Kind, Reduction, Tensor};
use tch_function::{Function, Var, autocast, grad, ops};

type OnVars = fn(&Var, &Var) -> Result<Var>;
type OnTensors = fn(&Tensor, &Tensor) -> Tensor;

fn classes(t: &Tensor) -> Tensor {
    Tensor::arange(t.size()[0], (Kind::Int64, Device::Cpu))
}

fn cross_entropy(scores: &Tensor, classes: &Tensor) -> Tensor {
    scores.cross_entropy_loss::<Tensor>(classes, None, Reduction::Mean, -100, 0.0)
}

/// The ops of this crate that libtorch has too.
const OPS: &[(&str, OnVars, OnTensors)] = &[
    ("matmul", |a, b| Ok(a.matmul(b)?), |a, b| a.matmul(b)),
    ("add", |a, b| Ok(a + b), |a, b| a + b),
    ("sub", |a, b| Ok(a - b), |a, b| a - b),
    ("mul", |a, b| Ok(a * b), |a, b| a * b),
    ("div", |a, b| Ok(a / b), |a, b| a / b),
    ("pow", |a, b| Ok(a.pow(b)?), |a, b| a.pow(b)),
    ("pow_scalar", |a, _| Ok(a.pow_scalar(3.0)?), |a, _| a.pow_tensor_scalar(3.0)),
    ("scalar_div", |a, _| Ok(2.0 / a), |a, _| a.reciprocal() * 2.0),
    ("mul_scalar", |a, _| Ok(a * 3.0), |a, _| a * 3.0),
    ("exp", |a, _| Ok(a.exp()?), |a, _| a.exp()),
    ("log", |a, _| Ok(a.log()?), |a, _| a.log()),
    ("sqrt", |a, _| Ok(a.sqrt()?), |a, _| a.sqrt()),
    ("tanh", |a, _| Ok(a.tanh()?), |a, _| a.tanh()),
    ("sigmoid", |a, _| Ok(a.sigmoid()?), |a, _| a.sigmoid()),
    ("relu", |a, _| Ok(a.relu()?), |a, _| a.relu()),
    ("abs", |a, _| Ok(a.abs()?), |a, _| a.abs()),
    ("maximum", |a, b| Ok(a.maximum(b)?), |a, b| a.maximum(b)),
    ("softplus", |a, _| Ok(a.log1p_exp()?), |a, _| a.softplus()),
    ("gelu", |a, _| Ok(a.gelu()?), |a, _| a.gelu("none")),
    ("silu", |a, _| Ok(a.silu()?), |a, _| a.silu()),
    ("sum", |a, _| Ok(a.sum()?), |a, _| a.sum(None::<Kind>)),
    ("mean", |a, _| Ok(a.mean()?), |a, _| a.mean(None::<Kind>)),
    ("softmax", |a, _| Ok(a.softmax(-1)?), |a, _| a.softmax(-1, None)),
    ("log_softmax", |a, _| Ok(a.log_softmax(-1)?), |a, _| a.log_softmax(-1, None)),
    (
        "cross_entropy",
        |a, _| Ok(ops::CrossEntropy::default().apply((a, &Var::constant(classes(a.value()))))?),
        |a, _| cross_entropy(a, &classes(a)),
    ),
    (
        "huber_loss",
        |a, b| Ok(ops::HuberLoss::default().apply((a, b))?),
        |a, b| a.huber_loss(b, Reduction::Mean, 1.0),
    ),
];

/// bf16 has 8 bits, so a bit at the end is 2^-8 of the value.
fn is_near(found: &Tensor, expected: &Tensor) -> bool {
    let narrow = expected.kind() == Kind::BFloat16;
    let tolerance = if narrow { 2f64.powi(-6) } else { 1e-5 };
    let wide = |t: &Tensor| t.to_kind(Kind::Double);
    wide(found).allclose(&wide(expected), tolerance, tolerance, false)
}

#[test]
fn every_op_is_as_libtorchs() -> Result<()> {
    tch::manual_seed(2);
    let positive = |kind| (Tensor::rand([3, 3], (Kind::Float, Device::Cpu)) + 0.5).to_kind(kind);
    let kinds = [Kind::Float, Kind::BFloat16, Kind::Double];
    for (name, on_vars, on_tensors) in OPS {
        for (ka, kb) in kinds.iter().flat_map(|a| kinds.map(|b| (*a, b))) {
            let [a, b] = [positive(ka), positive(kb)];
            let what = format!("{name} of {ka:?} and {kb:?}");
            let [p, q] = [&a, &b].map(|t| t.copy().set_requires_grad(true));
            // Two of libtorch's ops fail for mixed dtypes, which autocast leaves so for f64.
            let fails = ["matmul", "huber_loss"].contains(name);
            if fails && (ka == Kind::Double) != (kb == Kind::Double) {
                continue;
            }
            let expected = autocast(Device::Cpu, Kind::BFloat16, || on_tensors(&p, &q))?;
            let [x, y] = [&a, &b].map(|t| Var::leaf(t.copy()));
            let found = autocast(Device::Cpu, Kind::BFloat16, || on_vars(&x, &y))?;
            let found = found?;
            assert_eq!(found.value().kind(), expected.kind(), "{what}");
            assert!(is_near(found.value(), &expected.detach()), "{what}\n{found:?}\n{expected:?}");
            // Outside autocast, which is the usual way.
            let sum = |t: &Tensor| t.to_kind(Kind::Double).sum(Kind::Double);
            sum(&expected).backward();
            let seed = Var::constant(found.value().ones_like());
            tch_function::GradOptions::new().seeds(&seed).backward(&found)?;
            for (var, tensor) in [(&x, &p), (&y, &q)] {
                let (found, expected) = (var.grad(), tensor.grad());
                assert_eq!(found.is_some(), expected.defined(), "{what}");
                if let Some(found) = found {
                    assert_eq!(found.kind(), expected.kind(), "{what}");
                    assert!(is_near(&found, &expected), "{what}\n{found:?}\n{expected:?}");
                }
            }
        }
    }
    Ok(())
}

/// Inside libtorch the crate's ops are as libtorch's too, on bf16 scores.
#[test]
fn losses_of_narrow_scores_are_wide() -> Result<()> {
    let scores = (Tensor::rand([4, 5], (Kind::Float, Device::Cpu)) * 8.0).to_kind(Kind::BFloat16);
    let (x, t) = (scores.set_requires_grad(true), classes(&scores));
    let loss =
        autocast(Device::Cpu, Kind::BFloat16, || ops::CrossEntropy::default().apply((&x, &t)))??;
    let expected = autocast(Device::Cpu, Kind::BFloat16, || cross_entropy(&x, &t))?;
    assert_eq!((loss.kind(), expected.kind()), (Kind::Float, Kind::Float));
    assert!(is_near(&loss, &expected));
    let dx = grad(&loss, &x)?;
    assert_eq!(dx.kind(), Kind::BFloat16);
    Ok(())
}
