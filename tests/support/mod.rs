//! What several test programs use.
#![allow(dead_code)] // each uses its part

use tch::Tensor;

/// A tensor of f64.
pub fn vector(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

/// The value of a tensor of one element.
pub fn number(t: &Tensor) -> f64 {
    assert_eq!(t.numel(), 1);
    t.double_value(&vec![0; t.dim()])
}

/// The values of a tensor, flattened.
pub fn numbers(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.flatten(0, -1)).expect("a floating-point tensor")
}
