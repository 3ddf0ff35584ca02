//! Probabilities from scores, and the loss that goes with them.

use crate::{Ctx, Function, Var};
use anyhow::Result;
use tch::{Kind, Reduction, Tensor};

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

/// The mean of `-log softmax(x)[target]`:
/// `dy/dx_i = (softmax(x)_i - [i = target]) / n` for `n` targets.
///
/// Inputs `(x, targets)`: scores `[N, C]` and classes `[N]`, `[C]` and `[]`, or
/// `[N, C, d1, ..]` and `[N, d1, ..]`; classes as int64. As in libtorch a
/// target of -100 is left out, and the mean of no targets is NaN.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy;

impl Function for CrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (x, targets): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, targets])?;
        let log_p = x.f_log_softmax(class_dim(x), None)?;
        Ok(log_p.f_nll_loss_nd::<Tensor>(targets, None, Reduction::Mean, LEFT_OUT)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, targets] = ctx.saved_tensors()?;
        let dim = class_dim(x);
        let counted = targets.f_ne(LEFT_OUT)?;
        let class = targets.f_to_kind(Kind::Int64)?.f_where_scalarother(&counted, 0)?;
        let weight = dy.f_div(&counted.f_sum(None)?)?.f_where_scalarother(&counted, 0)?;
        let (class, weight) = (class.f_unsqueeze(dim)?, weight.f_unsqueeze(dim)?);
        let p = x.f_softmax(dim, None)?;
        Ok((Some(p.f_mul(&weight)?.f_scatter_add(dim, &class, &weight.f_neg()?)?), None))
    }
}

/// libtorch's default `ignore_index`.
const LEFT_OUT: i64 = -100;

fn class_dim(x: &Tensor) -> i64 {
    if x.dim() == 1 { 0 } else { 1 }
}

impl Var {
    /// [`Softmax`] along `dim`.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn softmax(&self, dim: i64) -> crate::Result<Var> {
        Softmax { dim }.apply(self)
    }

    /// [`LogSoftmax`] along `dim`.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn log_softmax(&self, dim: i64) -> crate::Result<Var> {
        LogSoftmax { dim }.apply(self)
    }

    /// [`CrossEntropy`] of these scores and the classes `targets`, averaged.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message, also
    /// for a target that is no class.
    pub fn cross_entropy(&self, targets: &Var) -> crate::Result<Var> {
        CrossEntropy.apply((self, targets))
    }
}
