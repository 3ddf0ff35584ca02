//! The gates of [`ops::Gelu`](crate::ops::Gelu) and its like as functions of one number: each
//! derivative is a function of its own, so nothing cancels.

use super::Scalar;
use super::functions::unary;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::Float;
use crate::kernel::simd::gates::{self, CURVATURE, SLOPE, VALUE};
use anyhow::Result;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};
use tch::Tensor;

unary! {
    // x F(x), with the normal distribution F
    Gelu: |x| gates::gelu::<VALUE, V>(x), |x| product(&below(x)?, &normal(&below(x)?)?),
        |x| x.max(-FAR) * normal_of(x), |x, _| x.unary::<GeluSlope>();
    GeluSlope: |x| gates::gelu::<SLOPE, V>(x),
        |x| sum(&normal(x)?, &product(&near(x)?, &density(x)?)?),
        |x| normal_of(x) + near_of(x) * density_of(x), |x, _| x.unary::<GeluCurvature>();
    GeluCurvature: |x| gates::gelu::<CURVATURE, V>(x),
        |x| product(&density(x)?, &near(x)?.f_square()?.rsub_number(2)?),
        |x| density_of(x) * (2.0 - near_of(x) * near_of(x)),
        |x, _| { let x = x.clamp(-FAR, FAR); x.normal_pdf() * x * (x * x - 4.0) };
    // x / (1 + e^-x)
    Silu: |x| gates::silu::<VALUE, V>(x), |x| product(&below(x)?, &x.f_sigmoid()?),
        |x| x.max(-FAR) * logistic(x), |x, _| x.unary::<SiluSlope>();
    SiluSlope: |x| gates::silu::<SLOPE, V>(x),
        |x| sum(&x.f_sigmoid()?, &product(&near(x)?, &logistic_slope(x)?)?),
        |x| logistic(x) + near_of(x) * logistic_slope_of(x), |x, _| x.unary::<SiluCurvature>();
    SiluCurvature: |x| gates::silu::<CURVATURE, V>(x),
        |x| {
            let bend = product(&near(x)?, &x.mul_number(0.5)?.f_tanh()?)?.rsub_number(2)?;
            product(&logistic_slope(x)?, &bend)
        },
        |x| logistic_slope_of(x) * (2.0 - near_of(x) * (x * 0.5).tanh()),
        |x, _| {
            let x = x.clamp(-FAR, FAR);
            let (slope, tanh) = (x.sigmoid_slope(), (x * 0.5).tanh());
            slope * (x * (tanh * tanh - slope * 2.0) - tanh * 3.0)
        };
    // x / (1 + e^-v), v = 2 sqrt(2 / pi) (x + 0.044715 x^3)
    GeluTanh: |x| gates::gelu_tanh::<VALUE, V>(x),
        |x| product(&below(x)?, &argument(x)?.f_sigmoid()?),
        |x| x.max(-FAR) * logistic(argument_of(x)), |x, _| x.unary::<GeluTanhSlope>();
    GeluTanhSlope: |x| gates::gelu_tanh::<SLOPE, V>(x), |x| {
            let v = argument(x)?;
            let along = product(&near(x)?, &argument_slope(x)?)?;
            sum(&v.f_sigmoid()?, &product(&logistic_slope(&v)?, &along)?)
        },
        |x| {
            let v = argument_of(x);
            logistic(v) + near_of(x) * logistic_slope_of(v) * argument_slope_of(x)
        },
        |x, _| x.unary::<GeluTanhCurvature>();
    GeluTanhCurvature: |x| gates::gelu_tanh::<CURVATURE, V>(x), |x| {
            let (v, x, slope) = (argument(x)?, near(x)?, argument_slope(x)?);
            let bend = x.f_square()?.mul_number(12.0 * CUBIC)?.add_number(2)?.mul_number(FACTOR)?;
            let along = product(&product(&x, &slope)?, &slope)?;
            let turned = product(&along, &v.mul_number(0.5)?.f_tanh()?)?;
            product(&logistic_slope(&v)?, &bend.f_sub(&turned)?)
        },
        |x| {
            let (v, x, slope) = (argument_of(x), near_of(x), argument_slope_of(x));
            let bend = (x * x * (12.0 * CUBIC) + 2.0) * FACTOR;
            logistic_slope_of(v) * (bend - x * slope * slope * (v * 0.5).tanh())
        },
        |x, _| gelu_tanh_third(x.clamp(-FAR, FAR));
}

/// From here on gates are 0 or 1, and their slopes 0; powers of it are finite in f32.
const FAR: f64 = 1e3;
const FACTOR: f64 = SQRT_2 * FRAC_2_SQRT_PI;
const CUBIC: f64 = 0.044715;

/// The third derivative: `2s'' v' + s' v'' + ..` of `x s(v(x))`, where the second one is
/// `s' (b - x v'^2 h)` with `s'' = -s' h`, `h = tanh(v / 2)`, `h' = 2 s'` and `b = 2v' + x v''`.
#[inline(always)]
fn gelu_tanh_third<S: Scalar>(x: S) -> S {
    let square = x * x;
    let v = (square * CUBIC + 1.0) * x * FACTOR;
    let dv = (square * (3.0 * CUBIC) + 1.0) * FACTOR;
    let ddv = x * (6.0 * CUBIC * FACTOR);
    let (slope, h) = (v.sigmoid_slope(), (v * 0.5).tanh());
    let bend = (square * (12.0 * CUBIC) + 2.0) * FACTOR;
    let inner = bend - x * dv * dv * h;
    let moved = x * (24.0 * CUBIC * FACTOR)
        - (dv * dv + x * dv * ddv * 2.0) * h
        - x * dv * dv * dv * slope * 2.0;
    slope * (moved - dv * h * inner)
}

fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_add(b)?)
}

fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_mul(b)?)
}

/// So that infinity is not multiplied by 0.
fn near(x: &Tensor) -> Result<Tensor> {
    Ok(x.clamped(-FAR, FAR)?)
}

fn near_of(x: f64) -> f64 {
    x.clamp(-FAR, FAR)
}

fn below(x: &Tensor) -> Result<Tensor> {
    Ok(x.clamped(-FAR, f64::INFINITY)?)
}

/// The distribution function; libtorch's own loses the tail.
pub(super) fn normal(x: &Tensor) -> Result<Tensor> {
    Ok(x.mul_number(-FRAC_1_SQRT_2)?.f_erfc()?.mul_number(0.5)?)
}

fn normal_of(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

fn density(x: &Tensor) -> Result<Tensor> {
    let power = near(x)?.f_square()?.mul_number(-0.5)?.f_exp()?;
    Ok(power.mul_number(FACTOR / 4.0)?)
}

fn density_of(x: f64) -> f64 {
    (x * x * -0.5).exp() * (FACTOR / 4.0)
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn logistic_slope(x: &Tensor) -> Result<Tensor> {
    product(&x.f_sigmoid()?, &x.f_neg()?.f_sigmoid()?)
}

fn logistic_slope_of(x: f64) -> f64 {
    logistic(x) * logistic(-x)
}

fn argument(x: &Tensor) -> Result<Tensor> {
    let x = near(x)?;
    product(&x, &x.f_square()?.mul_number(CUBIC)?.add_number(1)?.mul_number(FACTOR)?)
}

fn argument_of(x: f64) -> f64 {
    let x = near_of(x);
    x * (x * x * CUBIC + 1.0) * FACTOR
}

fn argument_slope(x: &Tensor) -> Result<Tensor> {
    Ok(near(x)?.f_square()?.mul_number(3.0 * CUBIC)?.add_number(1)?.mul_number(FACTOR)?)
}

fn argument_slope_of(x: f64) -> f64 {
    (near_of(x) * near_of(x) * (3.0 * CUBIC) + 1.0) * FACTOR
}
