//! Functions as ops of libtorch's dispatcher, in a Rust program: registration, and
//! TorchScript modules that call the ops. What is registered is there for the whole
//! process, so that this is one of its own.

mod arguments;
mod failures;
mod forward_only;
mod from_python;
mod loading;
mod ops;
mod registration;
mod script;
mod training;

use tch::{CModule, Tensor};
use test_support::archive::Script;

/// A TorchScript function of tensors that returns one expression.
fn script(signature: &str, result: &str) -> CModule {
    ops::register().expect("the namespace tf_test is free");
    Script::returning(signature, result).module()
}

fn leaf(values: &[f64]) -> Tensor {
    test_support::vector(values).set_requires_grad(true)
}

fn assert_close(found: &Tensor, expected: &[f64]) {
    let found = test_support::numbers(found);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.into_iter().zip(expected) {
        approx::assert_relative_eq!(found, expected, max_relative = 1e-14, epsilon = 1e-15);
    }
}
