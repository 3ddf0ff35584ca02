//! [`Autocast`]: what an op wants of its inputs under autocast.

use tch::Kind;

/// The rule of an op under autocast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Autocast {
    /// `forward` runs under autocast, on the inputs as they are.
    Unchanged,
    /// The inputs are converted, and the op runs with autocast off.
    To(Kind),
    /// The inputs are converted to f32 on devices for which libtorch does so for its op of
    /// this name; the op runs with autocast off.
    Wide(&'static str),
    /// The inputs are converted to autocast's own dtype in the same way.
    Lower(&'static str),
}
