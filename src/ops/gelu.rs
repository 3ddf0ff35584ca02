//! Smooth relatives of `relu`: GELU, exact and with tanh, and SiLU.

use super::formulas::function;
use crate::formula::{Formula, Scalar, Sort};
use crate::function::Autocast;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

/// `y = x F(x)` with `F(x) = (1 + erf(x / sqrt(2))) / 2`, the normal
/// distribution; `dy/dx = F(x) + x f(x)`, `f(x) = e^(-x^2 / 2) / sqrt(2 pi)`;
/// `d2y/dx2 = f(x) (2 - x^2)`. (Hendrycks and Gimpel, arXiv:1606.08415.)
///
/// Both are within 8 epsilon `max(1, |x|)` of the exact value. A
/// [formula](crate::formula), as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct Gelu;
function!(Gelu of 1, Sort::Crate, Autocast::Wide("gelu"));

/// `y = x s` with `s = (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u))`,
/// `u = sqrt(2 / pi) (x + 0.044715 x^3)`: the form of [`Gelu`] with tanh;
/// `dy/dx = s + 2 x s (1 - s) u'`, `u' = sqrt(2 / pi) (1 + 0.134145 x^2)`;
/// `d2y/dx2 = 2 s (1 - s) (2 u' + x u'' + 2 x u'^2 (1 - 2 s))`.
///
/// Both are within 8 epsilon `max(1, |x|)` of the exact value. A
/// [formula](crate::formula), as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct GeluTanh;
function!(GeluTanh of 1, Sort::Crate, Autocast::Wide("gelu"));

/// `y = x s` with `s = 1 / (1 + e^-x)`; `dy/dx = s + x s (1 - s)`;
/// `d2y/dx2 = s (1 - s) (2 + x (1 - 2 s))`. Also called swish.
///
/// Both are within 8 epsilon `max(1, |x|)` of the exact value. A
/// [formula](crate::formula), as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct Silu;
function!(Silu of 1, Sort::Crate, Autocast::Wide("silu"));

super::methods! {
    /// [`Gelu`] of every element.
    gelu(self) => Gelu;
    /// [`GeluTanh`] of every element.
    gelu_tanh(self) => GeluTanh;
    /// [`Silu`] of every element.
    silu(self) => Silu;
}

/// `x` up to where gates are 0 and 1 and their slopes are 0 already, so that no power of it is
/// infinite when it is multiplied by 0.
#[inline(always)]
fn bounded<S: Scalar>(x: S) -> S {
    x.clamp(-1e3, 1e3)
}

/// `x gate`, and -0 where the gate is 0 and `x` may be infinite.
#[inline(always)]
fn gated<S: Scalar>(x: S, gate: S) -> S {
    S::select(gate.eq(S::zero()), S::of(-0.0), x * gate)
}

/// `(x gate)' = gate + x gate'`
#[inline(always)]
fn gated_slope<S: Scalar>(x: S, gate: S, slope: S) -> Option<[[S; 1]; 1]> {
    Some([[gate + bounded(x) * slope]])
}

impl Formula<1> for Gelu {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [gated(x, normal(x))]
    }
    #[inline(always)]
    fn slopes<S: Scalar>(&self, [x]: [S; 1]) -> Option<[[S; 1]; 1]> {
        gated_slope(x, normal(x), bounded(x).normal_pdf())
    }
}

/// The distribution function: faster than [`Scalar::normal_cdf`], and less exact in the tail.
#[inline(always)]
fn normal<S: Scalar>(x: S) -> S {
    (x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5
}

impl Formula<1> for GeluTanh {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [gated(x, argument(x).sigmoid())]
    }
    #[inline(always)]
    fn slopes<S: Scalar>(&self, [x]: [S; 1]) -> Option<[[S; 1]; 1]> {
        let (b, u) = (bounded(x), argument(bounded(x)));
        let du = (b * b * (3.0 * CUBIC) + 1.0) * FACTOR;
        gated_slope(x, u.sigmoid(), u.sigmoid_slope() * du)
    }
}

/// `2 sqrt(2 / pi)`
const FACTOR: f64 = SQRT_2 * FRAC_2_SQRT_PI;
const CUBIC: f64 = 0.044715;

/// `2 u`
#[inline(always)]
fn argument<S: Scalar>(x: S) -> S {
    (x * x * CUBIC + 1.0) * x * FACTOR
}

impl Formula<1> for Silu {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [gated(x, x.sigmoid())]
    }
    #[inline(always)]
    fn slopes<S: Scalar>(&self, [x]: [S; 1]) -> Option<[[S; 1]; 1]> {
        gated_slope(x, x.sigmoid(), x.sigmoid_slope())
    }
}
