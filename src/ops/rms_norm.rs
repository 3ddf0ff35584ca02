//! RMSNorm: rows scaled to a root mean square of 1.

mod lanes;
mod whole;

use super::fused::{elsewhere, exact};
use super::gradient;
use crate::kernel::simd::Lane;
use crate::kernel::{self, simd};
use crate::{Ctx, Function, Var};
use anyhow::{Result, ensure};
use lanes::{Merged, Product, Products, ReducedProducts, Scaled, Slope, Square, Whole};
use tch::{Kind, Tensor};
use whole::{WeightSlope, is_recorded};

/// `y = r w x` for each row `x` along the last dimension, with
/// `r = (mean(x^2) + eps)^(-1/2)`. For a row of `n` elements and
/// `s = mean(x w dy)`, `dx = r w dy - r^3 s x`; `dw` is the sum of `r x dy` over
/// all rows. (B. Zhang and R. Sennrich, arXiv:1910.07467.) The second derivative
/// is libtorch's of these formulas.
///
/// Inputs `(x, w)`, `w` of shape `[n]`; `y` has the dtype of `x`, as libtorch's. Values are
/// within 3 epsilon of the exact ones, relatively to them, for rows of any length; `dx`
/// within 4 epsilon of `r |w dy| + r^3 |x| mean(|x w dy|)`, and `dw` within 4 epsilon
/// of the sum of `r |x dy|`, for any number of rows. So they are where squares over- or
/// underflow, as long as `r` itself does not (in f32 up to 8e37). On the CPU, gradients that
/// are recorded and tangents are computed in f64; of f64 tensors, libtorch adds them up.
/// Floating-point inputs; dtypes and devices as [`Log1pExp`](super::Log1pExp).
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// A small number that keeps `r` finite for rows of zeros.
    pub eps: f64,
}

impl Function for RmsNorm {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("rms_norm")
    }

    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        let (rows, weight) = (x.size(), w.size());
        let fits = weight.len() == 1 && rows.last() == weight.first();
        ensure!(fits, "a weight of shape {weight:?} for {rows:?}; give one of the last dimension");
        ctx.save_for_backward([x, w])?;
        self.of_each(x, w)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        let dx = gradient(ctx, 0, || self.of_rows(x, w, dy))?;
        let dw = gradient(ctx, 1, || match is_recorded([x, dy]) {
            true => Ok(WeightSlope(*self).apply::<Tensor>((x, dy))?),
            false => self.of_weight(x, dy),
        })?;
        Ok((dx, dw))
    }

    fn jvp(
        &self,
        _: &Ctx,
        (x, w): (&Tensor, &Tensor),
        (dx, dw): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let kind = x.kind();
        let (x, w, dx, dw) = (exact(x)?, exact(w)?, exact(dx)?, exact(dw)?);
        let r = self.scales(&x)?;
        let normed = r.f_mul(&x)?;
        let along = normed.f_mul(&dx)?.f_mean_dim(-1, true, None)?;
        let change = dx.f_sub(&normed.f_mul(&along)?)?.f_mul(&r)?;
        Ok(change.f_mul(&w)?.f_add(&normed.f_mul(&dw)?)?.f_to_kind(kind)?)
    }
}

/// Number of elements of a partial sum of a weight's gradient, and the least number of rows.
const GROUP: i64 = 32_768;
const ROWS: i64 = 8;
/// Number of rows that are added in the vectors' registers.
const AT_ONCE: usize = 4;

impl RmsNorm {
    /// `r` of a row.
    fn scale<T: Lane>(&self, x: &[T]) -> f64 {
        let [squares] = simd::sum(&Product, [x, x]);
        let mean = squares / x.len() as f64;
        if self.holds::<T>(mean) {
            return (mean + self.eps).sqrt().recip();
        }
        let less = reduction(x);
        let [squares] = simd::sum(&Square { less }, [x]);
        self.scale_of(squares / x.len() as f64, less)
    }

    /// `r` of a row, and `r mean(x w dy)`.
    fn scale_and_dot<T: Lane>(&self, [x, w, dy]: [&[T]; 3]) -> (f64, f64) {
        let n = x.len() as f64;
        let [squares, dot] = simd::sum(&Products, [x, w, dy]);
        if self.holds::<T>(squares / n) && dot.is_finite() {
            let r = (squares / n + self.eps).sqrt().recip();
            return (r, r * (dot / n));
        }
        let less = reduction(x);
        let [squares, dot] = simd::sum(&ReducedProducts { less }, [x, w, dy]);
        let r = self.scale_of(squares / n, less);
        (r, r / less * (dot / n))
    }

    /// Returns whether squares of this mean have neither over- nor underflown.
    fn holds<T: Lane>(&self, mean: f64) -> bool {
        let least = if size_of::<T>() == 8 { 2f64.powi(-900) } else { 2f64.powi(-100) };
        mean < f64::INFINITY && mean.max(self.eps) > least
    }

    /// `r`, where `mean` is that of `(less x)^2`.
    fn scale_of(&self, mean: f64, less: f64) -> f64 {
        (mean.sqrt() / less).hypot(self.eps.sqrt()).recip()
    }

    fn values<T: Lane>(&self, x: &Tensor, w: &Tensor) -> crate::Result<Tensor> {
        alike([x, w])?;
        let y = kernel::rows::<[T; 2], T>([x, w], &[w.size()[0]], |[x, w], y| {
            simd::apply(&Scaled(self.scale(x)), [x, w], [y]);
        })?;
        Ok(if y.kind() == x.kind() { y } else { y.to_kind(x.kind()) })
    }

    fn slopes<T: Lane>(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> crate::Result<Tensor> {
        alike([x, w])?;
        kernel::rows::<[T; 3], T>([x, w, dy], &[w.size()[0]], |[x, w, dy], dx| {
            let (r, dot) = self.scale_and_dot([x, w, dy]);
            simd::apply(&Slope { r, dot }, [x, w, dy], [dx]);
        })
    }

    /// Sums over groups of rows, and over these.
    fn weight_slopes<T: Lane>(&self, x: &Tensor, dy: &Tensor) -> crate::Result<Tensor> {
        // Kernels make f32 of one f16 and one f32 tensor, which partial sums need.
        let dy = wide(dy);
        let n = *x.size().last().unwrap_or(&1);
        let each = (GROUP / n.max(1)).max(ROWS);
        let flat = |t: &Tensor| t.reshape([if n == 0 { 0 } else { -1 }, n]);
        let (x, dy) = (flat(x), flat(&dy));
        let whole = x.size()[0] / each;
        let sums = |from: i64, groups: i64, rows: i64| {
            let cut = |t: &Tensor| t.narrow(0, from, groups * rows).reshape([groups, rows * n]);
            kernel::rows::<[T; 2], [T; 2]>(
                [&cut(&x), &cut(&dy)],
                &[n, n],
                |[x, dy], [high, low]| {
                    let some = AT_ONCE * high.len().max(1);
                    for (x, dy) in x.chunks(some).zip(dy.chunks(some)) {
                        self.add_rows(x, dy, high, low);
                    }
                },
            )
        };
        let rest = x.size()[0] - whole * each;
        let [mut high, mut low] = sums(whole * each, 1, rest)?;
        if whole > 0 {
            let groups = sums(0, whole, each)?;
            [high, low] =
                [Tensor::cat(&[&groups[0], &high], 0), Tensor::cat(&[&groups[1], &low], 0)];
        }
        in_one(high, low)
    }

    /// Adds `r x dy` of a few rows.
    fn add_rows<T: Lane>(&self, x: &[T], dy: &[T], high: &mut [T], low: &mut [T]) {
        let n = high.len();
        if x.len() < AT_ONCE * n {
            for (x, dy) in x.chunks(n).zip(dy.chunks(n)) {
                simd::accumulate_exactly([Scaled(self.scale(x))], [[x, dy]], high, low);
            }
            return;
        }
        let rows: [[&[T]; 2]; AT_ONCE] = std::array::from_fn(|i| {
            let row = i * n..(i + 1) * n;
            [&x[row.clone()], &dy[row]]
        });
        simd::accumulate_exactly(rows.map(|[x, _]| Scaled(self.scale(x))), rows, high, low);
    }
}

/// The sum over all rows of `high + low`.
fn in_one(high: Tensor, low: Tensor) -> crate::Result<Tensor> {
    let mut sums = [high, low];
    let mut odd = Vec::new();
    while sums[0].size()[0] > 1 {
        let rows = sums[0].size()[0];
        let cut = |from, rows| sums.each_ref().map(|t| t.narrow(0, from, rows));
        if rows % 2 == 1 {
            odd.push(cut(rows - 1, 1));
        }
        sums = merged(&cut(0, rows / 2), &cut(rows / 2, rows / 2))?;
    }
    for odd in odd {
        sums = merged(&sums, &odd)?;
    }
    let [sum] = simd::map_with_own(&Whole, [&sums[0], &sums[1]])?;
    Ok(sum.squeeze_dim(0))
}

fn merged(a: &[Tensor; 2], b: &[Tensor; 2]) -> crate::Result<[Tensor; 2]> {
    simd::map_with_own(&Merged, [&a[0], &a[1], &b[0], &b[1]])
}

/// Returns a power of 2 that brings a row near 1, where its squares can be added.
fn reduction<T: Lane>(x: &[T]) -> f64 {
    let greatest = x.iter().map(|x| (*x).into().abs()).fold(0.0, f64::max);
    let most = if size_of::<T>() == 8 { 1000.0 } else { 120.0 };
    if greatest > 0.0 { (-greatest.log2().floor().clamp(-most, most)).exp2() } else { 1.0 }
}

/// Kernels run on tensors of f64, or on tensors of the other dtypes.
fn alike(x: [&Tensor; 2]) -> crate::Result<()> {
    if x[0].kind() == x[1].kind() || x.iter().all(|x| x.kind() != Kind::Double) {
        return Ok(());
    }
    Err(super::fused::not_ours("RmsNorm", "inputs of several dtypes"))
}

fn kind_of(x: [&Tensor; 2]) -> Kind {
    if x.iter().any(|x| x.kind() == Kind::Double) { Kind::Double } else { Kind::Float }
}

/// Computes in f32 at least.
fn wide(x: &Tensor) -> Tensor {
    match x.kind() {
        Kind::Half | Kind::BFloat16 => x.to_kind(Kind::Float),
        _ => x.shallow_clone(),
    }
}

impl Var {
    /// [`RmsNorm`] of rows along the last dimension.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message, and for
    /// a weight of another shape than the last dimension's.
    pub fn rms_norm(&self, weight: &Var, eps: f64) -> crate::Result<Var> {
        RmsNorm { eps }.apply((self, weight))
    }
}
