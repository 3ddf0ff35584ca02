//! [`OfValue`]: an op of one number whose derivative is known from its value.

use super::{Formula, Kernels, Scalar};

/// A formula of one number whose derivative its value gives.
pub(crate) trait SlopeOfValue: Formula<1> {
    fn slope_of_value<S: Scalar>(y: S) -> S;
}

/// The gradients of `F` in terms of its value `y`: an op that saves `y`, which what follows
/// often saves too, needs its input no longer.
#[derive(Clone)]
pub(crate) struct OfValue<F>(pub F);

impl<F: SlopeOfValue> Formula<1> for OfValue<F> {
    /// The value is there; only its derivative in `x` is asked for.
    #[inline(always)]
    fn eval<S: Scalar>(&self, y: [S; 1]) -> [S; 1] {
        y
    }

    #[inline(always)]
    fn slopes<S: Scalar>(&self, [y]: [S; 1]) -> Option<[[S; 1]; 1]> {
        Some([[F::slope_of_value(y)]])
    }

    const KERNELS: Kernels = F::KERNELS;

    fn op_name(&self) -> &'static str {
        self.0.op_name()
    }
}
