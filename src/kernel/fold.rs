//! [`fold`]: all elements in one value.

use super::elements::Elements;
use super::elementwise::{GRAIN, finish, operands};
use super::layout::{Layout, Role};
use super::view::BLOCK;
use crate::Result;
use crate::ffi::parallel;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// Folds every element into one value.
///
/// `step` gets the value so far, the element's place in the order of the
/// broadcast shape (the last dimension fastest), and the element. Pieces of
/// fixed length are folded from `start` on several threads, and then put
/// together by `merge`, each with its neighbour; so the result does not depend on the
/// number of threads, `merge` must be associative and `start` neutral to it.
///
/// A piece has 32,768 elements, and `step` rounds as often in it. To add numbers more
/// exactly than that, use [`sum_of`](super::simd::sum_of).
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel;
///
/// let x = Tensor::from_slice(&[3.0f32, 9.0, -1.0]);
/// let sum = kernel::fold(&x, 0.0, |sum, _, x: f32| sum + f64::from(x), |a, b| a + b)?;
/// assert_eq!(sum, 11.0);
///
/// let nothing = (f32::NEG_INFINITY, 0);
/// let greater = |a: (f32, usize), b: (f32, usize)| if b.0 > a.0 { b } else { a };
/// let max = kernel::fold(&x, nothing, |max, i, x: f32| greater(max, (x, i)), greater)?;
/// assert_eq!(max, (9.0, 1));
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`map`](super::map).
pub fn fold<A: Elements, S: Clone + Send + Sync>(
    x: A::Tensors<'_>,
    start: S,
    step: impl Fn(S, usize, A) -> S + Sync,
    merge: impl Fn(S, S) -> S,
) -> Result<S> {
    let block = |value, from, n, x: A::Slices<'_>| {
        (0..n).fold(value, |value, i| step(value, from + i, A::get(x, i)))
    };
    blocks::<A, S>("kernel::fold", x, start, &block, merge)
}

/// Does what [`fold`] does; `step` receives a block of elements: the place of the first one,
/// how many there are, and the elements.
pub(super) fn blocks<A: Elements, S: Clone + Send + Sync>(
    op: &'static str,
    x: A::Tensors<'_>,
    start: S,
    step: &(impl Fn(S, usize, usize, A::Slices<'_>) -> S + Sync),
    merge: impl Fn(S, S) -> S,
) -> Result<S> {
    let inputs = operands::<A>(op, Role::Input, x)?;
    let layout = Layout::in_order(op, &inputs)?;
    let mut each = inputs.iter();
    let sources = A::sources(&mut || {
        let input = each.next().expect("one for each input");
        (input.place(layout.walk(input), 1), layout.count, false)
    });
    let block = if A::sources_direct(&sources) { GRAIN } else { BLOCK };
    let piece = |from: usize| {
        let mut buffers = A::buffers();
        let (mut value, end) = (start.clone(), layout.count.min(from + GRAIN));
        for from in (from..end).step_by(block) {
            let n = block.min(end - from);
            let x = A::slices(&sources, from..from + n, &mut buffers);
            value = step(value, from, n, x);
        }
        value
    };
    if layout.count <= GRAIN {
        return finish(op, catch_unwind(AssertUnwindSafe(|| piece(0))));
    }
    let count = layout.count.div_ceil(GRAIN);
    let mut pieces = Vec::new();
    if pieces.try_reserve_exact(count).is_err() {
        let message = format!("{} elements are too many to fold", layout.count);
        return Err(crate::Error::Argument { op, message });
    }
    pieces.resize(count, None);
    let pieces = Mutex::new(pieces);
    let task = |i: usize| {
        let value = piece(i * GRAIN);
        pieces.lock().unwrap_or_else(|e| e.into_inner())[i] = Some(value);
    };
    finish(op, parallel::run(count, &task))?;
    let pieces = pieces.into_inner().unwrap_or_else(|e| e.into_inner());
    let merged = || in_pairs(pieces, merge).unwrap_or(start);
    finish(op, catch_unwind(AssertUnwindSafe(merged)))
}

/// Merges neighbours, then what came of these, until one value is left: each value goes
/// through few merges, so a sum is rounded seldom.
fn in_pairs<S>(mut values: Vec<Option<S>>, merge: impl Fn(S, S) -> S) -> Option<S> {
    let mut apart = 1;
    while apart < values.len() {
        for i in (apart..values.len()).step_by(2 * apart) {
            let (a, b) = (values[i - apart].take(), values[i].take());
            values[i - apart] = match (a, b) {
                (Some(a), Some(b)) => Some(merge(a, b)),
                (a, b) => a.or(b),
            };
        }
        apart *= 2;
    }
    values.into_iter().next().flatten()
}
