//! [`Marks`]: what `forward` says of its tensors.

use super::Ctx;
use crate::{Error, Result, ffi, forward::Output};
use smallvec::SmallVec;
use tch::Tensor;

/// What only some Functions say in `forward`.
#[derive(Default)]
pub(crate) struct Marks {
    /// Positions of inputs.
    pub dirty: Vec<usize>,
    /// Handles, so that an identity cannot be reused while it matters.
    pub non_differentiable: Vec<Tensor>,
    /// Saved tensors that depend on no input.
    pub constant: Vec<Tensor>,
}

impl Ctx {
    /// Says that `forward` changes the input `x` in place and returns it. Call
    /// it before the change: on an error nothing must be changed.
    ///
    /// # Errors
    /// [`Error::DirtyNotInput`]; [`Error::DirtyLeaf`] for a leaf that requires
    /// a gradient, and for a view of one; [`Error::Argument`] where `forward`
    /// runs again for a second derivative.
    pub fn mark_dirty(&mut self, x: &Tensor) -> Result<()> {
        if let Some(why) = self.why_nothing_may_change() {
            return Err(Error::Argument { op: self.op, message: why.to_owned() });
        }
        let (identity, in_torch_leaf) = (ffi::describe(self.op, x)?.identity, ffi::in_leaf(x));
        let mut dirty = Vec::new();
        for (input, i) in self.inputs.iter().zip(0..).filter(|(i, _)| i.identity == identity) {
            if input.in_leaf || in_torch_leaf {
                return Err(Error::DirtyLeaf { op: self.op, input: i });
            }
            dirty.push(i);
        }
        if dirty.is_empty() {
            return Err(Error::DirtyNotInput { op: self.op });
        }
        self.marks().dirty.append(&mut dirty);
        Ok(())
    }

    fn why_nothing_may_change(&self) -> Option<&'static str> {
        if self.pure {
            Some("it changes an input in place, and its schema does not say so: write Tensor(a!)")
        } else if self.dual {
            Some(
                "an input that carries a forward-mode tangent cannot be changed in place by a \
                 Function",
            )
        } else if self.recomputing {
            Some(
                "forward changes its input in place, so it cannot run again for \
                 DoubleBackward::Recompute",
            )
        } else {
            None
        }
    }

    /// Says that no gradient flows through the output `y`. Integer and boolean
    /// outputs need not be marked.
    pub fn mark_non_differentiable(&mut self, y: &Tensor) {
        self.marks().non_differentiable.push(y.shallow_clone());
    }

    /// Says that a saved tensor that is neither input nor output does not
    /// depend on the inputs (a dropout mask, say), so that second derivatives
    /// need not go through it. Without this, a second derivative through such a
    /// tensor is [`Error::SavedIntermediate`].
    pub fn mark_constant(&mut self, saved: &Tensor) {
        self.marks().constant.push(saved.shallow_clone());
    }

    pub(crate) fn has_marks(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.marks.is_some())
    }

    pub(crate) fn take_marks(&mut self) -> Option<Box<Marks>> {
        self.rest.as_mut()?.marks.take()
    }

    /// The inputs that `forward` has marked dirty until now.
    pub(crate) fn dirty(&self) -> &[usize] {
        let marks = self.rest.as_ref().and_then(|rest| rest.marks.as_deref());
        marks.map_or(&[], |marks| &marks.dirty)
    }

    fn marks(&mut self) -> &mut Marks {
        self.rest().marks.get_or_insert_default()
    }
}

impl Marks {
    /// Makes the marks true of the outputs, and refuses those that cannot be.
    pub fn settle(&self, ctx: &Ctx, outputs: &mut [Output]) -> Result<()> {
        let op = ctx.op();
        for t in &self.non_differentiable {
            let marked = ffi::describe(op, t)?.identity;
            let mut found = false;
            for output in outputs.iter_mut().filter(|output| output.identity == marked) {
                output.differentiable = false;
                found = true;
            }
            if !found {
                return Err(Error::NotAnOutput { op });
            }
        }
        let returned: SmallVec<[usize; 4]> = outputs.iter().map(|y| y.identity).collect();
        match self.dirty.iter().find(|&&i| !returned.contains(&ctx.inputs()[i].identity)) {
            Some(&input) => Err(Error::DirtyNotReturned { op, input }),
            None => Ok(()),
        }
    }
}
