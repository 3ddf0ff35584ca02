//! [`Plan`]: what the forward op tells the backward op, as a list of integers.

use crate::ffi::dispatcher::SOURCES;
pub(super) use crate::ffi::dispatcher::Source;
use crate::ffi::modes::AutocastState;
use crate::function::Origin;
use crate::{DoubleBackward, Error, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The plan of one application. The C++ node reads the same list (`Plan` of
/// dispatch_node.cpp): the kind of second derivatives, whether gradients are materialised,
/// autocast, the number of outputs, whether each is differentiable, and the source of each
/// saved tensor. Autocast is what it was around `forward`, which may run again.
pub(super) struct Plan {
    pub second_order: DoubleBackward,
    pub materialize: bool,
    pub autocast: AutocastState,
    pub differentiable: Vec<bool>,
    /// Each source, with its index among the inputs, the outputs, or the others.
    pub saved: Vec<(Source, usize)>,
}

fn origin(code: i64) -> Origin {
    let index = (code / SOURCES as i64) as u32;
    match code % SOURCES as i64 {
        0 => Origin::Input(index),
        1 => Origin::Output(index),
        2 => Origin::Intermediate,
        _ => Origin::Constant,
    }
}

fn saves_only_inputs(plan: &[i64]) -> bool {
    Plan::read(plan).is_some_and(|(.., origins)| {
        origins.iter().all(|origin| matches!(origin, Origin::Input(_)))
    })
}

/// A graph that was traced without autocast may run under it.
fn without_autocast(plan: &[i64]) -> Vec<i64> {
    let mut plan = plan.to_owned();
    if let Some(autocast) = plan.get_mut(2) {
        *autocast = 0;
    }
    plan
}

/// The plans that an op's `forward` has made in this process. PyTorch keeps compiled graphs
/// on disk, with the plan in them; a graph of an earlier build of the op must not be read as
/// one of this build.
#[derive(Default)]
pub(super) struct Plans {
    /// Of real data.
    made: Known,
    /// Of a tracer's tensors.
    traced: Known,
}

#[derive(Default)]
struct Known(Mutex<Vec<Vec<i64>>>);

impl Known {
    /// Maximum number of plans that are kept: an op on lists has one for each length.
    const KEPT: usize = 1024;

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<i64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plans {
    pub fn add(&self, plan: &[i64], traced: bool) {
        let plan = without_autocast(plan);
        let mut plans = if traced { self.traced.lock() } else { self.made.lock() };
        if plans.len() < Known::KEPT && !plans.contains(&plan) {
            plans.push(plan);
        }
    }

    /// Where all that is saved are inputs, a compiled graph has no forward if nobody uses
    /// its outputs (`torch.func.vjp` under `torch.compile`): then it must have been traced in
    /// this process, and nothing may contradict.
    ///
    /// # Errors
    /// The plan is not one that this op's `forward` made.
    pub fn check(&self, op: &'static str, plan: &[i64]) -> Result<()> {
        let plan = without_autocast(plan);
        let made = self.made.lock();
        if made.len() == Known::KEPT || made.contains(&plan) {
            return Ok(());
        }
        let contradicted = made.iter().any(|known| known.len() == plan.len());
        if saves_only_inputs(&plan) && !contradicted && self.traced.lock().contains(&plan) {
            return Ok(());
        }
        let message = "its backward is called with a plan that its forward did not make: a graph \
                       that torch.compile kept from another build of the op, perhaps, or a `fake` \
                       that saves other tensors than `forward`; empty PyTorch's compile cache";
        Err(Error::Argument { op, message: message.to_owned() })
    }
}

impl Plan {
    pub fn write(&self) -> Vec<i64> {
        let head = [self.second_order as i64, i64::from(self.materialize), self.autocast.code()];
        let outputs = self.differentiable.iter().map(|&d| i64::from(d));
        let n = self.differentiable.len() as i64;
        let saved =
            self.saved.iter().map(|&(source, index)| (index * SOURCES) as i64 + source as i64);
        head.into_iter().chain([n]).chain(outputs).chain(saved).collect()
    }

    /// Returns whether gradients are materialised, what autocast was, and the origin of
    /// each saved tensor; `None` for a list that is no plan.
    pub fn read(ints: &[i64]) -> Option<(bool, AutocastState, Vec<Origin>)> {
        let [_, materialize, autocast, n, ref rest @ ..] = *ints else { return None };
        let saved = rest.get(usize::try_from(n).ok()?..).filter(|_| autocast >= 0)?;
        let origins = saved.iter().map(|&code| (code >= 0).then(|| origin(code)));
        Some((materialize != 0, AutocastState::of_code(autocast), origins.collect::<Option<_>>()?))
    }
}
