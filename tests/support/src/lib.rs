//! What the test programs share.

pub mod archive;
pub mod compare;
pub mod functions;

use anyhow::Result;
use tch::Tensor;
use tch_function::{Ctx, Function, Grads, Of, Refs, Tensors};

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

/// A Function from closures, so that each test shows its one rule.
pub struct Op<I: Tensors, O: Tensors> {
    pub forward: ForwardFn<I, O>,
    pub backward: BackwardFn<I, O>,
}
impl<I: Tensors, O: Tensors> Clone for Op<I, O> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I: Tensors, O: Tensors> Copy for Op<I, O> {}

pub type ForwardFn<I, O> = fn(&mut Ctx, Refs<'_, I>) -> Result<Of<O, Tensor>>;
pub type BackwardFn<I, O> = fn(&Ctx, Refs<'_, O>) -> Result<Grads<I>>;

impl<I: Tensors, O: Tensors> Function for Op<I, O> {
    type Inputs = I;
    type Outputs = O;
    fn forward(&self, ctx: &mut Ctx, x: Refs<'_, I>) -> Result<Of<O, Tensor>> {
        (self.forward)(ctx, x)
    }
    fn backward(&self, ctx: &Ctx, dy: Refs<'_, O>) -> Result<Grads<I>> {
        (self.backward)(ctx, dy)
    }
    fn name(&self) -> &'static str {
        "Op"
    }
}

/// That a result is an error of a variant and says certain things.
#[macro_export]
macro_rules! assert_error {
    ($result:expr, $pattern:pat $(if $guard:expr)?, $($text:expr),+) => {{
        let error = $result.map(drop).expect_err("an error");
        assert!(matches!(&error, $pattern $(if $guard)?), "another error: {error:?}");
        let text = error.to_string();
        $(assert!(text.contains($text), "{text:?} does not say {:?}", $text);)+
    }};
}
