//! The name of a Function that does not choose one.

use std::cell::Cell;

/// Returns `Scale` for `my_crate::ops::Scale` and for `my_crate::ops::Scale<f32>`.
/// Every call of `apply` asks for it, so the last results are kept.
pub(crate) fn short_name(path: &'static str) -> &'static str {
    const SLOTS: usize = 16;
    type Slot = Cell<(&'static str, &'static str)>;
    thread_local!(static LAST: [Slot; SLOTS] = const { [const { Cell::new(("", "")) }; SLOTS] });
    LAST.with(|last| {
        let slot = &last[path.as_ptr() as usize / 16 % SLOTS];
        let (known, short) = slot.get();
        if std::ptr::eq(known, path) {
            return short;
        }
        let short = last_segment(path);
        slot.set((path, short));
        short
    })
}

fn last_segment(path: &'static str) -> &'static str {
    let path = without_arguments(path);
    path.rsplit("::").next().unwrap_or(path)
}

/// Returns the path without the `<...>` at its end. (A type inside a function of an impl has one
/// at the beginning too: `<f64 as my_crate::Trait>::function::Scale<f32>`.)
fn without_arguments(path: &'static str) -> &'static str {
    let mut depth = 0;
    for (i, byte) in path.bytes().enumerate().rev() {
        depth += match byte {
            b'>' if !path[..i].ends_with('-') => 1, // not the one of `fn() -> T`
            b'<' => -1,
            _ => 0,
        };
        if depth == 0 {
            return if byte == b'<' { &path[..i] } else { path };
        }
    }
    path
}
