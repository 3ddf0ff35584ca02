//! Values of the user's that are dropped at odd moments.

use crate::leaf;
use anyhow::Result;
use std::any::Any;
use std::cell::RefCell;
use std::panic::panic_any;
use std::sync::Mutex;
use tch::Tensor;
use tch_function::{Ctx, Differentiable, Function, GradOptions, Var, grad, grad_fn, register_hook};
use test_support::{numbers, vector};

/// Panics when it is dropped, with a payload that does the same.
struct Nest(u32);
impl Drop for Nest {
    fn drop(&mut self) {
        match self.0 {
            0 => {}
            n => panic_any(Nest(n - 1)),
        }
    }
}

/// y = 2 x, with a field and a state that panic when they are dropped.
struct Bad(#[allow(dead_code, reason = "it is dropped")] Nest);
impl Function for Bad {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save(Nest(3))?;
        Ok(x * 2.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

/// Keeps a state and fails.
struct Fails(#[allow(dead_code, reason = "it is dropped")] Nest);
impl Function for Fails {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, _: &Tensor) -> Result<Tensor> {
        ctx.save(Nest(3))?;
        anyhow::bail!("no output");
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

/// Applies the op to an input that needs a gradient and to one that does not, asks for the
/// gradient in each way, and drops what is left.
fn destructors<V: Differentiable>(with: V, without: V) -> Result<()> {
    for depth in 1..4 {
        drop(Bad(Nest(depth)).apply(&without)?);
        drop(Bad(Nest(depth)).apply(&with)?);
        for options in [GradOptions::new(), GradOptions::new().create_graph(true)] {
            let y = Bad(Nest(depth)).apply(&with)?;
            let dx = options.grad(&y, &with)?.expect("x was used");
            assert_eq!(numbers(&dx.tensor().detach()), [2.0]);
        }
        assert!(Fails(Nest(depth)).apply(&with).is_err());
    }
    Ok(())
}

#[test]
fn destructors_that_panic_end_nothing() -> Result<()> {
    let x = vector(&[1.0]);
    destructors(Var::leaf(&x), Var::constant(&x))?;
    destructors(leaf(&[1.0]), x)
}

/// The closure of each hook holds the graph of the one before.
#[test]
fn graphs_inside_the_hooks_of_graphs() -> Result<()> {
    let mut last = leaf(&[1.0]);
    for i in 0..100_000 {
        let y = &leaf(&[1.0]) * 2.0;
        let held = Mutex::new(last);
        if i % 2 == 0 {
            register_hook(&y, move |_| Ok(held.lock().map(|_| None).unwrap_or_default()))?;
        } else {
            let node = grad_fn(&y).expect("a node");
            node.register_prehook(move |_| Ok(held.lock().map(|_| None).unwrap_or_default()))?;
        }
        last = y;
    }
    drop(last);
    Ok(())
}

/// y = 2 x, which keeps a value.
struct Holds(Mutex<Option<Box<dyn Any + Send>>>);
impl Function for Holds {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save(Mutex::new(self.0.lock().unwrap().take()))?;
        Ok(x * 2.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

#[test]
fn a_deep_graph_is_dropped_at_the_end_of_a_thread() {
    thread_local! {
        static HELD: RefCell<Option<Var>> = const { RefCell::new(None) };
    }
    let thread = std::thread::spawn(|| {
        // Its destructor is registered first, so it runs last.
        HELD.with(|held| *held.borrow_mut() = None);
        let x = || Var::leaf(vector(&[1.0]));
        let holds = |y: Var| Holds(Mutex::new(Some(Box::new(y)))).apply(&x()).expect("a value");
        drop(holds(x()));
        let y = (0..100_000).fold(x(), |y, _| holds(y));
        HELD.with(|held| *held.borrow_mut() = Some(y));
    });
    thread.join().expect("no panic");
}

/// libtorch goes through the hooks of a node while they run.
#[test]
fn a_hook_that_adds_a_hook_to_its_node_is_an_error() -> Result<()> {
    for before in [true, false] {
        let x = leaf(&[1.0]);
        let y = &x * 2.0;
        let held = Mutex::new(y.shallow_clone());
        let add = move || {
            let y = held.lock().unwrap().shallow_clone();
            let node = grad_fn(&y).expect("a node");
            let text = node.register_prehook(|_| Ok(None)).err().expect("an error").to_string();
            assert!(text.contains("add it before the pass"), "{text}");
        };
        let node = grad_fn(&y).expect("a node");
        if before {
            node.register_prehook(move |_| Ok((add(), None).1))?;
        } else {
            node.register_hook(move |_, _| Ok((add(), None).1))?;
        }
        node.register_prehook(|_| Ok(None))?;
        assert_eq!(numbers(&grad(&y, &x)?), [2.0]);
    }
    Ok(())
}
