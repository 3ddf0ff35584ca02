//! Where plain tch is no measure for a program.

use super::call::{Call, Place, Program};
use super::engine::Engine;
use super::op::Op;
use super::world::World;

/// Whether plain tch is no measure from a call on. It may lose the gradient of what is
/// added to an inference tensor. Several gradients may share their memory or be one tensor,
/// so that a change of one is a change of the others. A flag that is taken from a saved
/// tensor counts for its history there, and not here. And what is recomputed takes what a
/// change has left that libtorch's counter does not see, as by tch's optimizers, where
/// plain tch has saved its intermediates.
pub fn is_beyond_tch<E: Engine>(ours: &World<E>, program: &Program, i: usize, call: &Call) -> bool {
    let before = || program.calls.iter().take_while(|(k, _)| *k < i).map(|(_, call)| call);
    match call {
        Call::RequiresGrad(x, _)
        | Call::DetachInPlace(x)
        | Call::Scale { x, .. }
        | Call::Resize { x, .. }
            if is_gradient(program, *x) =>
        {
            true
        }
        Call::Apply { op, x, .. } if op.is_in_place() && is_gradient(program, x[0]) => true,
        Call::Apply { op, x, .. } if op.is_in_place() => {
            ours.tensor(x[0]).is_ok_and(|x| x.is_inference())
        }
        Call::Grad { create: true, .. } => before()
            .any(|call| matches!(call, Call::RequiresGrad(_, false) | Call::DetachInPlace(_))),
        // A graph keeps the data that it was computed from; libtorch's gets the new data.
        Call::SetData { .. } => before().any(|call| matches!(call, Call::Apply { .. })),
        Call::Step => {
            let creates = |call: &Call| matches!(call, Call::Grad { create: true, .. });
            recomputes(program) && program.calls.iter().any(|(_, call)| creates(call))
        }
        _ => false,
    }
}

/// Whether a value is one of several results of `grad`, or another handle to one.
fn is_gradient(program: &Program, x: Place) -> bool {
    let Place::Made(made, _) = x else { return false };
    match program.calls.iter().find(|(i, _)| *i == made) {
        Some((_, Call::Grad { x, .. })) => x.len() > 1,
        Some((_, Call::Clone(x) | Call::Detach(x))) => is_gradient(program, *x),
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
/// the old value, which that has saved, and the two hold each other in plain tch too.
pub fn may_leak(program: &Program) -> bool {
    applies(program, Op::AddInPlace)
}
