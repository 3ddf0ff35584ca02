//! The functions of one number. Each is a type with what it is on vectors, on tensors and on
//! constants, and with its derivative, which is written in the same functions: so every
//! derivative of any order comes from here.

use super::Scalar;
pub use super::gates::{Gelu, GeluTanh, Silu};
use super::normal::Gauss;
pub use super::normal::{NormalCdf, NormalPdf};
pub use super::powers::Cbrt;
use super::tensors::scalar_like;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::Float;
use anyhow::Result;
use std::f64::consts::{FRAC_2_SQRT_PI, LN_2, LN_10};
use tch::Tensor;

/// A function of one number.
pub trait Unary {
    /// The values of each lane, within 2 ulp.
    fn lanes<V: Float>(x: V) -> V;
    fn tensor(x: &Tensor) -> Result<Tensor>;
    fn constant(x: f64) -> f64;
    /// The derivative at `x`, where the value is `y`.
    fn slope<S: Scalar>(x: S, y: S) -> S;
    /// `dx` times the derivative.
    #[inline(always)]
    fn tangent<S: Scalar>(x: S, y: S, dx: S) -> S {
        dx * Self::slope(x, y)
    }
}

/// Stamps types that implement [`Unary`]. What looks like closures is put into the functions:
/// closures are not always inlined, and what is not has no vector registers.
macro_rules! unary {
    ($($F:ident: |$x:pat_param| $lanes:expr, $tensor:expr, $constant:expr,
       |$at:pat_param, $y:pat_param| $slope:expr
       $(, tangent |$of:pat_param, $dx:pat_param| $tangent:expr)?;)+) => {$(
        pub struct $F;
        impl $crate::formula::functions::Unary for $F {
            #[inline(always)]
            fn lanes<V: Float>(x: V) -> V {
                let $x = x;
                $lanes
            }
            fn tensor(x: &Tensor) -> Result<Tensor> {
                let f: fn(&Tensor) -> Result<Tensor> = $tensor;
                f(x)
            }
            fn constant(x: f64) -> f64 {
                let f: fn(f64) -> f64 = $constant;
                f(x)
            }
            #[inline(always)]
            fn slope<S: Scalar>(x: S, y: S) -> S {
                let ($at, $y) = (x, y);
                $slope
            }
            $(
                #[inline(always)]
                fn tangent<S: Scalar>(x: S, y: S, dx: S) -> S {
                    let ($of, $dx) = ([x, y], dx);
                    $tangent
                }
            )?
        }
    )+};
}

unary! {
    Neg: |x| -x, |x| Ok(x.f_neg()?), |x| -x, |_, _| S::of(-1.0);
    // Of complex numbers it is not holomorphic: the gradient is `dy sgn x`, not its conjugate.
    Abs: |x| x.abs(), |x| Ok(x.f_abs()?), f64::abs, |x, _| x.unary::<Sign>().conj();
    Sign: |x| V::select(x.lt(x.of(0.0)), x.of(-1.0), V::select(x.of(0.0).lt(x), x.of(1.0), x.of(0.0))),
        |x| Ok(x.f_sgn()?), sign, |_, _| S::none();
    Relu: |x| V::select(x.le(x.of(0.0)), x.of(0.0), x), |x| Ok(x.f_relu()?),
        |x| if x <= 0.0 { 0.0 } else { x }, |_, y| S::select(y.le(S::zero()), S::zero(), S::one()),
        tangent |[_, y], dx| S::select(y.le(S::zero()), S::none(), dx);
    Sqrt: |x| x.sqrt(), |x| Ok(x.f_sqrt()?), f64::sqrt, |x, _| x.unary::<SqrtSlope>();
    Rsqrt: |x| x.of(1.0) / x.sqrt(), |x| Ok(x.f_rsqrt()?), |x| x.sqrt().recip(),
        |x, y| y * -0.5 / x;
    Exp: |x| x.exp(), |x| Ok(x.f_exp()?), f64::exp, |_, y| y;
    Exp2: |x| x.each(f64::exp2), |x| Ok(x.f_exp2()?), f64::exp2, |_, y| y * LN_2;
    ExpM1: |x| x.each(f64::exp_m1), |x| Ok(x.f_expm1()?), f64::exp_m1, |x, _| x.exp();
    Ln: |x| x.ln(), |x| Ok(x.f_log()?), f64::ln, |x, _| S::one() / x, tangent |[x, _], dx| dx / x;
    Log2: |x| x.each(f64::log2), |x| Ok(x.f_log2()?), f64::log2, |x, _| S::of(1.0 / LN_2) / x,
        tangent |[x, _], dx| dx / x * (1.0 / LN_2);
    Log10: |x| x.each(f64::log10), |x| Ok(x.f_log10()?), f64::log10, |x, _| S::of(1.0 / LN_10) / x,
        tangent |[x, _], dx| tenth_logarithm(x, dx);
    Ln1p: |x| x.ln_1p(), |x| Ok(x.f_log1p()?), f64::ln_1p, |x, _| S::one() / (x + 1.0),
        tangent |[x, _], dx| dx / (x + 1.0);
    Sin: |x| x.each(f64::sin), |x| Ok(x.f_sin()?), f64::sin, |x, _| x.cos();
    Cos: |x| x.each(f64::cos), |x| Ok(x.f_cos()?), f64::cos, |x, _| -x.sin();
    Tan: |x| x.each(f64::tan), |x| Ok(x.f_tan()?), f64::tan, |_, y| y.unary::<OneAndSquare>();
    Asin: |x| x.each(f64::asin), |x| Ok(x.f_asin()?), f64::asin, |x, _| x.unary::<AsinSlope>();
    Acos: |x| x.each(f64::acos), |x| Ok(x.f_acos()?), f64::acos, |x, _| -x.unary::<AsinSlope>();
    Atan: |x| x.each(f64::atan), |x| Ok(x.f_atan()?), f64::atan,
        |x, _| S::one() / x.unary::<OneAndSquare>();
    Sinh: |x| x.each(f64::sinh), |x| Ok(x.f_sinh()?), f64::sinh, |x, _| x.cosh();
    Cosh: |x| x.each(f64::cosh), |x| Ok(x.f_cosh()?), f64::cosh, |x, _| x.sinh();
    Tanh: |x| x.tanh(), |x| Ok(x.f_tanh()?), f64::tanh, |x, _| x.unary::<TanhSlope>();
    Sigmoid: |x| x.sigmoid(), |x| Ok(x.f_sigmoid()?), sigmoid, |x, _| x.unary::<SigmoidSlope>();
    Ln1pExp: |x| x.ln_1p_exp(), |x| Ok(x.f_logaddexp(&x.f_zeros_like()?)?),
        |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), |x, _| x.sigmoid();
    Erf: |x| x.erf(), |x| Ok(x.f_erf()?), libm::erf, |x, _| x.unary::<Gauss>() * FRAC_2_SQRT_PI;
    Erfc: |x| x.each(libm::erfc), |x| Ok(x.f_erfc()?), libm::erfc,
        |x, _| x.unary::<Gauss>() * -FRAC_2_SQRT_PI;
    Floor: |x| x.each(f64::floor), |x| Ok(x.f_floor()?), f64::floor, |_, _| S::none();
    Ceil: |x| x.each(f64::ceil), |x| Ok(x.f_ceil()?), f64::ceil, |_, _| S::none();
    Trunc: |x| x.each(f64::trunc), |x| Ok(x.f_trunc()?), f64::trunc, |_, _| S::none();
    Round: |x| x.each(f64::round_ties_even), |x| Ok(x.f_round()?), f64::round_ties_even,
        |_, _| S::none();

    // 1 + x^2
    OneAndSquare: |x| x.mul_add(x, x.of(1.0)), |x| Ok(x.f_square()?.add_number(1)?),
        |x| x.mul_add(x, 1.0), |x, _| x * 2.0;
    // 1 / sqrt(1 - x^2)
    AsinSlope: |x| x.of(1.0) / (-x).mul_add(x, x.of(1.0)).sqrt(),
        |x| Ok(one_less_square(x)?.f_rsqrt()?), |x| (-x).mul_add(x, 1.0).sqrt().recip(),
        |x, y| x * (y / x.unary::<OneLessSquare>());
    // 1 - x^2
    OneLessSquare: |x| (-x).mul_add(x, x.of(1.0)), one_less_square, |x| (-x).mul_add(x, 1.0),
        |x, _| x * -2.0;
    // 1 / (2 sqrt(x))
    SqrtSlope: |x| x.of(0.5) / x.sqrt(), |x| Ok(scalar_like(x, 0.5)?.f_div(&x.f_sqrt()?)?),
        |x| 0.5 / x.sqrt(), |x, y| y * -0.5 / x;
    // 1 - tanh(x)^2, which is right where tanh is almost 1 too
    TanhSlope: |x| (x + x).sigmoid_slope(4.0),
        tanh_slope_of, tanh_slope,
        |x, y| y * x.tanh() * -2.0;
    // sigmoid(x) sigmoid(-x)
    SigmoidSlope: |x| x.sigmoid_slope(1.0), sigmoid_slope_of, sigmoid_slope,
        |x, y| -(y * (x * 0.5).tanh());
}

/// `(1 - x) (1 + x)`, since a difference of squares loses digits.
fn one_less_square(x: &Tensor) -> Result<Tensor> {
    Ok(x.rsub_number(1)?.f_mul(&x.add_number(1)?)?)
}

/// `dx / (x log 10)`, of which `dx / x` may be beyond the greatest number, and `dx / log 10`
/// below the least normal one.
#[inline(always)]
fn tenth_logarithm<S: Scalar>(x: S, dx: S) -> S {
    const SLOPE: f64 = 1.0 / LN_10;
    const SMALL: f64 = 1.0 / (1u64 << 60) as f64;
    let is_small = dx.abs().lt(S::of(SMALL));
    S::select(is_small, dx / x * SLOPE, dx * SLOPE / x)
}

fn sign(x: f64) -> f64 {
    if x == 0.0 || x.is_nan() { 0.0 } else { x.signum() }
}

fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

fn sigmoid_slope(x: f64) -> f64 {
    let s = sigmoid(-x.abs());
    s * (1.0 - s)
}

/// Smooth at 0, unlike what `abs` is in.
fn sigmoid_slope_of(x: &Tensor) -> Result<Tensor> {
    let y = x.f_sigmoid()?;
    // `sigmoid(-x)` of a complex number overflows on the way.
    let other = if x.is_complex() { y.rsub_number(1)? } else { x.f_neg()?.f_sigmoid()? };
    Ok(y.f_mul(&other)?)
}

fn tanh_slope_of(x: &Tensor) -> Result<Tensor> {
    if x.is_complex() {
        return Ok(x.f_tanh()?.f_square()?.rsub_number(1)?);
    }
    // No factor is a subnormal number before the slope is one.
    Ok(x.f_cosh()?.f_square()?.f_reciprocal()?)
}

fn tanh_slope(x: f64) -> f64 {
    4.0 * sigmoid_slope(2.0 * x)
}

/// Stamps the methods of [`Scalar`] that are functions of one number.
macro_rules! methods {
    () => {
        $crate::formula::functions::methods! {@
            /// `|x|`; the derivative at 0 is 0.
            abs: Abs,
            /// -1, 0 or 1; the derivative is 0.
            signum: Sign,
            /// `max(x, 0)`; the derivative at 0 is 0.
            relu: Relu,
            /// The square root; the derivative at 0 is infinite.
            sqrt: Sqrt,
            /// `1 / sqrt x`
            rsqrt: Rsqrt,
            /// The cube root; the derivative at 0 is infinite.
            cbrt: Cbrt,
            /// `e^x`
            exp: Exp,
            /// `2^x`
            exp2: Exp2,
            /// `e^x - 1`
            exp_m1: ExpM1,
            /// The natural logarithm.
            ln: Ln,
            /// The logarithm to base 2.
            log2: Log2,
            /// The logarithm to base 10.
            log10: Log10,
            /// `log(1 + x)`
            ln_1p: Ln1p,
            /// The sine.
            sin: Sin,
            /// The cosine.
            cos: Cos,
            /// The tangent.
            tan: Tan,
            /// The inverse sine; the derivative at -1 and 1 is infinite.
            asin: Asin,
            /// The inverse cosine; the derivative at -1 and 1 is infinite.
            acos: Acos,
            /// The inverse tangent.
            atan: Atan,
            /// The hyperbolic sine.
            sinh: Sinh,
            /// The hyperbolic cosine.
            cosh: Cosh,
            /// The hyperbolic tangent.
            tanh: Tanh,
            /// `1 / (1 + e^-x)`
            sigmoid: Sigmoid,
            /// `1 - tanh(x)^2`, the derivative of `tanh`, which is right in the tails too.
            tanh_slope: TanhSlope,
            /// `sigmoid(x) sigmoid(-x)`, the derivative of `sigmoid`, which is right in the tails
            /// too.
            sigmoid_slope: SigmoidSlope,
            /// `log(1 + e^x)`, which overflows nowhere.
            ln_1p_exp: Ln1pExp,
            /// The error function.
            erf: Erf,
            /// `1 - erf x`, which is right in the tail.
            erfc: Erfc,
            /// The distribution function of the normal distribution.
            normal_cdf: NormalCdf,
            /// The density of the normal distribution.
            normal_pdf: NormalPdf,
            /// `x F(x)` with the distribution function `F` of the normal distribution.
            gelu: Gelu,
            /// `x / (1 + e^-v)` with `v = 2 sqrt(2 / pi) (x + 0.044715 x^3)`: the form of `gelu`
            /// with tanh.
            gelu_tanh: GeluTanh,
            /// `x / (1 + e^-x)`, also called swish.
            silu: Silu,
            /// The greatest integer that is not greater; the derivative is 0.
            floor: Floor,
            /// The least integer that is not less; the derivative is 0.
            ceil: Ceil,
            /// The integer part; the derivative is 0.
            trunc: Trunc,
            /// The nearest integer, the even one of two; the derivative is 0.
            round: Round,
        }
    };
    (@ $($(#[$doc:meta])* $method:ident: $F:ident,)+) => {$(
        $(#[$doc])*
        #[must_use]
        #[inline(always)]
        fn $method(self) -> Self {
            self.unary::<$crate::formula::functions::$F>()
        }
    )+};
}
pub(super) use {methods, unary};
