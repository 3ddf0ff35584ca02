//! Drops values in turn.

use super::drop_quietly;
use std::any::Any;
use std::cell::RefCell;
use std::mem::ManuallyDrop;

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
