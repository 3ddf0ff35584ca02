//! Hooks on tensors and nodes, inside libtorch's autograd.

use anyhow::{Result, bail};
use std::sync::{Arc, Mutex};
use tch::{Kind, Tensor};
use tch_function::{Error, Function, backward, grad, grad_fn, ops, register_hook};
use test_support::{assert_error, number, numbers, vector};

fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

/// y = a b, with the product's own node.
fn product() -> Result<(Tensor, Tensor, Tensor)> {
    let (a, b) = (leaf(&[2.0]), leaf(&[3.0]));
    let y = ops::Mul.apply((&a, &b))?;
    Ok((a, b, y))
}

#[test]
fn a_tensor_hook_sees_the_gradient_and_may_change_it() -> Result<()> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let (a, b, y) = product()?;
    register_hook(&y, move |dy| {
        log.lock().unwrap().extend(numbers(dy));
        Ok(None)
    })?;
    register_hook(&y, |dy| Ok(Some(dy * 10.0)))?;
    let [da, db] = grad(&(&y * 4.0), [&a, &b])?;
    assert_eq!((number(&da), number(&db)), (120.0, 80.0));
    assert_eq!(*seen.lock().unwrap(), [4.0]);
    Ok(())
}

#[test]
fn a_hook_on_a_leaf_changes_what_it_accumulates() -> Result<()> {
    let (a, b, y) = product()?;
    let hook = register_hook(&a, |da| Ok(Some(-da)))?;
    backward(&y)?;
    assert_eq!((number(&a.grad()), number(&b.grad())), (-3.0, 2.0));
    hook.remove();
    backward(&ops::Mul.apply((&a, &b))?)?;
    assert_eq!(number(&a.grad()), 0.0);
    Ok(())
}

#[test]
fn node_hooks_see_both_sides() -> Result<()> {
    let (a, b, y) = product()?;
    let node = grad_fn(&y).expect("y was computed");
    assert_eq!(node.name(), "MulBackward");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    node.register_prehook(|dy| {
        Ok(Some(dy.iter().map(|dy| dy.as_ref().map(|dy| dy * 10.0)).collect()))
    })?;
    node.register_hook(move |dx, dy| {
        for t in dx.iter().chain(dy).flatten() {
            log.lock().unwrap().push(number(t));
        }
        Ok(Some(vec![None, dx[1].as_ref().map(|t| t + 1.0)]))
    })?;
    backward(&y)?;
    assert_eq!(*seen.lock().unwrap(), [30.0, 20.0, 10.0]);
    assert!(!a.grad().defined() || number(&a.grad()) == 0.0);
    assert_eq!(number(&b.grad()), 21.0);
    Ok(())
}

#[test]
fn a_removed_hook_is_not_called() -> Result<()> {
    let (a, _, y) = product()?;
    let node = grad_fn(&y).expect("y was computed");
    let hooks = [
        register_hook(&y, |_| bail!("called"))?,
        node.register_hook(|_, _| bail!("called"))?,
        node.register_prehook(|_| bail!("called"))?,
    ];
    hooks.into_iter().for_each(|hook| hook.remove());
    assert_eq!(number(&grad(&y, &a)?), 3.0);
    Ok(())
}

#[test]
fn faults_in_hooks_name_the_node_and_leave_the_process_usable() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    type Fault = fn(&Tensor) -> Result<Option<Tensor>>;
    let faults: [(Fault, &str); 4] = [
        (|_| bail!("no luck"), "a hook on ExpBackward failed: no luck"),
        (|_| panic!("at {}", 7), "a hook on ExpBackward failed: it panicked: at 7"),
        (
            |dy| Ok(Some(dy.sum(Kind::Double))),
            "the hook returned shape [], dtype Double, Cpu for gradient 0 of shape [2]",
        ),
        (|dy| Ok(Some(dy.to_kind(Kind::Float))), "the hook returned shape [2], dtype Float"),
    ];
    for (fault, text) in faults {
        let y = ops::Exp.apply(&x)?;
        register_hook(&y, fault)?;
        let loss = (&y * 2.0).sum(Kind::Double);
        assert_error!(grad(&loss, &x), Error::Hook { .. }, text);
        let y = ops::Exp.apply(&x)?;
        assert_eq!(numbers(&grad(&y.sum(Kind::Double), &x)?), numbers(&y));
    }
    let y = ops::Exp.apply(&x)?;
    grad_fn(&y).unwrap().register_hook(|_, _| Ok(Some(vec![])))?;
    let text = "the hook returned 0 gradients, expected 1";
    assert_error!(grad(&y.sum(Kind::Double), &x), Error::Hook { .. }, text);
    Ok(())
}

#[test]
fn hooks_go_with_their_graph() -> Result<()> {
    let live = Arc::new(());
    for _ in 0..100 {
        let (a, _, y) = product()?;
        let (one, two) = (live.clone(), live.clone());
        register_hook(&y, move |_| Ok(Some(Tensor::from(Arc::strong_count(&one) as f64).view(1))))?;
        grad_fn(&y).unwrap().register_hook(move |_, _| bail!("{}", Arc::strong_count(&two)))?;
        assert!(grad(&y, &a).is_err());
    }
    assert_eq!(Arc::strong_count(&live), 1);
    Ok(())
}

#[test]
fn a_tensor_without_a_gradient_takes_no_hook() {
    let x = vector(&[1.0]);
    assert!(grad_fn(&x).is_none());
    let failed = register_hook(&x, |_| Ok(None));
    assert_error!(failed, Error::Torch { op: "register_hook", .. }, "doesn't require gradient");
}
