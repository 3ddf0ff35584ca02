//! Faults of the crate that this test has found and that are being mended. A program
//! that gets to one is compared no further. Take a line out once it is mended; with
//! `TCH_FUNCTION_SEQUENCES_STRICT=1` none is left out, and with its name only it is not.

use super::call::{Call, LEAVES, PARAMETERS, Place, Program};
use super::engine::Engine;
use super::op::Op;
use super::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// Kept leaves of a parameter that is frozen, detached in place, resized, or given
    /// other data go on with what it was.
    ChangedParameter,
    /// A pass from or to a Var that was changed in place, itself or through a view, takes
    /// the graph of the old value.
    PassFromSuperseded,
    /// A constant whose own tensor the user lets require a gradient counts as a captured
    /// parameter in passes that are recorded.
    FlagInside,
    /// A leaf forgets its gradient where adding to it fails: one that a pass in inference
    /// mode has left.
    LostGradient,
    /// Inside libtorch: a leaf that no longer requires a gradient is changed in place by a
    /// Function. A pass over an older graph of it aborts the process, and its gradient is
    /// gone.
    DirtyAfterFreezing,
    /// Inside libtorch: a Function that changes a view in place and saves the result is
    /// never dropped, nor is its graph.
    DirtyViewLeaks,
}

/// Whether programs stop at a known fault.
pub fn is_left_out(known: &Known) -> bool {
    let strict = std::env::var("TCH_FUNCTION_SEQUENCES_STRICT").unwrap_or_default();
    strict != "1" && !strict.contains(&format!("{known:?}"))
}

impl Known {
    /// Whether the process would not survive the fault.
    pub fn aborts(self) -> bool {
        self == Known::DirtyAfterFreezing
    }
}

/// The fault that a call runs into.
pub fn of<E: Engine>(ours: &World<E>, program: &Program, call: &Call) -> Option<Known> {
    if E::VARS { on_vars(ours, call) } else { on_tensors(ours, program, call) }
}

fn on_vars<E: Engine>(ours: &World<E>, call: &Call) -> Option<Known> {
    let superseded = |x: &Place| ours.values.get(x).is_some_and(E::is_superseded);
    let from_old = match call {
        Call::Backward { y, .. } => y.iter().any(superseded),
        Call::Twice(y) => superseded(y),
        Call::Grad { y, x, .. } => y.iter().chain(x).any(superseded),
        _ => false,
    };
    let changed = match call {
        Call::DetachInPlace(x) | Call::RequiresGrad(x, _) => Some(x),
        Call::Resize { x, .. } | Call::SetData { x, .. } => Some(x),
        _ => None,
    };
    match (changed, call) {
        _ if from_old => Some(Known::PassFromSuperseded),
        (Some(Place::Leaf(i)), _) if *i < PARAMETERS => Some(Known::ChangedParameter),
        (_, Call::RequiresGrad(_, true)) => Some(Known::FlagInside),
        _ => None,
    }
}

fn on_tensors<E: Engine>(ours: &World<E>, program: &Program, call: &Call) -> Option<Known> {
    let Call::Apply { op, x, .. } = call else { return None };
    let freezes = |call: &Call| match call {
        Call::RequiresGrad(_, false) => true,
        Call::DetachInPlace(x) => !matches!(x, Place::Leaf(3)),
        _ => false,
    };
    if !op.is_in_place() || !program.calls.iter().any(|(_, call)| freezes(call)) {
        return None;
    }
    let x = ours.tensor(x[0]).ok()?;
    let of_leaf = |i| ours.tensor(Place::Leaf(i)).is_ok_and(|leaf| leaf.data_ptr() == x.data_ptr());
    let frozen = x.is_leaf() && !x.requires_grad() && (0..LEAVES.len()).any(of_leaf);
    frozen.then_some(Known::DirtyAfterFreezing)
}

/// Whether plain tch is no measure from a call on. It may lose the gradient of what is
/// added to an inference tensor. Several gradients may be one tensor, so
/// that a flag of one is a flag of the others. A flag that is taken from a saved
/// tensor counts for its history there, and not here. And what is recomputed takes what a
/// change has left that libtorch's counter does not see, as by tch's optimizers, where
/// plain tch has saved its intermediates.
pub fn is_beyond_tch<E: Engine>(ours: &World<E>, program: &Program, i: usize, call: &Call) -> bool {
    let before = || program.calls.iter().take_while(|(k, _)| *k < i).map(|(_, call)| call);
    let is_gradient = |made: &usize| {
        program.calls.iter().any(|(k, call)| k == made && matches!(call, Call::Grad { .. }))
    };
    match call {
        Call::RequiresGrad(Place::Made(made, _), _) => is_gradient(made),
        Call::Apply { op, x, .. } if op.is_in_place() => {
            ours.tensor(x[0]).is_ok_and(|x| x.is_inference())
        }
        Call::Grad { create: true, .. } => before()
            .any(|call| matches!(call, Call::RequiresGrad(_, false) | Call::DetachInPlace(_))),
        Call::Step | Call::SetData { .. } => {
            let creates = |call: &Call| matches!(call, Call::Grad { create: true, .. });
            recomputes(program) && program.calls.iter().any(|(_, call)| creates(call))
        }
        _ => false,
    }
}

pub fn recomputes(program: &Program) -> bool {
    applies(program, Op::SiluRecomputed)
}

fn applies(program: &Program, what: Op) -> bool {
    program.calls.iter().any(|(_, call)| matches!(call, Call::Apply { op, .. } if *op == what))
}

/// Whether libtorch's graph may hold itself: an op in place adds what was computed from
/// the old value, which that has saved, and the two hold each other in plain tch too; or
/// the known fault.
pub fn may_leak(program: &Program) -> bool {
    // Of the views here, only gradients can be changed in place.
    let gradients = program.calls.iter().any(|(_, call)| matches!(call, Call::Grad { .. }));
    let view = gradients && applies(program, Op::TanhInPlace);
    applies(program, Op::AddInPlace) || view && is_left_out(&Known::DirtyViewLeaks)
}
