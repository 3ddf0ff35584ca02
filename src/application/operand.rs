//! [`Operand`]: what the core asks of an engine's values.

use crate::error::Result;
use crate::function::{Ctx, Frame, Input, Stage, Value};

/// A value that a Function can be applied to.
pub(crate) trait Operand: Value {
    /// Describes the value as input `i` of `op`. It needs a gradient if it requires
    /// one and grad mode is on. Sets `dual` if it carries a forward-mode tangent.
    ///
    /// # Errors
    /// The value cannot be an input: it is undefined, or not current.
    fn describe(
        &self,
        op: &'static str,
        i: usize,
        grad_mode: bool,
        dual: &mut bool,
    ) -> Result<Input>;
    /// Is told that `op` has changed the value in place.
    fn supersede(&self, _op: &'static str) {}
    /// Checks that the value can be output `i` of a pass; returns the name of what
    /// made it.
    fn check_output(&self, i: usize) -> Result<&'static str>;
    /// Checks that a pass can be asked for the gradient of the value, its input `i`.
    fn check_input(&self, i: usize) -> Result<()>;
}

/// Makes the context of an application to `inputs`, one per position.
///
/// # Errors
/// Those of [`Operand::describe`].
#[inline(always)]
pub(crate) fn begin<V: Operand>(
    op: &'static str,
    inputs: &[Option<&V>],
    grad_mode: bool,
) -> Result<Ctx> {
    let mut frame = Frame::new(op);
    let mut dual = false;
    for (i, x) in inputs.iter().enumerate() {
        let input = match x {
            Some(x) => x.describe(op, i, grad_mode, &mut dual)?,
            None => Input::absent(),
        };
        frame.recording |= input.needs_grad;
        frame.inputs.push(input);
    }
    Ok(Ctx::new(frame, if dual { Stage::Dual } else { Stage::Forward }))
}
