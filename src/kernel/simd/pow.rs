//! `a^b` and its derivatives, within 1 ulp where the exact result is a normal number.
//!
//! `log a` and its product with the exponent are sums of two numbers each, so that what an
//! exponential makes of their rounding errors is small. The power of 2 of a result is multiplied
//! in at the end, so nothing over- or underflows before its time.

use super::Float;
use super::math::{exp_in_two, ln_2, polynomial, round};
use super::two::Two;
use std::f64::consts::LN_2;

/// `2/3`
const TWO_THIRDS: [f64; 2] = [0.6666666666666666, 3.700743415417188e-17];
/// `2/5, 2/7, ...`
const LATER_TERMS: [f64; 11] = [
    2.0 / 5.0,
    2.0 / 7.0,
    2.0 / 9.0,
    2.0 / 11.0,
    2.0 / 13.0,
    2.0 / 15.0,
    2.0 / 17.0,
    2.0 / 19.0,
    2.0 / 21.0,
    2.0 / 23.0,
    2.0 / 25.0,
];

/// A number as the sum of two: itself, and what the type of `like` has no digits for.
#[inline(always)]
pub(crate) fn constant<V: Float>(like: V, c: f64) -> [V; 2] {
    let Two { high, low } = Two::constant(like, [c, 0.0]);
    [high, low]
}

/// `1/3` as an exponent.
#[inline(always)]
pub(crate) fn third<V: Float>(like: V) -> [V; 2] {
    let Two { high, low } = Two::constant(like, [1.0 / 3.0, 1.850371707708594e-17]);
    [high, low]
}

/// `a^b`, at special numbers what C's `pow` returns. The exponent is a sum of two.
#[inline(always)]
pub(crate) fn power<V: Float>(a: V, b: [V; 2]) -> V {
    let b = two(b);
    Power::new(a, b).times(Two::alone(a.of(1.0)), ends(a, b))
}

/// `c^b` of a positive constant, which is not rounded.
#[inline(always)]
pub(crate) fn power_of_constant<V: Float>(c: f64, b: V) -> V {
    let (a, log, b) = (beside_one(b, c), log_of_constant(b, c), Two::alone(b));
    Power::of_log(a, log, b).times(Two::alone(a.of(1.0)), ends(a, b))
}

/// `b a^(b - 1)`, and 0 where `b` is 0 and `a^-1` is no number.
#[inline(always)]
pub(crate) fn power_slope<V: Float>(a: V, b: [V; 2]) -> V {
    let b = two(b);
    let less = less(b, 1.0);
    let y = Power::new(a, less).times(b, b.high * ends(a, less));
    flat(b.high.eq(a.of(0.0)), y)
}

/// `b (b - 1) a^(b - 2)`, and 0 where `b` is 0 or 1 and `a^(b - 2)` is no number.
#[inline(always)]
pub(crate) fn power_curvature<V: Float>(a: V, b: [V; 2]) -> V {
    let b = two(b);
    let (factor, less) = (less(b, 1.0).times(b), less(b, 2.0));
    let y = Power::new(a, less).times(factor, factor.high * ends(a, less));
    flat(factor.high.eq(a.of(0.0)), y)
}

/// `a^b log a`, and 0 where `a` is 0 and `b` is not negative.
#[inline(always)]
pub(crate) fn power_log<V: Float>(a: V, b: [V; 2]) -> V {
    let b = two(b);
    let power = Power::new(a, b);
    let log = power.log_at_ends(a.of(0.0).le(b.high));
    let y = power.times(power.log, ends(a, b) * log);
    V::select(a.lt(a.of(0.0)), a.of(f64::NAN), y)
}

/// `c^b log c` of a positive constant, which is not rounded.
#[inline(always)]
pub(crate) fn power_log_of_constant<V: Float>(c: f64, b: V) -> V {
    let (a, log, b) = (beside_one(b, c), log_of_constant(b, c), Two::alone(b));
    let power = Power::of_log(a, log, b);
    power.times(log, ends(a, b) * log.high)
}

/// `a^(b - 1) (1 + b log a)`: the derivative in `b` of [`power_slope`], and 0 where that is flat.
#[inline(always)]
pub(crate) fn power_mixed<V: Float>(a: V, b: [V; 2]) -> V {
    let b = two(b);
    let less = less(b, 1.0);
    let power = Power::new(a, less);
    let log = power.log_at_ends(a.of(0.0).le(less.high));
    let factor = power.log.times(b).plus(Two::alone(a.of(1.0)));
    let y = power.times(factor, ends(a, less) * (b.high * log + 1.0));
    V::select(a.lt(a.of(0.0)), a.of(f64::NAN), flat(b.high.eq(a.of(0.0)), y))
}

/// `b - c`, the greater part first.
#[inline(always)]
fn less<V: Float>(b: Two<V>, c: f64) -> Two<V> {
    let Two { high, low } = b.plus(Two::alone(b.high.of(-c)));
    let sum = Two::ordered_sum(high, low);
    // Infinity has no rest.
    let is_finite = low.eq(low);
    Two { high: V::select(is_finite, sum.high, high), low: V::select(is_finite, sum.low, low) }
}

/// The logarithm of a positive constant.
#[inline(always)]
fn log_of_constant<V: Float>(like: V, c: f64) -> Two<V> {
    if V::BITS == 53 { ln_in_two(like.of(c)) } else { Two::constant(like, [c.ln(), 0.0]) }
}

/// A number on the same side of 1 as a positive constant, which may be beyond the type.
#[inline(always)]
fn beside_one<V: Float>(like: V, c: f64) -> V {
    like.of(if c < 1.0 {
        0.5
    } else if c > 1.0 {
        2.0
    } else {
        c
    })
}

#[inline(always)]
fn two<V>([high, low]: [V; 2]) -> Two<V> {
    Two { high, low }
}

/// `y`, or 0 where it is `is_flat` and no number.
#[inline(always)]
fn flat<V: Float>(is_flat: V::Mask, y: V) -> V {
    V::select(is_flat & !y.abs().lt(y.of(f64::INFINITY)), y.of(0.0), y)
}

/// `|a|^b = e 2^n`, where that is plain: where `a` is neither 0 nor infinite nor NaN, nor is `b`
/// infinite or NaN.
struct Power<V: Float> {
    a: V,
    b: Two<V>,
    is_plain: V::Mask,
    log: Two<V>,
    n: V,
    e: Two<V>,
    /// Whether the power times any factor is 0, or infinite.
    is_zero: V::Mask,
    is_infinite: V::Mask,
}

impl<V: Float> Power<V> {
    #[inline(always)]
    fn new(a: V, b: Two<V>) -> Self {
        Power::of_log(a, ln_in_two(a.abs()), b)
    }

    #[inline(always)]
    fn of_log(a: V, log: Two<V>, b: Two<V>) -> Self {
        let (size, infinity) = (a.abs(), a.of(f64::INFINITY));
        let is_plain = a.of(0.0).lt(size) & size.lt(infinity) & b.high.abs().lt(infinity);
        let product = log.times(b);
        // Beyond these ends the product of a power and its factor is 0 or infinite. A factor is
        // at least the least number. It is at most about the square of an exponent, and greater
        // exponents than 2^BITS make a power that is far beyond.
        let (most, digits) = (f64::from(V::MAX_EXPONENT), f64::from(V::BITS));
        let (least, most) =
            (a.of(-(most + 4.0 * digits) * LN_2), a.of(2.0 * (most + digits + 2.0) * LN_2));
        let (is_zero, is_infinite) = (product.high.lt(least), most.lt(product.high));
        let high = product.high.min(most).max(least);
        let low = V::select(is_zero | is_infinite, a.of(0.0), product.low);
        let (n, e) = exp_in_two(high, Some(low));
        Power { a, b, is_plain, log, n, e, is_zero, is_infinite }
    }

    /// `log a` where that is no number, too; of 0 it is 0 where `is_flat`.
    #[inline(always)]
    fn log_at_ends(&self, is_flat: V::Mask) -> V {
        let (a, zero, infinity) = (self.a, self.a.of(0.0), self.a.of(f64::INFINITY));
        let log = V::select(a.lt(infinity), self.log.high, a);
        let of_zero = V::select(is_flat, zero, -infinity);
        V::select(a.lt(zero), a.of(f64::NAN), V::select(a.eq(zero), of_zero, log))
    }

    /// `factor |a|^b` with the sign that `a` gives, or `ends` where that is not plain.
    #[inline(always)]
    fn times(&self, factor: Two<V>, ends: V) -> V {
        let (a, zero) = (self.a, self.a.of(0.0));
        let (size, one) = (factor.high.abs(), a.of(1.0));
        // The products of a small factor are made where they have all their digits.
        let first = round(self.n * (1.0 / 3.0));
        let lifted = first.max(a.of(f64::from(V::BITS + 4)));
        let first = V::select(size.lt(one), lifted, first);
        let second = round((self.n - first) * 0.5);
        let scale = first.power_of_2();
        let scaled = Two { high: factor.high * scale, low: factor.low * scale };
        let Two { high, low } = self.e.times(scaled);
        let sum = V::select(high.abs().lt(a.of(f64::INFINITY)), high + low, high);
        let y = sum * second.power_of_2() * (self.n - first - second).power_of_2();
        let y = V::select(self.is_zero, zero.copysign(factor.high), y);
        let is_infinite = self.is_infinite & zero.lt(size);
        let y = V::select(is_infinite, a.of(f64::INFINITY).copysign(factor.high), y);
        let (is_integer, is_odd) = parity(self.b);
        let y = V::select(a.lt(zero) & is_odd, -y, y);
        let y = V::select(a.lt(zero) & !is_integer, a.of(f64::NAN), y);
        V::select(self.is_plain, y, ends)
    }
}

/// `a^b` where `a` is 0, infinite or NaN, or `b` is infinite or NaN.
#[inline(always)]
fn ends<V: Float>(a: V, b: Two<V>) -> V {
    let (b, is_odd) = (b.high, parity(b).1);
    let (size, zero, one) = (a.abs(), a.of(0.0), a.of(1.0));
    let grows = (one.lt(size) & zero.lt(b)) | (size.lt(one) & b.lt(zero));
    let y = V::select(grows, a.of(f64::INFINITY), zero);
    let y = V::select(one.copysign(a).lt(zero) & is_odd, -y, y);
    let y = V::select(a.eq(a) & b.eq(b), y, a + b);
    V::select(b.eq(zero) | a.eq(one) | (size.eq(one) & b.eq(b)), one, y)
}

/// Whether a sum of two is an integer, and whether it is an odd one.
#[inline(always)]
fn parity<V: Float>(b: Two<V>) -> (V::Mask, V::Mask) {
    let ((high, high_odd), (low, low_odd)) = (parity_of_one(b.high), parity_of_one(b.low));
    (high & low, high & low & (high_odd | low_odd) & !(high_odd & low_odd))
}

#[inline(always)]
fn parity_of_one<V: Float>(x: V) -> (V::Mask, V::Mask) {
    let size = x.abs();
    // Numbers of this size have no digit behind the point.
    let whole = x.of((f64::from(V::BITS - 1)).exp2());
    let half = size * 0.5;
    let is_integer = whole.le(size) | (size + whole - whole).eq(size);
    (is_integer, size.lt(whole + whole) & !(half + whole - whole).eq(half))
}

/// `log a` of a positive number, within a 4000th of an ulp: with `s = f / (2 + f)`,
/// `log(1 + f) = s (2 + 2/3 s^2 + 2/5 s^4 + ...)`.
#[inline(always)]
fn ln_in_two<V: Float>(a: V) -> Two<V> {
    // Subnormal numbers are made normal first.
    let shift = f64::from(V::BITS + 1);
    let is_small = a.lt(a.of(f64::from(1 - V::MAX_EXPONENT).exp2()));
    let (k, m) = V::select(is_small, a * shift.exp2(), a).split();
    let k = V::select(is_small, k - shift, k);
    let f = m - 1.0;
    let s = Two::alone(f).over(Two::ordered_sum(a.of(2.0), f));
    let z = s.times(s);
    let terms = if V::BITS == 24 { 5 } else { LATER_TERMS.len() };
    let first = Two::constant(a, TWO_THIRDS);
    let rest = polynomial(z.high, &LATER_TERMS[..terms]) * z.high;
    let series = Two::ordered_sum(first.high, first.low + rest).times(z).added_to(a.of(2.0));
    let [high, low] = ln_2(a);
    s.times(series).added_to(k * high).plus(Two::alone(k * low))
}
