//! The contenders in Rust: libtorch's own op through tch, and this crate's
//! Function. `functions.cpp` has the same in C++, `compare.py` in Python.

use anyhow::Result;
use std::hint::black_box;
use tch::{Kind, Tensor, kind::FLOAT_CPU};
use tch_function::{Ctx, Function};

struct Identity;

impl Function for Identity {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

struct Sine;

impl Function for Sine {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.sin())
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x.cos()))
    }
}

/// In compare.py's order.
const OPS: [fn(&Tensor) -> Tensor; 4] = [
    Tensor::alias,
    |x| Identity.apply(x).expect("identity"),
    Tensor::sin,
    |x| Sine.apply(x).expect("sine"),
];

fn leaf() -> Tensor {
    Tensor::ones([4], FLOAT_CPU).set_requires_grad(true)
}

/// `n` times op number `op`, one after the other, and back; gives the sum of
/// the gradient.
#[unsafe(no_mangle)]
pub extern "C" fn rust_chain(op: u32, n: u32) -> f64 {
    let (op, x) = (OPS[op as usize], leaf());
    let y = (0..n).fold(x.shallow_clone(), |y, _| op(&y));
    let [dx] = Tensor::run_backward(&[y], &[x], false, false).try_into().expect("one gradient");
    dx.sum(Kind::Double).double_value(&[])
}

/// `n` times `op` on one tensor, with nothing recorded.
#[unsafe(no_mangle)]
pub extern "C" fn rust_unrecorded(op: u32, n: u32) {
    let (op, x) = (OPS[op as usize], leaf());
    tch::no_grad(|| (0..n).for_each(|_| drop(black_box(op(&x)))));
}

tch_function::library! {
    /// The op of `ops.py`.
    fn register() for "tf_compare" {
        "sine(Tensor x) -> Tensor" => || Sine,
    }
}
