//! [`Kept`]: what a node of libtorch's keeps of a context.

use super::{Ctx, Input, Origin, Saved};
use crate::meta::Meta;
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;
use tch::Tensor;

/// `collect` for lists of one or two: SmallVec's own costs more than they do.
#[inline]
pub(crate) fn gather<A: smallvec::Array>(items: impl Iterator<Item = A::Item>) -> SmallVec<A> {
    let mut list = SmallVec::new();
    for item in items {
        list.push(item);
    }
    list
}

/// A context without tensors, which any number of threads may read at once.
pub(crate) struct Kept {
    pub(super) op: &'static str,
    pub(super) inputs: SmallVec<[Input; 1]>,
    pub(super) outputs: Vec<Meta>,
    pub(super) state: Option<Arc<dyn Any + Send + Sync>>,
    pub(super) materialize_grads: bool,
}

impl Kept {
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// How many inputs are there, of those that may be absent.
    pub fn inputs_present(&self) -> usize {
        self.inputs.iter().filter(|input| input.meta.is_defined()).count()
    }

    /// The context for a pass that needs the gradients that `needs` says.
    pub fn ctx(&self, saved: impl IntoIterator<Item = Tensor>, needs: &[bool]) -> Ctx {
        let input = |(input, &needs_grad): (&Input, _)| Input { needs_grad, ..input.clone() };
        Ctx {
            op: self.op,
            inputs: gather(self.inputs.iter().zip(needs).map(input)),
            outputs: self.outputs.clone(),
            saved: Some(gather(saved.into_iter().map(|t| Saved::of(t, Origin::Intermediate)))),
            state: self.state.clone(),
            kept: Vec::new(),
            marks: None,
            recording: true,
            recomputing: false,
            dual: false,
            materialize_grads: self.materialize_grads,
        }
    }
}
