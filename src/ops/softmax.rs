//! Probabilities from scores.

use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `y_i = e^(x_i) / sum_j e^(x_j)` along `dim`;
/// `dL/dx_i = y_i (dL/dy_i - sum_j y_j dL/dy_j)`.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// The dimension along which `y` sums to 1.
    pub dim: i64,
}

impl Function for Softmax {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("softmax.int")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.f_softmax(self.dim, None)?;
        ctx.save_for_backward([&y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(Tensor::f_internal_softmax_backward_data(dy, y, self.dim, y.kind())?))
    }
}

/// `y_i = x_i - log sum_j e^(x_j)` along `dim`, without overflow;
/// `dL/dx_i = dL/dy_i - e^(y_i) sum_j dL/dy_j`.
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    /// The dimension along which `e^y` sums to 1.
    pub dim: i64,
}

impl Function for LogSoftmax {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("log_softmax.int")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.f_log_softmax(self.dim, None)?;
        ctx.save_for_backward([&y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(Tensor::f_internal_log_softmax_backward_data(dy, y, self.dim, y.kind())?))
    }
}

super::methods! {
    /// [`Softmax`] along `dim`.
    softmax(self, dim: i64) => Softmax { dim };
    /// [`LogSoftmax`] along `dim`.
    log_softmax(self, dim: i64) => LogSoftmax { dim };
}
