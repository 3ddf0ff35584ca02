//! An elementwise op from one formula: every derivative, every dtype, every device.
//!
//! ```
//! use tch::Tensor;
//! use tch_function::formula::{Derived, Formula, Scalar};
//! use tch_function::{Function, Var, grad};
//!
//! /// `log(1 + e^x)`
//! #[derive(Clone)]
//! struct Softplus;
//!
//! impl Formula<1> for Softplus {
//!     #[inline(always)]
//!     fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
//!         [x.max(S::zero()) + (-x.abs()).exp().ln_1p()]
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from_slice(&[0.0f32, 1000.0]));
//! let y = Derived(Softplus).apply(&x)?;
//! let dx = grad(&y.sum()?, &x)?;
//! assert_eq!(Vec::<f32>::try_from(dx.value())?, [0.5, 1.0]);
//! # anyhow::Ok(())
//! ```
//!
//! [`Derived`] makes a [`Function`](crate::Function) of the formula, which runs in every
//! host. The same `eval` runs on
//!
//! | what | for |
//! |---|---|
//! | vectors of f32 and f64 (f16 and bf16 through f32) | `forward`: one kernel |
//! | dual numbers of vectors | `backward` and `jvp`: one kernel each, all inputs in one pass, at most the inputs saved |
//! | duals of duals | second derivatives: one kernel |
//! | tch tensors | other devices, tracing, `fake`, vmap, third and higher derivatives |
//!
//! The inputs broadcast and are promoted as in libtorch, and each gradient has its input's
//! shape and dtype again. Integers compute in f32. Complex numbers are refused.
//!
//! `docs/formula.md` says more: errors, kinks, what a formula costs, and the same ops by hand.
//!
//! What is not `#[inline(always)]` is compiled without the instruction set's registers:
//! right, but slow. So is a dev build of your own crate, unless its profile optimises it.

mod binary;
mod branches;
mod declare;
mod derived;
mod dual;
mod forms;
mod functions;
mod gates;
mod lanes;
mod needs;
mod normal;
mod of_value;
mod outlined;
mod powers;
mod scalar;
mod slope;
mod sort;
mod tensors;
mod term;

pub use derived::Derived;
pub(crate) use derived::{backward, forward, forward_keeping_value, jvp};
pub(crate) use lanes::Values;
pub(crate) use of_value::{OfValue, SlopeOfValue};
pub use scalar::Scalar;
pub(crate) use sort::Sort;

use crate::function::Shareable;
use dual::Dual;

/// An elementwise formula of `I` numbers (1 to 8) that gives `O` (1 to 4).
///
/// Its parameters are fields. Its derivative is derived; where the derived one would be
/// inaccurate, [`slopes`](Formula::slopes) gives another one, and everything else is derived
/// from that.
///
/// ```
/// use tch_function::formula::{Derived, Formula, Scalar};
/// # use tch::Tensor;
/// # use tch_function::{Function, Var, grad};
///
/// /// `a x + b x^2` beyond a threshold, else 0.
/// #[derive(Clone)]
/// struct Beyond { threshold: f64 }
///
/// impl Formula<3> for Beyond {
///     #[inline(always)]
///     fn eval<S: Scalar>(&self, [x, a, b]: [S; 3]) -> [S; 1] {
///         let y = a * x + b * x * x;
///         [S::select(x.gt(S::of(self.threshold)), y, S::zero())]
///     }
/// }
///
/// # let x = Var::leaf(Tensor::from_slice(&[1.0, 3.0]));
/// # let [a, b] = [2.0, 1.0].map(|c| Var::constant(Tensor::from(c)));
/// let y = Derived(Beyond { threshold: 2.0 }).apply((&x, &a, &b))?;
/// # let dx = grad(&y.sum()?, &x)?;
/// # assert_eq!(Vec::<f64>::try_from(dx.value())?, [0.0, 8.0]);
/// # anyhow::Ok(())
/// ```
pub trait Formula<const I: usize, const O: usize = 1>: Clone + Shareable + 'static {
    /// The values at `x`. Every branch is computed, and [`Scalar::select`] takes one.
    fn eval<S: Scalar>(&self, x: [S; I]) -> [S; O];

    /// The derivative of each output in each input, in place of the derived one. Second
    /// derivatives are those of what stands here, also if it is not the derivative of `eval` (a
    /// surrogate gradient).
    #[inline(always)]
    fn slopes<S: Scalar>(&self, x: [S; I]) -> Option<[[S; I]; O]> {
        let _ = x;
        None
    }

    #[doc(hidden)]
    const KERNELS: Kernels = Kernels::All;

    /// The name of the op, for errors; the type's, if it is not given.
    fn op_name(&self) -> &'static str {
        crate::function::short_name(std::any::type_name::<Self>())
    }
}

/// Which kernels of a formula are compiled: vector code takes long to compile. (Conditions on
/// it are `const` blocks, since the compiler leaves out what they make unreachable.)
#[doc(hidden)]
#[derive(Clone, Copy)]
pub enum Kernels {
    All,
    /// Values and gradients; tensors compute second derivatives.
    First,
    None,
}

/// The derivatives of each output in each input.
#[inline(always)]
fn jacobian<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
) -> [[S; I]; O] {
    match f.slopes(x) {
        Some(slopes) => slopes,
        None => moved_apart(f, x, [S::one(); I]),
    }
}

/// `dy_o/dx_i dx_i`, for each output and each input alone.
#[inline(always)]
fn moved_apart<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    dx: [S; I],
) -> [[S; I]; O] {
    let mut moving = [Dual::constant(S::none()); I];
    for i in 0..I {
        moving[i] = Dual::moving(x[i], i, dx[i]);
    }
    let y = f.eval::<Dual<S, I>>(moving);
    let mut terms = [[S::none(); I]; O];
    for o in 0..O {
        terms[o] = y[o].slopes;
    }
    terms
}

/// `sum over o of dy_o conj(dy_o/dx_i)`, for each input: libtorch's convention for complex
/// numbers. Of several outputs, one that nobody used has a gradient of 0, and adds nothing.
#[inline(always)]
fn along_outputs<S: Scalar, const I: usize, const O: usize>(
    slopes: &[[S; I]; O],
    dy: [S; O],
) -> [S; I] {
    let mut dx = [S::none(); I];
    for i in 0..I {
        for o in 0..O {
            let term = slopes[o][i].conj() * dy[o];
            dx[i] = dx[i] + if O > 1 { unless_still(term, dy[o]) } else { term };
        }
    }
    dx
}

/// The gradients of the wanted inputs, and of others if that is no more work.
#[inline(always)]
fn gradients<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    dy: [S; O],
    wanted: [bool; I],
) -> [S; I] {
    if let Some(slopes) = f.slopes(x) {
        return along_outputs(&slopes, dy);
    }
    if O > 1 {
        return along_outputs(&moved_apart(f, x, [S::one(); I]), dy);
    }
    let mut dx = [S::none(); I];
    // Starting from `dy` spares the multiplication of slope and `dy`, and its rounding.
    for i in (0..I).filter(|&i| wanted[i]) {
        dx[i] = dy[0].conj();
    }
    // There is one output.
    let [terms] = moved_apart(f, x, dx).first_chunk().copied().unwrap_or([[S::none(); I]; 1]);
    for i in 0..I {
        dx[i] = terms[i].conj();
    }
    dx
}

/// The tangents of the outputs.
#[inline(always)]
fn tangents<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    dx: [S; I],
) -> [S; O] {
    match f.slopes(x) {
        Some(slopes) => along_inputs(&slopes, dx),
        None => summed(&moved_apart(f, x, dx), dx),
    }
}

/// `sum over i of dy_o/dx_i dx_i`, for each output.
#[inline(always)]
fn along_inputs<S: Scalar, const I: usize, const O: usize>(
    slopes: &[[S; I]; O],
    dx: [S; I],
) -> [S; O] {
    let mut terms = *slopes;
    for terms in &mut terms {
        for i in 0..I {
            terms[i] = terms[i] * dx[i];
        }
    }
    summed(&terms, dx)
}

/// The sums of `dy_o/dx_i dx_i`. An input that does not move adds nothing.
#[inline(always)]
fn summed<S: Scalar, const I: usize, const O: usize>(terms: &[[S; I]; O], dx: [S; I]) -> [S; O] {
    let mut dy = [S::none(); O];
    for o in 0..O {
        for i in 0..I {
            dy[o] = dy[o] + unless_still(terms[o][i], dx[i]);
        }
    }
    dy
}

/// A term of `factor`, but none where that is 0 and the term is infinite or NaN, as the
/// derivative of `a^b` in `b` is for a negative `a`.
#[inline(always)]
fn unless_still<S: Scalar>(term: S, factor: S) -> S {
    if term.is_none() {
        return term;
    }
    // A finite 0 stays: as a function of `factor` it has a derivative.
    let is_finite = term.abs().lt(S::of(f64::INFINITY));
    S::select(factor.eq(S::zero()) & !is_finite, S::none(), term)
}
