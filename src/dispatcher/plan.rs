//! [`Plan`]: what `forward` says of what `backward` will need, as the list of
//! integers that goes from the one op to the other.

use crate::ctx::Origin;
use crate::{DoubleBackward, Error, Result};

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

impl Plan {
    pub fn write(&self) -> Vec<i64> {
        let head = [self.second_order as i64, i64::from(self.materialize)];
        let outputs = self.differentiable.iter().map(|&d| i64::from(d));
        let n = self.differentiable.len() as i64;
        let saved = self.saved.iter().map(|source| source.code());
        head.into_iter().chain([n]).chain(outputs).chain(saved).collect()
    }

    /// Whether gradients are materialised, and where each saved tensor comes from.
    pub fn read(op: &'static str, ints: &[i64]) -> Result<(bool, Vec<Origin>)> {
        let n = ints.get(2).and_then(|&n| usize::try_from(n).ok());
        let saved = n.and_then(|n| ints.get(3 + n..));
        let Some(saved) = saved else {
            let message = "its backward was not called with what its forward gave".to_owned();
            return Err(Error::Argument { op, message });
        };
        Ok((ints[1] != 0, saved.iter().map(|&code| Source::origin(code)).collect()))
    }
}
