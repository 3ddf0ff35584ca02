//! Reductions over all dimensions or some.
//!
//! `dims` may be negative (counted from the last dimension) and empty (all
//! dimensions); `keepdim` keeps reduced dimensions with size 1.

mod long;

use crate::ffi::WithScalar as _;
use crate::{Ctx, Function, Var};
use anyhow::Result;
use long::long_sum;
use tch::Tensor;

/// `y = sum of x` over `dims`; `dy/dx = 1`.
///
/// Integers and booleans are summed as int64. On the CPU `y` is within 4 epsilon of the sum of
/// magnitudes, for any number of elements.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// The dimensions summed over; all if empty.
    pub dims: Vec<i64>,
    /// Whether to keep them with size 1.
    pub keepdim: bool,
}

impl Function for Sum {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn autocast(&self) -> crate::function::Autocast {
        crate::function::Autocast::Wide("sum")
    }

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        match long_sum(x, &self.dims, self.keepdim, false)? {
            Some(y) => Ok(y),
            None => Ok(x.f_sum_dim_intlist(&self.dims[..], self.keepdim, None)?),
        }
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let size = ctx.input_size(0)?;
        let dy = dy.f_reshape(keepdim_size(size, &self.dims))?;
        Ok(Some(dy.f_expand(size, false)?))
    }
}

/// `y = mean of x` over `dims`; `dy/dx = 1 / n` for `n` elements.
///
/// Floating-point or complex inputs; the mean of nothing is NaN. As accurate as [`Sum`].
#[derive(Clone, Debug, Default)]
pub struct Mean {
    /// The dimensions averaged over; all if empty.
    pub dims: Vec<i64>,
    /// Whether to keep them with size 1.
    pub keepdim: bool,
}

impl Function for Mean {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        match long_sum(x, &self.dims, self.keepdim, true)? {
            Some(y) => Ok(y),
            None => Ok(x.f_mean_dim(&self.dims[..], self.keepdim, None)?),
        }
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let size = ctx.input_size(0)?;
        let kept = keepdim_size(size, &self.dims);
        let reduced = size.iter().zip(&kept).filter(|(_, k)| **k == 1);
        let n: i64 = reduced.map(|(s, _)| s).product();
        Ok(Some(dy.div_number(n)?.f_reshape(kept)?.f_expand(size, false)?))
    }
}

/// Stamps `Amax` and `Amin`.
macro_rules! extremum_of_dims {
    ($(#[$doc:meta])* $Op:ident, $method:ident: $forward:ident) => {
        $(#[$doc])*
        ///
        /// Elements that tie share the gradient evenly.
        #[derive(Clone, Debug, Default)]
        pub struct $Op {
            /// The dimensions reduced; all if empty.
            pub dims: Vec<i64>,
            /// Whether to keep them with size 1.
            pub keepdim: bool,
        }

        impl Function for $Op {
            type Inputs = Tensor;
            type Outputs = Tensor;

            fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
                let y = x.$forward(&self.dims[..], self.keepdim)?;
                ctx.save_for_backward([x, &y])?;
                Ok(y)
            }

            fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
                let [x, y] = ctx.saved_tensors()?;
                let kept = keepdim_size(ctx.input_size(0)?, &self.dims);
                Ok(Some(share(&self.dims, x, &y.f_reshape(&kept[..])?, &dy.f_reshape(&kept[..])?)?))
            }
        }

        $crate::ops::methods! {
            #[doc = concat!("[`", stringify!($Op), "`] over `dims`, all if empty; ties share the gradient.")]
            $method(self, dims: &[i64], keepdim: bool) => $Op { dims: dims.to_vec(), keepdim };
        }
    };
}
extremum_of_dims! {
    /// `y = max of x` over `dims`; the gradient goes to the greatest element.
    Amax, amax: f_amax
}
extremum_of_dims! {
    /// `y = min of x` over `dims`; the gradient goes to the least element.
    Amin, amin: f_amin
}

/// `dy` to the elements of `x` that equal `y`, in equal parts.
fn share(dims: &[i64], x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let chosen = x.f_eq_tensor(y)?;
    let ties = chosen.f_sum_dim_intlist(dims, true, None)?;
    Ok(dy.f_mul(&chosen)?.f_div(&ties)?)
}

/// Stamps `Max` and `Min`.
macro_rules! extremum_of_dim {
    ($(#[$doc:meta])* $Op:ident, $method:ident: $forward:ident) => {
        $(#[$doc])*
        ///
        /// Outputs `(values, indices)`. The gradient of a value goes to the
        /// element that `indices` (int64, no gradient) names, ties or not.
        #[derive(Clone, Copy, Debug)]
        pub struct $Op {
            /// The dimension reduced.
            pub dim: i64,
            /// Whether to keep it with size 1.
            pub keepdim: bool,
        }

        impl Function for $Op {
            type Inputs = Tensor;
            type Outputs = (Tensor, Tensor);

            fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
                ctx.set_materialize_grads(false);
                let (values, indices) = x.$forward(self.dim, self.keepdim)?;
                ctx.save_for_backward([&indices])?;
                Ok((values, indices))
            }

            fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
                let [indices] = ctx.saved_tensors()?;
                let size = ctx.input_size(0)?;
                let kept = keepdim_size(size, &[self.dim]);
                let (indices, dy) = (indices.f_reshape(&kept[..])?, dy.f_reshape(&kept[..])?);
                let zeros = dy.f_new_zeros(size, (dy.kind(), dy.device()))?;
                Ok(Some(zeros.f_scatter(self.dim, &indices, &dy)?))
            }
        }

        impl Var {
            #[doc = concat!("[`", stringify!($Op), "`] over one dimension: the values and their indices.")]
            ///
            /// # Errors
            /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
            pub fn $method(&self, dim: i64, keepdim: bool) -> crate::Result<(Var, Var)> {
                $Op { dim, keepdim }.apply(self)
            }
        }
    };
}
extremum_of_dim! {
    /// The greatest element over one dimension, and where it is.
    Max, max_dim: f_max_dim
}
extremum_of_dim! {
    /// The least element over one dimension, and where it is.
    Min, min_dim: f_min_dim
}

super::methods! {
    /// [`Sum`] of all elements.
    sum(self) => Sum::default();
    /// [`Sum`] over `dims`, all if empty.
    sum_dim(self, dims: &[i64], keepdim: bool) => Sum { dims: dims.to_vec(), keepdim };
    /// [`Mean`] of all elements.
    mean(self) => Mean::default();
    /// [`Mean`] over `dims`, all if empty.
    mean_dim(self, dims: &[i64], keepdim: bool) => Mean { dims: dims.to_vec(), keepdim };
}

/// `size` after a reduction over `dims` with `keepdim`. The dimensions are
/// valid: `forward` used them. (A scalar has none, and libtorch lets 0 and -1
/// name it.)
fn keepdim_size(size: &[i64], dims: &[i64]) -> Vec<i64> {
    let mut kept = size.to_vec();
    if dims.is_empty() || size.is_empty() {
        kept.fill(1);
        return kept;
    }
    for dim in dims {
        kept[dim.rem_euclid(size.len() as i64) as usize] = 1;
    }
    kept
}
