//! The same values in another dtype.

pub use crate::application::ToKind;

use tch::Kind;

super::methods! {
    /// [`ToKind`]: the same values in another dtype.
    to_kind(self, kind: Kind) => ToKind { kind };
}
