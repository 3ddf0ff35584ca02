//! [`Kept`]: what a node of libtorch's keeps of a context.

use super::{Ctx, Origin, Saved};
use smallvec::SmallVec;
use tch::Tensor;

/// `collect` for lists of one or two: SmallVec's own costs more than they do.
#[inline(always)]
pub(crate) fn gather<A: smallvec::Array>(items: impl Iterator<Item = A::Item>) -> SmallVec<A> {
    let mut list = SmallVec::new();
    for item in items {
        list.push(item);
    }
    list
}

/// A context without tensors, from which those for backward are made.
pub(crate) struct Kept(Ctx);

impl Kept {
    pub(super) fn of(ctx: Ctx) -> Kept {
        debug_assert!(ctx.saved.is_empty() && ctx.kept_inputs().is_empty() && !ctx.has_marks());
        Kept(ctx)
    }

    pub fn op(&self) -> &'static str {
        self.0.op
    }

    /// Whether user code runs when this is dropped.
    pub fn holds_state(&self) -> bool {
        self.0.rest.as_ref().is_some_and(|rest| rest.state.is_some())
    }

    /// How many inputs are there, of those that may be absent.
    pub fn inputs_present(&self) -> usize {
        self.0.inputs.iter().filter(|input| input.meta.is_defined()).count()
    }

    /// The context for a pass in which nothing is saved and all gradients that
    /// may be asked for are.
    #[inline]
    pub fn as_it_is(&self, saved: usize, needs: &[bool]) -> Option<&Ctx> {
        let all = self.0.inputs.iter().zip(needs).all(|(input, &needs)| input.needs_grad == needs);
        (saved == 0 && all).then_some(&self.0)
    }

    /// The context for a pass that needs the gradients that `needs` says.
    pub fn ctx(&self, saved: impl IntoIterator<Item = Tensor>, needs: &[bool]) -> Ctx {
        let saved = gather(saved.into_iter().map(|t| Saved::of(t, Origin::Intermediate)));
        let mut ctx = self.0.again(saved);
        ctx.set_needs(|i| needs[i]);
        ctx
    }
}
