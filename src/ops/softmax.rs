//! Probabilities from scores. On the CPU kernels compute long rows, whose sums would lose digits
//! otherwise.

use crate::ffi::{self, modes::is_mode_on};
use crate::kernel::simd::{self, Float, Lane, Lanes};
use crate::{Ctx, Function, kernel};
use anyhow::Result;
use tch::{Kind, Tensor};

/// `y_i = e^(x_i) / sum_j e^(x_j)` along `dim`;
/// `dL/dx_i = y_i (dL/dy_i - sum_j y_j dL/dy_j)`.
///
/// On the CPU `y` is within 4 epsilon of the exact value, relatively to it, and the gradient
/// within 4 epsilon of its terms' magnitudes, for rows of any length.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    /// The dimension along which `y` sums to 1.
    pub dim: i64,
}

impl Function for Softmax {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("softmax.int")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let long = Long { dim: self.dim, log: false };
        let y = match long.values(x)? {
            Some(y) => y,
            None => x.f_softmax(self.dim, None)?,
        };
        ctx.save_for_backward([&y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(Long { dim: self.dim, log: false }.slope(y, dy)?))
    }
}

/// `y_i = x_i - log sum_j e^(x_j)` along `dim`, without overflow;
/// `dL/dx_i = dL/dy_i - e^(y_i) sum_j dL/dy_j`.
///
/// On the CPU `y` is within 4 epsilon of `|x_i|` and the logarithm of the sum, so not relatively to
/// a `y` next to 0; the gradient is as accurate as that of [`Softmax`].
#[derive(Clone, Copy, Debug)]
pub struct LogSoftmax {
    /// The dimension along which `e^y` sums to 1.
    pub dim: i64,
}

impl Function for LogSoftmax {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("log_softmax.int")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let long = Long { dim: self.dim, log: true };
        let y = match long.values(x)? {
            Some(y) => y,
            None => x.f_log_softmax(self.dim, None)?,
        };
        ctx.save_for_backward([&y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(Long { dim: self.dim, log: true }.slope(y, dy)?))
    }
}

/// The least length of rows whose sums kernels compute.
const LONG: i64 = 512;

/// The two ops on long rows; as a Function, the gradient of `x` from `y` and `dy`, for second
/// derivatives: so a recorded gradient has the bits of a plain one.
#[derive(Clone, Copy)]
struct Long {
    dim: i64,
    log: bool,
}

impl Long {
    /// `y`, of long rows.
    fn values(self, x: &Tensor) -> crate::Result<Option<Tensor>> {
        let Some(n) = self.length([x]) else { return Ok(None) };
        match x.kind() {
            Kind::Double => self.values_of::<f64>(x, n),
            _ => self.values_of::<f32>(x, n),
        }
        .map(Some)
    }

    fn values_of<T: Lane>(self, x: &Tensor, n: i64) -> crate::Result<Tensor> {
        let y = kernel::rows::<T, T>(&x.movedim_int(self.dim, -1), &[n], |x, y| {
            let max: f64 = simd::max(x).into();
            let [sum] = simd::sum(&Power { max, factor: 1.0 }, [x]);
            match self.log {
                false => simd::apply(&Power { max, factor: 1.0 / sum }, [x], [y]),
                true => simd::apply(&Below { max, log: sum.ln() }, [x], [y]),
            }
        })?;
        Ok(self.back(&y, x.kind()))
    }

    /// `dx`
    fn slope(self, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let is_recorded = ffi::grad_enabled() && (y.requires_grad() || dy.requires_grad());
        if is_recorded && !is_mode_on() && self.length([&y.detach(), &dy.detach()]).is_some() {
            return Ok(self.apply::<Tensor>((y, dy))?);
        }
        Ok(match (self.length([y, dy]), y.kind(), self.log) {
            (Some(n), Kind::Double, _) => self.slope_of::<f64>(y, dy, n)?,
            (Some(n), ..) => self.slope_of::<f32>(y, dy, n)?,
            (None, kind, false) => Tensor::f_internal_softmax_backward_data(dy, y, self.dim, kind)?,
            (None, kind, true) => {
                Tensor::f_internal_log_softmax_backward_data(dy, y, self.dim, kind)?
            }
        })
    }

    fn slope_of<T: Lane>(self, y: &Tensor, dy: &Tensor, n: i64) -> crate::Result<Tensor> {
        let [last_y, last_dy] = [y, dy].map(|t| t.movedim_int(self.dim, -1));
        let dx = kernel::rows::<[T; 2], T>([&last_y, &last_dy], &[n], |[y, dy], dx| {
            if self.log {
                let [sum] = simd::sum(&Same, [dy]);
                simd::apply(&LessPower { sum }, [y, dy], [dx]);
            } else {
                let [dot] = simd::sum(&Times { less: 0.0 }, [y, dy]);
                simd::apply(&Times { less: dot }, [y, dy], [dx]);
            }
        })?;
        Ok(self.back(&dx, y.kind()))
    }

    /// The length of the rows, if kernels compute them.
    fn length<const N: usize>(self, x: [&Tensor; N]) -> Option<i64> {
        let fits =
            |t: &&Tensor| kernel::runs_on(t) && t.is_floating_point() && t.kind() == x[0].kind();
        if !x.iter().all(fits) {
            return None;
        }
        let size = x[0].size();
        let last = size.len() as i64;
        let dim = (-last..last).contains(&self.dim).then(|| self.dim.rem_euclid(last))?;
        let n = size[dim as usize];
        (n >= LONG && x.iter().all(|x| x.size() == size)).then_some(n)
    }

    fn back(self, y: &Tensor, kind: Kind) -> Tensor {
        y.movedim_int(-1, self.dim).contiguous().to_kind(kind)
    }
}

impl Function for Long {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (y, dy): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([y, dy])?;
        self.slope(y, dy)
    }

    /// With the gradient `g` of `dx`: of `y (dy - sum y dy)` they are `g (dy - sum y dy) - dy sum y
    /// g` and `y (g - sum y g)`; of `dy - e^y sum dy`, `-g e^y sum dy` and `g - sum e^y g`.
    fn backward(&self, ctx: &Ctx, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [y, dy] = ctx.saved_tensors()?;
        let sum = |t: &Tensor| t.f_sum_dim_intlist(self.dim, true, None);
        if self.log {
            let power = g.f_mul(&y.f_exp()?)?;
            let of_y = super::gradient(ctx, 0, || Ok(power.f_mul(&sum(dy)?)?.f_neg()?))?;
            return Ok((of_y, super::gradient(ctx, 1, || Ok(g.f_sub(&sum(&power)?)?))?));
        }
        let along = sum(&y.f_mul(g)?)?;
        let of_y = super::gradient(ctx, 0, || {
            let rest = dy.f_sub(&sum(&y.f_mul(dy)?)?)?;
            Ok(g.f_mul(&rest)?.f_sub(&dy.f_mul(&along)?)?)
        })?;
        Ok((of_y, super::gradient(ctx, 1, || Ok(y.f_mul(&g.f_sub(&along)?)?))?))
    }

    fn name(&self) -> &'static str {
        if self.log { "LogSoftmax" } else { "Softmax" }
    }
}

/// `x - max`, and what the difference was rounded by.
#[inline(always)]
fn below<V: Float>(x: V, max: f64) -> (V, V) {
    let (difference, lost) = simd::add(x, x.of(-max));
    // What infinity lost is NaN.
    (difference, V::select(lost.eq(lost), lost, x.of(0.0)))
}

/// `factor e^(x - max)`
struct Power {
    max: f64,
    factor: f64,
}

impl Lanes<1, 1> for Power {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        let (difference, lost) = below(x, self.max);
        [difference.exp_with_rest(lost) * self.factor]
    }
}

/// `x - max - log`
struct Below {
    max: f64,
    log: f64,
}

impl Lanes<1, 1> for Below {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        let (difference, lost) = below(x, self.max);
        [difference - self.log + lost]
    }
}

/// `y (dy - less)`
struct Times {
    less: f64,
}

impl Lanes<2, 1> for Times {
    #[inline(always)]
    fn call<V: Float>(&self, [y, dy]: [V; 2]) -> [V; 1] {
        [y * (dy - self.less)]
    }
}

/// `dy - e^y sum`
struct LessPower {
    sum: f64,
}

impl Lanes<2, 1> for LessPower {
    #[inline(always)]
    fn call<V: Float>(&self, [y, dy]: [V; 2]) -> [V; 1] {
        [dy - y.exp() * self.sum]
    }
}

struct Same;

impl Lanes<1, 1> for Same {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; 1]) -> [V; 1] {
        x
    }
}

super::methods! {
    /// [`Softmax`] along `dim`.
    softmax(self, dim: i64) => Softmax { dim };
    /// [`LogSoftmax`] along `dim`.
    log_softmax(self, dim: i64) => LogSoftmax { dim };
}
