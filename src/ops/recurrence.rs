//! Linear recurrences along a dimension.

use super::gradient;
use crate::kernel::{self, Along, Float};
use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// `h_t = a_t h_(t-1) + b_t` along `dim`, for `t = 1, 2, ..`, from `h_0` on.
///
/// With `g_t = dL/dh_t + a_(t+1) g_(t+1)`, which is a recurrence in the other direction:
/// `dL/db_t = g_t`, `dL/da_t = g_t h_(t-1)`, `dL/dh_0 = a_1 g_1`. (The adjoint of a linear
/// recurrence: E. Martin and C. Cundy, arXiv:1709.04057.)
///
/// Inputs `(a, b, h_0)`: `a` and `b` broadcast, along `dim` too; `h_0`, 0 if it is `None`, has
/// their shape without `dim`, or broadcasts to it. Outputs all `h_t`, of the broadcast shape.
/// Values and gradients go along in f64 and are rounded once each; those that are recorded
/// are rounded after each of a few steps. Beside what rounding `g_t` to the dtype costs in
/// `dL/da_t` and `dL/dh_0`, no error grows with the length in f32, f16 and bf16.
///
/// ```
/// use tch::Tensor;
/// use tch_function::{Function, Var, grad, ops::LinearRecurrence};
///
/// let a = Var::leaf(Tensor::from_slice(&[0.5, 0.5, 2.0]));
/// let b = Var::leaf(Tensor::from_slice(&[1.0, 2.0, 3.0]));
/// let h = LinearRecurrence { dim: 0, reverse: false }.apply((&a, &b, None))?;
/// assert_eq!(Vec::<f64>::try_from(h.value())?, [1.0, 2.5, 8.0]);
/// let db = grad(&h.sum()?, &b)?;
/// assert_eq!(Vec::<f64>::try_from(db.value())?, [2.5, 3.0, 1.0]);
/// # anyhow::Ok(())
/// ```
///
/// Dtypes and devices as [`Log1pExp`](super::Log1pExp); where no kernel runs, the steps are
/// as many operators of libtorch's.
#[derive(Clone, Copy, Debug)]
pub struct LinearRecurrence {
    /// The dimension; -1 is the last one.
    pub dim: i64,
    /// Whether the last element comes first: `h_t = a_t h_(t+1) + b_t`.
    pub reverse: bool,
}

impl Function for LinearRecurrence {
    type Inputs = (Tensor, Tensor, Option<Tensor>);
    type Outputs = Tensor;

    fn forward(
        &self,
        ctx: &mut Ctx,
        (a, b, first): (&Tensor, &Tensor, Option<&Tensor>),
    ) -> Result<Tensor> {
        ctx.save_for_backward([a, b].into_iter().chain(first))?;
        let h = kernel::floats!(T of b => self.values::<T>(a, b, first));
        kernel::or_formula(h, || self.steps(a, b, first))
    }

    fn backward(
        &self,
        ctx: &Ctx,
        dh: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let saved = ctx.saved_tensors_vec()?;
        let (a, b, first) = (saved[0], saved[1], saved.get(2).copied());
        let g = adjoint(a, dh, self.along())?;
        let da = gradient(ctx, 0, || {
            let da = kernel::floats!(T of b => self.slopes::<T>(a, b, first, &g));
            kernel::or_formula(da, || {
                let h = self.apply((a, b, first))?;
                Ok(earlier(&h, first, self.along())?.f_conj()?.f_mul(&g)?)
            })
        })?;
        let dfirst = match first {
            Some(_) => gradient(ctx, 2, || first_of(a, &g, self.along()))?,
            None => None,
        };
        Ok((da, gradient(ctx, 1, || Ok(g))?, dfirst))
    }

    fn jvp(
        &self,
        _: &Ctx,
        (a, b, first): (&Tensor, &Tensor, Option<&Tensor>),
        (da, db, dfirst): (&Tensor, &Tensor, Option<&Tensor>),
    ) -> Result<Tensor> {
        let h = self.apply((a, b, first))?;
        let moved = earlier(&h, first, self.along())?.f_mul(da)?.f_add(db)?;
        Ok(self.apply((a, &moved, dfirst))?)
    }

    fn fake(
        &self,
        ctx: &mut Ctx,
        (a, b, first): (&Tensor, &Tensor, Option<&Tensor>),
    ) -> Result<Tensor> {
        ctx.save_for_backward([a, b].into_iter().chain(first))?;
        Ok(a.f_mul(b)?.f_contiguous()?)
    }
}

impl LinearRecurrence {
    fn along(&self) -> Along {
        Along { dim: self.dim, reverse: self.reverse }
    }

    fn values<T: Float>(
        &self,
        a: &Tensor,
        b: &Tensor,
        first: Option<&Tensor>,
    ) -> crate::Result<Tensor> {
        let step = |h: f64, (a, b): (T, T)| {
            let h = a.into() * h + b.into();
            (h, T::of(h))
        };
        match first {
            Some(h) => kernel::scan_from((a, b), self.along(), h, |h: T| h.into(), step),
            None => kernel::scan((a, b), self.along(), 0.0, step),
        }
    }

    /// The same, one step after the other.
    fn steps(&self, a: &Tensor, b: &Tensor, first: Option<&Tensor>) -> Result<Tensor> {
        let all = Tensor::f_broadcast_tensors(&[a, b])?;
        let step = |h: Option<&Tensor>, a: &Tensor, b: &Tensor| match h {
            Some(h) => a.f_mul(h)?.f_add(b),
            None => a.f_mul(&b.f_zeros_like()?)?.f_add(b),
        };
        if all[0].dim() == 0 {
            return Ok(step(first, a, b)?);
        }
        let length = all[0].size()[place(self.dim, all[0].dim())];
        if length == 0 {
            return Ok(all[0].f_mul(&all[1])?);
        }
        let mut states = Vec::new();
        for t in 0..length {
            let t = if self.reverse { length - 1 - t } else { t };
            let (a, b) = (all[0].f_select(self.dim, t)?, all[1].f_select(self.dim, t)?);
            states.push(step(states.last().or(first), &a, &b)?);
        }
        if self.reverse {
            states.reverse();
        }
        Ok(Tensor::f_stack(&states, self.dim)?)
    }

    /// `da`
    fn slopes<T: Float>(
        &self,
        a: &Tensor,
        b: &Tensor,
        first: Option<&Tensor>,
        g: &Tensor,
    ) -> crate::Result<Tensor> {
        let step = |h: f64, (a, b, g): (T, T, T)| (a.into() * h + b.into(), T::of(h * g.into()));
        match first {
            Some(h) => kernel::scan_from((a, b, g), self.along(), h, |h: T| h.into(), step),
            None => kernel::scan((a, b, g), self.along(), 0.0, step),
        }
    }
}

/// `g_t = dh_t + a_(t+1) g_(t+1)`, for a recurrence that goes `along`.
pub(super) fn adjoint(a: &Tensor, dh: &Tensor, along: Along) -> Result<Tensor> {
    let back = along.reversed();
    let g = kernel::floats!(T of dh => by_kernel::<T>(a, dh, back));
    return kernel::or_formula(g, || {
        let a = Tensor::f_broadcast_tensors(&[a, dh])?.swap_remove(0);
        let next = earlier(&a.f_conj()?, None, back)?;
        let Along { dim, reverse } = back;
        Ok(LinearRecurrence { dim, reverse }.apply((&next, dh, None))?)
    });

    fn by_kernel<T: Float>(a: &Tensor, dh: &Tensor, back: Along) -> crate::Result<Tensor> {
        kernel::scan((a, dh), back, 0.0, |later: f64, (a, dh): (T, T)| {
            let g = dh.into() + later;
            (a.into() * g, T::of(g))
        })
    }
}

/// What stands one step earlier; `first` in the first place, which has one dimension less, or
/// zeros.
pub(super) fn earlier(x: &Tensor, first: Option<&Tensor>, along: Along) -> Result<Tensor> {
    let Along { dim, reverse } = along;
    if x.dim() == 0 {
        return Ok(first.map_or_else(|| x.f_zeros_like(), |h| h.f_expand_as(x))?);
    }
    let length = x.size()[place(dim, x.dim())];
    if length == 0 {
        return Ok(x.shallow_clone());
    }
    let one = x.f_narrow(dim, 0, 1)?;
    let first = match first {
        // (A dtype that is wider than that of `x` would widen the result.)
        Some(h) => {
            h.f_to_kind(x.kind())?.f_expand_as(&one.f_squeeze_dim(dim)?)?.f_unsqueeze(dim)?
        }
        None => one.f_zeros_like()?,
    };
    let rest = x.f_narrow(dim, i64::from(reverse), length - 1)?;
    Ok(match reverse {
        false => Tensor::f_cat(&[first, rest], dim)?,
        true => Tensor::f_cat(&[rest, first], dim)?,
    })
}

/// `a_1 g_1`
fn first_of(a: &Tensor, g: &Tensor, along: Along) -> Result<Tensor> {
    let a = Tensor::f_broadcast_tensors(&[a, g])?.swap_remove(0).f_conj()?;
    if g.dim() == 0 {
        return Ok(a.f_mul(g)?);
    }
    let dim = along.dim;
    match g.size()[place(dim, g.dim())] {
        0 => Ok(g.f_sum_dim_intlist(dim, false, None)?),
        length => {
            let at = if along.reverse { length - 1 } else { 0 };
            Ok(a.f_select(dim, at)?.f_mul(&g.f_select(dim, at)?)?)
        }
    }
}

fn place(dim: i64, rank: usize) -> usize {
    dim.rem_euclid(rank as i64) as usize
}
