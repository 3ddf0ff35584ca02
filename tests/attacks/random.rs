//! Ops that draw random numbers, run again.

use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::{Device, Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Function, GradOptions, Var, grad};

/// y = m x^2 for a random mask m, which is saved; counts its first runs.
struct Dropout {
    runs: Arc<AtomicUsize>,
}

impl Function for Dropout {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mask = x.rand_like().gt(0.5).to_kind(x.kind());
        if !ctx.is_recomputation() {
            self.runs.fetch_add(1, SeqCst);
        }
        ctx.save_for_backward([x, &mask])?;
        Ok(x * x * mask)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x, mask] = ctx.saved_tensors()?;
        Ok(Some(dy * x * mask * 2.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

fn check<V: tch_function::Differentiable>(x: V, sum: fn(&V) -> V) -> Result<()> {
    let runs = Arc::new(AtomicUsize::new(0));
    let y = Dropout { runs: runs.clone() }.apply(&x)?;
    let before = Tensor::rand([4], (Kind::Double, Device::Cpu)); // the generator moves on
    let options = || GradOptions::new().create_graph(true).retain_graph(true);
    tch::manual_seed(3);
    let first = Tensor::rand([4], (Kind::Double, Device::Cpu));
    tch::manual_seed(3);
    let dx = options().grad(&sum(&y), &x)?.expect("used");
    // The pass left the generator as it was.
    assert_eq!(Tensor::rand([4], (Kind::Double, Device::Cpu)), first);
    assert_ne!(first, before);
    let mask = y.tensor().detach();
    assert_eq!(dx.tensor().detach(), &mask * 2.0); // x is 1
    let ddx = options().grad(&sum(&dx), &x)?.expect("used");
    assert_eq!(ddx.tensor().detach(), &mask * 2.0);
    assert_eq!(grad(&sum(&y), &x)?.tensor().detach(), &mask * 2.0);
    assert_eq!(runs.load(SeqCst), 1);
    Ok(())
}

#[test]
fn a_second_run_draws_the_same_numbers() -> Result<()> {
    let ones = || Tensor::ones([1000], (Kind::Double, Device::Cpu));
    check(ones().set_requires_grad(true), |t| t.sum(Kind::Double))?;
    check(Var::leaf(ones()), |v| v.sum().expect("a sum"))?;
    Ok(())
}
