//! [`quietly`]: panics that are expected are told in a report, or not at all, and
//! not on stderr.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `f` without messages of panics that are caught on this thread. One that
/// is not caught goes on, with its message.
#[track_caller]
pub(crate) fn quietly<T>(f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let told = take_hook();
        set_hook(Box::new(move |info| match QUIET.get() {
            true => LAST.with_borrow_mut(|last| *last = info.to_string()),
            false => told(info),
        }));
    });
    let was = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(was);
    result.unwrap_or_else(|_| panic!("{}", LAST.take()))
}
