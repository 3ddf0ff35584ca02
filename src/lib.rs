//! `torch.autograd.Function` for Rust.
#![deny(unsafe_code)]

pub mod check;
mod ctx;
mod erased;
mod error;
mod ffi;
mod forward;
mod function;
mod grad;
mod graph;
mod libtorch;
mod lift;
mod meta;
pub mod ops;
mod rules;
mod tensors;
mod value;

pub use check::{Gradcheck, gradcheck, gradcheck_fn};
pub use ctx::Ctx;
pub use error::Error;
pub use function::{DoubleBackward, Function};
pub use grad::{GradOptions, Handles, backward, grad};
pub use graph::{Gradients, Var};
pub use lift::{lift, lift_all};
pub use tensors::{Grads, Of, Refs, Tensors};
pub use value::{Differentiable, Value};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
