//! Arithmetic of a tensor and a number.

use super::{chain, gradient};
use crate::ffi::WithScalar as _;
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// Stamps ops `y = f(x, c)` with a slope that does not depend on `x`.
macro_rules! linear {
    ($($(#[$doc:meta])* $Op:ident { $(#[$c_doc:meta])* }: $y:expr, $dx:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $Op {
            $(#[$c_doc])*
            pub c: f64,
        }

        impl Function for $Op {
            type Inputs = Tensor;
            type Outputs = Tensor;

            fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
                let y: fn(&Tensor, f64) -> Result<Tensor> = $y;
                y(x, self.c)
            }

            fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
                let dx: fn(&Tensor, f64) -> Result<Tensor> = $dx;
                gradient(ctx, 0, || dx(dy, self.c))
            }
        }
    )+};
}
linear! {
    /// `y = x + c`; `dy/dx = 1`. On Vars `&x + c`, `c + &x` and `&x - c`.
    AddScalar { /** The number added. */ }: |x, c| Ok(x.add_number(c)?), |dy, _| Ok(dy.shallow_clone());
    /// `y = c - x`; `dy/dx = -1`. On Vars `c - &x`.
    ScalarSub { /** The number that is subtracted from. */ }: |x, c| Ok(x.rsub_number(c)?), |dy, _| Ok(dy.f_neg()?);
    /// `y = c x`; `dy/dx = c`. On Vars `&x * c` and `c * &x`.
    MulScalar { /** The factor. */ }: |x, c| Ok(x.mul_number(c)?), |dy, c| Ok(dy.mul_number(c)?);
    /// `y = x / c`; `dy/dx = 1 / c`. On Vars `&x / c`.
    DivScalar { /** The divisor. */ }: |x, c| Ok(x.div_number(c)?), |dy, c| Ok(dy.div_number(c)?);
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

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("reciprocal")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.f_reciprocal()?.mul_number(self.c)?;
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

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("pow.Tensor_Scalar")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.pow_number(self.exponent)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        gradient(ctx, 0, || match self.exponent {
            0.0 => Ok(x.f_zeros_like()?),
            e => chain(dy, &x.pow_number(e - 1.0)?.mul_number(e)?),
        })
    }
}
