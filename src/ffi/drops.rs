//! Drops values in turn.

use super::drop_quietly;
use std::any::Any;
use std::cell::RefCell;

thread_local! {
    /// What waits until the value that is being dropped is gone; `None` if none is.
    static WAITING: RefCell<Option<Vec<Box<dyn Any>>>> = const { RefCell::new(None) };
}

/// Drops a value, and whatever this is called with meanwhile after it: a value that owns
/// one that owns another one, and so on, needs no stack in proportion. Nothing that a
/// `Drop` panics with or throws comes out.
pub(crate) fn drop_in_turn<T: 'static>(value: T) {
    // Without the thread's list, at its end, the value is dropped at once.
    let mut value = Some(value);
    let first = WAITING.try_with(|waiting| match &mut *waiting.borrow_mut() {
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
    while first == Ok(true) {
        let next = WAITING.with_borrow_mut(|waiting| {
            let next = waiting.as_mut().and_then(Vec::pop);
            if next.is_none() {
                *waiting = None;
            }
            next
        });
        let Some(next) = next else { break };
        drop_quietly(next);
    }
}
