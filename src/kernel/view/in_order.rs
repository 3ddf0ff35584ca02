//! [`drive_in_order`]: rows whose elements are visited one after the other, many rows at a time.

use super::{BLOCK, Blocks};
use crate::ffi::parallel::{self, Payload};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// `outer * inner` rows of `length` elements. Element `i` of row `(o, c)` is the unit
/// `(o * length + i) * inner + c`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Rows {
    pub outer: usize,
    pub length: usize,
    pub inner: usize,
    /// Whether the last element comes first.
    pub reverse: bool,
    /// With at most this many elements, one thread does all the work.
    pub grain: usize,
}

/// What runs on rows: states are kept from one element of a row to the next.
pub(in crate::kernel) trait InOrder<A: Blocks, R: Blocks>: Sync {
    type State;
    /// Pushes the first state of each of these rows.
    fn start(&self, rows: Range<usize>, states: &mut Vec<Self::State>);
    /// Elements of one row; the last one comes first if `reverse`.
    fn along(&self, state: &mut Self::State, reverse: bool, x: A::Slices<'_>, y: R::Slots<'_>);
    /// One element of each row.
    fn across(&self, states: &mut [Self::State], x: A::Slices<'_>, y: R::Slots<'_>);
}

/// Visits all elements of all rows, on libtorch's threads. After a panic the rest is left out.
pub(in crate::kernel) fn drive_in_order<A: Blocks, R: Blocks, B: InOrder<A, R>>(
    rows: Rows,
    sources: &A::Sources<'_>,
    targets: &mut R::Targets<'_>,
    body: &B,
) -> Result<(), Payload> {
    let targets = &*targets;
    let tile = rows.tile();
    let tiles = rows.inner.div_ceil(tile);
    let units = rows.outer * tiles;
    let run = |units: Range<usize>| {
        let (mut buffers, mut states) = ((A::buffers(), R::buffers()), Vec::new());
        for unit in units {
            let from = unit % tiles * tile;
            let part = Part { outer: unit / tiles, columns: from..rows.inner.min(from + tile) };
            states.clear();
            let first = part.outer * rows.inner;
            body.start(first + part.columns.start..first + part.columns.end, &mut states);
            // SAFETY: this has the targets for itself (`&mut`), and gives each unit, which no
            // other shares a row with, to one call.
            unsafe {
                visit::<A, R, B>(rows, part, sources, targets, body, &mut states, &mut buffers)
            };
        }
    };
    let chunk = (rows.grain / (rows.length * tile).max(1)).max(1);
    if rows.outer * rows.length * rows.inner <= rows.grain {
        return catch_unwind(AssertUnwindSafe(|| run(0..units)));
    }
    let task = |i: usize| run(i * chunk..units.min((i + 1) * chunk));
    parallel::run(units.div_ceil(chunk), &task)
}

impl Rows {
    /// Number of neighbouring rows that one thread takes: few enough for all to have some.
    fn tile(&self) -> usize {
        let share = (self.outer * self.inner).div_ceil(4 * parallel::threads());
        self.inner.min(share.next_multiple_of(LINE).clamp(LINE, BLOCK)).max(1)
    }
}

/// Number of elements of neighbouring rows that are never parted: some lines of the
/// processor's cache.
const LINE: usize = 64;

/// Neighbouring rows.
struct Part {
    outer: usize,
    columns: Range<usize>,
}

/// # Safety
/// Meanwhile nobody else has elements of the targets that are in these rows.
unsafe fn visit<A: Blocks, R: Blocks, B: InOrder<A, R>>(
    rows: Rows,
    part: Part,
    sources: &A::Sources<'_>,
    targets: &R::Targets<'_>,
    body: &B,
    states: &mut [B::State],
    (read, written): &mut (A::Buffers, R::Buffers),
) {
    let base = part.outer * rows.length;
    let mut block = |range: Range<usize>, body: &mut dyn FnMut(A::Slices<'_>, R::Slots<'_>)| {
        let x = A::slices(sources, range.clone(), read);
        // SAFETY: these rows alone; the slots are gone before the next block.
        let y = unsafe { R::slots(targets, range.clone(), written) };
        body(x, y);
        // SAFETY: as above.
        unsafe { R::flush(targets, range, written) };
    };
    if rows.inner == 1 {
        let direct = A::sources_direct(sources) && R::targets_direct(targets);
        let size = if direct { rows.length.max(1) } else { BLOCK };
        in_order(rows.length.div_ceil(size), rows.reverse, |i| {
            let range = base + i * size..base + rows.length.min((i + 1) * size);
            block(range, &mut |x, y| body.along(&mut states[0], rows.reverse, x, y));
        });
    } else {
        in_order(rows.length, rows.reverse, |i| {
            let first = (base + i) * rows.inner;
            let range = first + part.columns.start..first + part.columns.end;
            block(range, &mut |x, y| body.across(states, x, y));
        });
    }
}

/// `f` of each number below `n`, of the last one first if `reverse`.
#[inline(always)]
pub(in crate::kernel) fn in_order(n: usize, reverse: bool, mut f: impl FnMut(usize)) {
    match reverse {
        false => (0..n).for_each(f),
        true => (0..n).rev().for_each(&mut f),
    }
}
