//! Smooth functions of one variable.

use super::formulas::operator;

/// `y = e^x`; `dy/dx = y`.
#[derive(Clone, Copy, Debug)]
pub struct Exp;
operator!(Exp of 1 as "exp", |_, [x]| x.exp(), of value |y| y);

/// `y = log x`, the natural logarithm; `dy/dx = 1 / x`, infinite at 0.
#[derive(Clone, Copy, Debug)]
pub struct Log;
operator!(Log of 1 as "log", |_, [x]| x.ln());

/// `y = sqrt x`; `dy/dx = 1 / (2 y)`, infinite at 0.
#[derive(Clone, Copy, Debug)]
pub struct Sqrt;
operator!(Sqrt of 1 as "sqrt", |_, [x]| x.sqrt());

/// `y = tanh x`; `dy/dx = 1 - y^2`, right in the tails, too.
#[derive(Clone, Copy, Debug)]
pub struct Tanh;
operator!(Tanh of 1 as "tanh", |_, [x]| x.tanh());

/// `y = 1 / (1 + e^-x)`, the logistic function; `dy/dx = y (1 - y)`, right in the tails, too.
#[derive(Clone, Copy, Debug)]
pub struct Sigmoid;
operator!(Sigmoid of 1 as "sigmoid", |_, [x]| x.sigmoid());

super::methods! {
    /// [`Exp`] of every element.
    exp(self) => Exp;
    /// [`Log`] of every element.
    log(self) => Log;
    /// [`Sqrt`] of every element.
    sqrt(self) => Sqrt;
    /// [`Tanh`] of every element.
    tanh(self) => Tanh;
    /// [`Sigmoid`] of every element.
    sigmoid(self) => Sigmoid;
}
