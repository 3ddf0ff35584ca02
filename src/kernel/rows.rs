//! [`rows`]: a closure on every row.

use super::elements::{Elements, output_dtype, stored};
use super::elementwise::{GRAIN, finish, operands};
use super::layout::{Layout, List, Operand, Role};
use super::view::{Place, Work, drive};
use super::walk::Walk;
use crate::ffi::memory;
use crate::{Error, Result};
use smallvec::SmallVec;
use std::marker::PhantomData;

/// New tensors from what `f` makes of each row, where a row lies along the last
/// dimension. `f` gets the rows of the inputs as slices, and those of the
/// outputs, filled with zeros, to write to; `lengths` says how long these are.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel;
///
/// // Softmax, and the logarithm of its divisor.
/// let x = Tensor::from_slice(&[1.0f64, 1.0, 3.0, 3.0]).reshape([2, 2]);
/// let (y, log_sum) = kernel::rows::<f64, (f64, f64)>(&x, &[2, 1], |x, (y, log_sum)| {
///     let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
///     y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - max).exp());
///     let sum: f64 = y.iter().sum();
///     y.iter_mut().for_each(|y| *y /= sum);
///     log_sum[0] = max + sum.ln();
/// })?;
/// assert_eq!(Vec::<f64>::try_from(y.flatten(0, 1))?, [0.5; 4]);
/// assert_eq!(log_sum.size(), [2, 1]);
/// # anyhow::Ok(())
/// ```
///
/// The inputs' rows may have different lengths; the shapes before the last
/// dimension broadcast, so that a weight of shape `[n]` is seen in every row.
/// The outputs have the broadcast shape before the last dimension.
///
/// # Errors
/// As [`map`](super::map); [`Error::Argument`] for an input without dimensions
/// and where `lengths` has not one length for each output.
pub fn rows<A: Elements, R: Elements>(
    x: A::Tensors<'_>,
    lengths: &[i64],
    f: impl for<'a, 'b> Fn(A::Slices<'a>, R::Rows<'b>) + Sync,
) -> Result<R::Outputs> {
    let op = "kernel::rows";
    check_lengths(op, lengths, R::ARITY)?;
    let inputs = operands::<A>(op, Role::Input, x)?;
    let heads = inputs.iter().enumerate().map(|(i, x)| head(op, i, x)).collect::<Result<_>>()?;
    let heads: List<'_> = heads;
    let layout = Layout::in_order(op, &heads)?;

    let mut lengths = lengths.iter();
    let (outputs, mut targets) = R::make(&mut |dtype, as_stored| {
        let length = *lengths.next().expect("one for each output");
        let dtype = output_dtype(dtype, inputs.iter().map(|x| (x.seen, x.memory.dtype)));
        let mut sizes = SmallVec::<[i64; 4]>::from_slice(layout.sizes());
        sizes.push(length);
        let extent = super::dims::count_of(op, &sizes)?;
        let (output, data) = memory::empty(op, &sizes, None, dtype)?;
        let (stored, width) = (stored(as_stored, dtype), length as usize);
        let place = Place { data, extent, stored, walk: Walk::Flat, width, tensor: PhantomData };
        Ok((output, (place, layout.count, false)))
    })?;
    for x in inputs.iter() {
        super::dims::count_of(op, &[layout.count as i64, length(x) as i64])?;
    }
    let mut pairs = inputs.iter().zip(&heads);
    let sources = A::sources(&mut || {
        let (whole, head) = pairs.next().expect("one for each input");
        (row_place(&layout, whole, head), layout.count, false)
    });
    let longest = inputs.iter().map(length).max().unwrap_or(1).max(1);
    let work = Work { count: layout.count, grain: (GRAIN / longest).max(1), block: 1 };
    let done = drive::<A, R>(work, &sources, &mut targets, &|x, y| f(x, R::rows(y)));
    finish(op, done)?;
    Ok(outputs)
}

fn check_lengths(op: &'static str, lengths: &[i64], outputs: usize) -> Result<()> {
    if outputs > 0 && lengths.len() == outputs && lengths.iter().all(|length| *length >= 0) {
        return Ok(());
    }
    let message = format!("rows of lengths {lengths:?} for {outputs} outputs; give one for each");
    Err(Error::Argument { op, message })
}

/// The length of a row.
fn length(x: &Operand<'_>) -> usize {
    x.memory.sizes.last().map_or(0, |size| *size as usize)
}

/// Returns the tensor without its last dimension: the first element of each row.
fn head<'t>(op: &'static str, i: usize, x: &Operand<'t>) -> Result<Operand<'t>> {
    let Some((_, sizes)) = x.memory.sizes.split_last() else {
        let message = format!("input {i} has no dimension for rows to lie along; unsqueeze it");
        return Err(Error::Argument { op, message });
    };
    let strides = &x.memory.strides[..sizes.len()];
    Ok(Operand { memory: memory::Memory { sizes, strides, ..x.memory }, ..*x })
}

fn row_place<'t>(layout: &Layout, whole: &Operand<'t>, head: &Operand<'t>) -> Place<'t> {
    let width = length(whole);
    if whole.memory.contiguous && head.memory.sizes == layout.sizes() {
        return whole.place(Walk::Flat, width);
    }
    let stride = whole.memory.strides.last().map_or(1, |stride| *stride as usize);
    let last = std::iter::once((width, stride));
    whole.place(Walk::new(layout.dims(head).chain(last)), width)
}
