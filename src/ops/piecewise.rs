//! Functions with kinks, where the gradients are those that libtorch chose.

use super::{elementwise, gradient};
use crate::ffi::WithScalar as _;
use crate::{Ctx, Function, Grads, Var};
use anyhow::Result;
use tch::Tensor;

elementwise! {
    /// `y = max(x, 0)`; `dy/dx` is 1 where `x > 0`, else 0.
    Relu, relu: f_relu, saves output, |dy, y| Ok(y.f_threshold_backward(dy, 0)?);

    /// `y = |x|`; `dy/dx = sign(x)`, 0 at 0.
    Abs, abs: f_abs, saves input, |dy, x| Ok(dy.f_mul(&x.f_sgn()?)?);
}

/// Stamps `Maximum` and `Minimum`; `$loses` is the comparison that gives the
/// gradient to the other side.
macro_rules! extremum {
    ($(#[$doc:meta])* $Op:ident, $method:ident: $forward:ident, $loses:ident) => {
        $(#[$doc])*
        ///
        /// Half of the gradient goes to each where they are equal. Shapes
        /// broadcast, dtypes are promoted; complex numbers are refused.
        #[derive(Clone, Copy, Debug)]
        pub struct $Op;

        impl Function for $Op {
            type Inputs = (Tensor, Tensor);
            type Outputs = Tensor;

            fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
                ctx.save_for_backward([a, b])?;
                Ok(a.$forward(b)?)
            }

            fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
                let [a, b] = ctx.saved_tensors()?;
                let share = |a: &Tensor, b: &Tensor| {
                    let tied = dy.div_number(2.0)?.f_where_self(&a.f_eq_tensor(b)?, dy)?;
                    Ok(tied.filled(&a.$loses(b)?, 0)?)
                };
                Ok((gradient(ctx, 0, || share(a, b))?, gradient(ctx, 1, || share(b, a))?))
            }
        }

        $crate::ops::methods! {
            #[doc = concat!("[`", stringify!($Op), "`] of each element and the other's.")]
            $method(self, &other) => $Op;
        }
    };
}
extremum! {
    /// `y = max(a, b)`, elementwise; the gradient goes to the greater one.
    Maximum, maximum: f_maximum, f_lt_tensor
}
extremum! {
    /// `y = min(a, b)`, elementwise; the gradient goes to the lesser one.
    Minimum, minimum: f_minimum, f_gt_tensor
}

/// `y = a` where the boolean `condition` holds, else `b`; the gradient goes to
/// the one that was taken.
///
/// Inputs in the order `(condition, a, b)`. Shapes broadcast, dtypes are
/// promoted.
#[derive(Clone, Copy, Debug)]
pub struct Where;

impl Function for Where {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(
        &self,
        ctx: &mut Ctx,
        (condition, a, b): (&Tensor, &Tensor, &Tensor),
    ) -> Result<Tensor> {
        ctx.save_for_backward([condition])?;
        Ok(a.f_where_self(condition, b)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Grads<Self::Inputs>> {
        let [condition] = ctx.saved_tensors()?;
        let da = gradient(ctx, 1, || Ok(dy.where_else(condition, 0)?))?;
        let db = gradient(ctx, 2, || Ok(dy.filled(condition, 0)?))?;
        Ok((None, da, db))
    }
}

impl Var {
    /// [`Where`]: this where `condition` holds, else `other`.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn where_self(&self, condition: &Var, other: &Var) -> crate::Result<Var> {
        Where.apply((condition, self, other))
    }
}
