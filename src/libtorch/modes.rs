//! Modes of libtorch that tch cannot switch: autocast on any device, and inference
//! mode.

use crate::error::{Error, Result};
use crate::ffi;
use tch::{Device, Kind};

/// Runs `f` under autocast: `torch.autocast(device.type, dtype)`. On this thread
/// and for this type of device, libtorch's ops choose between `dtype` and f32. ([`tch::autocast`] is only for CUDA.)
///
/// # Errors
/// [`Error::Argument`] for a dtype other than
/// [`Kind::BFloat16`] and [`Kind::Half`], in which libtorch's ops would compute
/// nonsense; [`Error::Torch`] for a device that has no autocast.
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
    if !matches!(dtype, Kind::BFloat16 | Kind::Half) {
        let message = format!("{dtype:?} is no dtype for autocast; use BFloat16 or Half");
        return Err(Error::Argument { op: "autocast", message });
    }
    let _on = ffi::modes::Autocast::enter(ffi::device_type(device), ffi::dtype_of(dtype))?;
    Ok(f())
}

/// Runs `f` in inference mode: `torch.inference_mode()`. Nothing is recorded, and
/// the tensors made there can never be saved for a gradient.
pub fn inference_mode<T>(f: impl FnOnce() -> T) -> T {
    let _on = ffi::modes::InferenceMode::enter();
    f()
}
