//! Where a kernel runs, and what is computed in its place elsewhere.

use super::element::sealed::Element as _;
use super::elements::Elements;
use crate::ffi::memory::memory;
use crate::{Error, Result};
use tch::Tensor;

/// Returns whether a kernel can read `x` here: a dense CPU tensor with data, of a dtype that
/// an [`Element`](super::Element) reads, which libtorch is neither recording nor tracing at
/// the moment.
///
/// [`reads`] asks for the dtypes of one kernel; [`or_formula`] runs the kernel and asks
/// afterwards.
pub fn runs_on(x: &Tensor) -> bool {
    memory(x, false).is_ok_and(|memory| is_read(memory.dtype))
}

/// Returns whether a kernel whose closure takes `A` can read these tensors here: as
/// [`runs_on`] of each, and each of a dtype that its place in `A` reads. Shapes are not
/// compared.
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_function::kernel;
///
/// let (x, n) = (Tensor::from_slice(&[0.5f32, 2.0]), Tensor::from_slice(&[3i64, 2]));
/// assert!(kernel::reads::<(f32, i64)>((&x, &n)));
/// assert!(!kernel::reads::<(f64, i64)>((&x, &n))); // x is in f32
/// assert!(kernel::reads::<f32>(&x.to_kind(Kind::Half))); // f32 reads f16 and bf16
/// ```
pub fn reads<A: Elements>(x: A::Tensors<'_>) -> bool {
    let mut all = true;
    let looked = A::visit(x, &mut |t, stored, _| {
        all &= memory(t, false).is_ok_and(|memory| stored(memory.dtype).is_some());
        Ok(())
    });
    all && looked.is_ok()
}

/// Returns what a kernel made, or what `formula` makes where kernels do not run: on other
/// devices and dtypes, on tensors without data (fake ones, or under vmap), under tracing, and
/// where libtorch records, as in a `backward` that is differentiated again
/// ([`create_graph`](crate::GradOptions::create_graph)).
///
/// So a kernel in `backward` keeps its second derivative by one line: a formula of tch
/// operators, or the application of a Function that is the derivative.
///
/// ```
/// # use anyhow::Result;
/// # use tch::Tensor;
/// # use tch_function::{Ctx, Function, GradOptions, Var, check::check, grad, kernel};
/// /// `y = x^3`
/// struct Cube;
///
/// impl Function for Cube {
///     type Inputs = Tensor;
///     type Outputs = Tensor;
///
///     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
///         ctx.save_for_backward([x])?;
///         let y = kernel::floats!(T of x => kernel::map(x, |x: T| x * x * x));
///         kernel::or_formula(y, || Ok(x * x * x))
///     }
///
///     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         let [x] = ctx.saved_tensors()?;
///         let dx = kernel::floats!(T of x => {
///             kernel::map((x, dy), |(x, dy): (T, T)| 3.0 * x * x * dy)
///         });
///         kernel::or_formula(dx, || Ok(x * x * dy * 3.0)).map(Some)
///     }
/// }
///
/// let x = Var::leaf(Tensor::from(2.0f32));
/// let dx = GradOptions::new().create_graph(true).grad(&Cube.apply(&x)?, &x)?.expect("used");
/// assert_eq!(f64::try_from(grad(&dx, &x)?.value())?, 12.0); // 6 x
/// check(Cube, [Tensor::from_slice(&[0.5, -2.0])])?.assert();
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// Every error of the kernel but [`Error::NoKernel`] and [`Error::KernelDtype`]: shapes that
/// do not fit and closures that panic are mistakes, which a formula would hide. And those
/// of `formula`.
pub fn or_formula<T>(
    done: Result<T>,
    formula: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    match done {
        Err(e) if is_elsewhere(&e) => formula(),
        done => Ok(done?),
    }
}

/// Returns whether an error says that kernels do not run on these tensors here.
pub(crate) fn is_elsewhere(e: &Error) -> bool {
    matches!(e, Error::NoKernel { .. } | Error::KernelDtype { .. })
}

/// Whether an element type reads a dtype.
fn is_read(dtype: i8) -> bool {
    macro_rules! any_of {
        ($($T:ty),+) => { $(<$T>::stored(dtype).is_some())||+ };
    }
    any_of!(f32, f64, u8, i8, i16, i32, i64, bool)
}
