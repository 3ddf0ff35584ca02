//! [`Input`]: an input tensor, as `forward` was given it.

use crate::meta::Meta;

/// What is known of one input tensor.
#[derive(Clone)]
pub(crate) struct Input {
    pub meta: Meta,
    pub identity: usize,
    pub version: u32,
    pub needs_grad: bool,
    /// Whether it is a leaf that requires a gradient, or a view of one.
    pub in_leaf: bool,
}

impl Input {
    /// Of an optional input that is not there.
    pub fn absent() -> Input {
        Input {
            meta: Meta::undefined(),
            identity: 0,
            version: 0,
            needs_grad: false,
            in_leaf: false,
        }
    }
}
