//! Faults of the crate that this test has found and that are being mended. A program
//! that gets to one is compared no further. Take a line out once it is mended; with
//! `TCH_FUNCTION_SEQUENCES_STRICT=1` none is left out.

use super::call::{Call, PARAMETERS, Place};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Kept leaves of a parameter that is frozen, detached in place, resized, or given
    /// other data go on with what it was.
    ChangedParameter,
    /// A pass from or to a Var that was changed in place, itself or through a view, takes
    /// the graph of the old value.
    PassFromSuperseded,
}

/// Whether programs stop at known faults.
pub fn is_left_out(_: Known) -> bool {
    std::env::var_os("TCH_FUNCTION_SEQUENCES_STRICT").is_none()
}

/// The fault that a call on Vars runs into, as far as the call alone tells.
pub fn of(call: &Call) -> Option<Known> {
    let (Call::DetachInPlace(x)
    | Call::RequiresGrad(x, _)
    | Call::Resize { x, .. }
    | Call::SetData { x, .. }) = call
    else {
        return None;
    };
    matches!(x, Place::Leaf(i) if *i < PARAMETERS).then_some(Known::ChangedParameter)
}
