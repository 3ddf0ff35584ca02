//! Arithmetic of a tensor and a number. On the CPU the number is not rounded to the tensor's
//! dtype first, as libtorch rounds it.

use super::formulas::operator;

/// `y = x + c`; `dy/dx = 1`. On Vars `&x + c`, `c + &x` and `&x - c`.
#[derive(Clone, Copy, Debug)]
pub struct AddScalar {
    /// The number added.
    pub c: f64,
}
operator!(AddScalar of 1, |op, [x]| x + op.c);

/// `y = c - x`; `dy/dx = -1`. On Vars `c - &x`.
#[derive(Clone, Copy, Debug)]
pub struct ScalarSub {
    /// The number that is subtracted from.
    pub c: f64,
}
operator!(ScalarSub of 1, |op, [x]| S::of(op.c) - x);

/// `y = c x`; `dy/dx = c`. On Vars `&x * c` and `c * &x`.
#[derive(Clone, Copy, Debug)]
pub struct MulScalar {
    /// The factor.
    pub c: f64,
}
operator!(MulScalar of 1, |op, [x]| x * op.c);

/// `y = x / c`; `dy/dx = 1 / c`. On Vars `&x / c`.
#[derive(Clone, Copy, Debug)]
pub struct DivScalar {
    /// The divisor.
    pub c: f64,
}
operator!(DivScalar of 1, |op, [x]| x / op.c);

/// `y = c / x`; `dy/dx = -y / x`. On Vars `c / &x`.
#[derive(Clone, Copy, Debug)]
pub struct ScalarDiv {
    /// The number that is divided.
    pub c: f64,
}
operator!(ScalarDiv of 1 as "reciprocal", |op, [x]| S::of(op.c) / x);

/// `y = x^e`; `dy/dx = e x^(e-1)`, and 0 everywhere where `e = 0`.
#[derive(Clone, Copy, Debug)]
pub struct PowScalar {
    /// `e`.
    pub exponent: f64,
}
operator!(PowScalar of 1 as "pow.Tensor_Scalar", |op, [x]| x.powf(S::of(op.exponent)));
