//! Smooth relatives of `relu`: GELU, exact and with tanh, and SiLU.

use super::formulas::function;
use crate::formula::{Formula, Scalar, Sort};
use crate::function::Autocast;

/// `y = x F(x)` with `F(x) = (1 + erf(x / sqrt(2))) / 2`, the normal
/// distribution; `dy/dx = F(x) + x f(x)`, `f(x) = e^(-x^2 / 2) / sqrt(2 pi)`;
/// `d2y/dx2 = f(x) (2 - x^2)`. (Hendrycks and Gimpel, arXiv:1606.08415.)
///
/// In f32 and f64 on the CPU value and slope are within 2 ulp of the exact values, the
/// second derivative within 4, in the tails too, but next to a root, which is not measured.
/// A [formula](mod@crate::formula), as
/// [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct Gelu;
function!(Gelu of 1, Sort::Crate, Autocast::Wide("gelu"));

/// `y = x s` with `s = (1 + tanh(u)) / 2 = 1 / (1 + e^(-2u))`,
/// `u = sqrt(2 / pi) (x + 0.044715 x^3)`: the form of [`Gelu`] with tanh;
/// `dy/dx = s + 2 x s (1 - s) u'`, `u' = sqrt(2 / pi) (1 + 0.134145 x^2)`;
/// `d2y/dx2 = 2 s (1 - s) (2 u' + x u'' + 2 x u'^2 (1 - 2 s))`.
///
/// In f32 and f64 on the CPU value and slope are within 2 ulp of the exact values, the
/// second derivative within 4, in the tails too, but next to a root, which is not measured.
/// A [formula](mod@crate::formula), as
/// [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct GeluTanh;
function!(GeluTanh of 1, Sort::Crate, Autocast::Wide("gelu"));

/// `y = x s` with `s = 1 / (1 + e^-x)`; `dy/dx = s + x s (1 - s)`;
/// `d2y/dx2 = s (1 - s) (2 + x (1 - 2 s))`. Also called swish.
///
/// In f32 and f64 on the CPU value and slope are within 2 ulp of the exact values, the
/// second derivative within 4, in the tails too, but next to a root, which is not measured.
/// A [formula](mod@crate::formula), as
/// [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct Silu;
function!(Silu of 1, Sort::Crate, Autocast::Wide("silu"));

super::methods! {
    /// [`Gelu`] of every element.
    gelu(self) => Gelu;
    /// [`GeluTanh`] of every element.
    gelu_tanh(self) => GeluTanh;
    /// [`Silu`] of every element.
    silu(self) => Silu;
}

impl Formula<1> for Gelu {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.gelu()]
    }
}

impl Formula<1> for GeluTanh {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.gelu_tanh()]
    }
}

impl Formula<1> for Silu {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.silu()]
    }
}
