//! [`Place`]: where a tensor's elements lie; [`Source`] and [`Target`]: blocks of
//! them as slices.

use super::BLOCK;
use crate::kernel::element::{Element, Stored};
use crate::kernel::walk::Walk;
use half::f16;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The place and the form of a tensor's elements in memory.
pub struct Place<'t> {
    pub data: *mut u8,
    /// Number of elements in memory, from the first one.
    pub extent: usize,
    pub stored: Stored,
    pub walk: Walk,
    /// Number of elements of one unit of the kernel's count: 1, or a row's length.
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

    /// Converts a range of units to elements.
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
    pub(super) fn is_direct(&self) -> bool {
        self.place.stored == Stored::Same && !self.shared && matches!(self.place.walk, Walk::Flat)
    }

    #[inline]
    pub(super) fn block<'b>(&'b self, range: Range<usize>, buffer: &'b mut Buffer<T>) -> &'b [T] {
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
            let write = |to: &mut MaybeUninit<T>, x| _ = to.write(x);
            match self.place.stored {
                Stored::Same => self.gather(range, to.iter_mut(), |x: T, to| write(to, x)),
                Stored::Half => self.gather_halves(range, to),
                Stored::BFloat16 => {
                    self.gather(range, to.iter_mut(), |x, to| write(to, T::from_bfloat16(x)));
                }
                Stored::Bool => {
                    self.gather(range, to.iter_mut(), |x, to| write(to, T::from_byte(x)));
                }
            }
            buffer.constant = if constant { n } else { 0 };
        }
        // SAFETY: the walk through `n` elements has written `n`.
        unsafe { std::slice::from_raw_parts(buffer.room(n).as_ptr().cast(), n) }
    }

    /// Does what `gather` does. Vector instructions convert a few elements at a time.
    fn gather_halves(&self, range: Range<usize>, to: &mut [MaybeUninit<T>]) {
        let mut near = [f16::ZERO; HALVES];
        let mut start = range.start;
        for to in zeroed(to).chunks_mut(HALVES) {
            let near = &mut near[..to.len()];
            self.gather(start..start + to.len(), near.iter_mut(), |x: f16, near| *near = x);
            T::from_halves(near, to);
            start += to.len();
        }
    }

    /// Gives `f` each element of a range and a place of `to`.
    #[inline]
    fn gather<S: Copy, P>(
        &self,
        range: Range<usize>,
        mut to: impl Iterator<Item = P>,
        f: impl Fn(S, P),
    ) {
        let data = self.place.data.cast::<S>();
        self.place.walk.pieces(range.start, range.len(), |offset, stride, n| {
            // SAFETY: in the memory, whose elements are `S`s (`Source::new`).
            let read = |i| unsafe { *data.add(offset + i) };
            let to = to.by_ref().take(n).enumerate();
            match stride {
                // A loop of its own, which the compiler makes vectors of.
                1 => to.for_each(|(i, to)| f(read(i), to)),
                _ => to.for_each(|(i, to)| f(read(i * stride), to)),
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
    pub(super) fn is_direct(&self) -> bool {
        self.place.stored == Stored::Same && matches!(self.place.walk, Walk::Flat)
    }

    /// # Safety
    /// While the block is in use, nobody else has one with the same elements.
    #[inline]
    pub(super) unsafe fn block<'b>(
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
    pub(super) unsafe fn flush(&self, range: Range<usize>, buffer: &mut Buffer<T>) {
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
                Stored::Half => self.scatter_halves(range, from),
                Stored::BFloat16 => self.scatter(range, from, T::to_bfloat16),
                Stored::Bool => self.scatter(range, from, T::to_byte),
            }
        }
    }

    /// # Safety
    /// As for `block`; the elements in memory are `S`s.
    #[inline]
    unsafe fn scatter<X: Copy, S>(&self, range: Range<usize>, from: &[X], f: impl Fn(X) -> S) {
        let data = self.place.data.cast::<S>();
        let mut from = from.iter();
        self.place.walk.pieces(range.start, range.len(), |offset, stride, n| {
            // SAFETY: in the memory (`Target::new`); the caller's alone.
            let write = |i, x: &X| unsafe { data.add(offset + i).write(f(*x)) };
            let from = from.by_ref().take(n).enumerate();
            match stride {
                1 => from.for_each(|(i, x)| write(i, x)),
                _ => from.for_each(|(i, x)| write(i * stride, x)),
            }
        });
    }

    /// # Safety
    /// As for `block`; the elements in memory are `f16`s.
    unsafe fn scatter_halves(&self, range: Range<usize>, from: &[T]) {
        let mut near = [f16::ZERO; HALVES];
        let mut start = range.start;
        for from in from.chunks(HALVES) {
            let near = &mut near[..from.len()];
            T::to_halves(from, near);
            // SAFETY: as the caller says.
            unsafe { self.scatter(start..start + from.len(), near, |x| x) };
            start += from.len();
        }
    }
}

/// Number of f16 numbers that are converted at a time.
const HALVES: usize = 64;

/// Room for one operand's block, on the stack up to `BLOCK` elements.
pub struct Buffer<T> {
    near: [MaybeUninit<T>; BLOCK],
    far: Vec<MaybeUninit<T>>,
    /// Number of copies of a constant source's element.
    constant: usize,
}

impl<T: Element> Buffer<T> {
    #[inline]
    pub fn new() -> Self {
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
pub(super) fn zeroed<T: Element>(slots: &mut [MaybeUninit<T>]) -> &mut [T] {
    slots.fill(MaybeUninit::new(T::default()));
    // SAFETY: just filled; the layouts are the same.
    unsafe { &mut *(&raw mut *slots as *mut [T]) }
}
