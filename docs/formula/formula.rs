//! The two ops as formulas. All that is in the page's table is derived from these lines.

use tch_function::formula;

// op: softplus
formula! {
    /// `log(1 + e^x)`
    pub struct Softplus;
    |_, [x]| [x.max(S::zero()) + (-x.abs()).exp().ln_1p()]
}

// op: gate
formula! {
    /// `tanh(a b + c) sigmoid(a - c) + scale e^(-b^2) c`
    pub struct Gate { pub scale: f64 }
    |op, [a, b, c]| [(a * b + c).tanh() * (a - c).sigmoid() + (-b * b).exp() * c * op.scale]
}
