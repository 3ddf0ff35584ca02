//! `lift`: tch closures and modules inside the own graph.

use anyhow::{Result, bail};
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_function::{Error, GradOptions, Var, backward, grad, lift, lift_all};
use test_support::{number, numbers, vector};

#[test]
fn a_closure_between_two_ops_of_the_graph() -> Result<()> {
    let x = Var::leaf(vector(&[0.5, -1.0, 2.0]));
    let y = lift(&(&x * 2.0), |x| Ok(x[0].erf() * x[0].sin()))?.exp()?.sum()?;
    let t = x.value().set_requires_grad(true);
    let z: Tensor = &t * 2.0;
    (z.erf() * z.sin()).exp().sum(Kind::Double).backward();
    assert_eq!(numbers(grad(&y, &x)?.value()), numbers(&t.grad()));
    Ok(())
}

#[test]
fn several_inputs_and_outputs_some_without_a_gradient() -> Result<()> {
    let (a, b) = (Var::leaf(vector(&[3.0, 1.0])), Var::leaf(vector(&[4.0, 5.0])));
    let c = Var::constant(vector(&[10.0, 10.0]));
    let y = lift_all([&a, &b, &c], |x| {
        let (values, indices) = (&x[0] * &x[2]).sort(0, false);
        Ok(vec![values, indices, &x[0] * &x[1], x[2].copy()])
    })?;
    assert_eq!(y.iter().map(Var::requires_grad).collect::<Vec<_>>(), [true, false, true, false]);
    assert!(matches!(backward(&y[1]), Err(Error::NotDifferentiable { op: "lift" })));
    let loss = (&y[0].sum()? + &y[2].sum()?).sum()?;
    let [da, db] = grad(&loss, [&a, &b])?;
    assert_eq!((numbers(da.value()), numbers(db.value())), (vec![14.0, 15.0], vec![3.0, 1.0]));
    Ok(())
}

#[test]
fn the_same_var_twice_counts_twice() -> Result<()> {
    let x = Var::leaf(vector(&[3.0]));
    let y = lift([&x, &x], |x| Ok(&x[0] * &x[1] * &x[1]))?;
    assert_eq!(number(grad(&y, &x)?.value()), 27.0);
    let parameter = vector(&[3.0]).set_requires_grad(true);
    let p = Var::leaf(&parameter);
    let y = lift([&p, &p], |x| Ok(&x[0] * &x[1] * &x[1]))?;
    assert_eq!(number(grad(&y, &p)?.value()), 27.0);
    Ok(())
}

fn net() -> (nn::VarStore, nn::Sequential) {
    tch::manual_seed(5);
    let vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(vs.root() / "a", 2, 8, Default::default()))
        .add_fn(Tensor::tanh)
        .add(nn::linear(vs.root() / "b", 8, 1, Default::default()));
    (vs, net)
}

#[test]
fn a_modules_parameters_get_their_gradients() -> Result<()> {
    let (vs, net) = net();
    let input = Tensor::randn([4, 2], (Kind::Float, Device::Cpu));
    net.forward(&input).square().sum(Kind::Float).backward();
    let expected: Vec<_> = vs.trainable_variables().iter().map(|p| numbers(&p.grad())).collect();
    vs.trainable_variables().iter_mut().for_each(Tensor::zero_grad);

    let run = || lift(&Var::constant(&input), |x| Ok(net.forward(&x[0])))?.pow_scalar(2.0)?.sum();
    // grad() touches no parameter; a parameter's Var among the inputs gets its own.
    let weights: Vec<Var> = vs.trainable_variables().iter().map(Var::leaf).collect();
    let mut inputs = vec![Var::constant(&input)];
    inputs.extend(weights.iter().cloned());
    let y = lift(&inputs, |x| Ok(net.forward(&x[0])))?.pow_scalar(2.0)?.sum()?;
    let found = grad(&y, &weights)?;
    for ((found, expected), p) in found.iter().zip(&expected).zip(vs.trainable_variables()) {
        assert_eq!(&numbers(found.value()), expected);
        assert!(numbers(&p.grad()).iter().all(|g| *g == 0.0));
    }
    // backward() adds to the parameters' own `.grad`, pass by pass.
    backward(&run()?)?;
    backward(&run()?)?;
    for (expected, p) in expected.iter().zip(vs.trainable_variables()) {
        let twice: Vec<f64> = expected.iter().map(|g| 2.0 * g).collect();
        assert_eq!(numbers(&p.grad()), twice);
    }
    Ok(())
}

#[test]
fn tchs_optimizer_trains_through_the_graph() -> Result<()> {
    let (vs, net) = net();
    let mut adam = nn::Adam::default().build(&vs, 0.02)?;
    let x = Tensor::rand([64, 2], (Kind::Float, Device::Cpu));
    let target = Var::constant(x.select(1, 0).unsqueeze(1) * x.select(1, 1).unsqueeze(1));
    let x = Var::constant(x);
    let mut losses = Vec::new();
    for _ in 0..200 {
        let y = lift(&x, |x| Ok(net.forward(&x[0])))?;
        let loss = y.squared_error(&target)?;
        adam.zero_grad();
        backward(&loss)?;
        adam.step();
        losses.push(number(loss.value()));
    }
    assert!(losses[199] < 0.02 * losses[0], "{} -> {}", losses[0], losses[199]);
    Ok(())
}

#[test]
fn retained_graphs_run_again_and_others_do_not() -> Result<()> {
    let x = Var::leaf(vector(&[2.0]));
    let y = lift(&x, |x| Ok(x[0].pow_tensor_scalar(3)))?;
    let retain = GradOptions::new().retain_graph(true);
    assert_eq!(number(retain.grad(&y, &x)?.unwrap().value()), 12.0);
    assert_eq!(number(grad(&y, &x)?.value()), 12.0);
    assert!(matches!(grad(&y, &x), Err(Error::GraphFreed { op: "lift" })));
    Ok(())
}

#[test]
fn faults_come_back() {
    let x = Var::leaf(vector(&[2.0]));
    let error = lift(&x, |_| bail!("no table")).unwrap_err();
    assert_eq!(error.to_string(), "lift: forward failed: no table");
    let error =
        lift(&x, |x| Ok(x[0].matmul(&x[0].view([1, 1, 1, 1])) + &x[0].view([3]))).unwrap_err();
    assert!(matches!(error, Error::Panic { op: "lift", .. }), "{error}");
    let error = lift(&x, |_| Ok(Tensor::new())).unwrap_err();
    assert!(error.to_string().contains("output 0 of the closure"), "{error}");
    // libtorch's own check: exp saves its output, which is changed.
    let y = lift(&x, |x| {
        let mut e = x[0].exp();
        Ok(e.shallow_clone() + e.fill_(1.0).detach())
    });
    let error = y.and_then(|y| grad(&y, &x).map(drop)).unwrap_err();
    assert!(matches!(error, Error::Torch { op: "lift", .. } | Error::Backward { op: "lift", .. }));
    assert!(error.to_string().contains("modified by an inplace operation"), "{error}");
}

#[test]
fn nothing_is_recorded_under_no_grad() -> Result<()> {
    let (vs, net) = net();
    let x = Var::leaf(Tensor::ones([1, 2], (Kind::Float, Device::Cpu)));
    let y = tch::no_grad(|| lift(&x, |x| Ok(net.forward(&x[0]))))?;
    assert!(!y.requires_grad());
    drop(vs);
    Ok(())
}

#[test]
fn a_closure_may_return_its_input() -> Result<()> {
    let x = Var::leaf(vector(&[2.0]));
    let y = lift(&x, |x| Ok(x[0].shallow_clone()))?;
    assert_eq!(number(grad(&(&y * &y), &x)?.value()), 4.0);
    Ok(())
}
