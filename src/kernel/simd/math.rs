//! Functions of [`Float`], within 2 ulp.
//!
//! `exp` reduces by `x = n log 2 + r` (Cody and Waite) and sums the Taylor
//! series of `e^r`, whose next term is below a quarter of the last place.
//!
//! `ln` and `ln_1p` reduce and sum as FreeBSD's msun does, with its coefficients
//! (compared one by one with `e_log.c`, `e_logf.c` and `s_log1p.c` of
//! freebsd/freebsd-src): Copyright (C) 1993 by Sun Microsystems, Inc. All rights
//! reserved. Developed at SunPro, a Sun Microsystems, Inc. business. Permission
//! to use, copy, modify, and distribute this software is freely granted,
//! provided that this notice is preserved.
#![expect(clippy::excessive_precision, reason = "constants as in their sources")]

use super::Float;
use super::two::Two;
use std::f64::consts::{LN_2, LOG2_E};

/// The constants of a format.
pub trait Bits: Sized {
    /// Number of bits of the significand, the leading one included.
    const BITS: i32;
    /// The exponent of the greatest number.
    const MAX_EXPONENT: i32;
    /// `2^n` for integers `n` from `-MAX_EXPONENT + 1` to `MAX_EXPONENT`.
    fn power_of_2(self) -> Self;
    /// `k` and `m` of `m 2^k`, `m` from sqrt(1/2) to sqrt(2), of a positive
    /// normal number.
    fn split(self) -> (Self, Self);
    /// The number whose bits, as an integer, are those of this less those of `other`.
    fn minus_bits(self, other: Self) -> Self;
}

pub(super) const SQRT_HALF_F32: u32 = 0x3f35_04f3;
pub(super) const SQRT_HALF_F64: u64 = 0x3fe6_a09e_667f_3bcd;

/// `log 2` in two parts, the first one short enough for its product with any
/// exponent to be exact.
const LN_2_F32: [f64; 2] = [0.693359375, -2.121_944_400_546_905_8e-4];
const LN_2_F64: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];

/// `1/2!, 1/3!, ...`
const INVERSE_FACTORIALS: [f64; 12] = [
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5040.0,
    1.0 / 40320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
    1.0 / 39_916_800.0,
    1.0 / 479_001_600.0,
    1.0 / 6_227_020_800.0,
];

/// The coefficients of `(log(1 + f) - log(1 - f)) / f - 2` in `f^2`, `f = s / (2 + s)`.
const LOG_F32: [f64; 4] = [0.666_666_626_93, 0.400_009_721_52, 0.284_987_866_88, 0.242_790_788_41];
const LOG_F64: [f64; 7] = [
    6.666_666_666_666_735_13e-1,
    3.999_999_999_940_941_908e-1,
    2.857_142_874_366_239_149e-1,
    2.222_219_843_214_978_396e-1,
    1.818_357_216_161_805_012e-1,
    1.531_383_769_920_937_332e-1,
    1.479_819_860_511_658_591e-1,
];

/// The coefficients of `((log(1 + x) - x) / x^2 + 1/2) / x` on [0, 1], with the least greatest
/// relative error of the logarithm (2^-27), found by Remez' exchange.
const LOG_1P_F32: [f64; 8] = [
    0.333_322_506,
    -0.249_750_988,
    0.197_743_281,
    -0.155_695_527,
    0.110_251_609,
    -0.060_921_803_8,
    0.021_875_607_2,
    -0.003_677_509_25,
];

const TANH_F32: [f64; 5] =
    [-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3];
const TANH_P: [f64; 3] =
    [-1.61468768441708447952e3, -9.92877231001918586564e1, -9.64399179425052238628e-1];
const TANH_Q: [f64; 4] =
    [4.84406305325125486048e3, 2.23548839060100448583e3, 1.12811678491632931402e2, 1.0];

#[inline(always)]
pub(super) fn ln_2<V: Float>(x: V) -> [V; 2] {
    let [high, low] = if V::BITS == 24 { LN_2_F32 } else { LN_2_F64 };
    [x.of(high), x.of(low)]
}

/// `c[0] + c[1] x + ...`; as a bare loop, since closures and iterators are not
/// always inlined, and what is not has no vector registers.
#[inline(always)]
pub(super) fn polynomial<V: Float>(x: V, coefficients: &[f64]) -> V {
    let mut i = coefficients.len() - 1;
    let mut sum = x.of(coefficients[i]);
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, x.of(coefficients[i]));
    }
    sum
}

/// The nearest integer, of numbers below 2^(BITS - 2).
#[inline(always)]
pub(super) fn round<V: Float>(x: V) -> V {
    let magic = x.of(1.5 * (1u64 << (V::BITS - 1)) as f64);
    x + magic - magic
}

/// `n` and `e^r` of `x + rest = n log 2 + r`, for numbers whose `n` is exact and a small rest.
#[inline(always)]
fn exp_of_parts<V: Float>(x: V, rest: Option<V>) -> (V, V) {
    let n = round(x * LOG2_E);
    let [high, low] = ln_2(x);
    let r = n.mul_add(-low, n.mul_add(-high, x));
    let r = match rest {
        Some(rest) => r + rest,
        None => r,
    };
    let terms = if V::BITS == 24 { 6 } else { 12 };
    let series = polynomial(r, &INVERSE_FACTORIALS[..terms]);
    (n, (r * r).mul_add(series, r) + 1.0)
}

/// `n` and `e^r` of a sum `x + rest = n log 2 + r` as of [`exp_of_parts`], within a third of an
/// ulp.
#[inline(always)]
pub(super) fn exp_in_two<V: Float>(x: V, rest: Option<V>) -> (V, Two<V>) {
    let n = round(x * LOG2_E);
    let [high, low] = ln_2(x);
    let above = n.mul_add(-high, x);
    let r = n.mul_add(-low, above);
    let lost = n.mul_add(-low, above - r);
    let terms = if V::BITS == 24 { 6 } else { 12 };
    let series = polynomial(r, &INVERSE_FACTORIALS[..terms]) * (r * r);
    let sum = Two::ordered_sum(x.of(1.0), r);
    let small = match rest {
        Some(rest) => (lost + rest).mul_add(sum.high + series, series),
        None => lost + series,
    };
    (n, Two::ordered_sum(sum.high, sum.low + small))
}

/// `x 2^n`, rounded once, for `x` that is not negative and `n` that is not positive, where
/// `x 2^(n + far)` is a normal number or 0.
#[inline(always)]
pub(super) fn scaled<V: Float>(x: V, n: V) -> V {
    let x = x * (n + far::<V>()).power_of_2();
    let smallest = x.of(smallest::<V>());
    down_to(x, smallest, x.max(smallest) * (-far::<V>()).exp2())
}

/// `product`, but `x 2^-far` where `x` is below `smallest`. A processor takes a hundred times as
/// long for a product that is a subnormal number, or 0 in its place, so none is made: the bits
/// of such a number count multiples of the least one.
#[inline(always)]
fn down_to<V: Float>(x: V, smallest: V, product: V) -> V {
    V::select(x.lt(smallest), (x + smallest).minus_bits(smallest), product)
}

/// The least number whose product with `2^-far` is normal.
#[inline(always)]
fn smallest<V: Float>() -> f64 {
    (f64::from(1 - V::MAX_EXPONENT) + far::<V>()).exp2()
}

/// Half of the exponents of a format.
#[inline(always)]
fn far<V: Float>() -> f64 {
    f64::from(V::MAX_EXPONENT / 2)
}

/// Below it `e^x` is 0.
#[inline(always)]
fn least<V: Float>(x: V) -> V {
    x.of(-f64::from(V::MAX_EXPONENT + V::BITS + 1) * LN_2)
}

#[inline(always)]
pub(super) fn exp<V: Float>(x: V) -> V {
    exp_of_sum(x, None)
}

/// `e^(x + rest)`, with a rest that is below the last place of `x`.
#[inline(always)]
pub(super) fn exp_of_sum<V: Float>(x: V, rest: Option<V>) -> V {
    let greatest = x.of(f64::from(V::MAX_EXPONENT + 2) * LN_2);
    let (n, power) = exp_of_parts(x.min(greatest).max(least(x)), rest);
    // Scales in two steps: the first is exact, the second rounds once, or overflows.
    let far = far::<V>();
    let negative = n.lt(x.of(0.0));
    let near = power * V::select(negative, n + far, n - far).power_of_2();
    let factor = V::select(negative, x.of((-far).exp2()), x.of(far.exp2()));
    let smallest = V::select(negative, x.of(smallest::<V>()), x.of(0.0));
    let y = down_to(near, smallest, near.max(smallest) * factor);
    V::select(x.eq(x), y, x)
}

/// `e^-|x|`; of NaN, any number.
#[inline(always)]
pub(super) fn decayed<V: Float>(x: V) -> V {
    let (n, power) = exp_of_parts((-x.abs()).max(least(x)), None);
    let far = far::<V>();
    power * (n + far).power_of_2() * (-far).exp2()
}

/// Computes `max(x, 0) + log(1 + e)` with `e = e^-|x|`.
#[inline(always)]
pub(super) fn ln_1p_exp<V: Float>(x: V) -> V {
    let (e, above) = (decayed(x), x.max(x.of(0.0)));
    let y = if V::BITS == 24 { above_ln_1p(above, e) } else { above + ln_1p(e) };
    V::select(x.lt(x.of(f64::INFINITY)), y, x)
}

/// `a + log(1 + x)` for `x` from 0 to 1 and `a` not negative, in f32. Of three
/// terms, what their sums lose is added at the end.
#[inline(always)]
fn above_ln_1p<V: Float>(a: V, x: V) -> V {
    let series = polynomial(x, &LOG_1P_F32).mul_add(x, x.of(-0.5));
    let square = x * x;
    let log = square.mul_add(series, x);
    let lost = square.mul_add(series, x - log);
    let (greater, lesser) = (a.max(log), a.min(log));
    let sum = greater + lesser;
    sum + (lost + (lesser - (sum - greater)))
}

/// Computes `q` below 0 and `1 - q` above, with `e = e^-|x|` and `q = e / (1 + e)`.
#[inline(always)]
pub(super) fn sigmoid<V: Float>(x: V) -> V {
    let (n, power) = exp_of_parts((-x.abs()).max(least(x)), None);
    let (smallest, factor) = (x.of(smallest::<V>()), (-far::<V>()).exp2());
    let above = power * (n + far::<V>()).power_of_2();
    let e = above.max(smallest) * factor;
    let d = e + 1.0;
    let near = above / d;
    // `d` lost a little, which makes `q` greater by `q / d` of that.
    let lost = e - (d - 1.0);
    let rest = near.mul_add(x.of(-factor), x.of(1.0));
    let near = (-near).mul_add(rest * lost, near);
    let below = down_to(near, smallest, near.max(smallest) * factor);
    let above = (-near).mul_add(x.of(factor), x.of(1.0));
    let y = V::select(x.lt(x.of(0.0)), below, above);
    V::select(x.eq(x), y, x)
}

/// `k log 2 + log(1 + f) + c` for `f` from sqrt(1/2) - 1 to sqrt(2) - 1 and a
/// small correction `c`.
#[inline(always)]
fn log_of_parts<V: Float>(k: V, f: V, c: V) -> V {
    let s = f / (f + 2.0);
    let z = s * s;
    let series = match V::BITS {
        24 => polynomial(z, &LOG_F32),
        _ => polynomial(z, &LOG_F64),
    };
    let half_square = f * f * 0.5;
    let [high, low] = ln_2(f);
    let tail = s.mul_add(z.mul_add(series, half_square), k.mul_add(low, c));
    k.mul_add(high, -(half_square - tail - f))
}

#[inline(always)]
pub(super) fn ln<V: Float>(x: V) -> V {
    // Subnormal numbers are made normal first.
    let shift = f64::from(V::BITS + 1);
    let small = x.lt(x.of(2f64.powi(1 - V::MAX_EXPONENT)));
    let (k, m) = V::select(small, x * 2f64.powi(V::BITS + 1), x).split();
    let y = log_of_parts(V::select(small, k - shift, k), m - 1.0, x.of(0.0));
    at_ends(y, x, x)
}

#[inline(always)]
pub(super) fn ln_1p<V: Float>(x: V) -> V {
    let u = x + 1.0;
    let (k, m) = u.split();
    let near = k.eq(x.of(0.0));
    // The rounding error of the sum.
    let lost = V::select(x.of(1.0).lt(x), -(u - x - 1.0), x - (u - 1.0));
    let f = V::select(near, x, m - 1.0);
    let y = log_of_parts(k, f, V::select(near, x.of(0.0), lost / u));
    let y = V::select(x.eq(x.of(0.0)), x, y);
    at_ends(y, u, x)
}

/// Computes `1 - 2 / (u + 1)` with `u = e^2|x|`; near 0 `x + x^3 R(x^2)` with the
/// coefficients of Cephes (compared with copies of `tanh.c`, release 2.8, and
/// `tanhf.c`, release 2.2; S. L. Moshier says of Cephes: "What you see here may
/// be used freely but it comes with no support or guarantee.").
#[inline(always)]
pub(super) fn tanh<V: Float>(x: V) -> V {
    let z = x * x;
    let r = match V::BITS {
        24 => polynomial(z, &TANH_F32),
        _ => polynomial(z, &TANH_P) / polynomial(z, &TANH_Q),
    };
    let near = (r * z).mul_add(x, x);
    let u = (x.abs() * 2.0).exp();
    let far = -(x.of(2.0) / (u + 1.0)) + 1.0;
    let y = V::select(x.abs().lt(x.of(0.625)), near, far).copysign(x);
    V::select(x.eq(x), y, x)
}

/// `log` of `u` where that is 0, infinite, negative or NaN; else `y`.
#[inline(always)]
fn at_ends<V: Float>(y: V, u: V, x: V) -> V {
    let zero = x.of(0.0);
    let infinity = x.of(f64::INFINITY);
    let y = V::select(u.lt(infinity), y, u);
    let y = V::select(u.eq(zero), -infinity, y);
    V::select(u.lt(zero), x.of(f64::NAN), y)
}
