//! Modes of libtorch's that tch cannot switch: autocast on any device, and
//! inference mode. And what autocast means for a Function.

use crate::tensors::{Of, Refs, sealed::Shape};
use crate::value::Engine;
use crate::{Function, Result, ffi, meta, ops::ToKind};
use tch::{Device, Kind, Tensor};

/// Runs `f` under autocast: `torch.autocast(device.type, dtype)`. On this thread
/// and for this type of device, libtorch's ops choose between `dtype` and f32 by
/// themselves. ([`tch::autocast`] is for CUDA alone.)
///
/// # Errors
/// [`Error::Torch`](crate::Error::Torch) for a device that has no autocast.
///
/// ```
/// use tch::{Device, Kind, Tensor};
///
/// let a = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
/// let y = tch_function::autocast(Device::Cpu, Kind::BFloat16, || a.matmul(&a))?;
/// assert_eq!(y.kind(), Kind::BFloat16);
/// # anyhow::Ok(())
/// ```
pub fn autocast<T>(device: Device, dtype: Kind, f: impl FnOnce() -> T) -> Result<T> {
    let _on = ffi::modes::Autocast::enter(meta::device_type(device), meta::dtype_of(dtype))?;
    Ok(f())
}

/// Runs `f` in inference mode: `torch.inference_mode()`. Nothing is recorded, and
/// the tensors made there can never be saved for a gradient.
pub fn inference_mode<T>(f: impl FnOnce() -> T) -> T {
    let _on = ffi::modes::InferenceMode::enter();
    f()
}

/// Applies a Function that wants its inputs in `dtype` under autocast.
pub(crate) fn apply_cast<F: Function, V: Engine>(
    f: F,
    dtype: Kind,
    x: Refs<'_, F::Inputs, V>,
) -> Result<Of<F::Outputs, V>> {
    let off = ffi::modes::NoAutocast::enter();
    let mut inputs = Vec::new();
    F::Inputs::visit(x, &mut |v: Option<&V>| inputs.push(v.map(|v| cast(v, dtype, &off))));
    if !inputs.iter().flatten().any(|cast| cast.on) {
        drop(off);
        return V::apply(f, x);
    }
    let mut cast = Vec::with_capacity(inputs.len());
    for input in inputs {
        cast.push(input.map(|input| input.value).transpose()?);
    }
    let mut cast = cast.into_iter();
    let cast = F::Inputs::build(&F::Inputs::layout(x), &mut || cast.next().flatten());
    V::apply(f, F::Inputs::borrow(&cast))
}

struct Cast<V> {
    /// Autocast was on for its type of device.
    on: bool,
    value: Result<V>,
}

/// As `torch.amp.custom_fwd` does: floating-point inputs but those in f64.
fn cast<V: Engine>(v: &V, dtype: Kind, off: &ffi::modes::NoAutocast) -> Cast<V> {
    let t: &Tensor = v.tensor();
    let on = t.defined() && off.was_on(meta::device_type(t.device()));
    let eligible = on && t.is_floating_point() && ![Kind::Double, dtype].contains(&t.kind());
    let value = if eligible { ToKind { kind: dtype }.apply(v) } else { Ok(v.share()) };
    Cast { on, value }
}
