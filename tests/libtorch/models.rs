//! Functions among libtorch's operators, in models, and what `grad` adds to tch's.

use anyhow::Result;
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_function::{Error, Function, GradOptions, backward, grad, ops};
use test_support::{assert_error, number, numbers, vector};

pub(super) fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

#[test]
fn an_ordinary_tensor_comes_back() -> Result<()> {
    let x = leaf(&[4.5]);
    let y = ops::Log1pExp.apply(&x)?;
    assert!(y.requires_grad() && !y.is_leaf());
    y.sum(Kind::Double).backward();
    assert!((number(&x.grad()) - 1.0 / (1.0 + (-4.5f64).exp())).abs() < 1e-15);
    Ok(())
}

#[test]
fn it_chains_with_libtorchs_own_ops() -> Result<()> {
    let x = leaf(&[0.5, -1.0, 3.0]);
    let y = (ops::Log1pExp.apply(&(x.sin() * 2.0))? * &x).exp();
    let z = ((x.sin() * 2.0).softplus() * &x).exp();
    assert_close(&y, &z);
    let dy = grad(&y.sum(Kind::Double), &x)?;
    let dz = grad(&z.sum(Kind::Double), &x)?;
    assert_close(&dy, &dz);
    Ok(())
}

pub(super) fn assert_close(a: &Tensor, b: &Tensor) {
    for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
        approx::assert_relative_eq!(a, b, max_relative = 1e-14);
    }
}

#[test]
fn a_custom_activation_trains_with_adam_in_a_sequential() -> Result<()> {
    tch::manual_seed(3);
    let vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(vs.root() / "a", 2, 16, Default::default()))
        .add_fn(|x| ops::Log1pExp.apply(x).expect("finite inputs"))
        .add(nn::linear(vs.root() / "b", 16, 1, Default::default()));
    let mut adam = nn::Adam::default().build(&vs, 0.02)?;
    let x = Tensor::rand([64, 2], (Kind::Float, Device::Cpu));
    let target = x.prod_dim_int(1, true, Kind::Float);
    let loss =
        || Ok::<_, Error>(ops::SquaredError.apply((&net.forward(&x), &target))?.sum(Kind::Float));
    let first = number(&loss()?);
    for _ in 0..200 {
        adam.backward_step(&loss()?);
    }
    assert!(number(&loss()?) < 0.02 * first);
    Ok(())
}

// grad and backward with what tch's own lack.

#[test]
fn seeds_chosen_inputs_and_unused_ones() -> Result<()> {
    let (x, w, other) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]), leaf(&[1.0]));
    let y = &x * &w;
    assert_error!(grad(&y, &x), Error::SeedMissing { .. }, "shape [2]");
    let seed = vector(&[1.0, 10.0]);
    let keep = GradOptions::new().seeds(&seed).retain_graph(true);
    let [dx, dw] = keep.grad(&y, [&x, &w])?.map(Option::unwrap);
    assert_eq!((numbers(&dx), numbers(&dw)), (vec![3.0, 40.0], vec![1.0, 20.0]));
    assert!(!x.grad().defined(), "grad() adds to no leaf");
    assert_error!(keep.grad(&y, &other), Error::Unused { input: 0 }, "allow_unused");
    let keep = keep.allow_unused(true);
    assert!(keep.grad(&y, &other)?.is_none());
    keep.backward(&y)?;
    keep.backward(&y)?;
    assert_eq!(numbers(&x.grad()), [6.0, 80.0]);
    assert_error!(grad(&y, &vector(&[1.0])), Error::InputNoGrad { input: 0 }, "input 0");
    assert_error!(backward(&vector(&[1.0])), Error::NoGraph { output: 0 }, "output 0");
    let single = Tensor::ones([2], (Kind::Float, Device::Cpu));
    assert_error!(
        GradOptions::new().seeds(&single).grad(&y, &x),
        Error::Seed { .. },
        "dtype Float",
        "dtype Double"
    );
    Ok(())
}
