//! [`scan`]: a value that is carried along a dimension.

use super::dims::{count_of, own_dims, place_of};
use super::elements::{Elements, output_dtype, stored};
use super::elementwise::{GRAIN, finish, operands, operands_after};
use super::layout::{Layout, Operands, Role, broadcasts_to};
use super::refusals::{nothing, shape};
use super::simd::here;
use super::view::{InOrder, Rows, drive_in_order, in_order};
use super::walk::Walk;
use crate::Result;
use std::marker::PhantomData;
use std::ops::Range;

/// The dimension along which a scan goes, and the direction. A number is that dimension,
/// forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Along {
    /// The dimension; -1 is the last one.
    pub dim: i64,
    /// Whether the last element comes first.
    pub reverse: bool,
}

impl Along {
    /// The same dimension in the other direction.
    pub fn reversed(self) -> Along {
        Along { reverse: !self.reverse, ..self }
    }
}

impl From<i64> for Along {
    fn from(dim: i64) -> Along {
        Along { dim, reverse: false }
    }
}

/// New tensors with what `step` makes of each element and of a state that goes along a
/// dimension: from `start` on, `step` returns the next state, and what is written.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel::{self, Along};
///
/// // Cumulative sums, added up in f64.
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
/// let add = |sum: f64, x: f32| (sum + f64::from(x), (sum + f64::from(x)) as f32);
/// let y = kernel::scan(&x, 0, 0.0, add)?;
/// assert_eq!(Vec::<f32>::try_from(y)?, [1.0, 3.0, 6.0]);
/// let back = kernel::scan(&x, Along { dim: 0, reverse: true }, 0.0, add)?;
/// assert_eq!(Vec::<f32>::try_from(back)?, [6.0, 5.0, 3.0]);
///
/// // A linear recurrence, h = a h + b; `a` is the same in each step.
/// let (a, b) = (Tensor::from_slice(&[0.5f64]), Tensor::from_slice(&[1.0f64, 0.0, 8.0]));
/// let h = kernel::scan((&a, &b), -1, 0.0, |h, (a, b): (f64, f64)| (a * h + b, a * h + b))?;
/// assert_eq!(Vec::<f64>::try_from(h)?, [1.0, 0.5, 8.25]);
/// # anyhow::Ok(())
/// ```
///
/// The inputs broadcast, along that dimension too; outputs have the broadcast shape and are
/// contiguous. Rows are shared out to threads and, where they lie beside each other in
/// memory, visited side by side; a single row is visited by one thread.
///
/// The gradient of a scan is a scan in the other direction:
/// [`LinearRecurrence`](crate::ops::LinearRecurrence),
/// [`CumulativeSum`](crate::ops::CumulativeSum) and
/// [`CumulativeProduct`](crate::ops::CumulativeProduct) have theirs.
///
/// # Errors
/// As [`map`](super::map); [`Error::Argument`](crate::Error::Argument) for a dimension that
/// is not there.
pub fn scan<A: Elements, R: Elements, S: Clone + Send + Sync>(
    x: A::Tensors<'_>,
    along: impl Into<Along>,
    start: S,
    step: impl Fn(S, A) -> (S, R) + Sync,
) -> Result<R::Outputs> {
    let op = "kernel::scan";
    let inputs = operands::<A>(op, Role::Input, x)?;
    let start = |_: &Layout, _: usize| {
        Ok(|rows: Range<usize>, states: &mut Vec<S>| states.resize(rows.len(), start.clone()))
    };
    scanned::<A, R, S, _>(op, &inputs, along.into(), start, step)
}

/// Does what [`scan`] does; each row starts from `start` of its elements of `first`, which
/// have the broadcast shape of `x` without the dimension, or broadcast to it.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel;
///
/// let x = Tensor::from_slice(&[1.0f64, 2.0, 3.0, 4.0]).reshape([2, 2]);
/// let first = Tensor::from_slice(&[10.0f64, 20.0]); // one for each row
/// let add = |sum: f64, x: f64| (sum + x, sum + x);
/// let y = kernel::scan_from(&x, -1, &first, |first: f64| first, add)?;
/// assert_eq!(Vec::<f64>::try_from(y.flatten(0, 1))?, [11.0, 13.0, 23.0, 27.0]);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`scan`]. In an error the tensors of `first` come after those of `x`.
pub fn scan_from<I: Elements, A: Elements, R: Elements, S: Clone + Send + Sync>(
    x: A::Tensors<'_>,
    along: impl Into<Along>,
    first: I::Tensors<'_>,
    start: impl Fn(I) -> S + Sync,
    step: impl Fn(S, A) -> (S, R) + Sync,
) -> Result<R::Outputs> {
    let op = "kernel::scan_from";
    let inputs = operands::<A>(op, Role::Input, x)?;
    let firsts = operands_after::<I>(op, Role::Input, first, A::ARITY)?;
    let start = |layout: &Layout, dim: usize| {
        let sources = first_sources::<I>(op, layout, dim, &firsts, A::ARITY)?;
        let start = &start;
        Ok(move |rows: Range<usize>, states: &mut Vec<S>| {
            let mut buffers = I::buffers();
            let (n, slices) = (rows.len(), I::slices(&sources, rows, &mut buffers));
            states.extend((0..n).map(|i| start(I::get(slices, i))));
        })
    };
    scanned::<A, R, S, _>(op, &inputs, along.into(), start, step)
}

/// The memory of the first states, one element a row.
fn first_sources<'t, I: Elements>(
    op: &'static str,
    layout: &Layout,
    dim: usize,
    firsts: &Operands<'t>,
    before: usize,
) -> Result<I::Sources<'t>> {
    let mut sizes = layout.sizes().to_vec();
    if dim < sizes.len() {
        sizes.remove(dim);
    }
    for (i, first) in firsts.iter().enumerate() {
        if !broadcasts_to(first.memory.sizes, &sizes) {
            return Err(shape(op, (Role::Input, before + i), first.memory.sizes, &sizes));
        }
    }
    let count = count_of(op, &sizes)?;
    let mut firsts = firsts.iter();
    Ok(I::sources(&mut || {
        let first = firsts.next().expect("one for each");
        let own = own_dims(first, sizes.len());
        let dims = sizes.iter().enumerate().map(|(dim, size)| (*size as usize, own(dim).1));
        (first.place(Walk::new(dims), 1), count, false)
    }))
}

/// With this many rows beside each other in memory, they are visited side by side.
const BESIDE: usize = 16;

/// Makes the outputs of a scan. `start` makes, for the layout and the place of the
/// dimension, what pushes the first states of some rows.
fn scanned<A: Elements, R: Elements, S: Clone, F: Fn(Range<usize>, &mut Vec<S>) + Sync>(
    op: &'static str,
    inputs: &Operands<'_>,
    along: Along,
    start: impl FnOnce(&Layout, usize) -> Result<F>,
    step: impl Fn(S, A) -> (S, R) + Sync,
) -> Result<R::Outputs> {
    if R::ARITY == 0 {
        return Err(nothing(op, Role::Output));
    }
    let mut layout = Layout::in_order(op, inputs)?;
    let dim = place_of(op, along.dim, layout.sizes().len())?;
    let start = start(&layout, dim)?;
    let sizes = layout.sizes();
    let product = |sizes: &[i64]| sizes.iter().map(|size| *size as usize).product::<usize>();
    let (before, after) = (&sizes[..dim], sizes.get(dim + 1..).unwrap_or(&[]));
    let length = sizes.get(dim).map_or(1, |size| *size as usize);
    let (mut outer, mut inner) = match layout.count {
        0 => (0, 1), // other sizes may be beyond all memory
        _ => (product(before), product(after)),
    };
    if inner < BESIDE {
        (outer, inner) = (outer * inner, 1);
        layout = layout.with_innermost(dim);
    }
    let (outputs, mut targets) = R::make(&mut |dtype, as_stored| {
        let kept = inputs.iter().map(|x| (x.seen, x.memory.dtype));
        let dtype = output_dtype(dtype, kept);
        let (output, data) = layout.empty(op, dtype)?;
        let mut place = layout.fresh(data, stored(as_stored, dtype));
        place.walk = layout.walk_contiguous();
        Ok((output, (place, layout.count, false)))
    })?;
    let mut each = inputs.iter();
    let sources = A::sources(&mut || {
        let input = each.next().expect("one for each input");
        (input.place(layout.walk(input), 1), layout.count, false)
    });
    let rows = Rows { outer, length, inner, reverse: along.reverse, grain: GRAIN };
    let body = Steps { start, step, count: layout.count, types: PhantomData };
    finish(op, drive_in_order::<A, R, _>(rows, &sources, &mut targets, &body))?;
    Ok(outputs)
}

struct Steps<A, R, S, F, G> {
    start: F,
    step: G,
    count: usize,
    types: PhantomData<fn(A, S) -> R>,
}

impl<A: Elements, R: Elements, S, F, G> InOrder<A, R> for Steps<A, R, S, F, G>
where
    S: Clone,
    F: Fn(Range<usize>, &mut Vec<S>) + Sync,
    G: Fn(S, A) -> (S, R) + Sync,
{
    type State = S;

    fn start(&self, rows: Range<usize>, states: &mut Vec<S>) {
        (self.start)(rows, states);
    }

    fn along(&self, state: &mut S, reverse: bool, x: A::Slices<'_>, mut y: R::Slots<'_>) {
        let n = R::len(&y);
        let x = A::cut(x, n);
        let mut now = state.clone();
        in_order(n, reverse, |i| {
            let (next, value) = (self.step)(now.clone(), A::get(x, i));
            R::put(&mut y, i, value);
            now = next;
        });
        *state = now;
    }

    fn across(&self, states: &mut [S], x: A::Slices<'_>, mut y: R::Slots<'_>) {
        let n = R::len(&y);
        let (x, states) = (A::cut(x, n), &mut states[..n]);
        here(self.count, move || {
            for (i, state) in states.iter_mut().enumerate() {
                let (next, value) = (self.step)(state.clone(), A::get(x, i));
                R::put(&mut y, i, value);
                *state = next;
            }
        });
    }
}
