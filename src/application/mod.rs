//! One application of a Function, the same in every engine: what happens around
//! `forward`, around `backward` and to tangents. The engines are adapters: they
//! hold the nodes, save the tensors, and say who asks.

mod backward;
mod cast;
mod forward;
mod gradients;
mod marks;
mod operand;
mod seeds;
mod tangents;
mod user;

pub(crate) use backward::{Applied, Backward, differentiate};
pub use cast::ToKind;
pub(crate) use cast::{cast_inputs, converted, off_for, rule};
pub(crate) use forward::{Output, collect, finish, flatten, generators, inputs_are_unchanged, run};
pub(crate) use operand::{Operand, begin};
pub(crate) use seeds::{all_used, seeds};
pub(crate) use tangents::{jvp, tangents_of};
pub(crate) use user::{run_hook, run_user};
