//! `log(1 + e^x)` over the whole range.

use super::formulas::function;
use crate::formula::{Formula, Scalar, Sort};
use crate::function::Autocast;

/// `y = log(1 + e^x)`; `dy/dx = 1 / (1 + e^-x)`.
///
/// With `e = e^-|x|`, which never overflows, `y = max(x, 0) + log1p(e)`, where
/// the textbook form `log(1 + e^x)` is infinite from 88.8 (f32) and 709.8 (f64)
/// on. On the CPU `y` and `dy/dx` are within 2 ulp of the exact values
/// everywhere, subnormal ones too: at most 1.81 and 1.97 ulp at every f32 up
/// to 1e4 in magnitude (AVX-512; a test measures it).
///
/// A [formula](mod@crate::formula): inputs of any shape and of real numbers; f16 and bf16
/// are computed in f32 and rounded once.
#[derive(Clone, Copy, Debug)]
pub struct Log1pExp;
function!(Log1pExp of 1, Sort::Crate, Autocast::Wide("softplus"));

super::methods! {
    /// [`Log1pExp`] of every element.
    log1p_exp(self) => Log1pExp;
}

impl Formula<1> for Log1pExp {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.ln_1p_exp()]
    }
}
