//! Faults in user code on Vars: leaves, threads, leaks, nests.

use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::{Kind, Tensor};
use tch_function::{Ctx, Error, Function, GradOptions, Var, backward, grad};
use test_support::{Op, assert_error, number, vector};

use super::vars::leaf;

/// Fails while `FAIL` says so.
fn failing(fail: fn() -> Result<()>) -> Flaky {
    Flaky { fail, left: AtomicUsize::new(1) }
}
struct Flaky {
    fail: fn() -> Result<()>,
    left: AtomicUsize,
}
impl Function for Flaky {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        if self.left.swap(0, SeqCst) > 0 {
            (self.fail)()?;
        }
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x * 2.0))
    }
}

#[test]
fn after_a_fault_in_backward_the_graph_is_usable() {
    for fail in [|| bail!("no"), || panic!("no")] as [fn() -> Result<()>; 2] {
        let (x, other) = (leaf(&[3.0]), leaf(&[1.0]));
        let y = failing(fail).apply(&x).unwrap();
        let loss = &y + &other;
        let retain = GradOptions::new().retain_graph(true);
        let error = retain.backward(&loss).expect_err("the fault").to_string();
        assert!(error.contains("Flaky") && error.ends_with("no"), "{error}");
        assert!(x.grad().is_none() && other.grad().is_none(), "a failed pass changes no leaf");
        backward(&loss).unwrap();
        assert_eq!(number(&x.grad().unwrap()), 6.0);
        // Where the fault is, the graph is whole without retain_graph too.
        let y = failing(fail).apply(&x).unwrap();
        assert!(grad(&y, &x).is_err());
        assert_eq!(number(grad(&y, &x).unwrap().value()), 6.0);
    }
}

#[test]
fn faults_on_another_thread_come_back_there() {
    let x = leaf(&[3.0]);
    let y = failing(|| panic!("far away")).apply(&x).unwrap();
    std::thread::spawn(move || {
        assert_error!(grad(&y, &x), Error::Panic { op: "Flaky", .. }, "far away");
        assert_eq!(number(grad(&y, &x).unwrap().value()), 6.0);
    })
    .join()
    .unwrap();
}

#[test]
fn another_ops_error_inside_keeps_both_names() {
    struct Outer;
    impl Function for Outer {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            let inner = Op::<Tensor, Tensor> {
                forward: |_, _| bail!("deep down"),
                backward: |_, _| Ok(None),
            };
            Ok(inner.apply(&Var::constant(x)).context("inside")?.value().copy())
        }
        fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
            Ok(None)
        }
    }
    assert_error!(
        Outer.apply(&leaf(&[1.0])),
        Error::Forward { op: "Outer", .. },
        "Outer: forward failed: inside: Op: forward failed: deep down"
    );
    let text = Outer.apply(&leaf(&[1.0])).expect_err("an error").to_string();
    assert!(text.ends_with("failed: deep down"), "each cause once: {text}");
}

#[test]
fn context_stays_around_libtorchs_message_without_its_stack() {
    let op = Op::<Tensor, Tensor> {
        forward: |_, x| x.f_matmul(&vector(&[1.0, 2.0])).context("layer 7"),
        backward: |_, _| Ok(None),
    };
    let text = op.apply(&leaf(&[1.0])).expect_err("an error").to_string();
    assert!(text.starts_with("Op: forward failed: layer 7: "), "{text}");
    assert!(text.contains("size") && !text.contains("Exception raised"), "{text}");
}

#[test]
fn nothing_leaks_after_faults() {
    struct Counted(Arc<()>);
    impl Function for Counted {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            ctx.save(self.0.clone())?;
            if number(x) < 0.0 { bail!("negative") } else { Ok(x.copy()) }
        }
        fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
            bail!("never")
        }
    }
    let live = Arc::new(());
    for i in 0..1000 {
        let x = leaf(&[if i % 2 == 0 { 1.0 } else { -1.0 }]);
        if let Ok(y) = Counted(live.clone()).apply(&x) {
            assert!(backward(&y).is_err());
        }
    }
    assert_eq!(Arc::strong_count(&live), 1);
}

#[test]
fn leaves_must_be_defined_and_floating() {
    assert_error!(Var::try_leaf(Tensor::new()), Error::Undefined { .. }, "Var::leaf", "undefined");
    assert_error!(
        Var::try_leaf(Tensor::from_slice(&[1i64])),
        Error::NotFloating { found: Kind::Int64, .. },
        "Int64 tensor cannot require a gradient"
    );
}

#[test]
fn a_cause_that_its_error_tells_itself_is_told_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("a user's error: {0}")]
    struct Tells(#[source] std::fmt::Error);
    let op = Op::<Tensor, Tensor> {
        forward: |_, _| Err(Tells(std::fmt::Error).into()),
        backward: |_, _| Ok(None),
    };
    let text = op.apply(&leaf(&[1.0])).expect_err("an error").to_string();
    assert_eq!(text, format!("Op: forward failed: a user's error: {}", std::fmt::Error));
}
