//! What autocast means for a Function, in every engine.

use crate::error::Result;
use crate::ffi::modes::{self, AutocastState, NoAutocast};
use crate::ffi::{self, WithScalar as _, device_type, kind_of};
use crate::function::{Autocast, Ctx, Engine, Frame, Function, Of, Refs, Shape};
use tch::{Kind, Tensor};

/// Calls `apply` with `f` and its inputs, under the rule that `f` has for autocast.
#[inline(always)]
pub(crate) fn cast_inputs<F: Function, V: Engine>(
    f: F,
    x: Refs<'_, F::Inputs, V>,
    apply: impl for<'x> FnOnce(F, Refs<'x, F::Inputs, V>) -> Result<Of<F::Outputs, V>>,
) -> Result<Of<F::Outputs, V>> {
    match rule(&f) {
        None => apply(f, x),
        Some(rule) => cast_as::<F, V>(rule, f, x, apply),
    }
}

/// Returns the rule of `f`, if it has one and autocast is on for some device.
#[inline(always)]
pub(crate) fn rule<F: Function>(f: &F) -> Option<Autocast> {
    let rule = f.autocast();
    (rule != Autocast::Unchanged && modes::is_autocast_on()).then_some(rule)
}

/// Turns autocast off until the result is dropped, if it concerns an application of `f`.
#[inline(always)]
pub(crate) fn off_for<F: Function>(f: &F, frame: &Frame) -> Option<NoAutocast> {
    rule(f)?;
    let devices = frame.inputs.iter().filter(|input| input.meta.is_defined());
    concerns(AutocastState::now(), devices.map(|input| input.meta.device_code().0))
        .then(NoAutocast::enter)
}

/// Returns whether autocast is on for one of these types of devices.
fn concerns(state: AutocastState, mut devices: impl Iterator<Item = i8>) -> bool {
    devices.any(|device| state.is_on(device))
}

fn cast_as<F: Function, V: Engine>(
    rule: Autocast,
    f: F,
    x: Refs<'_, F::Inputs, V>,
    apply: impl for<'x> FnOnce(F, Refs<'x, F::Inputs, V>) -> Result<Of<F::Outputs, V>>,
) -> Result<Of<F::Outputs, V>> {
    let mut inputs = Vec::new();
    F::Inputs::visit(x, &mut |v: Option<&V>| inputs.push(v));
    let tensors = inputs.iter().flatten().map(|v| v.tensor()).filter(|t| t.defined());
    if !concerns(AutocastState::now(), tensors.map(|t| device_type(t.device()))) {
        return apply(f, x);
    }
    let off = NoAutocast::enter();
    let mut inside = Vec::with_capacity(inputs.len());
    for v in inputs {
        inside.push(v.map(|v| converted(v, rule, &off)).transpose()?);
    }
    let mut inside = inside.into_iter();
    let inside = F::Inputs::build(&F::Inputs::layout(x), &mut || inside.next().flatten());
    apply(f, F::Inputs::borrow(&inside))
}

/// Returns a floating-point input that is not in f64 in the dtype that its op wants
/// under autocast, as `torch.amp.custom_fwd` does; any other input unchanged.
///
/// # Errors
/// Those of [`ToKind`].
pub(crate) fn converted<V: Engine>(v: &V, rule: Autocast, off: &NoAutocast) -> Result<V> {
    let t = v.tensor();
    let device = t.defined().then(|| device_type(t.device()));
    let eligible = concerns(off.was(), device.into_iter())
        && t.is_floating_point()
        && t.kind() != Kind::Double;
    match eligible.then(|| wanted(rule, device_type(t.device()))).flatten() {
        Some(kind) if kind != t.kind() => ToKind { kind }.apply(v),
        _ => Ok(v.share()),
    }
}

/// Returns the dtype that an op with this rule wants on a type of device.
fn wanted(rule: Autocast, device: i8) -> Option<Kind> {
    match rule {
        Autocast::To(kind) => Some(kind),
        Autocast::Wide(op) => modes::autocast_knows(op, device).then_some(Kind::Float),
        Autocast::Lower(op) => {
            modes::autocast_knows(op, device).then(|| kind_of(modes::autocast_dtype(device)))
        }
        Autocast::Unchanged => None,
    }
}

/// `y = x` in another dtype; the gradient gets the input's dtype back.
///
/// Each number is rounded once, also from f64 to f16 and bf16, where libtorch rounds to f32
/// first: `1 + 2^-11 + 2^-40` is 1.001 (`1 + 2^-10`) in f16, and not 1.
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
        rounded_once(x, self.kind)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> anyhow::Result<Option<Tensor>> {
        let kind = ctx.input_kind(0)?;
        if is_rounded_twice(dy, kind) {
            return Ok(Some(followed(dy, kind)?));
        }
        Ok(Some(ctx.reduce_to_input(0, dy)?))
    }

    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> anyhow::Result<Tensor> {
        followed(dx, self.kind)
    }
}

/// As [`rounded_once`], so that libtorch can differentiate it if it records.
fn followed(x: &Tensor, kind: Kind) -> anyhow::Result<Tensor> {
    match ffi::grad_enabled() && x.requires_grad() {
        true => Ok(ToKind { kind }.apply::<Tensor>(x)?),
        false => rounded_once(x, kind),
    }
}

/// libtorch goes by f32.
fn is_rounded_twice(x: &Tensor, kind: Kind) -> bool {
    x.kind() == Kind::Double && matches!(kind, Kind::Half | Kind::BFloat16)
}

/// `x` in a dtype. Where f32 does not have a number, its neighbour whose last bit is 1 stands
/// for it (rounding to odd), which is on the same side of whatever half of a number f16 has.
fn rounded_once(x: &Tensor, kind: Kind) -> anyhow::Result<Tensor> {
    if !is_rounded_twice(x, kind) {
        return Ok(x.f_to_kind(kind)?);
    }
    let near = x.f_to_kind(Kind::Float)?;
    let off = x.f_sub(&near.f_to_kind(Kind::Double)?)?;
    let is_odd = near.f_view_dtype(Kind::Int)?.f_bitwise_and_tensor(&Tensor::from(1i32))?;
    let moves =
        off.f_abs()?.f_gt_tensor(&off.f_zeros_like()?)?.f_logical_and(&is_odd.f_logical_not()?)?;
    let towards = off.mul_number(f64::INFINITY)?.f_to_kind(Kind::Float)?;
    let odd = near.f_nextafter(&towards)?;
    Ok(odd.f_where_self(&moves, &near)?.f_to_kind(kind)?)
}
