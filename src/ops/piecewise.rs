//! Functions with kinks, where the gradients are those that libtorch chose.

use super::formulas::operator;
use super::gradient;
use crate::ffi::WithScalar as _;
use crate::{Ctx, Function, Grads, Var};
use anyhow::Result;
use tch::Tensor;

/// `y = max(x, 0)`; `dy/dx` is 1 where `x > 0`, else 0.
#[derive(Clone, Copy, Debug)]
pub struct Relu;
operator!(Relu of 1 as "relu", |_, [x]| x.relu(), keeping value);

/// `y = |x|`; `dy/dx = sign(x)`, 0 at 0.
#[derive(Clone, Copy, Debug)]
pub struct Abs;
operator!(Abs of 1 as "abs", |_, [x]| x.abs());

/// `y = max(a, b)`, elementwise; the gradient goes to the greater one.
///
/// Half of the gradient goes to each where they are equal. Shapes broadcast, dtypes are
/// promoted; complex numbers are refused.
#[derive(Clone, Copy, Debug)]
pub struct Maximum;
operator!(Maximum of 2, |_, [a, b]| a.max(b));

/// `y = min(a, b)`, elementwise; the gradient goes to the lesser one.
///
/// Half of the gradient goes to each where they are equal. Shapes broadcast, dtypes are
/// promoted; complex numbers are refused.
#[derive(Clone, Copy, Debug)]
pub struct Minimum;
operator!(Minimum of 2, |_, [a, b]| a.min(b));

super::methods! {
    /// [`Relu`] of every element.
    relu(self) => Relu;
    /// [`Abs`] of every element.
    abs(self) => Abs;
    /// [`Maximum`] of each element and the other's.
    maximum(self, &other) => Maximum;
    /// [`Minimum`] of each element and the other's.
    minimum(self, &other) => Minimum;
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
