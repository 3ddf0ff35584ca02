//! Dimensions: their sizes, strides and order.

use super::layout::Operand;
use crate::ffi::memory::Memory;
use crate::{Error, Result};
use smallvec::SmallVec;

/// Returns the size and the stride of `x` in each of `rank` dimensions, of which it may lack
/// the first ones: 1, and 0 where the size is 1.
pub(super) fn own_dims(x: &Operand<'_>, rank: usize) -> impl Fn(usize) -> (usize, usize) {
    let Memory { sizes, strides, .. } = x.memory;
    let missing = rank - sizes.len();
    move |dim| match dim.checked_sub(missing) {
        Some(own) if sizes[own] != 1 => (sizes[own] as usize, strides[own] as usize),
        _ => (1, 0),
    }
}

/// The strides of a contiguous tensor.
pub(super) fn contiguous(sizes: &[i64]) -> SmallVec<[usize; 4]> {
    let mut strides = SmallVec::<[usize; 4]>::from_elem(1, sizes.len());
    for dim in (1..sizes.len()).rev() {
        strides[dim - 1] = strides[dim].saturating_mul(sizes[dim] as usize);
    }
    strides
}

/// Returns dimension `dim` of `rank` as a place, where -1 is the last one; a tensor without
/// dimensions has one of one element.
pub(super) fn place_of(op: &'static str, dim: i64, rank: usize) -> Result<usize> {
    let rank = rank.max(1) as i64;
    if (-rank..rank).contains(&dim) {
        return Ok(dim.rem_euclid(rank) as usize);
    }
    let message = format!("dimension {dim} of {rank}; give one from {} to {}", -rank, rank - 1);
    Err(Error::Argument { op, message })
}

pub(super) fn count_of(op: &'static str, sizes: &[i64]) -> Result<usize> {
    if sizes.contains(&0) {
        return Ok(0);
    }
    let product = sizes.iter().try_fold(1usize, |n, size| n.checked_mul(*size as usize));
    product.filter(|n| *n < isize::MAX as usize / 8).ok_or_else(|| Error::Argument {
        op,
        message: format!("shape {sizes:?} has more elements than memory can"),
    })
}

/// Dimensions from the greatest stride to the least.
pub(super) fn order(sizes: &[i64], strides: Option<&[i64]>) -> SmallVec<[usize; 4]> {
    let mut order: SmallVec<[usize; 4]> = (0..sizes.len()).collect();
    if let Some(strides) = strides {
        order.sort_by_key(|&dim| std::cmp::Reverse(strides[dim]));
    }
    order
}
