//! `a^b`, the cube root, and their derivatives, each a function of its own. An exponent such as
//! `b - 1` has a rounding error, which a power of a small number makes hundreds of units in the
//! last place of; a kernel computes with both, the exponent and what was rounded off.

use super::Scalar;
use super::binary::{Binary, along, binary, divide, times};
use super::functions::unary;
use super::tensors::scalar_like;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::{Float, pow};
use anyhow::Result;
use tch::{Device, Kind, Tensor};

binary! {
    Pow: |a, b| pow::power(a, alone(b)), |a, b| Ok(a.f_pow(b)?), f64::powf,
        |[a, b, _], [da, db]| along!(da, slope(a, b)) + along!(db, a.binary::<PowLog>(b)),
        right power_by, power_by_number, left power_of, |c, b| of_tensors::<Pow>(c, b);
    // b a^(b - 1), and 0 where b is 0 and a^-1 is no number
    PowSlope: |a, b| pow::power_slope(a, alone(b)), slope_of_tensors, slope_of,
        |[a, b, _], [da, db]| along!(da, curvature(a, b)) + along!(db, a.binary::<PowMixed>(b)),
        right slope_by, |a, c| Ok(power_by_number(a, c - 1.0)?.mul_number(c)?);
    // b (b - 1) a^(b - 2), and 0 where b is 0 or 1 and a^(b - 2) is no number
    PowCurvature: |a, b| pow::power_curvature(a, alone(b)), curvature_of_tensors, curvature_of,
        |[a, b, _], [da, db]| {
            let factor = b * (b - 1.0);
            along!(da, factor * slope(a, b - 2.0))
                + along!(db, (b * 2.0 - 1.0) * a.powf(b - 2.0) + factor * a.binary::<PowLog>(b - 2.0))
        },
        right curvature_by,
        |a, c| Ok(power_by_number(a, c - 2.0)?.mul_number(c * (c - 1.0))?);
    // a^b log a, and 0 where a is 0 and b is not negative
    PowLog: |a, b| pow::power_log(a, alone(b)), log_of_tensors, log_of,
        |[a, b, y], [da, db]| along!(da, a.binary::<PowMixed>(b)) + along!(db, y * log(a, b)),
        right log_by, |a, c| log_of_tensors(a, &scalar_like(a, c)?),
        left power_log_of, |c, b| of_tensors::<PowLog>(c, b);
    // a^(b - 1) (1 + b log a), and 0 where b is 0 and that is no number
    PowMixed: |a, b| pow::power_mixed(a, alone(b)), mixed_of_tensors, mixed_of,
        |[a, b, _], [da, db]| {
            let (less, log) = (b - 1.0, log(a, b - 1.0));
            along!(da, slope(a, less) * (b * log + 1.0) + b * a.powf(b - 2.0))
                + along!(db, a.powf(less) * (log * (b * log + 2.0)))
        };
}

unary! {
    Cbrt: |x| x.each(f64::cbrt),
        |x| Ok(power_by_number(&x.f_abs()?, 1.0 / 3.0)?.f_mul(&x.f_sign()?)?), f64::cbrt,
        |x, _| x.unary::<CbrtSlope>();
    CbrtSlope: |x| pow::power_slope(x.abs(), pow::third(x)),
        |x| Ok(power_by_number(&x.f_abs()?, -2.0 / 3.0)?.div_number(3)?),
        |x| (3.0 * x.cbrt() * x.cbrt()).recip(), |x, _| x.unary::<CbrtCurvature>();
    CbrtCurvature: |x| pow::power_curvature(x.abs(), pow::third(x)).copysign(-x),
        |x| {
            let size = power_by_number(&x.f_abs()?, -5.0 / 3.0)?.mul_number(2.0 / 9.0)?;
            Ok(size.f_copysign(&x.f_neg()?)?)
        },
        |x| -2.0 / 9.0 / (x * x.cbrt() * x.cbrt()), |x, y| y * (-5.0 / 3.0) / x;
}

#[inline(always)]
fn alone<V: Float>(x: V) -> [V; 2] {
    [x, x.of(0.0)]
}

/// The derivative of `a^b` in `a`.
#[inline(always)]
fn slope<S: Scalar>(a: S, b: S) -> S {
    if b.known() == Some(0.0) { S::none() } else { a.binary::<PowSlope>(b) }
}

/// The derivative of that.
#[inline(always)]
fn curvature<S: Scalar>(a: S, b: S) -> S {
    if b.known() == Some(1.0) { S::none() } else { a.binary::<PowCurvature>(b) }
}

/// `log a`, and 0 where `a` is 0 and the exponent is not negative.
#[inline(always)]
fn log<S: Scalar>(a: S, exponent: S) -> S {
    let flat = a.eq(S::zero()) & exponent.ge(S::zero());
    S::select(flat, S::one(), a).ln()
}

/// `factor x^c` of small powers, which are products, and of roots, which libtorch takes too.
#[inline(always)]
fn simple<V: Float>(factor: f64, x: V, c: f64) -> Option<V> {
    if c == 0.0 {
        Some(x.of(factor))
    } else if c == 1.0 {
        Some(times(x, factor))
    } else if c == 2.0 {
        // The square alone might be subnormal.
        Some(times(x, factor) * x)
    } else if c == -1.0 {
        Some(divide(x, factor))
    } else if c == 0.5 {
        Some(times(x.sqrt(), factor))
    } else if c == -0.5 {
        Some(divide(x.sqrt(), factor))
    } else {
        None
    }
}

/// Whether the type of `x` has too few digits for `c`, or no number of its size.
#[inline(always)]
fn is_beyond<V: Float>(_: V, c: f64) -> bool {
    let range = f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX);
    V::BITS == 24 && c != 0.0 && c.is_finite() && !range.contains(&c.abs())
}

#[inline(always)]
fn power_by<V: Float>(x: V, c: f64) -> V {
    if is_beyond(x, c) {
        return x.each(|x| x.powf(c));
    }
    match simple(1.0, x, c) {
        Some(y) => y,
        None => pow::power(x, pow::constant(x, c)),
    }
}

#[inline(always)]
fn slope_by<V: Float>(x: V, c: f64) -> V {
    if is_beyond(x, c) {
        return x.each(|x| slope_of(x, c));
    }
    match simple(c, x, c - 1.0) {
        Some(y) => y,
        None => pow::power_slope(x, pow::constant(x, c)),
    }
}

#[inline(always)]
fn curvature_by<V: Float>(x: V, c: f64) -> V {
    if is_beyond(x, c) {
        return x.each(|x| curvature_of(x, c));
    }
    match simple(c * (c - 1.0), x, c - 2.0) {
        Some(y) => y,
        None => pow::power_curvature(x, pow::constant(x, c)),
    }
}

#[inline(always)]
fn log_by<V: Float>(x: V, c: f64) -> V {
    pow::power_log(x, pow::constant(x, c))
}

/// `c^b`
#[inline(always)]
fn power_of<V: Float>(b: V, c: f64) -> V {
    if c > 0.0 { pow::power_of_constant(c, b) } else { pow::power(b.of(c), alone(b)) }
}

#[inline(always)]
fn power_log_of<V: Float>(b: V, c: f64) -> V {
    if c > 0.0 { pow::power_log_of_constant(c, b) } else { pow::power_log(b.of(c), alone(b)) }
}

/// `F(c, b)`
fn of_tensors<F: Binary>(c: f64, b: &Tensor) -> Result<Tensor> {
    F::tensor(&scalar_like(b, c)?, b)
}

/// `x^c`. libtorch rounds the exponent to the dtype of `x`, so on the CPU one that f32 does not
/// have is taken in f64.
fn power_by_number(x: &Tensor, c: f64) -> Result<Tensor> {
    let kind = x.kind();
    let narrow = matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16);
    if narrow && f64::from(c as f32) != c && x.device() == Device::Cpu {
        return Ok(x.f_to_kind(Kind::Double)?.pow_number(c)?.f_to_kind(kind)?);
    }
    Ok(x.pow_number(c)?)
}

fn slope_of_tensors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let power = a.f_pow(&b.sub_number(1)?)?;
    let y = or_0(&b.f_eq_tensor(&scalar_like(b, 0.0)?)?, power.f_mul(b)?)?;
    // The power may be infinite where its product with a small exponent is not. Elsewhere
    // `a^b b / a` is that of ones, whose derivatives are numbers.
    let is_0 = a.f_eq_tensor(&scalar_like(a, 0.0)?)?;
    let finite = a.f_isfinite()?.f_logical_and(&b.f_isfinite()?)?;
    let other = power.f_isinf()?.f_logical_and(&finite)?.f_logical_and(&is_0.f_logical_not()?)?;
    let a = a.f_where_self(&other, &scalar_like(a, 1.0)?)?;
    let b = b.f_where_self(&other, &scalar_like(b, 1.0)?)?;
    Ok(a.f_pow(&b)?.f_mul(&b)?.f_div(&a)?.f_where_self(&other, &y)?)
}

fn curvature_of_tensors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let less = b.sub_number(1)?;
    // One factor after the other: their product alone may be infinite.
    let y = a.f_pow(&b.sub_number(2)?)?.f_mul(&less)?.f_mul(b)?;
    let zero = scalar_like(b, 0.0)?;
    or_0(&b.f_eq_tensor(&zero)?.f_logical_or(&less.f_eq_tensor(&zero)?)?, y)
}

fn log_of_tensors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(a.f_pow(b)?.f_mul(&logarithm(a, b)?)?)
}

fn mixed_of_tensors(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let less = b.sub_number(1)?;
    let factor = logarithm(a, &less)?.f_mul(b)?.add_number(1)?;
    or_0(&b.f_eq_tensor(&scalar_like(b, 0.0)?)?, a.f_pow(&less)?.f_mul(&factor)?)
}

/// What [`log`] is.
fn logarithm(a: &Tensor, exponent: &Tensor) -> Result<Tensor> {
    let is_0 = a.f_eq_tensor(&scalar_like(a, 0.0)?)?;
    let flat = is_0.f_logical_and(&scalar_like(exponent, 0.0)?.f_le_tensor(exponent)?)?;
    Ok(scalar_like(a, 1.0)?.f_where_self(&flat, a)?.f_log()?)
}

/// `y`, or 0 where it is `is_flat` and no number.
fn or_0(is_flat: &Tensor, y: Tensor) -> Result<Tensor> {
    let is_zero = is_flat.f_logical_and(&y.f_isfinite()?.f_logical_not()?)?;
    Ok(y.f_zeros_like()?.f_where_self(&is_zero, &y)?)
}

fn slope_of(a: f64, b: f64) -> f64 {
    unless(b == 0.0, b * a.powf(b - 1.0))
}

fn curvature_of(a: f64, b: f64) -> f64 {
    let factor = b * (b - 1.0);
    unless(factor == 0.0, factor * a.powf(b - 2.0))
}

fn log_of(a: f64, b: f64) -> f64 {
    a.powf(b) * log_of_number(a, b)
}

fn mixed_of(a: f64, b: f64) -> f64 {
    unless(b == 0.0, a.powf(b - 1.0) * (b * log_of_number(a, b - 1.0) + 1.0))
}

fn log_of_number(a: f64, exponent: f64) -> f64 {
    if a == 0.0 && exponent >= 0.0 { 0.0 } else { a.ln() }
}

fn unless(is_flat: bool, y: f64) -> f64 {
    if is_flat && !y.is_finite() { 0.0 } else { y }
}

/// libtorch may record the tensor form: `a^b`, which is not taken, is infinite here, and its
/// derivative must not reach the result.
#[test]
fn a_part_that_is_not_taken_has_no_derivative() -> Result<()> {
    let [a, b] = [2e19f32, 2.0].map(|x| Tensor::from_slice(&[x]).set_requires_grad(true));
    let slope = slope_of_tensors(&a, &b)?.f_sum(Kind::Float)?;
    let found = Tensor::f_run_backward(&[slope], &[&a, &b], false, false)?;
    let found: Vec<f32> = Vec::try_from(Tensor::f_cat(&found, 0)?)?;
    // `b (b - 1) a^(b - 2)` and `a^(b - 1) (1 + b log a)`
    let mixed = 2e19 * (1.0 + 2.0 * 2e19f64.ln());
    assert_eq!(found[0], 2.0);
    assert!((f64::from(found[1]) / mixed - 1.0).abs() < 1e-6, "{} for {mixed}", found[1]);
    Ok(())
}
