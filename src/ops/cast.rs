//! The same values in another dtype.

pub use crate::application::ToKind;

use crate::{Function, Var};
use tch::Kind;

impl Var {
    /// [`ToKind`]: the same values in another dtype.
    ///
    /// # Errors
    /// [`Error::Forward`](crate::Error::Forward) with libtorch's message.
    pub fn to_kind(&self, kind: Kind) -> crate::Result<Var> {
        ToKind { kind }.apply(self)
    }
}
