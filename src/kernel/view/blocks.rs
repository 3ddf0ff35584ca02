//! [`Blocks`]: the same for arrays and tuples of elements.

use super::place::{Buffer, Source, Target, zeroed};
use crate::kernel::element::Element;
use std::mem::MaybeUninit;
use std::ops::Range;

/// The operations that [`drive`](super::drive) needs of one element type or a tuple or array of them.
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
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
