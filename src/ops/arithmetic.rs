//! `+ - * /`, negation and powers.

use super::formulas::operator;
use super::scalar::{AddScalar, DivScalar, MulScalar, PowScalar, ScalarDiv, ScalarSub};
use crate::{Function, Var};

/// `y = a + b`; `dy/da = dy/db = 1`. On Vars `&a + &b`, which panics where
/// `Add.apply((&a, &b))` returns an `Err`; the same holds for `- * /`.
///
/// Shapes broadcast, dtypes are promoted.
#[derive(Clone, Copy, Debug)]
pub struct Add;
operator!(Add of 2, |_, [a, b]| a + b);

/// `y = a - b`; `dy/da = 1`, `dy/db = -1`.
///
/// Shapes broadcast, dtypes are promoted.
#[derive(Clone, Copy, Debug)]
pub struct Sub;
operator!(Sub of 2, |_, [a, b]| a - b);

/// `y = a * b`; `dy/da = b`, `dy/db = a`.
///
/// Shapes broadcast, dtypes are promoted. Saves each factor only if the
/// other one requires a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Mul;
operator!(Mul of 2, |_, [a, b]| a * b);

/// `y = a / b`; `dy/da = 1 / b`, `dy/db = -y / b`.
///
/// Shapes broadcast, dtypes are promoted; the quotient of integers is a float.
#[derive(Clone, Copy, Debug)]
pub struct Div;
operator!(Div of 2, |_, [a, b]| a / b);

/// `y = -x`; `dy/dx = -1`.
#[derive(Clone, Copy, Debug)]
pub struct Neg;
operator!(Neg of 1, |_, [x]| -x);

/// `y = a^b`; `dy/da = b a^(b-1)`, `dy/db = y log(a)`.
///
/// Shapes broadcast, dtypes are promoted. As in libtorch `dy/da = 0` where
/// `b = 0`, and `dy/db = 0` where `a = 0` and `b >= 0`. A complex exponent has
/// no gradient here: asking for it is an error.
#[derive(Clone, Copy, Debug)]
pub struct Pow;
operator!(Pow of 2 as "pow.Tensor_Tensor", |_, [a, b]| a.powf(b), kernels All);

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
