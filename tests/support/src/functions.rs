//! Functions that several test programs apply.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Function};

/// `(x m, m)` with `m` 1 where `x > 0`, else 0, an output without a gradient.
pub struct Gate;
impl Function for Gate {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let open = x.gt(0.0).to_kind(Kind::Double);
        ctx.save_for_backward([&open])?;
        ctx.mark_non_differentiable(&open);
        Ok((x * &open, open))
    }
    /// Anything that arrived at the marked output would be seen.
    fn backward(&self, ctx: &Ctx, (dy, dopen): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [open] = ctx.saved_tensors()?;
        Ok(Some(dy * open + dopen))
    }
}

/// `x sigmoid(x)`; saves an intermediate, and recomputes it or not.
pub struct Silu {
    pub double_backward: DoubleBackward,
}
impl Function for Silu {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let s = x.sigmoid();
        ctx.save_for_backward([x, &s])?;
        Ok(x * s)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x, s] = ctx.saved_tensors()?;
        Ok(Some(dy * (s + x * s * (1.0 - s))))
    }
    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}
