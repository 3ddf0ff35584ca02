//! `y = x g(x)` with a gate `g` that goes from 0 to 1, `g(x) + g(-x) = 1`, and its first two
//! derivatives: within 2 ulp where they are normal numbers, or of 0.05 next to their roots. Also
//! the gates and their slopes alone, where a shorter way would be less exact.
//!
//! With `a = |x|` and `t = a g(-a)`, `y` is `-t` below 0 and `a - t` above; with `s = g(-a) -
//! a g'(a)`, the slope is `s` below and `1 - s` above; the second derivative is even. They are
//! multiplied by the power of 2 of their exponential at the end, so nothing underflows before
//! its time.

use super::Float;
use super::math::{exp_in_two, scaled};
use super::normal::scaled_tail;
use super::two::Two;

/// A result by its order.
pub(crate) const VALUE: u8 = 0;
pub(crate) const SLOPE: u8 = 1;
pub(crate) const CURVATURE: u8 = 2;

/// `1 / sqrt(2 pi)`, and so on.
const NORMAL: [f64; 2] = [0.3989422804014327, -2.49232720227773e-17];
/// `c = 2 sqrt(2 / pi)` and `c 0.044715`, by 1, 3 and 12.
const FACTOR: [f64; 2] = [1.5957691216057308, -9.96930880911092e-17];
const TWICE_FACTOR: [f64; 2] = [3.1915382432114616, -1.993861761822184e-16];
const CUBIC: [f64; 2] = [0.07135481627260025, -6.175149918155315e-19];
const CUBIC_3: [f64; 2] = [0.21406444881780073, 1.2025242832367862e-17];
const CUBIC_12: [f64; 2] = [0.8562577952712029, 4.810097132947145e-17];

/// `x F(x)` with the normal distribution `F`: `t = a R e`, `s = e (R - a / sqrt(2 pi))`, and
/// `y'' = e (2 - x^2) / sqrt(2 pi)`, with `e = e^(-a^2 / 2)` and `R` of [`scaled_tail`].
#[inline(always)]
pub(crate) fn gelu<const ORDER: u8, V: Float>(x: V) -> V {
    let gate = Gate::new(x, [15.0, 40.0]);
    let a = gate.a;
    let square = Two::product(a, a);
    let (n, e) = half_gauss(a);
    let normal = Two::constant(a, NORMAL);
    let found = match ORDER {
        VALUE => scaled_tail(a).times(e).times_one(a),
        SLOPE => scaled_tail(a).plus(normal.times_one(-a)).times(e),
        _ => normal.times(e).times_one(-square.high + 2.0 - square.low),
    };
    gate.done::<ORDER>(found.sum(), n)
}

/// The normal distribution: `R e` below 0, and `1 - R e` above, as of [`gelu`].
#[inline(always)]
pub(crate) fn normal_cdf<V: Float>(x: V) -> V {
    let gate = Gate::new(x, [15.0, 40.0]);
    let (n, e) = half_gauss(gate.a);
    gate.done::<SLOPE>(scaled_tail(gate.a).times(e).sum(), n)
}

/// `e^(-x^2 / 2) / sqrt(2 pi)`; its derivatives are that by `-x` and by `x^2 - 1`.
#[inline(always)]
pub(crate) fn normal_pdf<const ORDER: u8, V: Float>(x: V) -> V {
    let gate = Gate::new(x, [15.0, 40.0]);
    let (n, e) = half_gauss(gate.a);
    let pdf = Two::constant(x, NORMAL).times(e);
    let found = match ORDER {
        VALUE => pdf,
        SLOPE => pdf.times_one(-gate.a.copysign(x)),
        _ => pdf.times(Two::product(gate.a, gate.a).plus(Two::alone(x.of(-1.0)))),
    };
    gate.done::<CURVATURE>(found.sum(), n)
}

/// `e^(-x^2)`, or its derivative, which is that by `-2x`.
#[inline(always)]
pub(crate) fn gauss<const ORDER: u8, V: Float>(x: V) -> V {
    let gate = Gate::new(x, [10.5, 27.5]);
    let square = Two::product(gate.a, gate.a).negated();
    let (n, e) = exp_in_two(square.high, Some(square.low));
    let found = match ORDER {
        VALUE => e,
        _ => e.times_one(gate.a.copysign(x) * -2.0),
    };
    gate.done::<CURVATURE>(found.sum(), n)
}

/// `n` and `e` of `e^(-a^2 / 2) = e 2^n`.
#[inline(always)]
fn half_gauss<V: Float>(a: V) -> (V, Two<V>) {
    let square = Two::product(a, a);
    exp_in_two(square.high * -0.5, Some(square.low * -0.5))
}

/// `factor s(x) s(-x)` with `s(x) = 1 / (1 + e^-x)`, of a small factor.
#[inline(always)]
pub(super) fn sigmoid_slope<V: Float>(x: V, factor: f64) -> V {
    let gate = Gate::new(x, [110.0, 760.0]);
    let (n, e) = exp_in_two(-gate.a, None);
    let d = beside_one(e, n).added_to(x.of(1.0));
    gate.done::<CURVATURE>(e.over(d.times(d)).sum() * factor, n)
}

/// `x / (1 + e^-x)`
#[inline(always)]
pub(crate) fn silu<const ORDER: u8, V: Float>(x: V) -> V {
    let gate = Gate::new(x, [110.0, 760.0]);
    let a = gate.a;
    let (n, e) = exp_in_two(-a, None);
    let argument =
        Argument { along: Two::alone(a), bend: Two::alone(a.of(2.0)), square: Two::alone(a) };
    logistic::<ORDER, V>(gate, e, n, argument)
}

/// `x / (1 + e^-v)` with `v = c (x + 0.044715 x^3)`, `c = 2 sqrt(2 / pi)`.
#[inline(always)]
pub(crate) fn gelu_tanh<const ORDER: u8, V: Float>(x: V) -> V {
    let gate = Gate::new(x, [11.3, 22.5]);
    let a = gate.a;
    let square = Two::product(a, a);
    let inner = line(square, CUBIC, FACTOR);
    let v = inner.times_one(-a);
    let (n, e) = exp_in_two(v.high, Some(v.low));
    let slope = line(square, CUBIC_3, FACTOR);
    let along = slope.times_one(a);
    let bend = line(square, CUBIC_12, TWICE_FACTOR);
    let argument = Argument { along, bend, square: slope.times(along) };
    logistic::<ORDER, V>(gate, e, n, argument)
}

/// `factor x + offset`
#[inline(always)]
fn line<V: Float>(x: Two<V>, factor: [f64; 2], offset: [f64; 2]) -> Two<V> {
    Two::constant(x.high, factor).times(x).plus(Two::constant(x.high, offset))
}

/// What the derivatives of a gate need of those of its argument `v`. (What is not used is not
/// computed: the compiler sees it.)
struct Argument<V> {
    /// `a v'`
    along: Two<V>,
    /// `2v' + a v''`
    bend: Two<V>,
    /// `a v'^2`
    square: Two<V>,
}

/// With `e = e^-v` and `d = 1 + e`: `t = a e / d`, `a - t = a / d`, `s = e (d - a v') / d^2`, and
/// `y'' = e ((2v' + a v'') d - a v'^2 (1 - e)) / d^3`. The first `e` lacks its power of 2, `2^n`.
#[inline(always)]
fn logistic<const ORDER: u8, V: Float>(gate: Gate<V>, e: Two<V>, n: V, argument: Argument<V>) -> V {
    let one = gate.a.of(1.0);
    let whole = beside_one(e, n);
    let d = whole.added_to(one);
    match ORDER {
        VALUE => {
            let Gate { a, x, .. } = gate;
            let negative = x.lt(a.of(0.0));
            let above = V::select(negative, e.high.mul_add(a, e.low * a), a);
            let d = Two::ordered_sum(one, whole.high);
            let y = Two::alone(above).over(d).sum();
            gate.ended::<ORDER>(V::select(negative, scaled(y, n), y).copysign(x))
        }
        SLOPE => {
            let inner = d.plus(argument.along.negated());
            gate.done::<ORDER>(e.times(inner).over(d.times(d)).sum(), n)
        }
        _ => {
            let rest = whole.negated().added_to(one);
            let inner = argument.bend.times(d).plus(argument.square.times(rest).negated());
            gate.done::<ORDER>(e.times(inner).over(d.times(d).times(d)).sum(), n)
        }
    }
}

/// `e 2^n`, or a normal number in its place that makes no more difference to 1.
#[inline(always)]
fn beside_one<V: Float>(e: Two<V>, n: V) -> Two<V> {
    let scale = n.max(n.of(f64::from(-2 * V::BITS - 8))).power_of_2();
    Two { high: e.high * scale, low: e.low * scale }
}

/// The argument, and its absolute value up to where the gate is 0 or 1.
#[derive(Clone, Copy)]
struct Gate<V> {
    x: V,
    a: V,
    far: V,
}

impl<V: Float> Gate<V> {
    /// `far` is where the exponential and its products with powers of `a` are 0, in f32 and f64.
    #[inline(always)]
    fn new(x: V, far: [f64; 2]) -> Self {
        let far = x.of(if V::BITS == 24 { far[0] } else { far[1] });
        Gate { x, a: x.abs().min(far), far }
    }

    /// The result from `t`, `s` or `y''`, which lack `2^n`.
    #[inline(always)]
    fn done<const ORDER: u8>(self, found: V, n: V) -> V {
        let Gate { x, a, .. } = self;
        let found = scaled(found.abs(), n).copysign(found);
        let negative = x.lt(x.of(0.0));
        self.ended::<ORDER>(match ORDER {
            VALUE => V::select(negative, found, a - found).copysign(x),
            SLOPE => V::select(negative, found, -found + 1.0),
            _ => found,
        })
    }

    /// `y`, and what it is where the gate is 0 or 1 and of NaN.
    #[inline(always)]
    fn ended<const ORDER: u8>(self, y: V) -> V {
        let Gate { x, far, .. } = self;
        let (below, above) = match ORDER {
            VALUE => (x.of(-0.0), x),
            SLOPE => (x.of(0.0), x.of(1.0)),
            _ => (x.of(0.0), x.of(0.0)),
        };
        let ends = V::select(x.lt(x.of(0.0)), below, V::select(x.eq(x), above, x));
        V::select(x.abs().lt(far), y, ends)
    }
}
