//! [`Two`]: a number as the sum of two, of which the second is what the first has no digits
//! for. (T. J. Dekker, A Floating-Point Technique for Extending the Available Precision, 1971.)

use super::{Float, add};

/// `high + low`. Each operation is within a few squares of epsilon.
#[derive(Clone, Copy)]
pub(super) struct Two<V> {
    pub high: V,
    pub low: V,
}

impl<V: Float> Two<V> {
    /// A constant: its nearest f64, and the rest.
    #[inline(always)]
    pub fn constant(like: V, [nearest, rest]: [f64; 2]) -> Self {
        if V::BITS == 53 {
            return Two { high: like.of(nearest), low: like.of(rest) };
        }
        let high = f64::from(nearest as f32);
        Two { high: like.of(high), low: like.of(nearest - high) }
    }

    /// `high`, exactly.
    #[inline(always)]
    pub fn alone(high: V) -> Self {
        Two { high, low: high.of(0.0) }
    }

    /// `a + b` of `a` that is 0 or not the smaller one.
    #[inline(always)]
    pub fn ordered_sum(a: V, b: V) -> Self {
        let high = a + b;
        Two { high, low: (a - high) + b }
    }

    /// `a b`
    #[inline(always)]
    pub fn product(a: V, b: V) -> Self {
        let high = a * b;
        Two { high, low: a.mul_add(b, -high) }
    }

    #[inline(always)]
    pub fn sum(self) -> V {
        self.high + self.low
    }

    #[inline(always)]
    pub fn negated(self) -> Self {
        Two { high: -self.high, low: -self.low }
    }

    /// `a + self` of `a` that is 0 or not the smaller one.
    #[inline(always)]
    pub fn added_to(self, a: V) -> Self {
        let Two { high, low } = Two::ordered_sum(a, self.high);
        Two { high, low: low + self.low }
    }

    #[inline(always)]
    pub fn plus(self, other: Self) -> Self {
        let (high, low) = add(self.high, other.high);
        Two { high, low: low + (self.low + other.low) }
    }

    #[inline(always)]
    pub fn times_one(self, b: V) -> Self {
        let Two { high, low } = Two::product(self.high, b);
        Two { high, low: self.low.mul_add(b, low) }
    }

    #[inline(always)]
    pub fn times(self, b: Self) -> Self {
        let Two { high, low } = Two::product(self.high, b.high);
        Two { high, low: self.high.mul_add(b.low, self.low.mul_add(b.high, low)) }
    }

    #[inline(always)]
    pub fn over(self, d: Self) -> Self {
        let inverse = d.high.of(1.0) / d.high;
        let high = self.high * inverse;
        let rest = (-high).mul_add(d.high, self.high) + (-high).mul_add(d.low, self.low);
        Two { high, low: rest * inverse }
    }
}
