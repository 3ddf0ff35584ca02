//! `log(1 + e^x)` over the whole range.

use super::gradient;
use crate::{Ctx, Function, Var};
use anyhow::Result;
use tch::{Kind, Tensor};

/// `y = log(1 + e^x)`; `dy/dx = 1 / (1 + e^-x)`.
///
/// With `e = e^-|x|`, which never overflows, `y = max(x, 0) + log1p(e)`, where
/// the textbook form `log(1 + e^x)` is infinite from 88.8 (f32) and 709.8 (f64)
/// on. On the CPU `y` and `dy/dx` are within 2 ulp of the exact values
/// everywhere, subnormal ones too.
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
        match x.kind() {
            kind @ (Kind::Half | Kind::BFloat16) => {
                Ok(log1p_exp(&x.f_to_kind(Kind::Float)?)?.f_to_kind(kind)?)
            }
            _ => log1p_exp(x),
        }
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        gradient(ctx, 0, || match x.kind() {
            Kind::Half | Kind::BFloat16 => Ok(dy.f_mul(&slope(&x.f_to_kind(Kind::Float)?)?)?),
            _ => Ok(dy.f_mul(&slope(x)?)?),
        })
    }
}

fn log1p_exp(x: &Tensor) -> Result<Tensor> {
    let e = x.f_abs()?.f_neg()?.f_exp()?;
    Ok(x.f_relu()?.f_add(&e.f_log1p()?)?)
}

/// `1 / (1 + e^-x)`: `q` below 0 and `1 - q` above, with `q = e / (1 + e)`.
///
/// For small `e` the roundings of `1 + e` and of the quotient would add up to
/// more than 2 ulp; in `e - e q` they count only `e` times as much.
fn slope(x: &Tensor) -> Result<Tensor> {
    let negative = x.f_lt(0)?;
    // e^-|x| as above, but with a slope at 0 for the second derivative.
    let e = x.f_where_self(&negative, &x.f_neg()?)?.f_exp()?;
    let q = e.f_div(&e.f_add_scalar(1)?)?;
    let q = e.f_sub(&e.f_mul(&q)?)?.f_where_self(&e.f_lt(0.25)?, &q)?;
    Ok(q.f_where_self(&negative, &q.f_rsub_scalar(1)?)?)
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
