//! What `backward` may return and what it is given.

use crate::host::Host;
use crate::{assert_rule, gradient, identity, rules};
use tch::{Kind, Tensor};
use tch_function::{Error, GradOptions, Value, grad};
use test_support::{ForwardFn, Op, numbers, vector};

rules! {
    a_gradient_that_only_broadcasts_is_an_error,
    a_gradient_that_the_input_broadcasts_to_is_an_error,
    a_gradient_of_another_dtype_is_an_error,
    an_undefined_gradient_points_to_none,
    a_gradient_changed_in_place_is_an_error,
    a_list_needs_one_gradient_per_tensor,
    none_means_that_no_gradient_flows,
    missing_gradients_are_zeros,
    missing_gradients_are_undefined_if_so_declared,
    a_gradient_that_is_not_needed_is_dropped_unchecked,
    an_absent_output_leaves_the_others_their_gradients,
}

fn ones<H: Host>(y: &H::V) -> H::V {
    H::constant(&y.tensor().detach().ones_like())
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> H::V {
    H::apply(op, &[x]).expect("a value").remove(0)
}

fn a_gradient_that_only_broadcasts_is_an_error<H: Host>() {
    let x = H::leaf(&vector(&[1.0, 2.0, 3.0]));
    let y = apply::<H>(identity(|_, dy| Ok(Some(dy.sum_to_size([1])))), &x);
    assert_rule!(
        gradient(&y, &x, ones::<H>(&y)),
        Error::GradientShape { op: "Op", input: 0, .. },
        "shape [1] for input 0 of shape [3]",
        "sum_to_size"
    );
}

fn a_gradient_that_the_input_broadcasts_to_is_an_error<H: Host>() {
    let x = H::leaf(&vector(&[1.0]));
    let y = apply::<H>(identity(|_, dy| Ok(Some(dy.expand([2, 1], false)))), &x);
    assert_rule!(grad(&y, &x), Error::GradientShape { op: "Op", .. }, "shape [2, 1] for input 0");
}

fn a_gradient_of_another_dtype_is_an_error<H: Host>() {
    let x = H::leaf(&Tensor::from_slice(&[1.0f32]));
    let y = apply::<H>(identity(|_, dy| Ok(Some(dy.to_kind(Kind::Double) * 1e300))), &x);
    assert_rule!(
        grad(&y, &x),
        Error::GradientDtype { expected: Kind::Float, found: Kind::Double, .. },
        "Op",
        "dtype Double for input 0",
        "to_kind(Float)"
    );
}

fn an_undefined_gradient_points_to_none<H: Host>() {
    let x = H::leaf(&vector(&[1.0]));
    let y = apply::<H>(identity(|_, _| Ok(Some(Tensor::new()))), &x);
    assert_rule!(grad(&y, &x), Error::Undefined { op: "Op", .. }, "input 0", "None");
}

fn a_gradient_changed_in_place_is_an_error<H: Host>() {
    let x = H::leaf(&vector(&[1.0]));
    let y = apply::<H>(identity(|_, dy| Ok(Some(dy.shallow_clone().g_mul_scalar_(2.0)))), &x);
    assert_rule!(
        grad(&y, &x),
        Error::SeedChanged { op: "Op", output: 0 },
        "Op",
        "compute a new tensor"
    );
}

fn a_list_needs_one_gradient_per_tensor<H: Host>() {
    let op: Op<Vec<Tensor>, Tensor> =
        Op { forward: |_, x| Ok(&x[0] + &x[1]), backward: |_, dy| Ok(vec![Some(dy.copy())]) };
    let (a, b) = (H::leaf(&vector(&[1.0])), H::leaf(&vector(&[2.0])));
    let y = H::apply(op, &[&a, &b]).unwrap().remove(0);
    assert_rule!(
        grad(&y, &a),
        Error::GradientCount { op: "Op", expected: 2, found: 1 },
        "1 gradients for 2 inputs"
    );
}

fn none_means_that_no_gradient_flows<H: Host>() {
    let x = H::leaf(&vector(&[1.0]));
    let y = apply::<H>(identity(|_, _| Ok(None)), &x);
    if H::KIND == crate::host::Kind::Watched {
        // A graph that was traced counts on a tensor for each input that needs one.
        assert_eq!(numbers(&gradient(&y, &x, ones::<H>(&y)).unwrap()), [0.0]);
        return;
    }
    assert_rule!(grad(&y, &x), Error::Unused { input: 0 }, "allow_unused");
    let y = apply::<H>(identity(|_, _| Ok(None)), &x);
    assert!(GradOptions::new().allow_unused(true).grad(&y, &x).unwrap().is_none());
}

fn two_outputs(forward: ForwardFn<Tensor, (Tensor, Tensor)>) -> Op<Tensor, (Tensor, Tensor)> {
    Op {
        forward,
        backward: |_, (da, db)| {
            anyhow::ensure!(da.defined(), "da is undefined");
            Ok(Some(if db.defined() { da + db } else { da * 100.0 }))
        },
    }
}

fn missing_gradients_are_zeros<H: Host>() {
    let x = H::leaf(&vector(&[1.0, 2.0]));
    let a = H::apply(two_outputs(|_, x| Ok((x * 1.0, x * 2.0))), &[&x]).unwrap().remove(0);
    assert_eq!(numbers(&gradient(&a, &x, ones::<H>(&a)).unwrap()), [1.0, 1.0]);
}

fn missing_gradients_are_undefined_if_so_declared<H: Host>() {
    let op = two_outputs(|ctx, x| {
        ctx.set_materialize_grads(false);
        Ok((x * 1.0, x * 2.0))
    });
    let x = H::leaf(&vector(&[1.0, 2.0]));
    let a = H::apply(op, &[&x]).unwrap().remove(0);
    assert_eq!(numbers(&gradient(&a, &x, ones::<H>(&a)).unwrap()), [100.0, 100.0]);
}

fn a_gradient_that_is_not_needed_is_dropped_unchecked<H: Host>() {
    let op = Op::<(Tensor, Tensor), Tensor> {
        forward: |_, (a, b)| Ok(a + b),
        backward: |ctx, dy| {
            anyhow::ensure!(ctx.needs_input_grad(0) && !ctx.needs_input_grad(1), "other needs");
            Ok((Some(dy.copy()), Some(Tensor::from(1i64))))
        },
    };
    let (a, b) = (H::leaf(&vector(&[1.0])), H::leaf(&vector(&[2.0])));
    let y = H::apply(op, &[&a, &b]).unwrap().remove(0);
    assert_eq!(numbers(grad(&y, &a).unwrap().tensor()), [1.0]);
}

fn an_absent_output_leaves_the_others_their_gradients<H: Host>() {
    let op = Op::<Tensor, (Option<Tensor>, Tensor)> {
        forward: |_, x| Ok((None, x * 2.0)),
        backward: |_, (_, dy)| Ok(Some(dy * 2.0)),
    };
    let x = H::leaf(&vector(&[1.0]));
    let y = H::apply(op, &[&x]).unwrap().remove(0);
    assert!(H::requires_grad(&y));
    assert_eq!(numbers(grad(&y, &x).unwrap().tensor()), [2.0]);
}
