//! [`Sum`]: how a recorded pass adds two gradients of one value.

use crate::function::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `y = a + b`, of one shape, dtype and device: the sum over children, which can be
/// differentiated again.
pub(super) struct Sum;

impl Function for Sum {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        Ok(a.f_add(b)?)
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.shallow_clone()), Some(dy.shallow_clone())))
    }
}
