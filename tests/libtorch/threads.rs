//! Threads, and depth.

use super::models::leaf;
use anyhow::Result;
use std::cell::RefCell;
use std::sync::Arc;
use tch::{Kind, Tensor};
use tch_function::{Ctx, Function, grad, ops};
use test_support::number;

// Threads.

#[test]
fn eight_threads_and_backward_on_another_thread() -> Result<()> {
    let threads: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || -> Result<()> {
                for _ in 0..50 {
                    let x = leaf(&[i as f64]);
                    let y = ops::Log1pExp.apply(&x)?;
                    let (x, y) = (x, y);
                    let slope = std::thread::spawn(move || grad(&y, &x)).join().unwrap()?;
                    let expected = 1.0 / (1.0 + (-f64::from(i)).exp());
                    approx::assert_relative_eq!(number(&slope), expected, max_relative = 1e-15);
                }
                Ok(())
            })
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap())
}

/// Freed nodes leave their memory to the thread that frees them; here there are
/// more than it keeps, and some are freed after it has given that up.
#[test]
fn graphs_are_freed_on_another_thread_and_at_its_very_end() -> Result<()> {
    struct Counted(#[expect(dead_code, reason = "it is counted")] Arc<()>);
    impl Function for Counted {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            Ok(x.shallow_clone())
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * 2.0))
        }
    }
    thread_local! { static HELD: RefCell<Vec<Tensor>> = RefCell::default() }
    let nodes = Arc::new(());
    let x = leaf(&[1.0]);
    let chain = |n| (0..n).try_fold(x.shallow_clone(), |y, _| Counted(nodes.clone()).apply(&y));
    for _ in 0..3 {
        let graphs = [chain(3000)?, chain(3000)?];
        std::thread::spawn(move || {
            HELD.with_borrow_mut(|held| *held = graphs.into());
            HELD.with_borrow_mut(Vec::pop);
        })
        .join()
        .unwrap();
        assert_eq!(Arc::strong_count(&nodes), 1, "every node is freed");
        let y = chain(10)?;
        drop(chain(3000)?);
        assert_eq!(number(&grad(&y, &x)?), 1024.0);
    }
    Ok(())
}

/// Its backward runs a backward pass of its own, `depth` deep.
struct Reentrant {
    depth: usize,
}
impl Function for Reentrant {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * 1.0)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        if self.depth == 0 {
            return Ok(Some(dy.copy()));
        }
        let [x] = ctx.saved_tensors()?;
        tch::with_grad(|| {
            let x = x.detach().set_requires_grad(true);
            let y = Reentrant { depth: self.depth - 1 }.apply(&x)?;
            Ok(Some(dy * grad(&y.sum(Kind::Double), &x)?))
        })
    }
}

#[test]
fn reentrant_backward_8000_deep() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = Reentrant { depth: 8000 }.apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    Ok(())
}
