//! Drops values of the user's: in turn, and so that no panic comes out.

use super::drop_quietly;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::mem::{ManuallyDrop, needs_drop};
use std::ops::Deref;

/// A value of the user's. Nothing that its `Drop` panics with or throws comes out.
#[derive(Clone)]
pub(crate) struct Quiet<T>(ManuallyDrop<T>);

impl<T> Quiet<T> {
    #[inline]
    pub fn new(value: T) -> Quiet<T> {
        Quiet(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Quiet<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Drop for Quiet<T> {
    #[inline]
    fn drop(&mut self) {
        if needs_drop::<T>() {
            // SAFETY: the value is taken once, by this destructor, after which nobody can
            // reach it.
            drop_quietly(unsafe { ManuallyDrop::take(&mut self.0) });
        }
    }
}

thread_local! {
    /// Number of values that this thread is dropping, each inside the one before.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What waits until these are gone. It has no destructor, so that it serves the
    /// destructors of other thread-locals too.
    static WAITING: ManuallyDrop<RefCell<Vec<Box<dyn Any>>>> =
        const { ManuallyDrop::new(RefCell::new(Vec::new())) };
}

/// Drops a value. What this is called with meanwhile is dropped at once up to some depth,
/// and after it beyond: a value that owns one that owns another one, and so on, needs no
/// stack in proportion. Nothing that a `Drop` panics with or throws comes out.
pub(crate) fn drop_in_turn<T: 'static>(value: T) {
    /// Number of values inside each other that the stack has room for.
    const DEEP: u32 = 16;
    let depth = DEPTH.get();
    if depth == DEEP {
        return WAITING.with(|waiting| waiting.borrow_mut().push(Box::new(value)));
    }
    DEPTH.set(depth + 1);
    drop_quietly(value);
    let next = || WAITING.with(|waiting| waiting.borrow_mut().pop());
    while depth == 0
        && let Some(next) = next()
    {
        drop_quietly(next);
    }
    if depth == 0 {
        // The list has no destructor, so its memory is given back here.
        drop(WAITING.with(|waiting| waiting.take()));
    }
    DEPTH.set(depth);
}
