//! [`Plan`]: what `forward` says of what `backward` will need, as the list of
//! integers that goes from the one op to the other.

use crate::function::Origin;
use crate::{DoubleBackward, Error, Result};
use std::sync::{Mutex, PoisonError};

/// The C++ node reads the same list (`Plan` of dispatch_node.cpp): the kind of
/// second derivatives, whether gradients are materialised, the number of outputs,
/// whether each is differentiable, and for each saved tensor where it comes from.
pub(super) struct Plan {
    pub second_order: DoubleBackward,
    pub materialize: bool,
    pub differentiable: Vec<bool>,
    pub saved: Vec<Source>,
}

/// Where a saved tensor is found.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Input(usize),
    Output(usize),
    /// In the list of those that are neither.
    Intermediate(usize),
    Constant(usize),
    /// An output without a gradient.
    ConstantOutput(usize),
}

impl Source {
    fn code(self) -> i64 {
        use Source::*;
        let (kind, index) = match self {
            Input(i) => (0, i),
            Output(i) => (1, i),
            Intermediate(i) => (2, i),
            Constant(i) => (3, i),
            ConstantOutput(i) => (4, i),
        };
        (index * 8 + kind) as i64
    }

    fn origin(code: i64) -> Origin {
        let index = (code / 8) as u32;
        match code % 8 {
            0 => Origin::Input(index),
            1 => Origin::Output(index),
            2 => Origin::Intermediate,
            _ => Origin::Constant,
        }
    }
}

/// The plans that an op's `forward` has made in this process, of real data. PyTorch keeps compiled
/// graphs on disk, with the plan in them; a graph of an earlier build of the op
/// must not be read as one of this.
#[derive(Default)]
pub(super) struct Plans(Mutex<Vec<Vec<i64>>>);

impl Plans {
    /// So many are kept: lists of tensors have one for each length.
    const KEPT: usize = 1024;

    pub fn add(&self, plan: &[i64]) {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() < Plans::KEPT && !plans.iter().any(|known| known == plan) {
            plans.push(plan.to_owned());
        }
    }

    /// # Errors
    /// The plan is none of this op's.
    pub fn check(&self, op: &'static str, plan: &[i64]) -> Result<()> {
        let plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if plans.len() == Plans::KEPT || plans.iter().any(|known| known == plan) {
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
        let head = [self.second_order as i64, i64::from(self.materialize)];
        let outputs = self.differentiable.iter().map(|&d| i64::from(d));
        let n = self.differentiable.len() as i64;
        let saved = self.saved.iter().map(|source| source.code());
        head.into_iter().chain([n]).chain(outputs).chain(saved).collect()
    }

    /// Whether gradients are materialised, and where each saved tensor comes from.
    pub fn read(ints: &[i64]) -> (bool, Vec<Origin>) {
        let saved = &ints[3 + ints[2] as usize..];
        (ints[1] != 0, saved.iter().map(|&code| Source::origin(code)).collect())
    }
}
