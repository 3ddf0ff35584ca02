//! Ops without a backward.

use crate::{assert_close, leaf};
use anyhow::{Result, bail};
use tch::{CModule, Kind, Tensor};
use tch_function::{
    Error, Function, GradOptions, Refs, Var,
    dispatcher::{Library, forward_only},
    grad,
};
use test_support::archive::Script;
use test_support::assert_error;

fn round_to(step: f64) -> impl Function<Inputs = Tensor, Outputs = Tensor> {
    forward_only::<Tensor, Tensor>("tf_only::round_to", move |x| {
        if step <= 0.0 {
            bail!("a step of {step}");
        }
        Ok((x / step).round() * step)
    })
}

type Pair = (Tensor, Vec<Tensor>);

static OPS: Library = Library::new("tf_only");

fn module(signature: &str, result: &str) -> Result<CModule> {
    OPS.register(|ops| {
        ops.define("round_to(Tensor x, float step=1.) -> Tensor", round_to)?;
        ops.define("add_all(Tensor x, Tensor[] rest) -> Tensor", || {
            let forward = |(x, rest): Refs<'_, Pair>| {
                Ok(rest.iter().fold(x.shallow_clone(), |sum, t| sum + t))
            };
            forward_only::<Pair, Tensor>("tf_only::add_all", forward)
        })?;
        ops.define("above(Tensor x, float limit) -> Tensor", |limit: f64| {
            forward_only::<Tensor, Tensor>("tf_only::above", move |x| Ok(x.gt(limit)))
        })
    })?;
    Ok(Script::returning(signature, result).module())
}

const REFUSAL: [&str; 3] = ["tf_only::", "it has no backward", "no_grad"];

#[test]
fn it_runs_and_has_no_gradient() -> Result<()> {
    let module = module("x: Tensor -> Tensor", "ops.tf_only.round_to(x, 0.5)")?;
    let x = leaf(&[0.7, 1.3]);
    for _ in 0..4 {
        let y = module.forward_ts(&[&x])?;
        assert_close(&y, &[0.5, 1.5]);
        let y = y.sum(Kind::Double);
        let dx = grad(&y, &x);
        assert_error!(dx, Error::NoBackward { op: "tf_only::round_to" }, REFUSAL[0], REFUSAL[1]);
        let text = y.f_backward().unwrap_err().to_string();
        REFUSAL.iter().for_each(|says| assert!(text.contains(says), "{text}"));
    }
    Ok(())
}

#[test]
fn nobody_asks_and_it_is_silent() -> Result<()> {
    let (x, w) = (leaf(&[0.7, 1.3]), leaf(&[1.0, 2.0]));
    let rounding = module("x: Tensor -> Tensor", "ops.tf_only.round_to(x)")?;
    let y = (rounding.forward_ts(&[x.detach()])? * &w).sum(Kind::Double);
    assert_close(&grad(&y, &w)?, &[1.0, 1.0]);
    // A pass that goes to w alone does not come to the op.
    let y = (rounding.forward_ts(&[&x])? * &w).sum(Kind::Double);
    assert_close(&grad(&y, &w)?, &[1.0, 1.0]);
    let y = module("x: Tensor -> Tensor", "ops.tf_only.above(x, 1.)")?.forward_ts(&[&x])?;
    assert!(!y.requires_grad());
    Ok(())
}

#[test]
fn inputs_of_any_form() -> Result<()> {
    let module = module("x: Tensor, y: Tensor -> Tensor", "ops.tf_only.add_all(x, [y, x])")?;
    let (x, y) = (leaf(&[1.0]), leaf(&[10.0]));
    let sum = module.forward_ts(&[&x, &y])?;
    assert_close(&sum, &[12.0]);
    assert_error!(grad(&sum, &y), Error::NoBackward { op: "tf_only::add_all" }, REFUSAL[1]);
    Ok(())
}

#[test]
fn its_forward_fails_under_its_name() -> Result<()> {
    let module = module("x: Tensor -> Tensor", "ops.tf_only.round_to(x, 0.)")?;
    let text = module.forward_ts(&[leaf(&[1.0])]).unwrap_err().to_string();
    assert!(text.contains("tf_only::round_to: forward failed: a step of 0"), "{text}");
    Ok(())
}

#[test]
fn it_is_a_function_like_others() -> Result<()> {
    let x = leaf(&[0.7]);
    let y = round_to(0.5).apply(&x)?;
    assert_error!(grad(&y, &x), Error::NoBackward { op: "tf_only::round_to" }, REFUSAL[1]);
    let x = Var::leaf(Tensor::from(0.7));
    let y = round_to(0.5).apply(&x)?;
    assert_error!(grad(&y, &x), Error::NoBackward { op: "tf_only::round_to" }, REFUSAL[1]);
    let dx = GradOptions::new().create_graph(true).grad(&y, &x);
    assert_error!(dx, Error::NoBackward { op: "tf_only::round_to" }, REFUSAL[1]);
    Ok(())
}
