//! `log(1 + e^x)` over the whole range.

use super::gradient;
use crate::{Ctx, Function, Var};
use anyhow::Result;
use tch::{Kind, Tensor};

/// `y = log(1 + e^x)`; `dy/dx = 1 / (1 + e^-x)`.
///
/// With `e = e^-|x|`, which never overflows, `y = max(x, 0) + log1p(e)`, and
/// `dy/dx = 1 / (1 + e)` for `x >= 0`, `e / (1 + e)` for `x < 0`. The textbook
/// form `log(1 + e^x)` is infinite from 88.8 (f32) and 709.8 (f64) on.
///
/// Floating-point inputs of any shape; f16 and bf16 are computed in f32 and
/// rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Log1pExp;

impl Function for Log1pExp {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        let wide = widen(x)?;
        let y = wide.f_relu()?.f_add(&decayed(&wide)?.f_log1p()?)?;
        Ok(y.f_to_kind(x.kind())?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        gradient(ctx, 0, || {
            let wide = widen(x)?;
            let e = decayed(&wide)?;
            let top = e.f_where_scalarother(&wide.f_lt(0)?, 1)?;
            Ok(dy.f_mul(&top.f_div(&e.f_add_scalar(1)?)?)?)
        })
    }
}

/// `x`, or for 16-bit types `x` in f32.
fn widen(x: &Tensor) -> Result<Tensor> {
    match x.kind() {
        Kind::Half | Kind::BFloat16 => Ok(x.f_to_kind(Kind::Float)?),
        _ => Ok(x.shallow_clone()),
    }
}

/// `e^-|x|`
fn decayed(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_abs()?.f_neg()?.f_exp()?)
}

impl Var {
    /// [`Log1pExp`] of every element.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn log1p_exp(&self) -> crate::Result<Var> {
        Log1pExp.apply(self)
    }
}
