//! Tensor memory as slices: the one place of kernels with `unsafe`.
//!
//! A [`Source`] is read, a [`Target`] is written, a block of elements at a
//! time. Where a tensor's elements follow one another in memory as they do in
//! the kernel's order, a block is that memory itself; otherwise it is gathered
//! into a buffer, and scattered from one. `stand_in.rs` runs this on plain memory,
//! which Miri and valgrind can watch.
//!
//! What makes this sound:
//! - Every place that a `Walk` leads to is in the tensor's memory, which
//!   `Source::new` and `Target::new` compare with the extent that libtorch gave.
//! - `drive` and `drive_in_order` have their targets for themselves (`&mut`), and give each
//!   block to one thread; a target's walk leads to no place twice (`layout` has made sure).
//! - No source shares memory with a target, except one that has the same walk
//!   (`Source::shared`), which is gathered before the block is written.
//! - The storages of the tensors are pinned (`Operands`): whatever a closure does with
//!   other handles, they are neither freed nor resized. That nobody writes to an
//!   input meanwhile is what libtorch asks for in its own ops as well.
#![allow(unsafe_code)]

mod alike;
mod blocks;
mod in_order;
mod place;
#[cfg(test)]
mod stand_in;

pub use alike::{alike, alike_groups};
pub use blocks::Blocks;
pub(super) use in_order::{InOrder, Rows, drive_in_order, in_order};
pub use place::{Place, Source, Target};

use crate::ffi::parallel::{self, Payload};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Number of elements of a gathered block.
pub(super) const BLOCK: usize = 512;

/// The division of a kernel's units among threads.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// Number of units: elements or rows.
    pub count: usize,
    /// With at most this many units, one thread does all the work.
    pub grain: usize,
    /// The most that a call of the body gets where there is something to gather.
    pub block: usize,
}

impl Work {
    /// Returns the number of units a thread takes at a time: several times each, so that
    /// none waits long for another.
    #[inline]
    fn chunk(&self) -> usize {
        if self.count <= self.grain {
            return self.count.max(1);
        }
        match parallel::threads() {
            1 => self.count,
            threads => self.grain.max(self.count.div_ceil(8 * threads)),
        }
    }
}

/// Calls `body(slices, slots)` for blocks that are all of `work`, on libtorch's
/// threads. After a panic the rest is left out.
#[inline]
pub(super) fn drive<A: Blocks, R: Blocks>(
    work: Work,
    sources: &A::Sources<'_>,
    targets: &mut R::Targets<'_>,
    body: &(impl Fn(A::Slices<'_>, R::Slots<'_>) + Sync),
) -> Result<(), Payload> {
    let targets = &*targets;
    let run = |range| blocks::<A, R>(sources, targets, range, work.block, body);
    let chunk = work.chunk();
    if chunk >= work.count {
        return catch_unwind(AssertUnwindSafe(|| run(0..work.count)));
    }
    let task = |i| run(i * chunk..work.count.min((i + 1) * chunk));
    parallel::run(work.count.div_ceil(chunk), &task)
}

/// Calls `body` with the blocks of `range`, one after the other.
#[inline]
fn blocks<A: Blocks, R: Blocks>(
    sources: &A::Sources<'_>,
    targets: &R::Targets<'_>,
    range: Range<usize>,
    block: usize,
    body: &impl Fn(A::Slices<'_>, R::Slots<'_>),
) {
    let (mut read, mut written) = (A::buffers(), R::buffers());
    let direct = A::sources_direct(sources) && R::targets_direct(targets);
    let block = if direct && block > 1 { range.len() } else { block };
    let mut start = range.start;
    while start < range.end {
        let block = start..range.end.min(start.saturating_add(block));
        let x = A::slices(sources, block.clone(), &mut read);
        // SAFETY: `drive` has the targets for itself and gives `range` to this
        // call alone; the slots are gone before the next block.
        let y = unsafe { R::slots(targets, block.clone(), &mut written) };
        body(x, y);
        // SAFETY: as above.
        unsafe { R::flush(targets, block.clone(), &mut written) };
        start = block.end;
    }
}

/// Asks for the memory of `slice[i]`, which may be past its end.
#[inline(always)]
pub fn prefetch<T>(slice: &[T], i: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing and is taken for any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(i).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, i);
}
