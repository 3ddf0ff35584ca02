//! Arithmetic of a tensor and a number.

use super::{chain, gradient};
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `y = x + c`; `dy/dx = 1`. On Vars `&x + c`, `c + &x` and `&x - c`.
#[derive(Clone, Copy, Debug)]
pub struct AddScalar {
    /// The number added.
    pub c: f64,
}

impl Function for AddScalar {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_add_scalar(self.c)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        gradient(ctx, 0, || Ok(dy.shallow_clone()))
    }
}

/// `y = c - x`; `dy/dx = -1`. On Vars `c - &x`.
#[derive(Clone, Copy, Debug)]
pub struct ScalarSub {
    /// The number that is subtracted from.
    pub c: f64,
}

impl Function for ScalarSub {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_rsub_scalar(self.c)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        gradient(ctx, 0, || Ok(dy.f_neg()?))
    }
}

/// `y = c x`; `dy/dx = c`. On Vars `&x * c` and `c * &x`.
#[derive(Clone, Copy, Debug)]
pub struct MulScalar {
    /// The factor.
    pub c: f64,
}

impl Function for MulScalar {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_mul_scalar(self.c)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        gradient(ctx, 0, || Ok(dy.f_mul_scalar(self.c)?))
    }
}

/// `y = x / c`; `dy/dx = 1 / c`. On Vars `&x / c`.
#[derive(Clone, Copy, Debug)]
pub struct DivScalar {
    /// The divisor.
    pub c: f64,
}

impl Function for DivScalar {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_div_scalar(self.c)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        gradient(ctx, 0, || Ok(dy.f_div_scalar(self.c)?))
    }
}

/// `y = c / x`; `dy/dx = -y / x`. On Vars `c / &x`.
///
/// Computed as `c * (1 / x)`, as PyTorch does.
#[derive(Clone, Copy, Debug)]
pub struct ScalarDiv {
    /// The number that is divided.
    pub c: f64,
}

impl Function for ScalarDiv {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.f_reciprocal()?.f_mul_scalar(self.c)?;
        ctx.save_for_backward([x, &y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x, y] = ctx.saved_tensors()?;
        gradient(ctx, 0, || chain(dy, &y.f_div(x)?.f_neg()?))
    }
}

/// `y = x^e`; `dy/dx = e x^(e-1)`, and 0 everywhere where `e = 0`.
#[derive(Clone, Copy, Debug)]
pub struct PowScalar {
    /// `e`.
    pub exponent: f64,
}

impl Function for PowScalar {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.f_pow_tensor_scalar(self.exponent)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        gradient(ctx, 0, || match self.exponent {
            0.0 => Ok(x.f_zeros_like()?),
            e => chain(dy, &x.f_pow_tensor_scalar(e - 1.0)?.f_mul_scalar(e)?),
        })
    }
}
