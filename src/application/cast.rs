//! What autocast means for a Function, in every engine.

use crate::error::Result;
use crate::ffi::{device_type, modes::NoAutocast};
use crate::function::{Ctx, Engine, Function, Of, Refs, Shape};
use tch::{Kind, Tensor};

/// Calls `apply` with `f` and its inputs, which are converted first if `f` wants
/// them in another dtype and autocast is on for their device; then `apply` runs with
/// autocast off.
#[inline(always)]
pub(crate) fn cast_inputs<F: Function, V: Engine>(
    f: F,
    x: Refs<'_, F::Inputs, V>,
    apply: impl for<'x> FnOnce(F, Refs<'x, F::Inputs, V>) -> Result<Of<F::Outputs, V>>,
) -> Result<Of<F::Outputs, V>> {
    match f.cast_inputs() {
        None => apply(f, x),
        Some(dtype) => cast_to::<F, V>(dtype, f, x, apply),
    }
}

fn cast_to<F: Function, V: Engine>(
    dtype: Kind,
    f: F,
    x: Refs<'_, F::Inputs, V>,
    apply: impl for<'x> FnOnce(F, Refs<'x, F::Inputs, V>) -> Result<Of<F::Outputs, V>>,
) -> Result<Of<F::Outputs, V>> {
    let off = NoAutocast::enter();
    let mut inputs = Vec::new();
    F::Inputs::visit(x, &mut |v: Option<&V>| inputs.push(v));
    if !inputs.iter().flatten().any(|v| autocast_was_on(v.tensor(), &off)) {
        drop(off);
        return apply(f, x);
    }
    let mut inside = Vec::with_capacity(inputs.len());
    for v in inputs {
        inside.push(v.map(|v| converted(v, dtype, &off)).transpose()?);
    }
    let mut inside = inside.into_iter();
    let inside = F::Inputs::build(&F::Inputs::layout(x), &mut || inside.next().flatten());
    apply(f, F::Inputs::borrow(&inside))
}

fn autocast_was_on(t: &Tensor, off: &NoAutocast) -> bool {
    t.defined() && off.was_on(device_type(t.device()))
}

/// Returns a floating-point input that is not in f64 in the dtype that its op wants
/// under autocast, as `torch.amp.custom_fwd` does; any other input unchanged.
///
/// # Errors
/// Those of [`ToKind`].
pub(crate) fn converted<V: Engine>(v: &V, dtype: Kind, off: &NoAutocast) -> Result<V> {
    let t = v.tensor();
    let eligible = autocast_was_on(t, off)
        && t.is_floating_point()
        && ![Kind::Double, dtype].contains(&t.kind());
    if eligible { ToKind { kind: dtype }.apply(v) } else { Ok(v.share()) }
}

/// `y = x` in another dtype; the gradient gets the input's dtype back.
///
/// An integer or boolean output has no gradient.
#[derive(Clone, Copy, Debug)]
pub struct ToKind {
    /// The output's dtype.
    pub kind: Kind,
}

impl Function for ToKind {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> anyhow::Result<Tensor> {
        Ok(x.f_to_kind(self.kind)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> anyhow::Result<Option<Tensor>> {
        Ok(Some(ctx.reduce_to_input(0, dy)?))
    }

    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> anyhow::Result<Tensor> {
        Ok(dx.f_to_kind(self.kind)?)
    }
}
