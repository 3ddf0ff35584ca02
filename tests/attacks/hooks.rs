//! Hooks that are added and removed at odd moments.

use crate::leaf;
use anyhow::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};
use tch_function::{Error, GradOptions, HookHandle, Var, grad, grad_fn, register_hook};
use test_support::{assert_error, number, numbers};

/// All outputs of a node share its list of hooks, which a pass goes through.
#[test]
fn a_hook_that_adds_a_hook_to_a_sibling_output_is_an_error() -> Result<()> {
    for _ in 0..100 {
        let x = leaf(&[1.0, 2.0, 3.0]);
        let o = (&x * 2.0).unbind(0);
        let sibling = Mutex::new(o[2].shallow_clone());
        register_hook(&o[0], move |_| {
            register_hook(&sibling.lock().expect("no panic"), |g| Ok(Some(g * 10.0)))?;
            Ok(None)
        })?;
        register_hook(&o[1], |g| Ok(Some(g * 5.0)))?;
        let error = grad(&(&o[0] + &o[1] + &o[2]), &x).expect_err("the node runs").to_string();
        assert!(error.contains("add it before the pass"), "{error}");
    }
    Ok(())
}

#[test]
fn a_hook_of_a_leaf_may_add_hooks_to_it() -> Result<()> {
    let w = leaf(&[1.0]);
    let (again, added) = (Mutex::new(w.shallow_clone()), AtomicUsize::new(0));
    register_hook(&w, move |_| {
        if added.fetch_add(1, SeqCst) < 3 {
            for _ in 0..100 {
                register_hook(&again.lock().expect("no panic"), |_| Ok(None))?;
            }
        }
        Ok(Some(Tensor::from_slice(&[7.0])))
    })?;
    for _ in 0..5 {
        assert_eq!(number(&grad(&(&w * 2.0), &w)?), 7.0);
    }
    Ok(())
}

#[test]
fn threads_add_and_remove_hooks_of_one_leaf() {
    let w = leaf(&[1.0]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let w = w.shallow_clone();
            scope.spawn(move || {
                for _ in 0..2000 {
                    register_hook(&w, |_| Ok(None)).expect("a hook").remove();
                }
            });
        }
    });
}

/// Hooks run in the order in which they were added, also where one takes the place of one
/// that was removed.
#[test]
fn hooks_keep_their_order() -> Result<()> {
    let w = leaf(&[1.0]);
    let hook = |c: f64| register_hook(&w, move |g| Ok(Some(g * 10.0 + c)));
    let (one, two, three) = (hook(1.0)?, hook(2.0)?, hook(3.0)?);
    let found = || number(&grad(&(&w * 0.0), &w).expect("a gradient"));
    assert_eq!(found(), 123.0);
    two.remove();
    let four = hook(4.0)?;
    assert_eq!(found(), 134.0);
    three.remove();
    four.remove();
    hook(5.0)?;
    assert_eq!(found(), 15.0);
    one.remove();
    hook(6.0)?;
    assert_eq!(found(), 56.0);
    Ok(())
}

/// A training loop that adds hooks and removes them at each step, also the last ones after the
/// next ones were added.
#[test]
fn removed_hooks_leave_no_room() -> Result<()> {
    let w = leaf(&[1.0]);
    let y = &w * 1.0;
    let node = grad_fn(&y).expect("a node");
    let options = GradOptions::new().retain_graph(true);
    let time = || {
        let start = Instant::now();
        (0..200).for_each(|_| drop(options.grad(&y, &w).expect("a gradient")));
        start.elapsed()
    };
    let before = time();
    let mut last = Vec::new();
    for _ in 0..50_000 {
        let next = vec![
            register_hook(&w, |_| Ok(None))?,
            register_hook(&y, |_| Ok(None))?,
            node.register_hook(|_, _| Ok(None))?,
            node.register_prehook(|_| Ok(None))?,
        ];
        std::mem::replace(&mut last, next).into_iter().for_each(HookHandle::remove);
    }
    last.into_iter().for_each(HookHandle::remove);
    // With 200,000 hooks in its lists a pass takes a thousand times as long.
    assert!(time() < before * 50 + Duration::from_millis(100));
    Ok(())
}

/// A hook whose pass over another graph adds a hook to the first node.
#[test]
fn a_hook_that_adds_a_hook_in_an_inner_pass_is_an_error() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = &x * 2.0;
    let node = grad_fn(&y).expect("a node");
    let outer = Mutex::new(y.shallow_clone());
    node.register_hook(move |_, _| {
        let inner = leaf(&[1.0]);
        let z = tch::with_grad(|| &inner * 3.0);
        let y = Mutex::new(outer.lock().expect("no panic").shallow_clone());
        register_hook(&z, move |_| {
            let y = y.lock().expect("no panic");
            grad_fn(&y).expect("a node").register_hook(|_, _| Ok(None))?;
            Ok(None)
        })?;
        let _ = grad(&z, &inner)?;
        Ok(None)
    })?;
    let error = grad(&y, &x).expect_err("the node runs").to_string();
    assert!(error.contains("add it before the pass"), "{error}");
    Ok(())
}

/// What a hook holds adds hooks when it is dropped, on several threads.
#[test]
fn hooks_that_add_hooks_when_they_are_dropped_do_not_hang() {
    struct Adds(Mutex<Tensor>);
    impl Drop for Adds {
        fn drop(&mut self) {
            let w = self.0.lock().expect("no panic");
            register_hook(&w, |_| Ok(None)).expect("a hook").remove();
        }
    }
    let w = leaf(&[1.0]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let w = w.shallow_clone();
            scope.spawn(move || {
                for _ in 0..2000 {
                    let adds = Adds(Mutex::new(w.shallow_clone()));
                    let hook = move |_: &Tensor| {
                        let _ = &adds;
                        Ok(None)
                    };
                    register_hook(&w, hook).expect("a hook").remove();
                }
            });
        }
    });
}

#[test]
fn a_frozen_leaf_takes_no_hook_although_it_had_one() -> Result<()> {
    let mut w = leaf(&[1.0]);
    register_hook(&w, |_| Ok(None))?.remove();
    let _ = w.requires_grad_(false);
    let refused = register_hook(&w, |_| Ok(None)).map(drop);
    assert_error!(refused, Error::Torch { .. }, "doesn't require gradient");
    Ok(())
}

/// A hook of the parameter reads and forgets its gradient while other threads add to it.
#[test]
fn hooks_of_a_parameter_meet_its_gradient() -> Result<()> {
    let w = leaf(&[1.0, 1.0]);
    for _ in 0..2 {
        let parameter = Mutex::new(w.shallow_clone());
        register_hook(&w, move |_| {
            let v = Var::leaf(parameter.lock().expect("no panic").shallow_clone());
            for i in 0..10 {
                if let Some(grad) = v.grad() {
                    anyhow::ensure!(grad.size() == [2], "a whole gradient");
                }
                if i % 3 == 0 {
                    v.zero_grad();
                }
            }
            Ok(None)
        })?;
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let w = w.shallow_clone();
            scope.spawn(move || (0..1000).for_each(|_| w.sum(Kind::Double).backward()));
        }
    });
    assert_eq!(numbers(&w.grad()).len(), 2);
    Ok(())
}
