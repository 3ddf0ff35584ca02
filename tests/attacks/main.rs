//! Misuse that safe Rust allows: each case ends in the right number or in an `Err` that
//! says what to do, never in a crash, a hang or a wrong number.

mod depth;
mod drops;
mod gradients;
mod handles;
mod hooks;
mod kernels;
mod lifted;
mod parameters;
mod random;
mod threads;

use tch::Tensor;
use test_support::vector;

fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}
