//! [`Operand`]: what the core asks of an engine's values.

use crate::error::Result;
use crate::function::{Ctx, Input, Stage, Value};

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

/// Describes `inputs`, one per position, in the new context of an application to them.
///
/// # Errors
/// Those of [`Operand::describe`].
#[inline(always)]
pub(crate) fn begin<V: Operand>(
    ctx: &mut Ctx,
    inputs: &[Option<&V>],
    grad_mode: bool,
) -> Result<()> {
    let op = ctx.op();
    let mut dual = false;
    for (i, x) in inputs.iter().enumerate() {
        let input = match x {
            Some(x) => x.describe(op, i, grad_mode, &mut dual)?,
            None => Input::absent(),
        };
        ctx.frame.recording |= input.needs_grad;
        ctx.frame.inputs.push(input);
    }
    if dual {
        ctx.stage = Stage::Dual;
    }
    Ok(())
}
