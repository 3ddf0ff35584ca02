//! [`Saved`]: a tensor that `forward` saved, as it was then.

use crate::error::{Error, Result};
use crate::ffi;
use tch::Tensor;

/// The role of a saved tensor, which second derivatives must know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A tensor whose dependence on the inputs is not known.
    Intermediate,
    /// A tensor that does not depend on the inputs.
    Constant,
    Input(u32),
    Output(u32),
    /// A leaf in a graph of libtorch that stands for the input.
    LeafFor(u32),
}

pub(crate) struct Saved {
    pub tensor: Tensor,
    pub version: u32,
    pub origin: Origin,
}

impl Saved {
    pub fn of(tensor: Tensor, origin: Origin) -> Saved {
        Saved { version: ffi::version(&tensor), tensor, origin }
    }

    /// Checks that the tensor still has the version that was saved.
    ///
    /// # Errors
    /// [`Error::SavedChanged`].
    pub fn check(&self, op: &'static str, position: usize) -> Result<()> {
        let found = ffi::version(&self.tensor);
        if found == self.version {
            return Ok(());
        }
        Err(Error::SavedChanged { op, position, expected: self.version, found })
    }

    pub fn share(&self) -> Saved {
        Saved { tensor: self.tensor.shallow_clone(), ..*self }
    }
}
