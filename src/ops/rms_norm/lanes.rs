//! What [`RmsNorm`](super::RmsNorm) computes of each element.

use crate::kernel::simd::{self, Float, Lanes};

pub(super) struct Product;

impl Lanes<2, 1> for Product {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b]: [V; 2]) -> [V; 1] {
        [a * b]
    }
}

pub(super) struct Products;

impl Lanes<3, 2> for Products {
    #[inline(always)]
    fn call<V: Float>(&self, [x, w, dy]: [V; 3]) -> [V; 2] {
        [x * x, x * (w * dy)]
    }
}

/// `r a b`
pub(super) struct Scaled(pub f64);

impl Lanes<2, 1> for Scaled {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b]: [V; 2]) -> [V; 1] {
        [a * self.0 * b]
    }
}

/// `r (w dy - r x dot)`
pub(super) struct Slope {
    pub r: f64,
    pub dot: f64,
}

impl Lanes<3, 1> for Slope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, w, dy]: [V; 3]) -> [V; 1] {
        [(w * dy - x * self.r * self.dot) * self.r]
    }
}

/// `(less x)^2`
pub(super) struct Square {
    pub less: f64,
}

impl Lanes<1, 1> for Square {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        let x = x * self.less;
        [x * x]
    }
}

pub(super) struct ReducedProducts {
    pub less: f64,
}

impl Lanes<3, 2> for ReducedProducts {
    #[inline(always)]
    fn call<V: Float>(&self, [x, w, dy]: [V; 3]) -> [V; 2] {
        Products.call([x * self.less, w, dy])
    }
}

/// The sum of two sums and of what they have no digits for.
pub(super) struct Merged;

impl Lanes<4, 2> for Merged {
    #[inline(always)]
    fn call<V: Float>(&self, [a, a_low, b, b_low]: [V; 4]) -> [V; 2] {
        let (sum, lost) = simd::add(a, b);
        [sum, (a_low + b_low) + lost]
    }
}

/// `high + low`
pub(super) struct Whole;

impl Lanes<2, 1> for Whole {
    #[inline(always)]
    fn call<V: Float>(&self, [high, low]: [V; 2]) -> [V; 1] {
        // What infinity lost is NaN.
        [V::select(low.eq(low), high + low, high)]
    }
}
