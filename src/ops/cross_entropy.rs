//! Softmax cross entropy with label smoothing.

use super::fused::{elsewhere, exact};
use super::gradient;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::{Float, Lane, Lanes};
use crate::kernel::{self, simd};
use crate::{Ctx, Error, Function, Var};
use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Kind, Reduction, Tensor};

/// The mean over rows of `-sum_i q_i log p_i`, `p = softmax(x)`, where `q` is 1
/// at the target, smoothed: `q_i = (1 - s) [i = target] + s / C` for `C` classes
/// (C. Szegedy et al., arXiv:1512.00567). `dy/dx_i = (p_i - q_i) / n` for `n`
/// targets; `d2y/dx_i dx_j = p_i ([i = j] - p_j) / n`.
///
/// Inputs `(x, targets)`: scores `[N, C]` and classes `[N]`, `[C]` and `[]`, or
/// `[N, C, d1, ..]` and `[N, d1, ..]`; classes as int64. As in libtorch a
/// target of -100 is left out, and the mean of no targets is NaN.
///
/// One pass over the scores in `forward`, which keeps its inputs, two numbers for each row and
/// the number of targets, and one in `backward`. With `epsilon` that of the dtype, the value is
/// within 4 epsilon of the exact one, relatively to `1 +` the greatest difference of scores in a
/// row, and `dx` within 4 epsilon of `1 / n`, recorded or not, for any number of rows and classes.
/// What the scores of a row are that is left out does not matter.
/// Floating-point scores; dtypes and devices as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug, Default)]
pub struct CrossEntropy {
    /// `s`: the share of the target that all classes get; 0 for none.
    pub label_smoothing: f64,
}

impl Function for CrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("nll_loss")
    }

    fn forward(&self, ctx: &mut Ctx, (x, targets): (&Tensor, &Tensor)) -> Result<Tensor> {
        let s = self.label_smoothing;
        anyhow::ensure!((0.0..=1.0).contains(&s), "label_smoothing is {s}; give 0 to 1");
        let done = match x.kind() {
            Kind::Double => self.value::<f64>(x, targets),
            _ => self.value::<f32>(x, targets),
        };
        let [y, rows, counted] = elsewhere(done, || {
            Ok([self.value_formula(x, targets)?, rows_formula(x)?, counted_formula(targets)?])
        })?;
        ctx.save_for_backward([x, targets, &rows, &counted])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = ctx.saved_tensors()?;
        let dx = gradient(ctx, 0, || self.times_slope(saved, dy))?;
        Ok((dx, None))
    }

    fn jvp(
        &self,
        ctx: &Ctx,
        (x, targets): (&Tensor, &Tensor),
        (dx, _): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let [_, _, rows, counted] = ctx.saved_tensors()?;
        let wide = exact(x)?;
        let one = Tensor::f_ones([0i64; 0], (wide.kind(), wide.device()))?;
        let slope = self.times_slope([&wide, targets, rows, counted], &one)?;
        let dx = exact(dx)?.where_else(&rows_counted(x, targets)?, 0)?;
        Ok(slope.f_mul(&dx)?.f_sum(None)?.f_to_kind(x.kind())?)
    }

    // PyTorch's tracer does not get out of an `nll_loss` inside an op.
    fn fake(&self, ctx: &mut Ctx, (x, targets): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, targets, &rows_formula(x)?, &counted_formula(targets)?])?;
        Ok(x.f_mean(x.kind())?)
    }
}

/// libtorch's default `ignore_index`.
const LEFT_OUT: i64 = -100;

impl CrossEntropy {
    /// `y`, for each row its greatest score and the sum of `e^(x - max)`, and the number of
    /// targets that are not left out.
    fn value<T: Lane>(&self, x: &Tensor, targets: &Tensor) -> crate::Result<[Tensor; 3]> {
        let (x, targets) = as_rows(x, targets)?;
        let (s, stray) = (self.label_smoothing, AtomicBool::new(false));
        let inputs = (&x, &targets);
        let (losses, rows) =
            kernel::rows::<(T, i64), (f64, f64)>(inputs, &[2, 2], |(x, target), (loss, row)| {
                let target = match target[0] {
                    LEFT_OUT => return,
                    target => usize::try_from(target).ok().and_then(|i| x.get(i)),
                };
                let Some(&target) = target else {
                    return stray.store(true, Ordering::Relaxed);
                };
                let max: f64 = simd::max(x).into();
                let hard = (1.0 - s) * (max - target.into());
                let (sum, below) = if s > 0.0 {
                    let [sum, below] = simd::sum(&ExpAndBelow { max }, [x]);
                    (sum, hard + s / x.len() as f64 * below)
                } else {
                    let [sum] = simd::sum(&ExpOf { max }, [x]);
                    (sum, hard)
                };
                loss.copy_from_slice(&[sum.ln() + below, 1.0]);
                row.copy_from_slice(&[max, sum]);
            })?;
        if stray.into_inner() {
            return Err(refused("a target that is no class"));
        }
        let losses = losses.reshape([-1, 2]);
        let [sum, counted] = simd::sum_of(&Both, [&losses.select(1, 0), &losses.select(1, 1)])?;
        Ok([Tensor::from(sum / counted).to_kind(x.kind()), rows, Tensor::from(counted)])
    }

    /// `dy/dx dy` from what `forward` saved.
    fn times_slope(&self, saved: [&Tensor; 4], dy: &Tensor) -> Result<Tensor> {
        let [x, targets, ..] = saved;
        let done = match x.kind() {
            Kind::Double => self.slope::<f64>(saved, dy),
            _ => self.slope::<f32>(saved, dy),
        };
        elsewhere(done, || self.slope_formula(x, targets, dy))
    }

    fn slope<T: Lane>(&self, saved: [&Tensor; 4], dy: &Tensor) -> crate::Result<Tensor> {
        let [x, targets, rows, counted] = saved;
        let (dim, classes) = (class_dim(x), x.size()[class_dim(x) as usize]);
        if !kernel::runs_on(dy) {
            return Err(refused("a gradient that kernels cannot read"));
        }
        let (dy, counted) = (dy.reshape([1]), counted.reshape([1]));
        let (x, targets) = as_rows(x, targets)?;
        let s = self.label_smoothing;
        let inputs = (&x, &targets, rows, &dy, &counted);
        type Rows<'a, T> = (&'a [T], &'a [i64], &'a [f64], &'a [T], &'a [f64]);
        let one_row = |(x, target, row, dy, counted): Rows<'_, T>, dx: &mut [T]| {
            if target[0] == LEFT_OUT {
                return;
            }
            let (max, sum, target) = (row[0], row[1], target[0] as usize);
            let (scale, all) = (dy[0].into() / counted[0], s / x.len() as f64);
            let slope = Slope { max, factor: scale / sum, less: scale * all };
            simd::apply(&slope, [x], [&mut *dx]);
            let p = (x[target].into() - max).exp() / sum;
            dx[target] = T::of((p - (1.0 - s) - all) * scale);
        };
        let dx = kernel::rows::<(T, i64, f64, T, f64), T>(inputs, &[classes], one_row)?;
        Ok(if dim == 0 { dx.reshape([-1]) } else { dx.movedim_int(-1, dim) })
    }

    fn value_formula(&self, x: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (s, dim) = (self.label_smoothing, class_dim(x));
        let x = x.where_else(&rows_counted(x, targets)?, 0)?;
        let log_p = x.f_log_softmax(dim, None)?;
        let hard = log_p.f_nll_loss_nd::<Tensor>(targets, None, Reduction::Mean, LEFT_OUT)?;
        if s == 0.0 {
            return Ok(hard);
        }
        let counted = targets.f_ne(LEFT_OUT)?;
        let zero = log_p.f_zeros_like()?.f_mean_dim(dim, false, None)?;
        let soft = log_p.f_mean_dim(dim, false, None)?.f_where_self(&counted, &zero)?;
        let soft = soft.f_sum(None)?.f_neg()?.f_div(&counted.f_sum(None)?)?;
        Ok(hard.mul_number(1.0 - s)?.f_add(&soft.mul_number(s)?)?)
    }

    fn slope_formula(&self, x: &Tensor, targets: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (s, dim) = (self.label_smoothing, class_dim(x));
        let counted = targets.f_ne(LEFT_OUT)?;
        let class = targets.f_to_kind(Kind::Int64)?.where_else(&counted, 0)?;
        let weight = exact(dy)?.f_div(&counted.f_sum(None)?)?.where_else(&counted, 0)?;
        let (class, weight) = (class.f_unsqueeze(dim)?, weight.f_unsqueeze(dim)?);
        let classes = x.size()[dim as usize];
        let x = exact(x)?.where_else(&rows_counted(x, targets)?, 0)?;
        let max = x.f_amax(dim, true)?.f_detach()?;
        let e = x.f_sub(&max)?.f_exp()?;
        // Numbers below epsilon would be lost beside the greatest terms, which are 1.
        let ones = x.f_eq_tensor(&max)?;
        let sum = |t: &Tensor| t.f_sum_dim_intlist(dim, true, None);
        let p = e.f_div(&sum(&e.f_sub(&ones.f_to_kind(e.kind())?)?)?.f_add(&sum(&ones)?)?)?;
        let p = p.sub_number(s / classes as f64)?;
        let target = weight.mul_number(s - 1.0)?;
        Ok(p.f_mul(&weight)?.f_scatter_add(dim, &class, &target)?)
    }
}

/// The result of `value` for each row.
fn rows_formula(x: &Tensor) -> Result<Tensor> {
    let dim = class_dim(x);
    let x = x.f_to_kind(Kind::Double)?;
    let max = x.f_amax(dim, true)?;
    let sum = x.f_sub(&max)?.f_exp()?.f_sum_dim_intlist(dim, false, None)?;
    Ok(Tensor::f_stack(&[max.f_squeeze_dim(dim)?, sum], -1)?)
}

/// The number of targets that are not left out.
fn counted_formula(targets: &Tensor) -> Result<Tensor> {
    Ok(targets.f_ne(LEFT_OUT)?.f_sum(Kind::Double)?)
}

/// Where a row is not left out, in a shape that broadcasts to that of the scores.
fn rows_counted(x: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Ok(targets.f_ne(LEFT_OUT)?.f_unsqueeze(class_dim(x))?)
}

fn class_dim(x: &Tensor) -> i64 {
    if x.dim() == 1 { 0 } else { 1 }
}

/// Returns the scores with the classes along the last dimension, and a last dimension of one
/// target.
fn as_rows(x: &Tensor, targets: &Tensor) -> crate::Result<(Tensor, Tensor)> {
    if x.dim() == 0 {
        return Err(refused("scores of no dimension"));
    }
    let x = x.movedim_int(class_dim(x), -1);
    match x.size().split_last() {
        Some((classes, rows)) if *classes > 0 && targets.size() == rows => {
            Ok((x, targets.unsqueeze(-1)))
        }
        _ => Err(refused("targets of another shape")),
    }
}

/// Leaves these inputs to libtorch's operators, whose errors say what is wrong.
fn refused(what: &str) -> Error {
    super::fused::not_ours("CrossEntropy", what)
}

struct Both;

impl Lanes<2, 2> for Both {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; 2]) -> [V; 2] {
        x
    }
}

struct ExpOf {
    max: f64,
}

impl Lanes<1, 1> for ExpOf {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [(x - self.max).exp()]
    }
}

struct ExpAndBelow {
    max: f64,
}

impl Lanes<1, 2> for ExpAndBelow {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 2] {
        let below = x - self.max;
        [below.exp(), -below]
    }
}

/// `factor e^(x - max) - less`
struct Slope {
    max: f64,
    factor: f64,
    less: f64,
}

impl Lanes<1, 1> for Slope {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [(x - self.max).exp() * self.factor - x.of(self.less)]
    }
}

impl Var {
    /// [`CrossEntropy`] of these scores and the classes `targets`, averaged.
    ///
    /// # Errors
    /// [`Error::Forward`] with libtorch's message, also
    /// for a target that is no class.
    pub fn cross_entropy(&self, targets: &Var) -> crate::Result<Var> {
        CrossEntropy::default().apply((self, targets))
    }
}
