//! A TorchScript module is trained in Rust, with gradients through an op.

use crate::{assert_close, leaf, ops};
use anyhow::Result;
use tch::nn::{Adam, OptimizerConfig, Sgd, VarStore};
use tch::{Device, Kind, Tensor};
use tch_function::{Var, dispatcher::load_trainable_module, grad, lift};
use test_support::archive::Script;
use test_support::{number, vector};

/// `leaky(w x + b)` of numbers, one by one.
fn layer(w: &[f64], b: &[f64]) -> Script {
    let forward = "(x: Tensor) -> Tensor:
    w = self.w
    b = self.b
    return ops.tf_test.leaky(torch.add(torch.mul(x, w), b), 0.1)
";
    Script { forward: forward.into(), parameters: vec![("w", w.to_vec()), ("b", b.to_vec())] }
}

#[test]
fn gradients_reach_the_parameters() -> Result<()> {
    ops::register()?;
    let module = layer(&[2.0, -3.0], &[1.0, 0.0]).module();
    let (x, parameters) = (leaf(&[1.0, 4.0]), module.named_parameters()?);
    let [(_, w), (_, b)] = &parameters[..] else { panic!("{parameters:?}") };
    let y = module.forward_ts(&[&x])?; // leaky of 3 and -12
    assert_close(&y, &[3.0, -1.2]);
    let [dx, dw, db] = grad(&y.sum(Kind::Double), [&x, w, b])?;
    assert_close(&dx, &[2.0, -0.3]);
    assert_close(&dw, &[1.0, 0.4]);
    assert_close(&db, &[1.0, 0.1]);
    Ok(())
}

/// The module as one node of the crate's own graph.
#[test]
fn in_the_own_engine() -> Result<()> {
    ops::register()?;
    let module = layer(&[2.0, -3.0], &[1.0, 0.0]).module();
    let x = Var::leaf(vector(&[1.0, 4.0]));
    let y = lift(&x, |x| Ok(module.forward_ts(x)?))?.sum()?;
    assert_close(grad(&y, &x)?.value(), &[2.0, -0.3]);
    Ok(())
}

/// One step of gradient descent, by hand and by tch's optimizer.
#[test]
fn a_step_of_gradient_descent() -> Result<()> {
    ops::register()?;
    let file = layer(&[2.0, -3.0], &[1.0, 0.0]).save(env!("CARGO_TARGET_TMPDIR"), "step.pt");
    let vs = VarStore::new(Device::Cpu);
    let module = load_trainable_module(file, vs.root())?;
    let mut sgd = Sgd::default().build(&vs, 0.5)?;
    sgd.backward_step(&module.forward_ts(&[vector(&[1.0, 4.0])])?.sum(Kind::Double));
    let parameters = vs.variables();
    assert_close(&parameters["w"], &[2.0 - 0.5, -3.0 - 0.2]);
    assert_close(&parameters["b"], &[1.0 - 0.5, 0.0 - 0.05]);
    // The module has the same tensors.
    assert_close(&module.forward_ts(&[vector(&[1.0, 1.0])])?, &[2.0, -0.325]);
    Ok(())
}

/// The parameters of a layer are found again from what it computes.
#[test]
fn it_trains() -> Result<()> {
    ops::register()?;
    let x = Tensor::linspace(-2.0, 2.0, 64, (Kind::Double, Device::Cpu));
    let target = layer(&[1.5], &[-0.5]).module().forward_ts(&[&x])?.detach();
    let vs = VarStore::new(Device::Cpu);
    let module = load_trainable_module(
        layer(&[0.3], &[0.4]).save(env!("CARGO_TARGET_TMPDIR"), "train.pt"),
        vs.root(),
    )?;
    let mut adam = Adam::default().build(&vs, 0.05)?;
    for _ in 0..400 {
        adam.backward_step(&module.forward_ts(&[&x])?.mse_loss(&target, tch::Reduction::Mean));
    }
    let parameters = vs.variables();
    assert!((number(&parameters["w"]) - 1.5).abs() < 1e-3, "{parameters:?}");
    assert!((number(&parameters["b"]) + 0.5).abs() < 1e-3, "{parameters:?}");
    Ok(())
}
