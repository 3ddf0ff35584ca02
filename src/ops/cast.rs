//! The same values in another dtype.

use crate::{Ctx, Function, Var};
use anyhow::Result;
use tch::{Kind, Tensor};

/// `y = x` in another dtype; the gradient gets the input's dtype back.
///
/// An integer or boolean output has no gradient.
#[derive(Clone, Copy, Debug)]
pub struct ToKind {
    /// The output's dtype.
    pub kind: Kind,
}

impl Function for ToKind {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_to_kind(self.kind)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(ctx.reduce_to_input(0, dy)?))
    }

    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx.f_to_kind(self.kind)?)
    }
}

impl Var {
    /// [`ToKind`]: the same values in another dtype.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn to_kind(&self, kind: Kind) -> crate::Result<Var> {
        ToKind { kind }.apply(self)
    }
}
