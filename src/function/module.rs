//! A Function as a layer of a tch model.

use super::Function;
use std::fmt;
use std::sync::Arc;
use tch::{Tensor, nn};

/// A Function of one tensor as an [`nn::Module`], for [`nn::seq`] and every
/// other place for a layer. [`Function::into_module`] makes it.
pub struct FunctionModule<F>(Arc<F>);

impl<F> FunctionModule<F> {
    pub(crate) fn new(f: F) -> Self {
        FunctionModule(Arc::new(f))
    }
}

impl<F: Function> fmt::Debug for FunctionModule<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl<F: Function<Inputs = Tensor, Outputs = Tensor>> nn::Module for FunctionModule<F> {
    /// # Panics
    /// If `apply` returns an `Err`, with its text: tch's layers return no errors.
    fn forward(&self, x: &Tensor) -> Tensor {
        match Arc::clone(&self.0).apply(x) {
            Ok(y) => y,
            Err(e) => panic!("{e}"),
        }
    }
}
