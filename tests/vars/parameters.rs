//! Leaves that stand for tch's parameters.

use anyhow::{Context, Result};
use tch::nn::{self, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_function::{Var, grad, lift};
use test_support::{number, numbers, vector};

fn parameter(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

#[test]
fn all_leaves_of_a_parameter_are_one() -> Result<()> {
    let p = parameter(&[1.0, 2.0]);
    let y = (&Var::leaf(&p) * &Var::leaf(&p)).sum()?;
    assert_eq!(numbers(grad(&y, &Var::leaf(&p))?.value()), [2.0, 4.0]);
    // Another tensor gets another leaf.
    assert!(grad(&(&Var::leaf(&p) * 2.0).sum()?, &Var::leaf(parameter(&[1.0]))).is_err());
    Ok(())
}

#[test]
fn what_a_lifted_closure_captures_is_summed_with_the_rest() -> Result<()> {
    let p = parameter(&[1.0, 2.0]);
    let w = Var::leaf(&p);
    let x = Var::constant(vector(&[1.0, 1.0]));
    let lifted = lift(&x, |x| Ok((&p * &x[0]).sum(Kind::Double)))?;
    let y = &lifted + &(&w * 10.0).sum()?;
    assert_eq!(numbers(grad(&y, &w)?.value()), [11.0, 11.0]);
    Ok(())
}

#[test]
fn threads_add_to_one_parameter() {
    let p = parameter(&[0.0, 0.0]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let p = p.shallow_clone();
            scope.spawn(move || {
                for _ in 0..200 {
                    let x = Var::constant(vector(&[1.0, 2.0]));
                    let y = lift(&x, |x| Ok((&p * &x[0]).sum(Kind::Double))).unwrap();
                    y.backward().unwrap();
                }
            });
        }
    });
    assert_eq!(numbers(&p.grad()), [1600.0, 3200.0]);
}

#[test]
fn a_leaf_forgets_its_gradient_and_the_user_keeps_it() -> Result<()> {
    for x in [Var::leaf(vector(&[1.0, 2.0])), Var::leaf(parameter(&[1.0, 2.0]))] {
        (&x * &x).sum()?.backward()?;
        let gradient = x.grad().context("a gradient")?;
        x.zero_grad();
        assert!(x.grad().is_none());
        (&x * 3.0).sum()?.backward()?;
        assert_eq!(numbers(&x.grad().context("a gradient")?), [3.0, 3.0]);
        assert_eq!(numbers(&gradient), [2.0, 4.0]);
    }
    Ok(())
}

#[test]
fn tchs_optimizers_and_clipping_work_on_the_gradients() -> Result<()> {
    let vs = nn::VarStore::new(Device::Cpu);
    let p = vs.root().var("w", &[4], nn::Init::Const(1.0));
    let mut optimizer = nn::Sgd::default().build(&vs, 1.0)?;
    for step in 1..=3 {
        let w = Var::leaf(&p);
        w.sum()?.backward()?; // an expanded gradient, which must not stay one
        optimizer.clip_grad_norm(1.0); // from 2, the norm of four ones
        optimizer.step();
        optimizer.zero_grad();
        assert!((number(&w.value().select(0, 0)) - (1.0 - 0.5 * f64::from(step))).abs() < 1e-5);
    }
    Ok(())
}
