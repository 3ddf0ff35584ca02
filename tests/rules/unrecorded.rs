//! Gradients that are differentiated again although libtorch did not record them, and
//! gradients that do not arrive.

use crate::host::{Host, Kind};
use crate::{assert_rule, identity, rules};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::Tensor;
use tch_function::{Error, GradOptions, Value, grad};
use test_support::{BackwardFn, Op, numbers, vector};

rules! {
    an_unrecorded_backward_is_not_differentiated_silently,
    zeros_need_no_history,
    a_declared_constant_needs_no_history,
    what_is_not_differentiated_needs_no_history,
    a_backward_whose_gradient_does_not_arrive_does_not_run,
}

/// y = e^x, with the backward under test, which may use the saved y.
fn exp(backward: BackwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    let forward = |ctx: &mut tch_function::Ctx, x: &Tensor| {
        let y = x.exp();
        ctx.save_for_backward([&y])?;
        Ok(y)
    };
    Op { forward, backward }
}

const UNRECORDED: [BackwardFn<Tensor, Tensor>; 3] = [
    |ctx, dy| {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(tch::no_grad(|| dy * y)))
    },
    |ctx, dy| {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy.detach() * y.detach()))
    },
    |ctx, dy| {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(vector(&numbers(&(dy * y)))))
    },
];

/// L = f(f(x)), of which the outer application gives the inner one a gradient that has a
/// history.
fn first<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> tch_function::Result<H::V> {
    let outer = exp(|ctx, dy| {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * y))
    });
    let y = H::apply(op, &[x])?.remove(0);
    let loss = H::apply(outer, &[&y])?.remove(0);
    let ones = H::constant(&loss.tensor().detach().ones_like());
    let options = GradOptions::new().seeds(&ones).create_graph(true);
    Ok(options.grad(&loss, x)?.expect("x was used"))
}

fn an_unrecorded_backward_is_not_differentiated_silently<H: Host>() {
    for backward in UNRECORDED {
        // A traced backward cannot read numbers out of tensors.
        let x = H::leaf(&vector(&[0.7]));
        let found = first::<H>(exp(backward), &x);
        assert_rule!(
            found,
            Error::UnrecordedBackward { op: "Op", input: 0 },
            "Op: backward returned a gradient for input 0 that libtorch did not record",
        );
        // Without create_graph it is right.
        let y = H::apply(exp(backward), &[&x]).expect("a value").remove(0);
        assert_eq!(numbers(&grad(&y, &x).expect("a gradient").tensor().detach()), [0.7f64.exp()]);
    }
}

fn zeros_need_no_history<H: Host>() {
    let x = H::leaf(&vector(&[0.7]));
    let dx = first::<H>(exp(|_, dy| Ok(Some(dy.detach().zeros_like()))), &x);
    assert_eq!(numbers(&dx.expect("zeros").tensor().detach()), [0.0]);
}

fn a_declared_constant_needs_no_history<H: Host>() {
    let op = exp(|ctx, dy| {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(ctx.constant_gradient(&tch::no_grad(|| dy * y))?))
    });
    let x = H::leaf(&vector(&[0.7]));
    let dx = first::<H>(op, &x).expect("a gradient");
    let value = (0.7 + 0.7f64.exp()).exp();
    assert!((numbers(&dx.tensor().detach())[0] - value).abs() < 1e-9 * value);
    // Its derivative is zero.
    let ddx = GradOptions::new().allow_unused(true).grad(&dx, &x).expect("no error");
    assert!(ddx.is_none_or(|ddx| numbers(&ddx.tensor().detach()) == [0.0]));
}

/// The gradient of an output that has no history itself.
fn what_is_not_differentiated_needs_no_history<H: Host>() {
    let x = H::leaf(&vector(&[0.7]));
    let y = H::apply(exp(UNRECORDED[0]), &[&x]).expect("a value").remove(0);
    let dx = GradOptions::new().create_graph(true).grad(&y, &x).expect("a gradient");
    let dx = dx.expect("x was used");
    let text = "does not require a gradient";
    assert_rule!(grad(&dx, &x), Error::NoGraph { .. }, text);
}

static RUNS: AtomicUsize = AtomicUsize::new(0);

/// The consumer returns None. PyTorch would run the backward behind it on zeros.
fn a_backward_whose_gradient_does_not_arrive_does_not_run<H: Host>() {
    let behind = identity(|_, dy| {
        RUNS.fetch_add(1, SeqCst);
        Ok(Some(dy * 1.0))
    });
    let x = H::leaf(&vector(&[0.7]));
    let y = H::apply(behind, &[&x]).expect("a value").remove(0);
    let z = H::apply(identity(|_, _| Ok(None)), &[&y]).expect("a value").remove(0);
    let found = GradOptions::new().allow_unused(true).grad(&z, &x).expect("no error");
    match H::KIND {
        // A traced graph counts on a gradient for each input: zeros.
        Kind::Watched => assert_eq!(numbers(&found.expect("zeros").tensor().detach()), [0.0]),
        _ => assert!(found.is_none()),
    }
}
