//! Drops values of the user's: in turn, and so that no panic comes out.

use super::drop_quietly;
use std::any::Any;
use std::cell::RefCell;
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

type Waiting = Option<Vec<Box<dyn Any>>>;

thread_local! {
    /// What waits until the value that is being dropped is gone; `None` if none is. It has
    /// no destructor, so that it serves the destructors of other thread-locals too.
    static WAITING: ManuallyDrop<RefCell<Waiting>> =
        const { ManuallyDrop::new(RefCell::new(None)) };
}

/// Drops a value, and whatever this is called with meanwhile after it: a value that owns
/// one that owns another one, and so on, needs no stack in proportion. Nothing that a
/// `Drop` panics with or throws comes out.
pub(crate) fn drop_in_turn<T: 'static>(value: T) {
    let mut value = Some(value);
    let first = WAITING.with(|waiting| match &mut *waiting.borrow_mut() {
        Some(list) => {
            list.extend(value.take().map(|value| Box::new(value) as Box<dyn Any>));
            false
        }
        none => {
            *none = Some(Vec::new());
            true
        }
    });
    if let Some(value) = value {
        drop_quietly(value);
    }
    if !first {
        return;
    }
    let next = || {
        WAITING.with(|waiting| {
            let mut waiting = waiting.borrow_mut();
            let next = waiting.as_mut().and_then(Vec::pop);
            if next.is_none() {
                *waiting = None;
            }
            next
        })
    };
    while let Some(next) = next() {
        drop_quietly(next);
    }
}
