//! Second derivatives.

use crate::host::{Host, Kind};
use crate::{assert_rule, rules, square};
use tch::Tensor;
use tch_function::{Error, GradOptions, Value, grad};
use test_support::{Op, numbers, vector};

rules! {
    through_a_saved_input,
    through_a_saved_output,
    a_saved_intermediate_is_an_error,
    a_declared_constant_has_no_second_path,
    an_input_detached_later_keeps_its_history,
    a_leaf_that_stops_requiring_a_gradient_keeps_its_history,
    an_output_detached_later_keeps_its_history,
    a_saved_tensor_changed_in_place_is_named_here_too,
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> H::V {
    H::apply(op, &[x]).expect("a value").remove(0)
}

/// dy/dx with a graph of its own, from a seed of ones.
fn derivative<H: Host>(y: &H::V, x: &H::V) -> tch_function::Result<H::V> {
    let ones = H::constant(&y.tensor().detach().ones_like());
    let options = GradOptions::new().seeds(&ones).create_graph(true);
    Ok(options.grad(y, x)?.expect("x was used"))
}

fn second<H: Host>(op: Op<Tensor, Tensor>, at: f64) -> tch_function::Result<Vec<f64>> {
    let x = H::leaf(&vector(&[at]));
    let dx = derivative::<H>(&apply::<H>(op, &x), &x)?;
    Ok(numbers(&grad(&dx, &x)?.tensor().detach()))
}

fn through_a_saved_input<H: Host>() {
    assert_eq!(second::<H>(square(), 3.0).unwrap(), [2.0]);
}

fn exp() -> Op<Tensor, Tensor> {
    Op {
        forward: |ctx, x| {
            let y = x.exp();
            ctx.save_for_backward([&y])?;
            Ok(y)
        },
        backward: |ctx, dy| {
            let [y] = ctx.saved_tensors()?;
            Ok(Some(dy * y))
        },
    }
}

fn through_a_saved_output<H: Host>() {
    assert_eq!(second::<H>(exp(), 1.0).unwrap(), [1f64.exp()]);
}

fn a_saved_intermediate_is_an_error<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save_for_backward([x, &(x * x)])?;
            Ok(x * x * x)
        },
        backward: |ctx, dy| {
            let [_, squared] = ctx.saved_tensors()?;
            Ok(Some(dy * squared * 3.0))
        },
    };
    assert_rule!(
        second::<H>(op, 2.0),
        Error::SavedIntermediate { op: "Op", position: 1 },
        "Op",
        "saved tensor 1"
    );
}

fn a_declared_constant_has_no_second_path<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            let mask = x.gt(0.0).to_kind(tch::Kind::Double);
            ctx.save_for_backward([x, &mask])?;
            ctx.mark_constant(&mask);
            Ok(x * x * mask)
        },
        backward: |ctx, dy| {
            let [x, mask] = ctx.saved_tensors()?;
            Ok(Some(dy * x * mask * 2.0))
        },
    };
    assert_eq!(second::<H>(op, 2.0).unwrap(), [2.0]);
}

/// d/dleaf of sum(dy/dleaf) for y = x^2 and x = leaf * 1, after `change` of x.
fn after<H: Host>(change: fn(&mut Tensor)) -> Vec<f64> {
    let leaf = H::leaf(&vector(&[1.0, 2.0]));
    let x = apply::<H>(crate::identity(|_, dy| Ok(Some(dy.shallow_clone()))), &leaf);
    let x = H::given(&x);
    let y = H::apply_to_given(square(), &x).unwrap().remove(0);
    change(&mut x.tensor().shallow_clone());
    let dleaf = derivative::<H>(&y, &leaf).unwrap();
    let seed = H::constant(&vector(&[1.0, 2.0]));
    let options = GradOptions::new().seeds(&seed);
    numbers(&options.grad(&dleaf, &leaf).unwrap().unwrap().tensor().detach())
}

fn an_input_detached_later_keeps_its_history<H: Host>() {
    assert_eq!(after::<H>(|_| ()), [2.0, 4.0]);
    if H::KIND == Kind::Watched {
        return; // libtorch refuses to detach a view
    }
    assert_eq!(after::<H>(|x| drop(x.detach_())), [2.0, 4.0]);
    let detached_and_a_leaf = |x: &mut Tensor| {
        let _ = x.detach_();
        let _ = x.requires_grad_(true);
    };
    if H::KIND != Kind::Vars {
        assert_eq!(after::<H>(detached_and_a_leaf), [2.0, 4.0]);
    }
}

fn a_leaf_that_stops_requiring_a_gradient_keeps_its_history<H: Host>() {
    let leaf = H::leaf(&vector(&[1.0, 2.0]));
    let y = apply::<H>(square(), &leaf);
    if H::KIND != Kind::Vars {
        let _ = leaf.tensor().shallow_clone().requires_grad_(false);
        let _ = leaf.tensor().shallow_clone().requires_grad_(true);
    }
    let dx = derivative::<H>(&y, &leaf).unwrap();
    let seed = H::constant(&vector(&[1.0, 2.0]));
    let second = GradOptions::new().seeds(&seed).grad(&dx, &leaf).unwrap().unwrap();
    assert_eq!(numbers(&second.tensor().detach()), [2.0, 4.0]);
}

fn an_output_detached_later_keeps_its_history<H: Host>() {
    let leaf = H::leaf(&vector(&[1.0]));
    let y = apply::<H>(exp(), &leaf);
    let z = apply::<H>(square(), &y);
    if H::KIND != Kind::Vars {
        let _ = y.tensor().shallow_clone().detach_();
    }
    // z = e^2x, dz/dx = 2 e^2x, d2z/dx2 = 4 e^2x
    let dx = derivative::<H>(&z, &leaf).unwrap();
    let second = numbers(&grad(&dx, &leaf).unwrap().tensor().detach());
    approx::assert_relative_eq!(second[0], 4.0 * 2f64.exp(), max_relative = 1e-14);
}

fn a_saved_tensor_changed_in_place_is_named_here_too<H: Host>() {
    let leaf = H::leaf(&vector(&[3.0]));
    let x = H::given(&leaf);
    let y = H::apply_to_given(square(), &x).unwrap().remove(0);
    tch::no_grad(|| drop(x.tensor().shallow_clone().fill_(100.0)));
    assert_rule!(
        derivative::<H>(&y, &leaf),
        Error::SavedChanged { op: "Op", position: 1, .. },
        "saved tensor 1"
    );
}

/// A saved tensor that is neither input nor output brings its own history; libtorch
/// refuses it if that was cut off, as its own ops do.
#[test]
fn a_captured_tensor_detached_later_is_refused() {
    use crate::host::OnTensors;
    use std::cell::RefCell;
    thread_local!(static CAPTURED: RefCell<Option<Tensor>> = const { RefCell::new(None) });
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            CAPTURED.with_borrow(|w| ctx.save_for_backward([w.as_ref().unwrap()]))?;
            CAPTURED.with_borrow(|w| Ok(x * w.as_ref().unwrap().detach()))
        },
        backward: |ctx, dy| {
            let [w] = ctx.saved_tensors()?;
            Ok(Some(dy * w))
        },
    };
    let leaf = OnTensors::leaf(&vector(&[3.0]));
    for detached in [false, true] {
        let w = &leaf * 2.0;
        CAPTURED.set(Some(w.shallow_clone()));
        let x = OnTensors::leaf(&vector(&[1.0]));
        let y = apply::<OnTensors>(op, &x);
        if detached {
            let _ = w.shallow_clone().detach_();
            assert_rule!(derivative::<OnTensors>(&y, &x), Error::Torch { .. }, "detached in-place");
        } else {
            let dx = derivative::<OnTensors>(&y, &x).unwrap();
            assert_eq!(numbers(&grad(&dx, &leaf).unwrap().detach()), [2.0]);
        }
    }
}
