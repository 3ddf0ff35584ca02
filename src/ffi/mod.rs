//! libtorch as Rust calls it: every extern declaration, every callback, and the
//! C++ shim. This room knows no Function, no context and no engine; it imports
//! nothing of the crate but its errors.
#![allow(unsafe_code)]

pub(crate) mod dispatcher;
mod drops;
mod engine;
mod errors;
mod forward_ad;
pub(crate) mod hooks;
mod layout;
pub(crate) mod memory;
mod meta;
pub(crate) mod modes;
pub(crate) mod node;
pub(crate) mod parallel;
pub(crate) mod refusal;
pub(crate) mod rng;
mod scalar;
mod tensor;
mod values;

pub(crate) use drops::{Quiet, drop_in_turn};
pub(crate) use engine::{
    Pass, grad_of, graph_leaves, next_sequence_number, set_grad, tap, with_same_history,
};
pub(crate) use errors::{catch_cpp, drop_quietly, last_error, panic_message, take_python_error};
pub(crate) use forward_ad::{
    NoForwardMode, enter_dual_level, exit_dual_level, set_tangent, tangent,
};
pub(crate) use meta::{Meta, device_type, dtype_of, kind_of};
pub(crate) use modes::{GradMode, grad_enabled};
pub(crate) use scalar::{WithScalar, result_type};
pub(crate) use tensor::{
    Description, accumulate, as_leaf_gradient, bump_version, describe, describe_input, in_leaf,
    is_unique, same_data, shares_storage, version, zeros, zeros_like,
};

use errors::check;
use tensor::{handles, own};
