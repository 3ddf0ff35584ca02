//! Smooth functions of one variable.

use super::{chain, elementwise};
use crate::ffi::WithScalar as _;
use tch::Tensor;

elementwise! {
    /// `y = e^x`; `dy/dx = y`.
    Exp, exp: f_exp, saves output, |dy, y| chain(dy, y);

    /// `y = log x`, the natural logarithm; `dy/dx = 1 / x`, infinite at 0.
    Log, log: f_log, saves input, |dy, x| Ok(dy.f_div(&x.f_conj()?)?);

    /// `y = sqrt x`; `dy/dx = 1 / (2 y)`, infinite at 0.
    Sqrt, sqrt: f_sqrt, saves output,
        |dy, y| Ok(dy.f_div(&y.mul_number(2.0)?.f_conj()?)?);

    /// `y = tanh x`; `dy/dx = 1 - y^2`.
    Tanh, tanh: f_tanh, saves output, |dy, y| Ok(Tensor::f_tanh_backward(dy, y)?);

    /// `y = 1 / (1 + e^-x)`, the logistic function; `dy/dx = y (1 - y)`.
    Sigmoid, sigmoid: f_sigmoid, saves output, |dy, y| Ok(Tensor::f_sigmoid_backward(dy, y)?);
}
