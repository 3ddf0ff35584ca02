//! Smooth relatives of `relu`: GELU, exact and with tanh, and SiLU.

use super::fused::fused;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::{Float, Lanes};
use anyhow::Result;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};
use tch::Tensor;

fused! {
    /// `y = x F(x)` with `F(x) = (1 + erf(x / sqrt(2))) / 2`, the normal
    /// distribution; `dy/dx = F(x) + x f(x)`, `f(x) = e^(-x^2 / 2) / sqrt(2 pi)`;
    /// `d2y/dx2 = f(x) (2 - x^2)`. (Hendrycks and Gimpel, arXiv:1606.08415.)
    ///
    /// Both are within 8 epsilon `max(1, |x|)` of the exact value. Floating-point
    /// inputs of any shape; dtypes and devices as [`Log1pExp`](super::Log1pExp).
    Gelu, gelu as "gelu", GeluValue, GeluSlope, gelu_formula, gelu_slope_formula
}

struct GeluValue;

impl Lanes<1, 1> for GeluValue {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [times(x, normal(x))]
    }
}

struct GeluSlope;

impl Lanes<2, 1> for GeluSlope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        let density = decayed(x * x * 0.5) * DENSITY_AT_0;
        // If the density is 0, x may be infinite.
        let term = V::select(density.eq(x.of(0.0)), density, x * density);
        [dy * (normal(x) + term)]
    }
}

/// `1 / sqrt(2 pi)`
const DENSITY_AT_0: f64 = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

#[inline(always)]
fn normal<V: Float>(x: V) -> V {
    (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5
}

/// `x` up to where slopes are 0 and 1 already, so that no power of it is
/// infinite when it is multiplied by 0. (As `clamp`, whose derivative at NaN is
/// 0 and hides it.)
fn bounded(x: &Tensor) -> Result<Tensor> {
    let far = 1e3;
    let inside = x.f_abs()?.gt_number(far)?.f_logical_not()?;
    Ok(x.f_where_self(&inside, &x.f_sign()?.mul_number(far)?)?)
}

fn gelu_formula(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_gelu("none")?)
}

fn gelu_slope_formula(x: &Tensor) -> Result<Tensor> {
    let x = &bounded(x)?;
    let normal = x.mul_number(FRAC_1_SQRT_2)?.f_erf()?.mul_number(0.5)?.add_number(0.5)?;
    let density = x.f_square()?.mul_number(-0.5)?.f_exp()?.mul_number(DENSITY_AT_0)?;
    Ok(normal.f_add(&x.f_mul(&density)?)?)
}

fused! {
    /// `y = x s` with `s = (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u))`,
    /// `u = sqrt(2 / pi) (x + 0.044715 x^3)`: the form of [`Gelu`] with tanh;
    /// `dy/dx = s + 2 x s (1 - s) u'`, `u' = sqrt(2 / pi) (1 + 0.134145 x^2)`;
    /// `d2y/dx2 = 2 s (1 - s) (2 u' + x u'' + 2 x u'^2 (1 - 2 s))`.
    ///
    /// Both are within 8 epsilon `max(1, |x|)` of the exact value. Floating-point
    /// inputs of any shape; dtypes and devices as [`Log1pExp`](super::Log1pExp).
    GeluTanh, gelu_tanh as "gelu", GeluTanhValue, GeluTanhSlope, gelu_tanh_formula, gelu_tanh_slope_formula
}

/// `2 sqrt(2 / pi)`
const FACTOR: f64 = SQRT_2 * FRAC_2_SQRT_PI;
const CUBIC: f64 = 0.044715;

struct GeluTanhValue;

impl Lanes<1, 1> for GeluTanhValue {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        let [s, _] = logistic((x * x * CUBIC + 1.0) * x * FACTOR);
        [times(x, s)]
    }
}

struct GeluTanhSlope;

impl Lanes<2, 1> for GeluTanhSlope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        let square = x * x;
        let [s, ds] = logistic((square * CUBIC + 1.0) * x * FACTOR);
        let slope = (square * (3.0 * CUBIC) + 1.0) * x * FACTOR;
        [dy * (s + times(slope, ds))]
    }
}

/// `e^-|x|`, or 0 below `e^-70`: what is lost is far below the last place of
/// what it is added to, and subnormal numbers would make it several times slower.
#[inline(always)]
fn decayed<V: Float>(x: V) -> V {
    let (least, zero) = (x.of(70.0), x.of(0.0));
    let e = x.abs().min(least).exp_neg_abs();
    V::select(x.abs().lt(least), e, zero)
}

/// `s = 1 / (1 + e^-x)` and `s (1 - s)`: less exact than `Float::sigmoid`, by
/// two roundings, and faster.
#[inline(always)]
fn logistic<V: Float>(x: V) -> [V; 2] {
    let e = decayed(x);
    let above = x.of(1.0) / (e + 1.0);
    let below = e * above;
    let s = V::select(x.lt(x.of(0.0)), below, above);
    [V::select(x.eq(x), s, x), below * above]
}

/// `x s`, and 0 where `s` is 0 and `x` may be infinite.
#[inline(always)]
fn times<V: Float>(x: V, s: V) -> V {
    V::select(s.eq(x.of(0.0)), s, x * s)
}

fn gelu_tanh_formula(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_gelu("tanh")?)
}

fn gelu_tanh_slope_formula(x: &Tensor) -> Result<Tensor> {
    let x = &bounded(x)?;
    let square = x.f_square()?;
    let polynomial = |cubic: f64| anyhow::Ok(square.mul_number(cubic)?.add_number(1.0)?.f_mul(x)?);
    let s = polynomial(CUBIC)?.mul_number(FACTOR)?.f_sigmoid()?;
    let slope = polynomial(3.0 * CUBIC)?.mul_number(FACTOR)?;
    Ok(s.f_add(&slope.f_mul(&s.f_mul(&s.rsub_number(1.0)?)?)?)?)
}

fused! {
    /// `y = x s` with `s = 1 / (1 + e^-x)`; `dy/dx = s + x s (1 - s)`;
    /// `d2y/dx2 = s (1 - s) (2 + x (1 - 2 s))`. Also called swish.
    ///
    /// Both are within 8 epsilon `max(1, |x|)` of the exact value.
    /// Floating-point inputs of any shape; dtypes and devices as
    /// [`Log1pExp`](super::Log1pExp).
    Silu, silu as "silu", SiluValue, SiluSlope, silu_formula, silu_slope_formula
}

struct SiluValue;

impl Lanes<1, 1> for SiluValue {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        let [s, _] = logistic(x);
        [times(x, s)]
    }
}

struct SiluSlope;

impl Lanes<2, 1> for SiluSlope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        let [s, ds] = logistic(x);
        [dy * (s + times(x, ds))]
    }
}

fn silu_formula(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_silu()?)
}

fn silu_slope_formula(x: &Tensor) -> Result<Tensor> {
    let x = &bounded(x)?;
    let s = x.f_sigmoid()?;
    Ok(s.f_add(&x.f_mul(&s.f_mul(&s.rsub_number(1.0)?)?)?)?)
}
