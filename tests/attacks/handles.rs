//! Handles of nodes and graphs, whatever becomes of the tensors that they came from.

use crate::leaf;
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::{Kind, Tensor};
use tch_function::{Differentiable, Function, Var, grad, grad_fn, lift, lift_all};
use test_support::{Op, numbers, vector};

/// The node is the one that made the tensor, though the tensor has another one now.
#[test]
fn a_grad_fn_is_the_node() -> Result<()> {
    let changes: [fn(&mut Tensor); 3] = [
        |y| drop(y.detach_()),
        |y| drop(y.g_mul_scalar_(2.0)),
        |y| y.set_data(&vector(&[1.0, 2.0, 3.0])),
    ];
    for change in changes {
        let x = leaf(&[1.0]);
        let y = &x * 2.0;
        let z = &y * 3.0;
        let node = grad_fn(&y).expect("a node");
        change(&mut y.shallow_clone());
        let calls = Arc::new(AtomicUsize::new(0));
        let log = calls.clone();
        node.register_hook(move |dx, _| {
            log.fetch_add(1, SeqCst);
            Ok(Some(dx.iter().map(|dx| dx.as_ref().map(|dx| dx * 10.0)).collect()))
        })?;
        assert_eq!(node.name(), "MulBackward1");
        assert_eq!(numbers(&grad(&z, &x)?), [60.0]);
        assert_eq!(calls.load(SeqCst), 1);
    }
    Ok(())
}

#[test]
fn a_grad_fn_outlives_its_graph() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = &x * 2.0;
    let node = grad_fn(&y).expect("a node");
    let _ = grad(&y, &x)?;
    node.register_prehook(|_| Ok(None))?.remove();
    Ok(())
}

/// What the closure returned is changed through another handle, before the pass.
#[test]
fn a_lifted_graph_keeps_its_history() -> Result<()> {
    let changes: [fn(&mut Tensor); 3] =
        [|y| drop(y.detach_()), |y| drop(y.g_mul_scalar_(2.0)), |y| drop(y.resize_([5]))];
    for change in changes {
        let x = Var::leaf(vector(&[1.0, 2.0]));
        let mut kept = None;
        let y = lift(&x, |x| {
            let y = &x[0] * 3.0;
            kept = Some(y.shallow_clone());
            Ok(y)
        })?;
        // A change that libtorch forbids changes nothing.
        let mut kept = kept.expect("the closure ran");
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| change(&mut kept)));
        match y.sum() {
            Ok(sum) => assert_eq!(numbers(grad(&sum, &x)?.value()), [3.0, 3.0]),
            Err(e) => assert!(e.to_string().contains("changed"), "{e}"),
        }
    }
    Ok(())
}

/// Outputs that the closure did not record are constants, and say so.
#[test]
fn a_lifted_output_without_a_history_is_a_constant() -> Result<()> {
    let x = Var::leaf(vector(&[1.0]));
    let y = lift_all(&x, |x| Ok(vec![x[0].detach() * 2.0, &x[0] * 1.0, x[0].argmax(0, false)]))?;
    assert!(grad(&y[0], &x).unwrap_err().to_string().contains("does not require a gradient"));
    assert_eq!(numbers(grad(&y[1], &x)?.value()), [1.0]);
    assert!(grad(&y[2], &x).unwrap_err().to_string().contains("lift has no gradient"));
    Ok(())
}

fn empty_lists<V: Differentiable>(x: V) {
    let op = Op::<Vec<Tensor>, Vec<Tensor>> {
        forward: |_, x| Ok(x.iter().map(|x| x * 2.0).collect()),
        backward: |_, dy| Ok(dy.iter().map(|dy| Some(dy * 2.0)).collect()),
    };
    assert!(op.apply::<V>(&[]).expect("no inputs, no outputs").is_empty());
    let sum = Op::<(Tensor, Vec<Tensor>), Tensor> {
        forward: |_, (x, rest)| Ok(x * (1 + rest.len() as i64)),
        backward: |_, dy| Ok((Some(dy * 1.0), vec![])),
    };
    let y = sum.apply((&x, &[])).expect("an empty list");
    let none: &[&V] = &[];
    assert!(grad(&y, none).expect("no gradients").is_empty());
    assert_eq!(numbers(grad(&y, &x).expect("a gradient").tensor()), [1.0]);
    assert!(grad(none, none).expect("nothing").is_empty());
}

#[test]
fn empty_lists_are_alike_in_both_engines() {
    empty_lists(leaf(&[1.0]));
    empty_lists(Var::leaf(vector(&[1.0])));
}

#[test]
fn a_saved_leaf_in_a_backward_is_no_parameter() -> Result<()> {
    // The backward differentiates sin by a pass of its own.
    let sin = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.save_for_backward([x])?;
            Ok(x.sin())
        },
        backward: |ctx, dy| {
            let [x] = ctx.saved_tensors()?;
            tch::with_grad(|| {
                let x = Var::leaf(x);
                lift(&x, |x| Ok(x[0].sin().sum(Kind::Double)))?.backward()?;
                Ok(Some(dy * x.grad().expect("a gradient")))
            })
        },
    };
    let x = leaf(&[0.7]);
    sin.apply(&x)?.f_backward()?;
    assert!((numbers(&x.grad())[0] - 0.7f64.cos()).abs() < 1e-12);
    let x = leaf(&[0.35]);
    sin.apply(&(&x * 2.0))?.f_backward()?;
    assert!((numbers(&x.grad())[0] - 2.0 * 0.7f64.cos()).abs() < 1e-12);
    Ok(())
}
