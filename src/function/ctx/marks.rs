//! [`Marks`]: what `forward` declares about its tensors.

use super::{Ctx, Stage};
use crate::{Error, Result, ffi};
use tch::Tensor;

/// The declarations of one `forward`, which few Functions make.
#[derive(Default)]
pub(crate) struct Marks {
    /// Positions of inputs that are changed in place.
    pub dirty: Vec<usize>,
    /// Outputs without a gradient. These are handles, so that an identity cannot be
    /// reused while it matters.
    pub non_differentiable: Vec<Tensor>,
    /// Saved tensors that depend on no input.
    pub constant: Vec<Tensor>,
}

impl Ctx {
    /// Declares that `forward` changes the input `x` in place and returns it. Call
    /// it first; if it fails, leave `x` unchanged.
    ///
    /// ```
    /// # use anyhow::Result;
    /// # use tch::Tensor;
    /// # use tch_function::{Ctx, Error, Function, Var, grad};
    /// struct DoubleInPlace;
    ///
    /// impl Function for DoubleInPlace {
    ///     type Inputs = Tensor;
    ///     type Outputs = Tensor;
    ///
    ///     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
    ///         ctx.mark_dirty(x)?;
    ///         Ok(x.shallow_clone().g_mul_scalar_(2.0))
    ///     }
    ///
    ///     fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
    ///         Ok(Some(dy * 2.0))
    ///     }
    /// }
    ///
    /// let x = Var::leaf(Tensor::from(3.0));
    /// let y = &x + 1.0;
    /// let z = DoubleInPlace.apply(&y)?;
    /// assert_eq!(f64::try_from(grad(&z, &x)?.value())?, 2.0);
    /// // The old handle holds another value now, and refuses to be used.
    /// assert!(matches!(y.exp(), Err(Error::Superseded { by: "DoubleInPlace", .. })));
    /// # anyhow::Ok(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DirtyNotInput`]; [`Error::DirtyLeaf`] for a leaf that requires
    /// a gradient, and for a view of one; [`Error::Argument`] if `forward`
    /// runs again for a second derivative.
    pub fn mark_dirty(&mut self, x: &Tensor) -> Result<()> {
        let op = self.op();
        if let Some(why) = self.why_nothing_may_change() {
            return Err(Error::Argument { op, message: why.to_owned() });
        }
        let (identity, in_torch_leaf) = (ffi::describe(op, x)?.identity, ffi::in_leaf(x));
        let mut dirty = Vec::new();
        let inputs = self.frame.inputs.iter().zip(0..);
        for (input, i) in inputs.filter(|(input, _)| input.identity == identity) {
            if input.in_leaf || in_torch_leaf {
                return Err(Error::DirtyLeaf { op, input: i });
            }
            dirty.push(i);
        }
        if dirty.is_empty() {
            return Err(Error::DirtyNotInput { op });
        }
        self.marks().dirty.append(&mut dirty);
        Ok(())
    }

    fn why_nothing_may_change(&self) -> Option<&'static str> {
        if self.pure {
            return Some(
                "it changes an input in place, and its schema does not say so: write Tensor(a!)",
            );
        }
        match self.stage {
            Stage::Dual => Some(
                "an input that carries a forward-mode tangent cannot be changed in place by a \
                 Function",
            ),
            Stage::Recomputation => Some(
                "forward changes its input in place, so it cannot run again for \
                 DoubleBackward::Recompute",
            ),
            Stage::Forward | Stage::Backward => None,
        }
    }

    /// Declares that no gradient flows through the output `y`. Integer and boolean
    /// outputs need not be marked.
    pub fn mark_non_differentiable(&mut self, y: &Tensor) {
        self.marks().non_differentiable.push(y.shallow_clone());
    }

    /// Declares that a saved tensor, neither input nor output, does not depend on
    /// the inputs (such as a dropout mask), so that second derivatives may ignore
    /// it. Without this, a second derivative through such a tensor is
    /// [`Error::SavedIntermediate`].
    pub fn mark_constant(&mut self, saved: &Tensor) {
        self.marks().constant.push(saved.shallow_clone());
    }

    /// Returns the inputs that `forward` has marked dirty until now.
    pub(crate) fn dirty(&self) -> &[usize] {
        self.marks.as_ref().map_or(&[], |marks| &marks.dirty)
    }

    fn marks(&mut self) -> &mut Marks {
        self.marks.get_or_insert_default()
    }
}
