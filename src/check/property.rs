//! [`Property`]: what is checked of a Function, one name each.

use std::fmt;

/// One way in which a Function can be right or wrong. [`Check`](super::Check)
/// tries them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Property {
    /// `forward` gives what the reference gives.
    Value,
    /// Every derivative that `backward` gives equals one from differences of
    /// `forward`; along random directions where the inputs are large.
    Gradcheck,
    /// The same of `backward` itself: second derivatives.
    Gradgradcheck,
    /// `jvp` and `backward` are of the same Jacobian.
    ForwardMode,
    /// `backward` is linear in its seed.
    Linearity,
    /// A seed of zeros gives gradients of zeros.
    ZeroSeed,
    /// Missing output gradients have the same effect as zeros.
    UndefinedSeeds,
    /// Strides and offsets of inputs and seeds do not matter.
    Layouts,
    /// Gradients do not depend on which others are asked for.
    NeedsInputGrad,
    /// f16, bf16 and f32 give what f64 gives, within their rounding, and f64
    /// is not computed in less.
    Dtypes,
    /// Empty and scalar inputs give a right result or a clear error.
    Shapes,
    /// The same call gives the same numbers, whatever runs in between.
    Determinism,
    /// Inputs, seeds and saved tensors are unchanged afterwards.
    Unchanged,
    /// An output in an input's memory shares its version; outputs of two calls share no
    /// memory.
    Aliasing,
    /// A second pass over a retained graph gives the same, and over a graph
    /// that was not retained an error.
    SecondPass,
    /// Eight threads at once give what one gives.
    Threads,
    /// Nothing lives longer than the graph.
    Leaks,
    /// This crate's engine, libtorch's, and libtorch on the reference agree.
    Engines,
}

impl Property {
    /// All of them, in the order in which they are checked.
    pub const ALL: &'static [Property] = &[
        Property::Value,
        Property::Gradcheck,
        Property::Gradgradcheck,
        Property::ForwardMode,
        Property::Linearity,
        Property::ZeroSeed,
        Property::UndefinedSeeds,
        Property::Layouts,
        Property::NeedsInputGrad,
        Property::Dtypes,
        Property::Shapes,
        Property::Determinism,
        Property::Unchanged,
        Property::Aliasing,
        Property::SecondPass,
        Property::Threads,
        Property::Leaks,
        Property::Engines,
    ];

    /// Returns how much numbers may differ, relative to the greatest of their tensor,
    /// unless [`Check::tolerance`](super::Check::tolerance) says otherwise. For
    /// [`Dtypes`](Property::Dtypes) in units of the dtype's rounding.
    pub fn default_tolerance(self) -> f64 {
        match self {
            Property::Gradcheck | Property::Gradgradcheck => 1e-7,
            Property::Value | Property::Engines => 1e-8,
            Property::Dtypes => 32.0,
            Property::Determinism | Property::Unchanged | Property::ZeroSeed => 0.0,
            _ => 1e-10,
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}"))
    }
}
