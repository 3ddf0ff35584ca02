//! The same elements in another shape, order or number.

use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `y = x` in another shape; the gradient gets the input's shape back.
///
/// One size may be -1: it follows from the others. The output shares memory
/// with the input where the strides allow it.
#[derive(Clone, Debug)]
pub struct Reshape {
    /// The output's shape.
    pub shape: Vec<i64>,
}

impl Function for Reshape {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_reshape(&self.shape[..])?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.f_reshape(ctx.input_size(0)?)?))
    }
}

/// `y[.., i, ..] = x[.., index[i], ..]` along `dim`; the gradient of an element
/// taken several times is the sum.
///
/// Inputs `(x, index)`, the index of one dimension, int32 or int64.
#[derive(Clone, Copy, Debug)]
pub struct IndexSelect {
    /// The dimension along which slices are taken.
    pub dim: i64,
}

impl Function for IndexSelect {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (x, index): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([index])?;
        Ok(x.f_index_select(self.dim, index)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [index] = ctx.saved_tensors()?;
        let dx = input_zeros(ctx, dy)?.f_index_add(self.dim, index, dy)?;
        Ok((Some(dx), None))
    }
}

/// `y[i, j] = x[index[i, j], j]` for `dim = 0`, and so on for other dimensions
/// and ranks; the gradient of an element taken several times is the sum.
///
/// Inputs `(x, index)`, the index int64, of the rank of `x` and in no other
/// dimension longer.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    /// The dimension that the index counts along.
    pub dim: i64,
}

impl Function for Gather {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (x, index): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([index])?;
        Ok(x.f_gather(self.dim, index, false)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [index] = ctx.saved_tensors()?;
        let dx = input_zeros(ctx, dy)?.f_scatter_add(self.dim, index, dy)?;
        Ok((Some(dx), None))
    }
}

/// Zeros like input 0, which has the dtype and the device of `dy`.
fn input_zeros(ctx: &Ctx, dy: &Tensor) -> Result<Tensor> {
    Ok(dy.f_new_zeros(ctx.input_size(0)?, (dy.kind(), dy.device()))?)
}

super::methods! {
    /// [`Reshape`]: the same elements in another shape.
    reshape(self, shape: &[i64]) => Reshape { shape: shape.to_vec() };
    /// [`IndexSelect`]: the slices along `dim` that `index` names.
    index_select(self, dim: i64; &index) => IndexSelect { dim };
    /// [`Gather`]: one element along `dim` for each element of `index`.
    gather(self, dim: i64; &index) => Gather { dim };
}
