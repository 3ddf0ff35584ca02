//! Passes: what they start from, what they are asked for, and what stays of the graph.

use crate::host::Host;
use crate::{assert_rule, identity, rules, square};
use tch::{Device, Kind, Tensor};
use tch_function::{Error, GradOptions, Value, grad};
use test_support::{Op, numbers, vector};

rules! {
    a_second_pass_is_an_error,
    a_retained_graph_runs_again,
    a_position_past_the_inputs_is_an_error,
    seeds_must_fit_their_outputs,
    what_has_no_graph_says_so,
    unused_inputs_are_an_error,
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> H::V {
    H::apply(op, &[x]).expect("a value").remove(0)
}

fn a_second_pass_is_an_error<H: Host>() {
    let x = H::leaf(&vector(&[1.0]));
    for op in [identity(|_, dy| Ok(Some(dy.copy()))), square()] {
        let y = apply::<H>(op, &x);
        grad(&y, &x).unwrap();
        assert_rule!(grad(&y, &x), Error::GraphFreed { op: "Op" }, "Op", "retain_graph(true)");
    }
}

fn a_retained_graph_runs_again<H: Host>() {
    let x = H::leaf(&vector(&[3.0]));
    let y = apply::<H>(square(), &x);
    for _ in 0..3 {
        let dx = GradOptions::new().retain_graph(true).grad(&y, &x).unwrap().unwrap();
        assert_eq!(numbers(&dx.tensor().detach()), [6.0]);
    }
}

fn a_position_past_the_inputs_is_an_error<H: Host>() {
    let op = identity(|ctx, _| Ok(ctx.needs_input_grad(3).then(|| unreachable!())));
    let x = H::leaf(&vector(&[1.0]));
    assert_rule!(
        grad(&apply::<H>(op, &x), &x),
        Error::Panic { op: "Op", stage: "backward", .. },
        "no input tensor 3"
    );
}

fn seeds_must_fit_their_outputs<H: Host>() {
    let x = H::leaf(&vector(&[1.0, 2.0]));
    let y = apply::<H>(square(), &x);
    assert_rule!(grad(&y, &x), Error::SeedMissing { output: 0, .. }, "shape [2]", "seed");
    let with = |seed: &H::V| GradOptions::new().seeds(seed).grad(&y, &x);
    let wrong = H::constant(&Tensor::ones([2, 2], (Kind::Double, Device::Cpu)));
    assert_rule!(with(&wrong), Error::Seed { output: 0, .. }, "shape [2, 2]", "shape [2]");
    let single = H::constant(&Tensor::ones([2], (Kind::Float, Device::Cpu)));
    assert_rule!(with(&single), Error::Seed { output: 0, .. }, "dtype Float", "dtype Double");
    let good = H::constant(&vector(&[1.0, 10.0]));
    assert_rule!(
        GradOptions::new().seeds([&good, &good]).grad(&y, &x),
        Error::SeedCount { expected: 1, found: 2 },
        "2 seeds"
    );
    assert_eq!(numbers(&with(&good).unwrap().unwrap().tensor().detach()), [2.0, 40.0]);
}

fn what_has_no_graph_says_so<H: Host>() {
    let c = H::constant(&vector(&[1.0]));
    let x = H::leaf(&vector(&[1.0]));
    assert_rule!(grad(&c, &x), Error::NoGraph { output: 0 }, "output 0");
    let y = tch::no_grad(|| apply::<H>(square(), &x));
    assert_rule!(grad(&y, &x), Error::NoGraph { output: 0 }, "no_grad");
    let y = apply::<H>(square(), &x);
    assert_rule!(grad(&y, &c), Error::InputNoGrad { input: 0 }, "input 0");
}

fn unused_inputs_are_an_error<H: Host>() {
    let (x, other) = (H::leaf(&vector(&[1.0])), H::leaf(&vector(&[1.0])));
    let y = apply::<H>(square(), &x);
    let retain = GradOptions::new().retain_graph(true);
    assert_rule!(retain.grad(&y, [&x, &other]), Error::Unused { input: 1 }, "input 1");
    let found = GradOptions::new().allow_unused(true).grad(&y, [&x, &other]).unwrap();
    assert!(found[0].is_some() && found[1].is_none());
}
