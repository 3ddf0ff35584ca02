//! RMSNorm: rows scaled to a root mean square of 1.

use super::fused::elsewhere;
use super::gradient;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::{Float, Lane, Lanes};
use crate::kernel::{self, simd};
use crate::{Ctx, Error, Function, Var};
use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// `y = r w x` for each row `x` along the last dimension, with
/// `r = (mean(x^2) + eps)^(-1/2)`. For a row of `n` elements and
/// `s = mean(x w dy)`, `dx = r w dy - r^3 s x`; `dw` is the sum of `r x dy` over
/// all rows. (B. Zhang and R. Sennrich, arXiv:1910.07467.) The second derivative
/// is libtorch's of these formulas.
///
/// Inputs `(x, w)`, `w` of shape `[n]`. Values are within 3 epsilon of the exact
/// ones, relatively to them; `dx` and `dw` within 8 epsilon of the greatest term,
/// as long as the squares do not overflow (in f32 from 1.8e19 on).
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
        let done = match kind_of([x, w]) {
            Kind::Double => self.values::<f64>(x, w),
            _ => self.values::<f32>(x, w),
        };
        elsewhere(done, || {
            let (x_wide, w_wide) = (wide(x), wide(w));
            let y = x_wide.f_mul(&self.scales(&x_wide)?)?.f_mul(&w_wide)?;
            Ok(y.f_to_kind(promoted(x, w)?)?)
        })
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        let double = kind_of([x, w]) == Kind::Double;
        let dx = gradient(ctx, 0, || {
            let done = match double {
                true => self.slopes::<f64>(x, w, dy),
                false => self.slopes::<f32>(x, w, dy),
            };
            elsewhere(done, || self.slopes_formula(&wide(x), &wide(w), &wide(dy)))
        })?;
        let dw = gradient(ctx, 1, || {
            let done = match double {
                true => self.weight_slopes::<f64>(x, dy),
                false => self.weight_slopes::<f32>(x, dy),
            };
            elsewhere(done, || {
                let (x, dy) = (wide(x), wide(dy));
                // `gradient` sums over the rows.
                Ok(x.f_mul(&self.scales(&x)?)?.f_mul(&dy)?)
            })
        })?;
        Ok((dx, dw))
    }

    fn jvp(
        &self,
        _: &Ctx,
        (x, w): (&Tensor, &Tensor),
        (dx, dw): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let kind = promoted(x, w)?;
        let (x, w, dx, dw) = (wide(x), wide(w), wide(dx), wide(dw));
        let r = self.scales(&x)?;
        let along = r.pow_number(3)?.f_mul(&x.f_mul(&dx)?.f_mean_dim(-1, true, None)?)?;
        let normed = r.f_mul(&dx)?.f_sub(&along.f_mul(&x)?)?;
        Ok(normed.f_mul(&w)?.f_add(&r.f_mul(&x)?.f_mul(&dw)?)?.f_to_kind(kind)?)
    }
}

/// Number of elements of a partial sum of a weight's gradient.
const GROUP: i64 = 32_768;

impl RmsNorm {
    /// `r` of a row.
    fn scale<T: Lane>(&self, x: &[T]) -> f64 {
        let [squares] = simd::sum(&Product, [x, x]);
        (squares / x.len() as f64 + self.eps).sqrt().recip()
    }

    fn values<T: Lane>(&self, x: &Tensor, w: &Tensor) -> crate::Result<Tensor> {
        alike([x, w])?;
        kernel::rows::<[T; 2], T>([x, w], &[w.size()[0]], |[x, w], y| {
            simd::apply(&Scaled(self.scale(x)), [x, w], [y]);
        })
    }

    fn slopes<T: Lane>(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> crate::Result<Tensor> {
        alike([x, w])?;
        kernel::rows::<[T; 3], T>([x, w, dy], &[w.size()[0]], |[x, w, dy], dx| {
            let [squares, dot] = simd::sum(&Products, [x, w, dy]);
            let r = (squares / x.len() as f64 + self.eps).sqrt().recip();
            let along = r * r * r * dot / x.len() as f64;
            simd::apply(&Slope { r, along }, [x, w, dy], [dx]);
        })
    }

    /// Sums over groups of rows, and over these.
    fn weight_slopes<T: Lane>(&self, x: &Tensor, dy: &Tensor) -> crate::Result<Tensor> {
        // Kernels make f32 of one f16 and one f32 tensor, which partial sums need.
        let dy = wide(dy);
        let n = *x.size().last().unwrap_or(&1);
        let each = (GROUP / n.max(1)).max(1);
        let flat = |t: &Tensor| t.reshape([if n == 0 { 0 } else { -1 }, n]);
        let (x, dy) = (flat(x), flat(&dy));
        let whole = x.size()[0] / each;
        let sums = |from: i64, groups: i64, rows: i64| {
            let cut = |t: &Tensor| t.narrow(0, from, groups * rows).reshape([groups, rows * n]);
            kernel::rows::<[T; 2], T>([&cut(&x), &cut(&dy)], &[n], |[x, dy], dw| {
                let n = dw.len().max(1);
                for (x, dy) in x.chunks(n).zip(dy.chunks(n)) {
                    simd::accumulate(&Scaled(self.scale(x)), [x, dy], dw);
                }
            })
        };
        let rest = x.size()[0] - whole * each;
        let parts = [sums(0, whole, each)?, sums(whole * each, 1, rest)?];
        Ok(Tensor::cat(&parts, 0).sum_dim_intlist(0, false, None))
    }

    /// `r` of each row.
    fn scales(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_square()?.f_mean_dim(-1, true, None)?.add_number(self.eps)?.f_rsqrt()?)
    }

    fn slopes_formula(&self, x: &Tensor, w: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let (r, dy) = (self.scales(x)?, dy.f_mul(w)?);
        let along = r.pow_number(3)?.f_mul(&x.f_mul(&dy)?.f_mean_dim(-1, true, None)?)?;
        Ok(r.f_mul(&dy)?.f_sub(&along.f_mul(x)?)?)
    }
}

/// Kernels take tensors of one dtype, and make one of the same.
fn alike(x: [&Tensor; 2]) -> crate::Result<()> {
    if x[0].kind() == x[1].kind() {
        return Ok(());
    }
    let message = format!("dtypes {:?} and {:?}; give one", x[0].kind(), x[1].kind());
    Err(Error::Argument { op: "RmsNorm", message })
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

/// The dtype of a product.
fn promoted(x: &Tensor, w: &Tensor) -> Result<Kind> {
    Ok(x.f_narrow(-1, 0, 0)?.f_mul(&w.f_narrow(0, 0, 0)?)?.kind())
}

struct Product;

impl Lanes<2, 1> for Product {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b]: [V; 2]) -> [V; 1] {
        [a * b]
    }
}

struct Products;

impl Lanes<3, 2> for Products {
    #[inline(always)]
    fn call<V: Float>(&self, [x, w, dy]: [V; 3]) -> [V; 2] {
        [x * x, x * (w * dy)]
    }
}

/// `r a b`
struct Scaled(f64);

impl Lanes<2, 1> for Scaled {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b]: [V; 2]) -> [V; 1] {
        [a * self.0 * b]
    }
}

struct Slope {
    r: f64,
    along: f64,
}

impl Lanes<3, 1> for Slope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, w, dy]: [V; 3]) -> [V; 1] {
        [w * dy * self.r - x * self.along]
    }
}

impl Var {
    /// [`RmsNorm`] of rows along the last dimension.
    ///
    /// # Errors
    /// [`Error::Forward`] with libtorch's message, and for
    /// a weight of another shape than the last dimension's.
    pub fn rms_norm(&self, weight: &Var, eps: f64) -> crate::Result<Var> {
        RmsNorm { eps }.apply((self, weight))
    }
}
