//! `+ - * /`, negation and powers.

use super::scalar::{AddScalar, DivScalar, MulScalar, PowScalar, ScalarDiv, ScalarSub};
use super::{chain, gradient, save_factors, saved_factors};
use crate::ffi::WithScalar as _;
use crate::{Ctx, Function, Var};
use anyhow::Result;
use tch::Tensor;

/// `y = a + b`; `dy/da = dy/db = 1`. On Vars `&a + &b`, which panics where
/// `Add.apply((&a, &b))` returns an `Err`; the same holds for `- * /`.
///
/// Shapes broadcast, dtypes are promoted.
#[derive(Clone, Copy, Debug)]
pub struct Add;

impl Function for Add {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        Ok(a.f_add(b)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = || Ok(dy.shallow_clone());
        Ok((gradient(ctx, 0, dy)?, gradient(ctx, 1, dy)?))
    }
}

/// `y = a - b`; `dy/da = 1`, `dy/db = -1`.
///
/// Shapes broadcast, dtypes are promoted.
#[derive(Clone, Copy, Debug)]
pub struct Sub;

impl Function for Sub {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        Ok(a.f_sub(b)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let da = gradient(ctx, 0, || Ok(dy.shallow_clone()))?;
        Ok((da, gradient(ctx, 1, || Ok(dy.f_neg()?))?))
    }
}

/// `y = a * b`; `dy/da = b`, `dy/db = a`.
///
/// Shapes broadcast, dtypes are promoted. Saves each factor only if the
/// other one requires a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Mul;

impl Function for Mul {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        save_factors(ctx, a, b)?;
        Ok(a.f_mul(b)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a, b) = saved_factors(ctx)?;
        Ok((gradient(ctx, 0, || chain(dy, b))?, gradient(ctx, 1, || chain(dy, a))?))
    }
}

/// `y = a / b`; `dy/da = 1 / b`, `dy/db = -y / b`.
///
/// Shapes broadcast, dtypes are promoted; the quotient of integers is a float.
#[derive(Clone, Copy, Debug)]
pub struct Div;

impl Function for Div {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        let y = a.f_div(b)?;
        match ctx.needs_input_grad(1) {
            true => ctx.save_for_backward([b, &y])?,
            false => ctx.save_for_backward([b])?,
        }
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = ctx.saved_tensors_vec()?;
        let b = saved[0];
        Ok((
            gradient(ctx, 0, || Ok(dy.f_div(&b.f_conj()?)?))?,
            gradient(ctx, 1, || chain(dy, &saved[1].f_div(b)?.f_neg()?))?,
        ))
    }
}

/// `y = -x`; `dy/dx = -1`.
#[derive(Clone, Copy, Debug)]
pub struct Neg;

impl Function for Neg {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_neg()?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        gradient(ctx, 0, || Ok(dy.f_neg()?))
    }
}

/// `y = a^b`; `dy/da = b a^(b-1)`, `dy/db = y log(a)`.
///
/// Shapes broadcast, dtypes are promoted. As in libtorch `dy/da = 0` where
/// `b = 0`, and `dy/db = 0` where `a = 0` and `b >= 0`. A complex exponent has
/// no gradient here: asking for it is an error.
#[derive(Clone, Copy, Debug)]
pub struct Pow;

impl Function for Pow {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("pow.Tensor_Tensor")
    }

    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        let y = a.f_pow(b)?;
        match ctx.needs_input_grad(1) {
            true => ctx.save_for_backward([a, b, &y])?,
            false => ctx.save_for_backward([a, b])?,
        }
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = ctx.saved_tensors_vec()?;
        let (a, b) = (saved[0], saved[1]);
        let da = gradient(ctx, 0, || {
            let power = a.f_pow(&b.sub_number(1)?)?;
            // 0 times infinity, which 1 / a is for subnormal a too. Elsewhere b = 0 makes 0
            // by itself, and has a second derivative.
            let flat = b.eq_number(0)?.f_logical_and(&power.f_isfinite()?.f_logical_not()?)?;
            Ok(chain(dy, &b.f_mul(&power)?)?.filled(&flat, 0)?)
        })?;
        let db = gradient(ctx, 1, || {
            let y = saved[2];
            let flat = a.eq_number(0)?.f_logical_and(&b.ge_number(0)?)?;
            // log 1 = 0 in place of an infinity, of which 0 times is no number.
            let base = a.where_else(&flat.f_logical_not()?, 1)?;
            let slope = y.f_mul(&base.f_to_kind(y.kind())?.f_log()?)?;
            chain(dy, &slope)
        })?;
        Ok((da, db))
    }
}

super::methods! {
    /// [`Pow`]: each element to the power of the other's.
    pow(self, &exponent) => Pow;
    /// [`PowScalar`]: each element to the power of `exponent`.
    pow_scalar(self, exponent: f64) => PowScalar { exponent };
}

fn or_panic(y: crate::Result<Var>) -> Var {
    y.unwrap_or_else(|e| panic!("{e}"))
}

/// The Rust operator of the op of the same name, between Vars and between a
/// Var and a number `c` on either side.
macro_rules! operator {
    ($Op:ident, $method:ident, |$c:ident| right: $right:expr, left: $left:expr) => {
        operator!(@ $Op $method, &Var, &Var, |a, b| $Op.apply((a, b)));
        operator!(@ $Op $method, Var, Var, |a, b| $Op.apply((&a, &b)));
        operator!(@ $Op $method, Var, &Var, |a, b| $Op.apply((&a, b)));
        operator!(@ $Op $method, &Var, Var, |a, b| $Op.apply((a, &b)));
        operator!(@ $Op $method, &Var, f64, |x, $c| $right.apply(x));
        operator!(@ $Op $method, Var, f64, |x, $c| $right.apply(&x));
        operator!(@ $Op $method, f64, &Var, |$c, x| $left.apply(x));
        operator!(@ $Op $method, f64, Var, |$c, x| $left.apply(&x));
    };
    (@ $Op:ident $method:ident, $A:ty, $B:ty, |$a:ident, $b:ident| $y:expr) => {
        /// # Panics
        /// With the error's text where `apply` returns an `Err`.
        impl std::ops::$Op<$B> for $A {
            type Output = Var;
            fn $method(self, other: $B) -> Var {
                let ($a, $b) = (self, other);
                or_panic($y)
            }
        }
    };
}
operator!(Add, add, |c| right: AddScalar { c }, left: AddScalar { c });
operator!(Sub, sub, |c| right: AddScalar { c: -c }, left: ScalarSub { c });
operator!(Mul, mul, |c| right: MulScalar { c }, left: MulScalar { c });
operator!(Div, div, |c| right: DivScalar { c }, left: ScalarDiv { c });

/// # Panics
/// With the error's text where `apply` returns an `Err`.
impl std::ops::Neg for &Var {
    type Output = Var;
    fn neg(self) -> Var {
        or_panic(Neg.apply(self))
    }
}

/// # Panics
/// With the error's text where `apply` returns an `Err`.
impl std::ops::Neg for Var {
    type Output = Var;
    fn neg(self) -> Var {
        -&self
    }
}
