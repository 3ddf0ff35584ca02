//! [`Watched`]: a Function that notes what its context saved.

use super::compare::same_bits;
use crate::function::Saved;
use crate::function::Shape;
use crate::{Ctx, DoubleBackward, Function, Grads, Of, Refs};
use anyhow::Result;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Kind, Tensor};

/// The saved tensors of one application, and the changes of them.
#[derive(Default)]
pub(super) struct Log {
    saved: Mutex<Vec<Tensor>>,
    changed: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// The first change that `backward` made.
    pub fn changed(&self) -> Option<String> {
        lock(&self.changed).first().cloned()
    }

    /// The memory of the tensors that were saved.
    pub fn take_saved(&self) -> Vec<Tensor> {
        std::mem::take(&mut lock(&self.saved))
    }
}

/// `f`, and notes in the log.
pub(super) struct Watched<F> {
    pub f: Arc<F>,
    pub log: Arc<Log>,
}

impl<F: Function> Function for Watched<F> {
    type Inputs = F::Inputs;
    type Outputs = F::Outputs;

    fn forward(&self, ctx: &mut Ctx, x: Refs<'_, F::Inputs>) -> Result<Of<F::Outputs, Tensor>> {
        let y = self.f.forward(ctx, x)?;
        *lock(&self.log.saved) = ctx.saved().iter().map(|s| s.tensor.data()).collect();
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: Refs<'_, F::Outputs>) -> Result<Grads<F::Inputs>> {
        let mut seeds = Vec::new();
        F::Outputs::visit(dy, &mut |t: Option<&Tensor>| seeds.push(t));
        let seeds: Vec<&Tensor> = seeds.into_iter().flatten().filter(|t| t.defined()).collect();
        let saved: Vec<&Tensor> = ctx.saved().iter().map(|s: &Saved| &s.tensor).collect();
        let before = [copies(&seeds), copies(&saved)];
        let grads = self.f.backward(ctx, dy);
        for (what, now, before) in
            [("the gradient of output", &seeds, &before[0]), ("saved tensor", &saved, &before[1])]
        {
            for (i, (now, before)) in now.iter().zip(before).enumerate() {
                if !same_bits(now, before) {
                    lock(&self.log.changed).push(format!("backward changed {what} {i}"));
                }
            }
        }
        grads
    }

    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn double_backward(&self) -> DoubleBackward {
        self.f.double_backward()
    }

    fn cast_inputs(&self) -> Option<Kind> {
        self.f.cast_inputs()
    }

    fn autocast(&self) -> crate::function::Autocast {
        self.f.autocast()
    }
}

fn copies(tensors: &[&Tensor]) -> Vec<Tensor> {
    tensors.iter().map(|t| t.copy()).collect()
}
