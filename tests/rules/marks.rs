//! What `forward` declares: outputs without a gradient, inputs that it changes.

use crate::host::{Host, Kind as HostKind};
use crate::{assert_rule, gradient, rules};
use tch::{Kind, Tensor};
use tch_function::{Error, Value, grad};
use test_support::{Op, numbers, vector};

rules! {
    a_marked_output_has_no_gradient,
    integer_outputs_have_no_gradient,
    marking_what_is_not_returned_is_an_error,
    a_dirty_tensor_must_be_an_input,
    a_dirty_tensor_must_be_returned,
    a_dirty_tensor_is_returned_once,
    a_leaf_that_needs_a_gradient_stays_untouched,
    an_undeclared_change_is_an_error,
    an_undefined_output_is_an_error,
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> tch_function::Result<H::V> {
    Ok(H::apply(op, &[x])?.remove(0))
}

/// Its gradient is that of both outputs.
fn pair(
    forward: test_support::ForwardFn<Tensor, (Tensor, Tensor)>,
) -> Op<Tensor, (Tensor, Tensor)> {
    Op { forward, backward: |_, (da, _)| Ok(Some(da.shallow_clone())) }
}

fn a_marked_output_has_no_gradient<H: Host>() {
    let op = pair(|ctx, x| {
        let (a, b) = (x * 1.0, x * 2.0);
        ctx.mark_non_differentiable(&b);
        Ok((a, b))
    });
    let x = H::leaf(&vector(&[1.0]));
    let y = H::apply(op, &[&x]).unwrap();
    assert!(H::requires_grad(&y[0]) && !H::requires_grad(&y[1]));
    assert_eq!(numbers(grad(&y[0], &x).unwrap().tensor()), [1.0]);
    let refused = grad(&y[1], &x);
    match H::KIND {
        HostKind::Vars => {
            assert_rule!(refused, Error::NotDifferentiable { op: "Op" }, "Op has no gradient")
        }
        _ => assert_rule!(refused, Error::NoGraph { output: 0 }, "output 0"),
    }
}

fn integer_outputs_have_no_gradient<H: Host>() {
    let op = pair(|_, x| Ok((x * 1.0, x.to_kind(Kind::Int64))));
    let x = H::leaf(&vector(&[1.0]));
    let y = H::apply(op, &[&x]).unwrap();
    assert!(H::requires_grad(&y[0]) && !H::requires_grad(&y[1]));
}

fn marking_what_is_not_returned_is_an_error<H: Host>() {
    let op = || Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_non_differentiable(&(x * 2.0));
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    for x in [H::leaf(&vector(&[1.0])), H::constant(&vector(&[1.0]))] {
        let refused = apply::<H>(op(), &x);
        assert_rule!(refused, Error::NotAnOutput { op: "Op" }, "Op", "did not return");
    }
}

/// An input that is no leaf, so that it may be changed.
fn not_a_leaf<H: Host>() -> H::V {
    let x = H::leaf(&vector(&[3.0]));
    apply::<H>(crate::identity(|_, dy| Ok(Some(dy.copy()))), &x).unwrap()
}

const UNDECLARED: &str = "its schema does not say so";

fn a_dirty_tensor_must_be_an_input<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_dirty(&x.copy())?;
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    let refused = apply::<H>(op, &not_a_leaf::<H>());
    match H::is_registered() {
        true => assert_rule!(refused, Error::Argument { op: "Op", .. }, "Op", UNDECLARED),
        false => assert_rule!(refused, Error::DirtyNotInput { op: "Op" }, "not an input"),
    }
}

fn a_dirty_tensor_is_returned_once<H: Host>() {
    let op = Op::<Tensor, (Tensor, Tensor)> {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            let _ = x.shallow_clone().f_mul_scalar_(2.0)?;
            Ok((x.shallow_clone(), x.shallow_clone()))
        },
        backward: |_, (a, b)| Ok(Some(a * 2.0 + b * 2.0)),
    };
    if H::is_registered() {
        return; // their schema is functional
    }
    let x = not_a_leaf::<H>();
    assert_rule!(H::apply(op, &[&x]), Error::Argument { op: "Op", .. }, "input 0", "once");
}

fn a_dirty_tensor_must_be_returned<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            let _ = x.shallow_clone().fill_(1.0);
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    let refused = apply::<H>(op, &not_a_leaf::<H>());
    match H::is_registered() {
        true => assert_rule!(refused, Error::Argument { op: "Op", .. }, "Op", UNDECLARED),
        false => assert_rule!(
            refused,
            Error::DirtyNotReturned { op: "Op", input: 0 },
            "return every dirty tensor"
        ),
    }
}

fn a_leaf_that_needs_a_gradient_stays_untouched<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            Ok(x.shallow_clone().g_mul_scalar_(2.0))
        },
        backward: |_, dy| Ok(Some(dy * 2.0)),
    };
    let x = H::leaf(&vector(&[3.0]));
    let refused = apply::<H>(op, &x);
    match H::is_registered() {
        true => assert_rule!(refused, Error::Argument { op: "Op", .. }, "Op", UNDECLARED),
        false => {
            assert_rule!(refused, Error::DirtyLeaf { op: "Op", input: 0 }, "nothing was changed")
        }
    }
    assert_eq!(numbers(x.tensor()), [3.0]);
    let y = apply::<H>(crate::square(), &x).unwrap();
    let ones = H::constant(&vector(&[1.0]));
    assert_eq!(numbers(&gradient(&y, &x, ones).unwrap()), [6.0]);
}

fn an_undeclared_change_is_an_error<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |_, x| {
            let _ = x.shallow_clone().g_mul_scalar_(2.0);
            Ok(x * 1.0)
        },
        backward: |_, _| Ok(None),
    };
    assert_rule!(
        apply::<H>(op, &not_a_leaf::<H>()),
        Error::InputChanged { op: "Op", input: 0 },
        "Op",
        "without ctx.mark_dirty"
    );
}

fn an_undefined_output_is_an_error<H: Host>() {
    let op = Op::<Tensor, Tensor> { forward: |_, _| Ok(Tensor::new()), backward: |_, _| Ok(None) };
    assert_rule!(
        apply::<H>(op, &H::leaf(&vector(&[1.0]))),
        Error::Undefined { op: "Op", .. },
        "output 0 of forward"
    );
}
