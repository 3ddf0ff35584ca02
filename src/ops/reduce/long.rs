//! Sums of so many numbers that libtorch's lose digits.

use super::keepdim_size;
use crate::kernel::simd::{self, Float, Lane, Lanes};
use crate::{Result, kernel};
use tch::{Kind, Tensor};

/// Of fewer elements, libtorch's sums are within 4 epsilon of the sum of magnitudes.
const LONG: i64 = 1 << 16;

/// The sum or the mean over `dims`; `None` where libtorch computes.
///
/// # Errors
/// Those of a kernel.
pub(super) fn long_sum(
    x: &Tensor,
    dims: &[i64],
    keepdim: bool,
    mean: bool,
) -> Result<Option<Tensor>> {
    // Sizes that are symbols must not be read.
    if !kernel::runs_on(x) || (x.numel() as i64) < LONG || !x.is_floating_point() {
        return Ok(None);
    }
    let size = x.size();
    // What libtorch refuses, it says.
    let Some(over) = reduced(&size, dims) else { return Ok(None) };
    let each: i64 = size.iter().zip(&over).filter(|(_, over)| **over).map(|(n, _)| n).product();
    if each < LONG {
        return Ok(None);
    }
    let count = if mean { each as f64 } else { 1.0 };
    let sums = if x.numel() as i64 == each {
        let [sum] = simd::sum_of(&Same, [x])?;
        Tensor::from(sum / count)
    } else {
        let rank = size.len();
        let (kept, reduced): (Vec<i64>, Vec<i64>) =
            (0..rank as i64).partition(|i| !over[*i as usize]);
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
    Ok(Some(sums.to_kind(x.kind()).reshape(shape)))
}

/// Whether each dimension is summed over; `None` if `dims` are not dimensions, each named once.
fn reduced(size: &[i64], dims: &[i64]) -> Option<Vec<bool>> {
    let rank = size.len() as i64;
    let mut over = vec![dims.is_empty(); size.len()];
    for dim in dims {
        let over =
            over.get_mut((-rank..rank).contains(dim).then(|| dim.rem_euclid(rank) as usize)?)?;
        if std::mem::replace(over, true) {
            return None;
        }
    }
    Some(over)
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
