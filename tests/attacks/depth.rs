//! No depth overflows a stack, or costs more than its length.

use crate::leaf;
use anyhow::{Result, bail};
use std::sync::Mutex;
use tch::Tensor;
use tch_function::{Ctx, Differentiable, Error, Function, GradOptions, Var, backward, grad};
use test_support::{numbers, vector};

/// y = 2 x, whose backward runs a pass over the same op of less depth.
struct Nest {
    depth: u32,
    fails: bool,
    create_graph: bool,
    own: bool,
}

impl Nest {
    fn pass<V: Differentiable>(&self, x: V) -> Result<()> {
        let inner = Nest { depth: self.depth - 1, ..*self };
        let y = tch::with_grad(|| inner.apply(&x))?;
        GradOptions::new().create_graph(self.create_graph).grad(&y, &x)?;
        Ok(())
    }
}

impl Function for Nest {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn name(&self) -> &'static str {
        if self.depth.is_multiple_of(2) { "Even" } else { "Odd" }
    }
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 2.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        match (self.depth, self.own) {
            (0, _) if self.fails => bail!("deep down"),
            (0, _) => {}
            (_, true) => self.pass(Var::leaf(vector(&[1.0])))?,
            (_, false) => self.pass(leaf(&[1.0]))?,
        }
        Ok(Some(dy * 2.0))
    }
}

#[test]
fn passes_inside_passes() -> Result<()> {
    for (own, create_graph, depth) in
        [(true, false, 5000), (true, true, 1000), (false, false, 1000), (false, true, 300)]
    {
        let nest = Nest { depth, fails: false, create_graph, own };
        let x = Var::leaf(vector(&[1.0]));
        assert_eq!(numbers(grad(&nest.apply(&x)?, &x)?.value()), [2.0]);
    }
    Ok(())
}

#[test]
fn a_failing_nest_of_passes() -> Result<()> {
    // With backtraces each error walks the whole stack.
    let depth = if std::env::var_os("RUST_BACKTRACE").is_some() { 200 } else { 5000 };
    for own in [true, false] {
        let nest = Nest { depth, fails: true, create_graph: false, own };
        let x = Var::leaf(vector(&[1.0]));
        let error = grad(&nest.apply(&x)?, &x).unwrap_err();
        assert!(matches!(error, Error::Backward { op: "Even", .. }));
        let text = error.to_string();
        assert!(text.ends_with("Even: backward failed: deep down"), "{text}");
        assert!(text.contains("passes in between left out") && text.len() < 1000, "{text}");
    }
    Ok(())
}

/// y = 2 x, which keeps a value as its state.
struct Holds<T>(Mutex<Option<T>>);
struct State<T>(#[allow(dead_code, reason = "it is dropped")] Mutex<T>);

impl<T: Send + 'static> Function for Holds<T> {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let held = self.0.lock().unwrap().take();
        ctx.save(State(Mutex::new(held)))?;
        Ok(x * 2.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

/// Each graph is held by the state of the next one's node.
#[test]
fn graphs_inside_the_state_of_graphs() -> Result<()> {
    const DEPTH: usize = 100_000;
    let mut y = Var::leaf(vector(&[1.0]));
    let mut z = leaf(&[1.0]);
    for _ in 0..DEPTH {
        y = Holds(Mutex::new(Some(y))).apply(&Var::leaf(vector(&[1.0])))?;
        z = Holds(Mutex::new(Some(z))).apply(&leaf(&[1.0]))?;
    }
    // One in the state of the other.
    drop(Holds(Mutex::new(Some(y))).apply(&z)?);
    Ok(())
}

/// Each Function holds the value that the next one is applied to, in a field.
#[test]
fn graphs_inside_the_fields_of_functions() -> Result<()> {
    struct Field(#[expect(dead_code, reason = "it is dropped")] Mutex<Var>);
    impl Function for Field {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            Ok(x * 2.0)
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * 2.0))
        }
    }
    let mut y = Var::leaf(vector(&[1.0]));
    for _ in 0..100_000 {
        y = Field(Mutex::new(y)).apply(&Var::leaf(vector(&[1.0])))?;
    }
    drop(y);
    Ok(())
}

/// Saves a tensor that is neither input nor output, and its graph with it.
struct SavesCaptured(Mutex<Tensor>);
impl Function for SavesCaptured {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([&*self.0.lock().expect("no panic")])?;
        Ok(x * 2.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

#[test]
fn graphs_inside_the_saved_tensors_of_graphs() -> Result<()> {
    let x = leaf(&[1.0]);
    let mut y = leaf(&[1.0]);
    for i in 0..100_000 {
        // A Function of libtorch's stands between some of them.
        let last = if i % 3 == 0 { y.exp() } else { y };
        y = SavesCaptured(Mutex::new(last)).apply(&x)?;
    }
    drop(y);
    Ok(())
}

#[test]
fn long_chains() -> Result<()> {
    let x = Var::leaf(vector(&[1.0]));
    let mut y = x.clone();
    for _ in 0..200_000 {
        y = &y * 1.0;
    }
    backward(&y)?;
    assert_eq!(numbers(&x.grad().expect("a gradient")), [1.0]);
    Ok(())
}
