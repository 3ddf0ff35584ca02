//! Contexts made of others: for a second pass, a second `forward`, a node.

use super::{Ctx, Origin, Rest, Saved, SavedList};
use crate::Result;
use tch::Tensor;

impl Ctx {
    /// A second context over the same saved tensors, for a pass that retains
    /// the graph.
    pub(crate) fn share(&self) -> Ctx {
        let saved = self.saved.iter().map(Saved::share).collect();
        Ctx { has_saved: self.has_saved, ..self.again(saved) }
    }

    /// A context for a second run of `forward` on the same inputs.
    pub(crate) fn for_recomputation(&self) -> Ctx {
        let mut ctx = Ctx { recomputing: true, ..self.again(SavedList::new()) };
        if let Some(rest) = &mut ctx.rest {
            rest.state = None;
        }
        ctx
    }

    /// Keeps the inputs, one per position, for `DoubleBackward::Recompute`.
    pub(crate) fn keep_inputs(&mut self, value: impl Fn(usize) -> Option<Tensor>) {
        let keep = |i| Some(Saved::of(value(i)?, Origin::Input(i as u32)));
        let kept = (0..self.inputs.len()).map(keep).collect();
        self.rest().kept = kept;
    }

    /// Takes over what another context saved.
    pub(crate) fn restore(&mut self, saved: impl Iterator<Item = Saved>, materialize_grads: bool) {
        self.saved = saved.collect();
        self.has_saved = true;
        self.materialize_grads = materialize_grads;
    }

    /// What `keep_inputs` kept.
    pub(crate) fn kept_inputs(&self) -> &[Option<Saved>] {
        self.rest.as_ref().map_or(&[], |rest| &rest.kept)
    }

    /// A second context over tensors that were kept elsewhere.
    pub(crate) fn with_saved(&self, saved: Vec<Tensor>) -> Ctx {
        let saved = saved.into_iter().map(|t| Saved::of(t, Origin::Intermediate));
        self.again(saved.collect())
    }

    /// Takes the saved tensors, each of the version that it was saved at, and
    /// what `keep_inputs` kept.
    ///
    /// # Errors
    /// [`crate::Error::SavedChanged`].
    #[inline]
    pub(crate) fn take_saved(&mut self) -> Result<SavedList> {
        let mut saved = std::mem::take(&mut self.saved);
        saved.iter().enumerate().try_for_each(|(i, s)| s.check(self.op, i))?;
        if let Some(rest) = &mut self.rest {
            saved.extend(std::mem::take(&mut rest.kept).into_iter().flatten());
        }
        Ok(saved)
    }

    pub(super) fn again(&self, saved: SavedList) -> Ctx {
        Ctx {
            op: self.op,
            inputs: self.inputs.clone(),
            saved,
            rest: self.rest.as_ref().map(|rest| Box::new(rest.share())),
            has_saved: false,
            recording: self.recording,
            recomputing: false,
            dual: false,
            pure: self.pure,
            materialize_grads: self.materialize_grads,
        }
    }
}

impl Rest {
    fn share(&self) -> Rest {
        Rest {
            outputs: self.outputs.clone(),
            kept: self.kept.iter().map(|kept| kept.as_ref().map(Saved::share)).collect(),
            state: self.state.clone(),
            marks: None,
        }
    }
}
