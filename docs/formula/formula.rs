//! The two ops as formulas. All that is in the page's table is derived from these lines.

use tch_function::formula::{Formula, Scalar};

// op: softplus
/// `log(1 + e^x)`
#[derive(Clone)]
pub struct Softplus;

impl Formula<1> for Softplus {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.max(S::zero()) + (-x.abs()).exp().ln_1p()]
    }
}

// op: gate
/// `tanh(a b + c) sigmoid(a - c) + scale e^(-b^2) c`
#[derive(Clone)]
pub struct Gate {
    pub scale: f64,
}

impl Formula<3> for Gate {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [a, b, c]: [S; 3]) -> [S; 1] {
        [(a * b + c).tanh() * (a - c).sigmoid() + (-b * b).exp() * c * self.scale]
    }
}
