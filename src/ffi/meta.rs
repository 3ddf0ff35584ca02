//! [`Meta`]: shape, dtype and device of a tensor, without its data.

use super::{Description, zeros};
use crate::error::{Error, torch};
use smallvec::SmallVec;
use std::fmt;
use tch::{Device, Kind, Tensor};

#[derive(PartialEq, Eq)]
pub(crate) struct Meta {
    sizes: SmallVec<[i64; 4]>,
    dtype: i8,
    device: (i8, i8),
    symbolic: bool,
}

impl Clone for Meta {
    /// Copies the sizes at once; SmallVec's own goes one by one.
    #[inline]
    fn clone(&self) -> Meta {
        Meta { sizes: SmallVec::from_slice(&self.sizes), ..*self }
    }
}

impl Meta {
    #[inline]
    pub fn of(d: &Description) -> Meta {
        Meta {
            sizes: SmallVec::from_slice(d.sizes()),
            dtype: d.dtype,
            device: (d.device_type, d.device_index),
            symbolic: d.symbolic,
        }
    }

    pub fn undefined() -> Meta {
        Meta { sizes: SmallVec::new(), dtype: -1, device: (0, 0), symbolic: false }
    }

    /// Returns the sizes.
    ///
    /// # Errors
    /// The sizes are symbols, while `torch.compile` traces for sizes to come.
    pub fn known_sizes(&self, op: &'static str) -> Result<&[i64], Error> {
        if !self.symbolic {
            return Ok(&self.sizes);
        }
        let message = "a tensor's sizes are symbols while torch.compile traces".to_owned();
        Err(Error::Argument { op, message })
    }

    #[inline]
    pub fn fits(&self, d: &Description) -> bool {
        self.is_alike(d) && same(&self.sizes, d.sizes()) && !self.symbolic && !d.symbolic
    }

    /// Returns whether dtype and device are the same and the sizes may be.
    pub fn may_fit(&self, d: &Description) -> bool {
        self.fits(d) || (self.symbolic || d.symbolic) && self.is_alike(d)
    }

    #[inline]
    fn is_alike(&self, d: &Description) -> bool {
        (self.dtype, self.device) == (d.dtype, (d.device_type, d.device_index))
    }

    pub fn sizes(&self) -> &[i64] {
        &self.sizes
    }

    pub fn is_defined(&self) -> bool {
        self.dtype >= 0
    }

    /// Returns what [`Description::is_differentiable`] does.
    pub fn is_differentiable(&self) -> bool {
        is_differentiable(self.dtype)
    }

    pub fn kind(&self) -> Kind {
        kind_of(self.dtype)
    }

    /// Returns the `c10::DeviceType` and the index.
    pub fn device_code(&self) -> (i8, i8) {
        self.device
    }

    pub fn device(&self) -> Device {
        device_of(self.device)
    }

    /// Returns the device's name as tch writes it, and as PyTorch does for one that tch has
    /// no name for.
    pub fn device_name(&self) -> String {
        if self.has_tch_device() {
            return format!("{:?}", self.device());
        }
        const NAMES: [&str; 21] = [
            "cpu",
            "cuda",
            "mkldnn",
            "opengl",
            "opencl",
            "ideep",
            "hip",
            "fpga",
            "maia",
            "xla",
            "vulkan",
            "metal",
            "xpu",
            "mps",
            "meta",
            "hpu",
            "ve",
            "lazy",
            "ipu",
            "mtia",
            "privateuseone",
        ];
        let (device_type, index) = self.device;
        let name = usize::try_from(device_type).ok().and_then(|i| NAMES.get(i));
        let name = name.map_or_else(|| format!("device type {device_type}"), |n| (*n).to_owned());
        if index < 0 { name } else { format!("{name}:{index}") }
    }

    /// Returns whether tch can name the device.
    pub fn has_tch_device(&self) -> bool {
        matches!(self.device.0, 0 | 1 | 10 | 13)
    }

    /// Returns one zero in memory, expanded to this shape.
    pub fn expanded_zero(&self, op: &'static str) -> Result<Tensor, Error> {
        let zero = zeros(op, &[], self.dtype, self.device)?;
        zero.f_expand(self.known_sizes(op)?, false).map_err(torch(op))
    }

    pub fn zeros(&self, op: &'static str) -> Result<Tensor, Error> {
        zeros(op, self.known_sizes(op)?, self.dtype, self.device)
    }
}

/// Compares lists of few numbers, for which a call of `memcmp` costs more.
#[inline]
fn same(a: &[i64], b: &[i64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

impl Description<'_> {
    #[inline]
    pub fn is_defined(&self) -> bool {
        self.dtype >= 0
    }

    /// Returns whether libtorch lets tensors of the dtype require a gradient: a
    /// floating-point or complex one.
    #[inline]
    pub fn is_differentiable(&self) -> bool {
        is_differentiable(self.dtype)
    }

    pub fn is_complex(&self) -> bool {
        matches!(self.dtype, 8..=10)
    }
}

impl fmt::Display for Meta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shape {:?}, dtype {:?}, {}", &self.sizes[..], self.kind(), self.device_name())
    }
}

#[inline]
fn is_differentiable(dtype: i8) -> bool {
    matches!(dtype, 5..=10 | 15 | 23..=26)
}

/// Returns the Kind of a `c10::ScalarType`; tch keeps its own table private.
pub(crate) fn kind_of(dtype: i8) -> Kind {
    use Kind::*;
    const FIRST: [Kind; 16] = [
        Uint8,
        Int8,
        Int16,
        Int,
        Int64,
        Half,
        Float,
        Double,
        ComplexHalf,
        ComplexFloat,
        ComplexDouble,
        Bool,
        QInt8,
        QUInt8,
        QInt32,
        BFloat16,
    ];
    match dtype {
        0..=15 => FIRST[dtype as usize],
        23 => Float8e5m2,
        24 => Float8e4m3fn,
        25 => Float8e5m2fnuz,
        26 => Float8e4m3fnuz,
        // Types that tch has no name for are integers (uint16 and the like).
        _ => Int64,
    }
}

/// Returns the `c10::ScalarType` of a Kind.
pub(crate) fn dtype_of(kind: Kind) -> i8 {
    let kinds = (0..=26).find(|&dtype| kind_of(dtype) == kind);
    kinds.expect("kind_of gives every Kind")
}

/// Returns the `c10::DeviceType` of a Device.
pub(crate) fn device_type(device: Device) -> i8 {
    match device {
        Device::Cpu => 0,
        Device::Cuda(_) => 1,
        Device::Vulkan => 10,
        Device::Mps => 13,
    }
}

/// Returns the Device of a `c10::DeviceType` and index.
fn device_of((device_type, index): (i8, i8)) -> Device {
    match device_type {
        1 => Device::Cuda(usize::try_from(index).unwrap_or(0)),
        10 => Device::Vulkan,
        13 => Device::Mps,
        _ => Device::Cpu,
    }
}
