//! Products and transposes of matrices.

use super::{gradient, save_factors, saved_factors};
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `Y = A B`; `dL/dA = dL/dY B^T`, `dL/dB = A^T dL/dY`.
///
/// Vectors (the dot product of two, a matrix times a vector and the reverse),
/// matrices, and batches of matrices `[.., m, n]` whose leading dimensions
/// broadcast. Both of one dtype. Saves each factor only where the other one
/// requires a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Matmul;

impl Function for Matmul {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Lower("matmul")
    }

    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        save_factors(ctx, a, b)?;
        Ok(a.f_matmul(b)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a, b) = saved_factors(ctx)?;
        let (a_is_vector, b_is_vector) =
            (ctx.input_size(0)?.len() == 1, ctx.input_size(1)?.len() == 1);
        // The product of matrices [.., m, n] and [.., n, k].
        let dy = if b_is_vector { dy.f_unsqueeze(-1)? } else { dy.shallow_clone() };
        let dy = if a_is_vector { dy.f_unsqueeze(-2)? } else { dy };
        let da = gradient(ctx, 0, || {
            let b = if b_is_vector { b.f_unsqueeze(-1)? } else { b.shallow_clone() };
            Ok(dy.f_matmul(&adjoint(&b)?)?)
        })?;
        let db = gradient(ctx, 1, || {
            let a = if a_is_vector { a.f_unsqueeze(0)? } else { a.shallow_clone() };
            if ctx.input_size(1)?.len() > 2 {
                return Ok(adjoint(&a)?.f_matmul(&dy)?);
            }
            // One matrix for the whole batch needs one product, which sums over the batch.
            let (a, dy) = (a.f_flatten(0, -2)?, dy.f_flatten(0, -2)?);
            let db = adjoint(&a)?.f_matmul(&dy)?;
            Ok(if b_is_vector { db.f_squeeze_dim(-1)? } else { db })
        })?;
        Ok((da, db))
    }
}

fn adjoint(matrix: &Tensor) -> Result<Tensor> {
    Ok(matrix.f_transpose(-2, -1)?.f_conj()?)
}

/// `y = x` with two dimensions exchanged; the gradient has them exchanged back.
///
/// The output shares memory with the input.
#[derive(Clone, Copy, Debug)]
pub struct Transpose {
    /// A dimension, counted from the last if negative.
    pub dim0: i64,
    /// The other.
    pub dim1: i64,
}

impl Function for Transpose {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_transpose(self.dim0, self.dim1)?)
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.f_transpose(self.dim0, self.dim1)?))
    }
}

super::methods! {
    /// [`Matmul`]: the product of vectors, matrices or batches of matrices.
    matmul(self, &other) => Matmul;
    /// [`Transpose`]: two dimensions exchanged.
    transpose(self, dim0: i64, dim1: i64) => Transpose { dim0, dim1 };
}
