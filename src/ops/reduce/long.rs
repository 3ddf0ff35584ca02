//! Sums of so many numbers that libtorch's lose digits.

use super::keepdim_size;
use crate::kernel::simd::{self, Float, Lane, Lanes};
use crate::ops::fused::not_ours;
use crate::{Result, kernel};
use tch::{Kind, Tensor};

/// Of fewer elements, libtorch's sums are within 4 epsilon of the sum of magnitudes.
const LONG: i64 = 1 << 16;

/// The sum or the mean over `dims`.
///
/// # Errors
/// [`NoKernel`](crate::Error::NoKernel) where libtorch computes.
pub(super) fn long_sum(x: &Tensor, dims: &[i64], keepdim: bool, mean: bool) -> Result<Tensor> {
    let refused = || not_ours("Sum", "a sum of few elements");
    if !kernel::runs_on(x) || !x.is_floating_point() || (x.numel() as i64) < LONG {
        return Err(refused());
    }
    let size = x.size();
    let rank = size.len() as i64;
    let mut over = vec![dims.is_empty(); size.len()];
    for dim in dims {
        // What libtorch refuses, it says.
        if !(-rank..rank).contains(dim) || over[dim.rem_euclid(rank) as usize] {
            return Err(refused());
        }
        over[dim.rem_euclid(rank) as usize] = true;
    }
    let each: i64 = size.iter().zip(&over).filter(|(_, over)| **over).map(|(n, _)| n).product();
    if each < LONG {
        return Err(refused());
    }
    let count = if mean { each as f64 } else { 1.0 };
    let sums = if x.numel() as i64 == each {
        let [sum] = simd::sum_of(&Same, [x])?;
        Tensor::from(sum / count)
    } else {
        let (kept, reduced): (Vec<i64>, Vec<i64>) = (0..rank).partition(|i| !over[*i as usize]);
        let rows = x.permute([kept, reduced].concat()).reshape([-1, each]);
        match x.kind() {
            Kind::Double => sums::<f64>(&rows, count)?,
            _ => sums::<f32>(&rows, count)?,
        }
    };
    let mut shape = keepdim_size(&size, dims);
    if !keepdim {
        shape = size.iter().zip(&over).filter(|(_, over)| !**over).map(|(n, _)| *n).collect();
    }
    Ok(sums.to_kind(x.kind()).reshape(shape))
}

fn sums<T: Lane>(rows: &Tensor, count: f64) -> Result<Tensor> {
    kernel::rows::<T, f64>(rows, &[1], |x, y| {
        let [sum] = simd::sum(&Same, [x]);
        y[0] = sum / count;
    })
}

struct Same;

impl Lanes<1, 1> for Same {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; 1]) -> [V; 1] {
        x
    }
}
