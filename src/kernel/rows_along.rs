//! [`rows_along`]: a closure on every row along other dimensions than the last one.

use super::dims::{contiguous, count_of, own_dims, place_of};
use super::elements::{Elements, output_dtype, stored};
use super::elementwise::{GRAIN, finish, operands};
use super::layout::{Operand, Operands, Role};
use super::refusals::{nothing, shape};
use super::view::{Place, Work, drive};
use super::walk::Walk;
use crate::ffi::memory;
use crate::{Error, Result};
use smallvec::SmallVec;
use std::marker::PhantomData;

/// Does what [`rows`](super::rows()) does, where a row lies along any dimension, or along
/// several: then it has their elements in row-major order. All dimensions if `dims` is empty;
/// -1 is the last one.
///
/// `lengths` has the form of `R`, so their number is compared when this is compiled: for each
/// output the length of its rows. With -1 they are as long as the longest rows of the inputs,
/// and have their sizes; along several dimensions a length is that or 1. Reduced dimensions
/// are kept, with size 1.
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_function::kernel;
///
/// // Each channel of [N, C, H, W] less its mean, and the means.
/// let x = Tensor::arange(12, (Kind::Double, tch::Device::Cpu)).reshape([2, 3, 1, 2]);
/// let (y, mean) = kernel::rows_along::<f64, (f64, f64)>(&x, &[0, 2, 3], (-1, 1), |x, (y, mean)| {
///     mean[0] = x.iter().sum::<f64>() / x.len() as f64;
///     y.iter_mut().zip(x).for_each(|(y, x)| *y = x - mean[0]);
/// })?;
/// assert_eq!((y.size(), mean.size()), (vec![2, 3, 1, 2], vec![1, 3, 1, 1]));
/// assert_eq!(Vec::<f64>::try_from(mean.flatten(0, 3))?, [3.5, 5.5, 7.5]);
/// # anyhow::Ok(())
/// ```
///
/// The wrong number of lengths does not compile:
///
/// ```compile_fail,E0308
/// # use tch_function::kernel;
/// # let x = tch::Tensor::from(1.0);
/// kernel::rows_along::<f64, (f64, f64)>(&x, &[0], -1, |x, (y, mean)| ());
/// ```
///
/// Dimensions that an input lacks, counted from the last one, have size 1 in it. The
/// dimensions besides `dims` broadcast; along `dims` each input has its own sizes, so a row
/// may be shorter than that of another input. Outputs are contiguous. Rows that do not
/// follow one another in memory are gathered, and scattered, one by one.
///
/// # Errors
/// As [`map`](super::map); [`Error::Argument`] for a dimension that is not there or is given
/// twice, and for a length that rows along several dimensions cannot have.
pub fn rows_along<A: Elements, R: Elements>(
    x: A::Tensors<'_>,
    dims: &[i64],
    lengths: R::Lengths,
    f: impl for<'a, 'b> Fn(A::Slices<'a>, R::Rows<'b>) + Sync,
) -> Result<R::Outputs> {
    let op = "kernel::rows_along";
    if R::ARITY == 0 {
        return Err(nothing(op, Role::Output));
    }
    let inputs = operands::<A>(op, Role::Input, x)?;
    let split = Split::new(op, &inputs, dims)?;
    let mut lengths = R::lengths(&lengths).into_iter();
    let (outputs, mut targets) = R::make(&mut |dtype, as_stored| {
        let length = lengths.next().expect("one for each output");
        let dtype = output_dtype(dtype, inputs.iter().map(|x| (x.seen, x.memory.dtype)));
        let sizes = split.output(op, length)?;
        let (extent, strides) = (count_of(op, &sizes)?, contiguous(&sizes));
        let (output, data) = memory::empty(op, &sizes, None, dtype)?;
        let walk = split.walk(|dim| (sizes[dim] as usize, strides[dim]));
        let width = split.width(|dim| sizes[dim] as usize);
        let stored = stored(as_stored, dtype);
        let place = Place { data, extent, stored, walk, width, tensor: PhantomData };
        Ok((output, (place, split.count, false)))
    })?;
    let mut each = inputs.iter();
    let sources = A::sources(&mut || {
        let own = own_dims(each.as_slice().first().expect("one for each input"), split.rank());
        let input = each.next().expect("one for each input");
        let width = split.width(|dim| own(dim).0);
        (input.place(split.walk(own), width), split.count, false)
    });
    let grain = (GRAIN / split.longest.max(1)).max(1);
    let work = Work { count: split.count, grain, block: 1 };
    finish(op, drive::<A, R>(work, &sources, &mut targets, &|x, y| f(x, R::rows(y))))?;
    Ok(outputs)
}

/// The dimensions of a kernel, parted into those of rows and the others.
struct Split {
    /// The broadcast sizes of the others; 1 in those of rows.
    sizes: SmallVec<[i64; 4]>,
    others: SmallVec<[usize; 4]>,
    of_rows: SmallVec<[usize; 4]>,
    /// Number of rows.
    count: usize,
    /// The sizes of the longest row of an input, and its length.
    row: SmallVec<[i64; 4]>,
    longest: usize,
}

impl Split {
    fn new(op: &'static str, inputs: &Operands<'_>, dims: &[i64]) -> Result<Split> {
        let rank = inputs.iter().map(|x| x.memory.sizes.len()).max().unwrap_or(0);
        let mut is_of_rows = SmallVec::<[bool; 4]>::from_elem(dims.is_empty(), rank);
        for dim in dims {
            let place = place_of(op, *dim, rank)?;
            if is_of_rows.get(place) == Some(&true) {
                let message = format!("dimension {dim} is given twice in {dims:?}");
                return Err(Error::Argument { op, message });
            }
            if let Some(is) = is_of_rows.get_mut(place) {
                *is = true;
            }
        }
        let (of_rows, others) = (0..rank).partition::<SmallVec<_>, _>(|dim| is_of_rows[*dim]);
        let sizes = SmallVec::from_elem(1, rank);
        let mut split =
            Split { sizes, others, of_rows, count: 0, row: SmallVec::new(), longest: 0 };
        for (i, x) in inputs.iter().enumerate() {
            split.add(op, i, x)?;
        }
        split.count = count_of(op, &split.sizes)?;
        for x in inputs.iter() {
            let own = own_dims(x, rank);
            count_of(op, &[split.count as i64, split.width(|dim| own(dim).0) as i64])?;
        }
        Ok(split)
    }

    /// Widens the sizes to those of one more input.
    fn add(&mut self, op: &'static str, i: usize, x: &Operand<'_>) -> Result<()> {
        let own = own_dims(x, self.rank());
        for &dim in &self.others {
            let (size, own) = (&mut self.sizes[dim], own(dim).0 as i64);
            match (*size, own) {
                (1, own) => *size = own,
                (size, own) if own == size || own == 1 => {}
                _ => return Err(shape(op, (Role::Input, i), x.memory.sizes, &self.sizes)),
            }
        }
        let row: SmallVec<[i64; 4]> = self.of_rows.iter().map(|dim| own(*dim).0 as i64).collect();
        let length = count_of(op, &row)?;
        if length > self.longest || i == 0 {
            (self.row, self.longest) = (row, length);
        }
        Ok(())
    }

    fn rank(&self) -> usize {
        self.sizes.len()
    }

    /// The shape of an output whose rows have this length.
    fn output(&self, op: &'static str, length: i64) -> Result<SmallVec<[i64; 4]>> {
        let mut sizes = self.sizes.clone();
        match (length, &self.of_rows[..]) {
            (-1, dims) => dims.iter().zip(&self.row).for_each(|(dim, size)| sizes[*dim] = *size),
            (0.., [dim]) => sizes[*dim] = length,
            (1, _) => {}
            _ => {
                let message = format!(
                    "an output has rows of length {length} along {} dimensions; give -1 for that \
                     of the inputs' rows, or 1",
                    self.of_rows.len()
                );
                return Err(Error::Argument { op, message });
            }
        }
        Ok(sizes)
    }

    /// The way through a tensor, row by row, which has these sizes and strides.
    fn walk(&self, own: impl Fn(usize) -> (usize, usize)) -> Walk {
        let others = self.others.iter().map(|dim| (self.sizes[*dim] as usize, own(*dim).1));
        Walk::new(others.chain(self.of_rows.iter().map(|dim| own(*dim))))
    }

    /// The length of the rows of a tensor of these sizes.
    fn width(&self, own: impl Fn(usize) -> usize) -> usize {
        self.of_rows.iter().map(|dim| own(*dim)).product()
    }
}
