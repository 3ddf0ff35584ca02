//! Sums and products of all elements up to each one.

use super::fused::exact;
use super::recurrence::{adjoint, earlier};
use super::{LinearRecurrence, ToKind};
use crate::kernel::{self, Along, Float};
use crate::{Ctx, Function, Vmap};
use anyhow::Result;
use tch::Tensor;

/// `y_t = x_1 + .. + x_t` along `dim`; `dL/dx_t` is the sum of `dL/dy_s` from `s = t` on: the
/// same op in the other direction.
///
/// Sums are added up in f64, and rounded once each. Integers and booleans are summed as
/// int64. Dtypes and devices as [`Log1pExp`](super::Log1pExp), and complex numbers.
#[derive(Clone, Copy, Debug)]
pub struct CumulativeSum {
    /// The dimension; -1 is the last one.
    pub dim: i64,
    /// Whether the last element comes first.
    pub reverse: bool,
}

impl Function for CumulativeSum {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("cumsum")
    }

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let Self { dim, reverse } = *self;
        let y = kernel::floats!(T of x => sums::<T>(x, Along { dim, reverse }));
        kernel::or_formula(y, || turned(x, dim, reverse, |x| x.f_cumsum(dim, None)))
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(CumulativeSum { reverse: !self.reverse, ..*self }.apply(dy)?))
    }

    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(self.apply(dx)?)
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

fn sums<T: Float>(x: &Tensor, along: Along) -> crate::Result<Tensor> {
    kernel::scan(x, along, 0.0, |sum: f64, x: T| (sum + x.into(), T::of(sum + x.into())))
}

/// `y_t = x_1 x_2 .. x_t` along `dim`. With `g_t = dL/dy_t + x_(t+1) g_(t+1)`,
/// `dL/dx_t = y_(t-1) g_t`: no division, so it is right where elements are 0 as well, to any
/// order.
///
/// Products are multiplied in f64, and rounded once each. Integers and booleans are
/// multiplied as int64. Dtypes and devices as [`Log1pExp`](super::Log1pExp), and complex
/// numbers.
#[derive(Clone, Copy, Debug)]
pub struct CumulativeProduct {
    /// The dimension; -1 is the last one.
    pub dim: i64,
    /// Whether the last element comes first.
    pub reverse: bool,
}

impl Function for CumulativeProduct {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("cumprod")
    }

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        let y = kernel::floats!(T of x => products::<T>(x, self.along()));
        kernel::or_formula(y, || turned(x, self.dim, self.reverse, |x| x.f_cumprod(self.dim, None)))
    }

    // Products of some factors may be beyond the dtype where those of all are not.
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let (wide, dy) = (exact(x)?, exact(dy)?);
        let g = adjoint(&wide, &dy, self.along())?;
        let dx = kernel::floats!(T of &wide => slopes::<T>(&wide, &g, self.along()));
        let dx = kernel::or_formula(dx, || Ok(self.before(&wide)?.f_conj()?.f_mul(&g)?))?;
        back(dx, x).map(Some)
    }

    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        let (wide, dx) = (exact(x)?, exact(dx)?);
        let moved = self.before(&wide)?.f_mul(&dx)?;
        let Self { dim, reverse } = *self;
        back(LinearRecurrence { dim, reverse }.apply((&wide, &moved, None))?, x)
    }
}

/// `t` in the dtype of `like`.
fn back(t: Tensor, like: &Tensor) -> Result<Tensor> {
    match t.kind() == like.kind() {
        true => Ok(t),
        false => Ok(ToKind { kind: like.kind() }.apply::<Tensor>(&t)?),
    }
}

impl CumulativeProduct {
    fn along(&self) -> Along {
        Along { dim: self.dim, reverse: self.reverse }
    }

    /// `y_(t-1)`, 1 in the first place.
    fn before(&self, x: &Tensor) -> Result<Tensor> {
        let one = Tensor::f_ones([0i64; 0], (x.kind(), x.device()))?;
        earlier(&self.apply(x)?, Some(&one), self.along())
    }
}

fn products<T: Float>(x: &Tensor, along: Along) -> crate::Result<Tensor> {
    kernel::scan(x, along, 1.0, |product: f64, x: T| {
        let product = product * x.into();
        (product, T::of(product))
    })
}

fn slopes<T: Float>(x: &Tensor, g: &Tensor, along: Along) -> crate::Result<Tensor> {
    let step = |product: f64, (x, g): (T, T)| (product * x.into(), T::of(product * g.into()));
    kernel::scan((x, g), along, 1.0, step)
}

/// `f` of `x`, or of `x` turned round, and back.
fn turned(
    x: &Tensor,
    dim: i64,
    reverse: bool,
    f: impl Fn(&Tensor) -> Result<Tensor, tch::TchError>,
) -> Result<Tensor> {
    Ok(match reverse && x.dim() > 0 {
        true => f(&x.f_flip([dim])?)?.f_flip([dim])?,
        false => f(x)?,
    })
}

super::methods! {
    /// [`CumulativeSum`] along `dim`, from the first element on.
    cumsum(self, dim: i64) => CumulativeSum { dim, reverse: false };
    /// [`CumulativeProduct`] along `dim`, from the first element on.
    cumprod(self, dim: i64) => CumulativeProduct { dim, reverse: false };
}
