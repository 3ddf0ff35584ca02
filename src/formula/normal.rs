//! The normal distribution and the Gauss function, each derivative a function of its own, so that
//! no factor is a subnormal number before the product is one.

use super::Scalar;
use super::functions::unary;
use super::gates::normal;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::Float;
use crate::kernel::simd::gates::{self, CURVATURE, SLOPE, VALUE};
use anyhow::Result;
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};
use tch::Tensor;

unary! {
    NormalCdf: |x| gates::normal_cdf(x), normal, normal_cdf,
        |x, _| x.unary::<NormalPdf>();
    NormalPdf: |x| gates::normal_pdf::<VALUE, V>(x), density, normal_pdf,
        |x, _| x.unary::<NormalPdfSlope>();
    NormalPdfSlope: |x| gates::normal_pdf::<SLOPE, V>(x),
        |x| Ok(near(x)?.f_neg()?.f_mul(&density(x)?)?), |x| -near_of(x) * normal_pdf(x),
        |x, _| x.unary::<NormalPdfCurvature>();
    NormalPdfCurvature: |x| gates::normal_pdf::<CURVATURE, V>(x),
        |x| Ok(near(x)?.f_square()?.sub_number(1)?.f_mul(&density(x)?)?),
        |x| (near_of(x) * near_of(x) - 1.0) * normal_pdf(x),
        |x, _| { let x = x.clamp(-FAR, FAR); x.unary::<NormalPdf>() * x * -(x * x - 3.0) };
    // e^(-x^2)
    Gauss: |x| gates::gauss::<VALUE, V>(x), bell, gauss, |x, _| x.unary::<GaussSlope>();
    GaussSlope: |x| gates::gauss::<SLOPE, V>(x),
        |x| Ok(near(x)?.mul_number(-2)?.f_mul(&bell(x)?)?), |x| near_of(x) * -2.0 * gauss(x),
        |x, _| { let x = x.clamp(-FAR, FAR); x.unary::<Gauss>() * (x * x * 4.0 - 2.0) };
}

/// Beyond it, `e^(-x^2 / 2)` is 0 in every dtype.
const FAR: f64 = 40.0;

/// So that infinity is not multiplied by 0.
fn near(x: &Tensor) -> Result<Tensor> {
    Ok(x.clamped(-FAR, FAR)?)
}

fn near_of(x: f64) -> f64 {
    x.clamp(-FAR, FAR)
}

fn density(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_square()?.mul_number(-0.5)?.f_exp()?.mul_number(NORMAL)?)
}

fn bell(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_square()?.f_neg()?.f_exp()?)
}

/// `1 / sqrt(2 pi)`
const NORMAL: f64 = FRAC_2_SQRT_PI * 0.5 / SQRT_2;

fn gauss(x: f64) -> f64 {
    let square = x * x;
    if square > 800.0 { 0.0 } else { (-square).exp() * (1.0 - x.mul_add(x, -square)) }
}

fn normal_pdf(x: f64) -> f64 {
    let half = x * x * 0.5;
    if half > 800.0 { 0.0 } else { (-half).exp() * (1.0 - (x * 0.5).mul_add(x, -half)) * NORMAL }
}

/// `erfc(-x / sqrt 2) / 2`. What the argument of `erfc` was rounded by counts in the tail, so
/// its effect is added.
fn normal_cdf(x: f64) -> f64 {
    /// `1 / sqrt 2` less its nearest number.
    const REST: f64 = -4.833_646_656_726_457e-17;
    if !x.is_finite() {
        return if x.is_nan() { x } else { f64::from(u8::from(x > 0.0)) };
    }
    let t = -x * std::f64::consts::FRAC_1_SQRT_2;
    let lost = (-x).mul_add(std::f64::consts::FRAC_1_SQRT_2, -t) - x * REST;
    0.5 * (libm::erfc(t) - FRAC_2_SQRT_PI * gauss(t) * lost)
}
