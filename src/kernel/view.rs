//! Tensor memory as slices: the one file of kernels with `unsafe`.
//!
//! A [`Source`] is read, a [`Target`] is written, a block of elements at a
//! time. Where a tensor's elements follow one another in memory as they do in
//! the kernel's order, a block is that memory itself; otherwise it is gathered
//! into a buffer, and scattered from one.
//!
//! What makes this sound:
//! - Every place that a `Walk` leads to is in the tensor's memory, which
//!   `Source::new` and `Target::new` compare with the extent that libtorch gave.
//! - `drive` has its targets for itself (`&mut`), and gives each block to one
//!   thread; a target's walk leads to no place twice (`layout` has made sure).
//! - No source shares memory with a target, except one that has the same walk
//!   (`Source::shared`), which is gathered before the block is written.
//! - The caller of a kernel holds the tensors' handles until it returns. That
//!   nobody resizes them through another handle meanwhile, or writes to an
//!   input on another thread, is what libtorch asks for in its own ops as well.
#![allow(unsafe_code)]

use super::element::{Element, Stored};
use super::walk::Walk;
use crate::ffi::memory::{self, Alike};
use crate::ffi::parallel::{self, Payload};
use half::{bf16, f16};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::Tensor;

/// How many elements a gathered block has.
pub(super) const BLOCK: usize = 512;

/// Where and how a tensor's elements lie.
pub struct Place<'t> {
    pub data: *mut u8,
    /// How many elements from the first the memory has.
    pub extent: usize,
    pub stored: Stored,
    pub walk: Walk,
    /// How many elements a unit of the kernel's count has: 1, or a row's length.
    pub width: usize,
    pub tensor: PhantomData<&'t ()>,
}

impl Place<'_> {
    #[inline]
    fn check<T>(&self, count: usize) {
        let size = match self.stored {
            Stored::Same => align_of::<T>(),
            Stored::Half | Stored::BFloat16 => align_of::<u16>(),
            Stored::Bool => 1,
        };
        assert!(self.walk.fits(count * self.width, self.extent), "a walk out of the memory");
        let empty = count == 0 || self.width == 0;
        assert!(empty || (self.data as usize).is_multiple_of(size), "memory that is not aligned");
    }

    /// From units to elements.
    #[inline]
    fn elements(&self, units: &Range<usize>, count: usize) -> Range<usize> {
        assert!(units.start <= units.end && units.end <= count, "a block out of the tensor");
        units.start * self.width..units.end * self.width
    }
}

/// A tensor that is read.
pub struct Source<'t, T> {
    place: Place<'t>,
    count: usize,
    /// Whether it is a target as well.
    shared: bool,
    elements: PhantomData<T>,
}

// SAFETY: threads only read through it.
unsafe impl<T: Element> Sync for Source<'_, T> {}

impl<'t, T: Element> Source<'t, T> {
    /// `place.data` is readable for `extent` elements while `'t` lasts.
    #[inline]
    pub fn new(place: Place<'t>, count: usize, shared: bool) -> Self {
        place.check::<T>(count);
        Source { place, count, shared, elements: PhantomData }
    }

    #[inline]
    fn is_direct(&self) -> bool {
        self.place.stored == Stored::Same && !self.shared && matches!(self.place.walk, Walk::Flat)
    }

    #[inline]
    fn block<'b>(&'b self, range: Range<usize>, buffer: &'b mut Buffer<T>) -> &'b [T] {
        let range = self.place.elements(&range, self.count);
        if range.is_empty() {
            return &[]; // where there may be no memory at all
        }
        if self.is_direct() {
            // SAFETY: in the memory, whose elements are `T`s (`Source::new`).
            return unsafe {
                std::slice::from_raw_parts(
                    self.place.data.cast::<T>().add(range.start),
                    range.len(),
                )
            };
        }
        self.gathered(range, buffer)
    }

    fn gathered<'b>(&self, range: Range<usize>, buffer: &'b mut Buffer<T>) -> &'b [T] {
        let n = range.len();
        let constant = self.place.walk == Walk::Constant && !self.shared;
        if !(constant && buffer.constant >= n) {
            let to = buffer.room(n);
            match self.place.stored {
                Stored::Same => self.gather(range, to, |x: T| x),
                Stored::Half => self.gather(range, to, |x: u16| T::from_half(f16::from_bits(x))),
                Stored::BFloat16 => {
                    self.gather(range, to, |x: u16| T::from_bfloat16(bf16::from_bits(x)));
                }
                Stored::Bool => self.gather(range, to, T::from_byte),
            }
            buffer.constant = if constant { n } else { 0 };
        }
        // SAFETY: the walk through `n` elements has written `n`.
        unsafe { std::slice::from_raw_parts(buffer.room(n).as_ptr().cast(), n) }
    }

    #[inline]
    fn gather<S: Copy>(&self, range: Range<usize>, to: &mut [MaybeUninit<T>], f: impl Fn(S) -> T) {
        let data = self.place.data.cast::<S>();
        let mut to = to.iter_mut();
        self.place.walk.pieces(range.start, range.len(), |offset, stride, n| {
            for (i, to) in to.by_ref().take(n).enumerate() {
                // SAFETY: in the memory, whose elements are `S`s (`Source::new`).
                to.write(f(unsafe { *data.add(offset + i * stride) }));
            }
        });
    }
}

/// A tensor that is written.
pub struct Target<'t, T> {
    place: Place<'t>,
    count: usize,
    elements: PhantomData<T>,
}

// SAFETY: `drive` gives each of its elements to one thread.
unsafe impl<T: Element> Sync for Target<'_, T> {}

impl<'t, T: Element> Target<'t, T> {
    /// `place.data` is writable for `extent` elements while `'t` lasts, and the
    /// walk leads to no place twice.
    #[inline]
    pub fn new(place: Place<'t>, count: usize) -> Self {
        place.check::<T>(count);
        Target { place, count, elements: PhantomData }
    }

    #[inline]
    fn is_direct(&self) -> bool {
        self.place.stored == Stored::Same && matches!(self.place.walk, Walk::Flat)
    }

    /// # Safety
    /// While the block is in use, nobody else has one with the same elements.
    #[inline]
    unsafe fn block<'b>(
        &'b self,
        range: Range<usize>,
        buffer: &'b mut Buffer<T>,
    ) -> &'b mut [MaybeUninit<T>] {
        let range = self.place.elements(&range, self.count);
        if range.is_empty() {
            return &mut []; // where there may be no memory at all
        }
        if self.is_direct() {
            // SAFETY: in the memory, whose elements are `T`s (`Target::new`);
            // this block's alone, says the caller.
            return unsafe {
                std::slice::from_raw_parts_mut(
                    self.place.data.cast::<MaybeUninit<T>>().add(range.start),
                    range.len(),
                )
            };
        }
        let room = buffer.room(range.len());
        room.fill(MaybeUninit::new(T::default()));
        room
    }

    /// Writes a block from the buffer that `block` gave.
    ///
    /// # Safety
    /// As for `block`, which has given this buffer.
    #[inline]
    unsafe fn flush(&self, range: Range<usize>, buffer: &mut Buffer<T>) {
        if self.is_direct() {
            return;
        }
        let range = self.place.elements(&range, self.count);
        let n = range.len();
        // SAFETY: `block` has filled it, and bodies write values only.
        let from = unsafe { std::slice::from_raw_parts(buffer.room(n).as_ptr().cast(), n) };
        // SAFETY: as the caller says.
        unsafe {
            match self.place.stored {
                Stored::Same => self.scatter(range, from, |x: T| x),
                Stored::Half => self.scatter(range, from, |x| x.to_half().to_bits()),
                Stored::BFloat16 => self.scatter(range, from, |x| x.to_bfloat16().to_bits()),
                Stored::Bool => self.scatter(range, from, T::to_byte),
            }
        }
    }

    /// # Safety
    /// As for `block`; the elements in memory are `S`s.
    #[inline]
    unsafe fn scatter<S>(&self, range: Range<usize>, from: &[T], f: impl Fn(T) -> S) {
        let data = self.place.data.cast::<S>();
        let mut from = from.iter();
        self.place.walk.pieces(range.start, range.len(), |offset, stride, n| {
            for (i, x) in from.by_ref().take(n).enumerate() {
                // SAFETY: in the memory (`Target::new`); the caller's alone.
                unsafe { data.add(offset + i * stride).write(f(*x)) };
            }
        });
    }
}

/// Room for one operand's block, on the stack up to `BLOCK` elements.
pub struct Buffer<T> {
    near: [MaybeUninit<T>; BLOCK],
    far: Vec<MaybeUninit<T>>,
    /// So many elements hold the one of a constant source.
    constant: usize,
}

impl<T: Element> Buffer<T> {
    #[inline]
    fn new() -> Self {
        Buffer { near: [const { MaybeUninit::uninit() }; BLOCK], far: Vec::new(), constant: 0 }
    }

    #[inline]
    fn room(&mut self, n: usize) -> &mut [MaybeUninit<T>] {
        if n <= BLOCK {
            return &mut self.near[..n];
        }
        if self.far.len() < n {
            self.far.resize(n, MaybeUninit::uninit());
        }
        &mut self.far[..n]
    }
}

#[inline]
fn zeroed<T: Element>(slots: &mut [MaybeUninit<T>]) -> &mut [T] {
    slots.fill(MaybeUninit::new(T::default()));
    // SAFETY: just filled; the layouts are the same.
    unsafe { &mut *(&raw mut *slots as *mut [T]) }
}

/// What [`drive`] needs of one element type or a tuple or array of them.
pub trait Blocks: Copy {
    type Sources<'t>: Sync;
    type Targets<'t>: Sync;
    type Buffers;
    type Slices<'b>: Copy;
    type Slots<'b>;
    type Rows<'b>;
    fn buffers() -> Self::Buffers;
    /// The slots, filled with zeros.
    fn rows(slots: Self::Slots<'_>) -> Self::Rows<'_>;
    fn sources_direct(sources: &Self::Sources<'_>) -> bool;
    fn targets_direct(targets: &Self::Targets<'_>) -> bool;
    fn slices<'b>(
        sources: &'b Self::Sources<'_>,
        range: Range<usize>,
        buffers: &'b mut Self::Buffers,
    ) -> Self::Slices<'b>;
    /// # Safety
    /// While the slots are in use, nobody else has some with the same elements.
    unsafe fn slots<'b>(
        targets: &'b Self::Targets<'_>,
        range: Range<usize>,
        buffers: &'b mut Self::Buffers,
    ) -> Self::Slots<'b>;
    /// # Safety
    /// As for `slots`, which has given these buffers.
    unsafe fn flush(targets: &Self::Targets<'_>, range: Range<usize>, buffers: &mut Self::Buffers);
}

impl<T: Element> Blocks for T {
    type Sources<'t> = Source<'t, T>;
    type Targets<'t> = Target<'t, T>;
    type Buffers = Buffer<T>;
    type Slices<'b> = &'b [T];
    type Slots<'b> = &'b mut [MaybeUninit<T>];
    type Rows<'b> = &'b mut [T];
    #[inline]
    fn buffers() -> Buffer<T> {
        Buffer::new()
    }
    #[inline]
    fn rows(slots: Self::Slots<'_>) -> &mut [T] {
        zeroed(slots)
    }
    #[inline]
    fn sources_direct(source: &Source<'_, T>) -> bool {
        source.is_direct()
    }
    #[inline]
    fn targets_direct(target: &Target<'_, T>) -> bool {
        target.is_direct()
    }
    #[inline]
    fn slices<'b>(
        source: &'b Source<'_, T>,
        range: Range<usize>,
        buffer: &'b mut Buffer<T>,
    ) -> &'b [T] {
        source.block(range, buffer)
    }
    #[inline]
    unsafe fn slots<'b>(
        target: &'b Target<'_, T>,
        range: Range<usize>,
        buffer: &'b mut Buffer<T>,
    ) -> &'b mut [MaybeUninit<T>] {
        // SAFETY: the caller's promise.
        unsafe { target.block(range, buffer) }
    }
    #[inline]
    unsafe fn flush(target: &Target<'_, T>, range: Range<usize>, buffer: &mut Buffer<T>) {
        // SAFETY: the caller's promise.
        unsafe { target.flush(range, buffer) }
    }
}

impl<T: Element, const N: usize> Blocks for [T; N] {
    type Sources<'t> = [Source<'t, T>; N];
    type Targets<'t> = [Target<'t, T>; N];
    type Buffers = [Buffer<T>; N];
    type Slices<'b> = [&'b [T]; N];
    type Slots<'b> = [&'b mut [MaybeUninit<T>]; N];
    type Rows<'b> = [&'b mut [T]; N];
    #[inline]
    fn rows(slots: Self::Slots<'_>) -> Self::Rows<'_> {
        slots.map(zeroed)
    }
    #[inline]
    fn buffers() -> Self::Buffers {
        std::array::from_fn(|_| Buffer::new())
    }
    #[inline]
    fn sources_direct(sources: &Self::Sources<'_>) -> bool {
        sources.iter().all(Source::is_direct)
    }
    #[inline]
    fn targets_direct(targets: &Self::Targets<'_>) -> bool {
        targets.iter().all(Target::is_direct)
    }
    #[inline]
    fn slices<'b>(
        sources: &'b Self::Sources<'_>,
        range: Range<usize>,
        buffers: &'b mut Self::Buffers,
    ) -> Self::Slices<'b> {
        let mut buffers = buffers.iter_mut();
        let mut next = || buffers.next().expect("one each");
        std::array::from_fn(|i| sources[i].block(range.clone(), next()))
    }
    #[inline]
    unsafe fn slots<'b>(
        targets: &'b Self::Targets<'_>,
        range: Range<usize>,
        buffers: &'b mut Self::Buffers,
    ) -> Self::Slots<'b> {
        let mut buffers = buffers.iter_mut();
        let mut next = || buffers.next().expect("one each");
        // SAFETY: the caller's promise; targets share no memory (`layout`).
        std::array::from_fn(|i| unsafe { targets[i].block(range.clone(), next()) })
    }
    #[inline]
    unsafe fn flush(targets: &Self::Targets<'_>, range: Range<usize>, buffers: &mut Self::Buffers) {
        for (target, buffer) in targets.iter().zip(buffers) {
            // SAFETY: the caller's promise.
            unsafe { target.flush(range.clone(), buffer) };
        }
    }
}

macro_rules! tuple {
    ($($T:ident $i:tt),+) => {
        impl<$($T: Blocks),+> Blocks for ($($T,)+) {
            type Sources<'t> = ($($T::Sources<'t>,)+);
            type Targets<'t> = ($($T::Targets<'t>,)+);
            type Buffers = ($($T::Buffers,)+);
            type Slices<'b> = ($($T::Slices<'b>,)+);
            type Slots<'b> = ($($T::Slots<'b>,)+);
            type Rows<'b> = ($($T::Rows<'b>,)+);
            #[inline]
            fn rows(slots: Self::Slots<'_>) -> Self::Rows<'_> {
                ($($T::rows(slots.$i),)+)
            }
            #[inline]
            fn buffers() -> Self::Buffers {
                ($($T::buffers(),)+)
            }
            #[inline]
            fn sources_direct(sources: &Self::Sources<'_>) -> bool {
                $($T::sources_direct(&sources.$i))&&+
            }
            #[inline]
            fn targets_direct(targets: &Self::Targets<'_>) -> bool {
                $($T::targets_direct(&targets.$i))&&+
            }
            #[inline]
            fn slices<'b>(
                sources: &'b Self::Sources<'_>,
                range: Range<usize>,
                buffers: &'b mut Self::Buffers,
            ) -> Self::Slices<'b> {
                ($($T::slices(&sources.$i, range.clone(), &mut buffers.$i),)+)
            }
            #[inline]
            unsafe fn slots<'b>(
                targets: &'b Self::Targets<'_>,
                range: Range<usize>,
                buffers: &'b mut Self::Buffers,
            ) -> Self::Slots<'b> {
                // SAFETY: the caller's promise; targets share no memory (`layout`).
                ($(unsafe { $T::slots(&targets.$i, range.clone(), &mut buffers.$i) },)+)
            }
            #[inline]
            unsafe fn flush(
                targets: &Self::Targets<'_>,
                range: Range<usize>,
                buffers: &mut Self::Buffers,
            ) {
                // SAFETY: the caller's promise.
                $(unsafe { $T::flush(&targets.$i, range.clone(), &mut buffers.$i) };)+
            }
        }
    };
}
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

/// How a kernel's units are dealt out.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// How many units there are: elements or rows.
    pub count: usize,
    /// So many are not worth another thread.
    pub grain: usize,
    /// The most that a call of the body gets where there is something to gather.
    pub block: usize,
}

impl Work {
    /// How many units a thread takes at a time: several times each, so that
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

/// The short way for small tensors: where all inputs are contiguous or one
/// element that is expanded, of `T`s and of one shape, and there are at most
/// `limit` elements, calls `body` once, with all of each or the one, and returns
/// the new tensors that it has filled.
#[inline]
pub fn alike<T: Element, const I: usize, const O: usize>(
    x: [&Tensor; I],
    limit: usize,
    body: impl FnOnce([&[T]; I], [&mut [MaybeUninit<T>]; O]),
) -> Option<Result<[Tensor; O], Payload>> {
    let Alike { count, x: from, one, y: to, outputs } = memory::alike::<I, O>(x, T::DTYPE, limit)?;
    let aligned = from.iter().all(|data| (*data as usize).is_multiple_of(align_of::<T>()));
    if !aligned || T::stored(T::DTYPE) != Some(Stored::Same) {
        return None;
    }
    let mut slices = [&[][..]; I];
    for (i, slice) in slices.iter_mut().enumerate() {
        let length = if one[i] { 1 } else { count };
        // SAFETY: so many `T`s, says the shim, aligned; the inputs' handles are
        // held by the caller.
        *slice = unsafe { std::slice::from_raw_parts(from[i].cast(), length) };
    }
    // SAFETY: room for `count` `T`s each, in new memory that `outputs` hold.
    let slots = to.map(|data| unsafe { std::slice::from_raw_parts_mut(data.cast(), count) });
    let done = catch_unwind(AssertUnwindSafe(|| body(slices, slots)));
    Some(done.map(|()| outputs))
}
