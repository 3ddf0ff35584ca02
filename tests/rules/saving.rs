//! What `forward` saves.

use crate::host::{Host, Kind};
use crate::{assert_rule, rules, square};
use tch::Tensor;
use tch_function::{Error, Value, grad};
use test_support::{Op, vector};

rules! {
    saving_twice_is_an_error,
    another_number_of_saved_tensors_is_an_error,
    an_undefined_tensor_cannot_be_saved,
    a_saved_tensor_changed_in_place_is_named,
    a_change_through_a_view_counts_too,
    a_saved_output_changed_in_place_is_named,
    state_is_saved_once,
    state_is_typed,
    a_constant_must_be_a_saved_tensor,
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> tch_function::Result<H::V> {
    Ok(H::apply(op, &[x])?.remove(0))
}

fn one<H: Host>() -> H::V {
    H::leaf(&vector(&[1.0]))
}

fn saving_twice_is_an_error<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save_for_backward([x])?;
            ctx.save_for_backward([x])?;
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    assert_rule!(apply::<H>(op, &one::<H>()), Error::SavedTwice { op: "Op" }, "Op", "in one call");
}

fn another_number_of_saved_tensors_is_an_error<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save_for_backward([x])?;
            Ok(x.copy())
        },
        backward: |ctx, _| {
            let [_, _] = ctx.saved_tensors()?;
            Ok(None)
        },
    };
    let x = one::<H>();
    let y = apply::<H>(op, &x).unwrap();
    assert_rule!(
        grad(&y, &x),
        Error::SavedCount { op: "Op", expected: 2, found: 1 },
        "2 tensors, 1"
    );
}

fn an_undefined_tensor_cannot_be_saved<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save_for_backward([x, &Tensor::new()])?;
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    assert_rule!(apply::<H>(op, &one::<H>()), Error::Undefined { op: "Op", .. }, "tensor 1");
}

/// y = f(x) for the x that is given to the op itself, which the test can change: on the
/// watched way that is not the leaf.
fn with_input<H: Host>(op: Op<Tensor, Tensor>) -> (H::V, H::V, H::V) {
    let leaf = H::leaf(&vector(&[3.0]));
    let x = H::given(&leaf);
    let y = H::apply_to_given(op, &x).expect("a value").remove(0);
    (leaf, x, y)
}

fn fill(t: &Tensor) {
    tch::no_grad(|| drop(t.shallow_clone().fill_(100.0)));
}

fn a_saved_tensor_changed_in_place_is_named<H: Host>() {
    let (leaf, x, y) = with_input::<H>(square());
    fill(x.tensor());
    assert_rule!(
        grad(&y, &leaf),
        Error::SavedChanged { op: "Op", position: 1, .. },
        "Op",
        "saved tensor 1",
        "changed in place"
    );
}

fn a_change_through_a_view_counts_too<H: Host>() {
    let (leaf, x, y) = with_input::<H>(square());
    fill(&x.tensor().detach().view([1, 1]).select(0, 0));
    assert_rule!(grad(&y, &leaf), Error::SavedChanged { op: "Op", position: 1, .. }, "Op");
}

fn a_saved_output_changed_in_place_is_named<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            let y = x.exp();
            ctx.save_for_backward([x, &y])?;
            Ok(y)
        },
        backward: |ctx, dy| {
            let [_, y] = ctx.saved_tensors()?;
            Ok(Some(dy * y))
        },
    };
    let x = one::<H>();
    let y = apply::<H>(op, &x).unwrap();
    fill(&y.tensor().detach());
    // The pass starts from it too, which Vars refuse first.
    if H::KIND == crate::host::Kind::Vars {
        let text = "output 0 was changed in place";
        assert_rule!(grad(&y, &x), Error::Argument { op: "a pass", .. }, text);
        return;
    }
    assert_rule!(grad(&y, &x), Error::SavedChanged { op: "Op", position: 1, .. }, "saved tensor 1");
}

fn state_is_saved_once<H: Host>() {
    let twice = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save(1u8)?;
            ctx.save(2u8)?;
            Ok(x.copy())
        },
        backward: |_, _| Ok(None),
    };
    assert_rule!(apply::<H>(twice, &one::<H>()), Error::StateTwice { op: "Op" }, "Op", "save");
}

fn state_is_typed<H: Host>() {
    let typed = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save(String::from("kept"))?;
            Ok(x.copy())
        },
        backward: |ctx, dy| {
            assert_eq!(ctx.state::<String>()?, "kept");
            ctx.state::<u8>()?;
            Ok(Some(dy.copy()))
        },
    };
    let x = one::<H>();
    let y = apply::<H>(typed, &x);
    if H::KIND == Kind::Watched {
        // State is no tensor, so the two inner ops cannot hand it on.
        assert_rule!(y, Error::Argument { op: "Op", .. }, "ctx.save", "Recompute");
        return;
    }
    assert_rule!(grad(&y.unwrap(), &x), Error::State { op: "Op", expected: "u8" }, "u8");
}

fn a_constant_must_be_a_saved_tensor<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            let mask = x.gt(0.0).to_kind(tch::Kind::Double);
            ctx.save_for_backward([&mask])?;
            ctx.mark_constant(&mask.copy());
            Ok(x * mask)
        },
        backward: |_, _| Ok(None),
    };
    assert_rule!(apply::<H>(op, &one::<H>()), Error::Argument { op: "Op", .. }, "mark_constant");
}
