//! Elementwise ops as one kernel for each pass, where kernels run; elsewhere
//! the same formula, composed of libtorch's operators.

use crate::Error;
use crate::kernel::simd::{self, Lanes};
use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// A formula of libtorch's operators.
pub(super) type Formula = fn(&Tensor) -> Result<Tensor>;

/// `y` of `x`.
#[inline]
pub(super) fn forward(kernel: &impl Lanes<1, 1>, x: &Tensor, formula: Formula) -> Result<Tensor> {
    elsewhere(simd::map_with_own(kernel, [x]).map(|[y]| y), || composed(x, formula))
}

/// `dx` of `x` and `dy`, `dy` times the `slope` of `x`.
#[inline]
pub(super) fn backward(
    kernel: &impl Lanes<2, 1>,
    x: &Tensor,
    dy: &Tensor,
    slope: Formula,
) -> Result<Tensor> {
    let done = simd::map_with_own(kernel, [x, dy]).map(|[dx]| dx);
    elsewhere(done, || Ok(dy.f_mul(&composed(x, slope)?)?))
}

/// Returns the kernel's result, or that of `formula` if the kernel does not run.
#[inline]
pub(super) fn elsewhere<T>(
    done: crate::Result<T>,
    formula: impl FnOnce() -> Result<T>,
) -> Result<T> {
    match done {
        Err(e) if is_elsewhere(&e) => formula(),
        done => Ok(done?),
    }
}

/// Returns whether the kernel does not run there: on another device or dtype, without
/// data, or where libtorch records.
fn is_elsewhere(e: &Error) -> bool {
    matches!(e, Error::NoKernel { .. } | Error::Argument { .. })
}

/// For formulas that round after each of many steps: on the CPU in f64. (Elsewhere f64 may
/// be slow, or absent: there in f32 at least.)
pub(super) fn exact(x: &Tensor) -> Result<Tensor> {
    Ok(match x.kind() {
        Kind::Half | Kind::BFloat16 | Kind::Float if x.device() == Device::Cpu => {
            x.f_to_kind(Kind::Double)?
        }
        Kind::Half | Kind::BFloat16 => x.f_to_kind(Kind::Float)?,
        _ => x.shallow_clone(),
    })
}

/// Computes in f32 at least.
fn composed(x: &Tensor, formula: Formula) -> Result<Tensor> {
    match x.kind() {
        kind @ (Kind::Half | Kind::BFloat16) => {
            Ok(formula(&x.f_to_kind(Kind::Float)?)?.f_to_kind(kind)?)
        }
        _ => formula(x),
    }
}

/// Stamps an op of one tensor that saves its input: its kernels, and formulas
/// for elsewhere. `torch` is libtorch's name for it.
macro_rules! fused {
    ($(#[$doc:meta])* $Op:ident, $method:ident as $torch:literal, $value:path, $slope:path, $formula:path, $slope_formula:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $Op;

        impl $crate::Function for $Op {
            type Inputs = tch::Tensor;
            type Outputs = tch::Tensor;

            fn autocast(&self) -> $crate::function::Autocast {
                $crate::function::Autocast::Wide($torch)
            }

            fn forward(&self, ctx: &mut $crate::Ctx, x: &tch::Tensor) -> anyhow::Result<tch::Tensor> {
                ctx.save_for_backward([x])?;
                $crate::ops::fused::forward(&$value, x, $formula)
            }

            fn backward(
                &self,
                ctx: &$crate::Ctx,
                dy: &tch::Tensor,
            ) -> anyhow::Result<Option<tch::Tensor>> {
                let [x] = ctx.saved_tensors()?;
                $crate::ops::gradient(ctx, 0, || {
                    $crate::ops::fused::backward(&$slope, x, dy, $slope_formula)
                })
            }

            fn vmap(&self) -> $crate::Vmap {
                $crate::Vmap::Formulas
            }

            /// Elementwise, so the Jacobian is its own transpose.
            fn jvp(
                &self,
                _: &$crate::Ctx,
                x: &tch::Tensor,
                dx: &tch::Tensor,
            ) -> anyhow::Result<tch::Tensor> {
                $crate::ops::fused::backward(&$slope, x, dx, $slope_formula)
            }
        }

        $crate::ops::methods! {
            #[doc = concat!("[`", stringify!($Op), "`](crate::ops::", stringify!($Op), ") of every element.")]
            $method(self) => $Op;
        }
    };
}
pub(super) use fused;
