//! Formulas, and the Functions that are derived from them.

mod accuracy;
#[macro_use]
mod derived;
mod edges;
mod functions;
#[path = "../accuracy/measure.rs"]
mod measure;
mod page;
mod powers;

use tch::Tensor;

/// 2 x 3, no two alike, none at a kink.
fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7]).reshape([2, 3])
}

/// 3 numbers.
fn row() -> Tensor {
    Tensor::from_slice(&[1.5, -0.5, 0.25])
}
