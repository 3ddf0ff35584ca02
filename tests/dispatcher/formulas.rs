//! Formulas as ops, and an op that empties the cache of kernels.

use tch::Tensor;
use tch_function::dispatcher::forward_only;
use tch_function::formula::{Derived, Formula, Scalar};

/// `log(1 + e^x)`
#[derive(Clone)]
struct Softplus;

impl Formula<1> for Softplus {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x.max(S::zero()) + (-x.abs()).exp().ln_1p()]
    }
}

/// `(w tanh(s (x - center)), w s)`
#[derive(Clone)]
struct Gate {
    center: f64,
}

impl Formula<3, 2> for Gate {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x, w, s]: [S; 3]) -> [S; 2] {
        [w * (s * (x - self.center)).tanh(), w * s]
    }
}

tch_function::library! {
    /// Registers the ops.
    pub fn register() for "tf_formula" {
        "softplus(Tensor x) -> Tensor" => || Derived(Softplus),
        "gate(Tensor x, Tensor w, Tensor s, float center=0.) -> (Tensor, Tensor)" =>
            |center| Derived(Gate { center }),
        "empty_cache(Tensor x) -> Tensor" => || {
            forward_only::<Tensor, Tensor>("tf_formula::empty_cache", |x| {
                tch_function::kernel::empty_cache();
                Ok(x.copy())
            })
        },
    }
}
