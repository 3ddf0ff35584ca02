//! [`Sort`]: what a formula may be run on, and how carefully.

use super::tensors::Way;
use crate::error::{Error, Result as CrateResult};
use crate::ffi::memory::Pin;
use crate::ffi::{self, Meta};
use crate::kernel::is_elsewhere;
use anyhow::Result;
use smallvec::SmallVec;
use tch::{Kind, Tensor};

/// Where a formula comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// What a user has written could resize a tensor that it holds, so tensors are pinned
    /// while it runs.
    User,
    /// One of this crate's.
    Crate,
    /// An operator of libtorch's, which takes integers and complex numbers, too: there
    /// libtorch's own computes.
    Operator,
}

pub(super) type Pins = SmallVec<[Pin; 4]>;

impl Sort {
    /// Holds the tensors' storages until the result is dropped, if that is needed.
    pub(super) fn pins<'a>(self, x: impl IntoIterator<Item = &'a Tensor>) -> CrateResult<Pins> {
        match self {
            Sort::User => x.into_iter().map(|x| Pin::of(super::derived::KERNEL, x)).collect(),
            _ => Ok(Pins::new()),
        }
    }

    fn is_operator(self) -> bool {
        self == Sort::Operator
    }
}

/// # Errors
/// [`Error::Argument`] for forward mode of complex numbers.
pub(super) fn no_complex_tangents<const N: usize>(op: &'static str, x: [&Tensor; N]) -> Result<()> {
    for (i, x) in x.into_iter().enumerate() {
        let d = ffi::describe(op, x)?;
        if d.is_complex() {
            let message = format!(
                "input {i} is {}, and forward mode is of real numbers here; differentiate in \
                 reverse",
                Meta::of(&d)
            );
            return Err(Error::Argument { op, message }.into());
        }
    }
    Ok(())
}

/// Inputs of a formula as it computes with them.
pub(super) struct Prepared<const N: usize> {
    /// The inputs in another dtype.
    converted: Option<[Tensor; N]>,
    /// Whether libtorch's operators compute, in the dtypes in which the tensors are.
    pub plain: bool,
    sort: Sort,
    /// Whether the dtype is f16 or bf16.
    narrow: bool,
}

impl<const N: usize> Prepared<N> {
    /// Inputs in the one dtype in which libtorch's ops compute with them.
    ///
    /// # Errors
    /// [`Error::Argument`] for complex numbers.
    pub fn new(op: &'static str, sort: Sort, x: [&Tensor; N]) -> Result<Prepared<N>> {
        let mut same = true;
        let first = ffi::describe(op, x[0])?.dtype;
        let narrow = is_narrow(first);
        for (i, x) in x.iter().enumerate() {
            let d = ffi::describe(op, x)?;
            if d.is_complex() && !sort.is_operator() {
                let message = format!(
                    "input {i} is {}, and a formula is of real numbers; apply it to the real and \
                     the imaginary part, or write a Function of tch operators",
                    Meta::of(&d)
                );
                return Err(Error::Argument { op, message }.into());
            }
            same &= d.dtype == first && d.is_differentiable() && !d.is_complex();
        }
        if same {
            return Ok(Prepared { converted: None, plain: false, sort, narrow });
        }
        match ffi::kind_of(ffi::result_type(op, &x)?) {
            // libtorch reads a tensor of one number unrounded.
            Kind::Half | Kind::BFloat16 if sort.is_operator() => {
                Ok(Prepared { converted: None, plain: true, sort, narrow: true })
            }
            together if is_floating(together) => Prepared::of_kind(sort, x, together),
            _ if sort.is_operator() => Ok(Prepared { converted: None, plain: true, sort, narrow }),
            _ => Prepared::of_kind(sort, x, Kind::Float),
        }
    }

    /// Inputs in the dtype of the gradient `dy` of an output.
    pub fn like(op: &'static str, sort: Sort, x: [&Tensor; N], dy: &Tensor) -> Result<Prepared<N>> {
        let of_dy = ffi::describe(op, dy)?;
        let (mut same, mut real) = (true, !of_dy.is_complex());
        for x in x {
            let d = ffi::describe(op, x)?;
            same &= d.dtype == of_dy.dtype;
            real &= !d.is_complex();
        }
        match (real, same) {
            (true, false) if !(is_narrow(of_dy.dtype) && sort.is_operator()) => {
                Prepared::of_kind(sort, x, dy.kind())
            }
            _ => Ok(Prepared {
                converted: None,
                plain: !(real && same),
                sort,
                narrow: is_narrow(of_dy.dtype),
            }),
        }
    }

    /// The kernel's result, `None` where no kernel runs.
    pub fn by_kernel<T>(&self, kernel: impl FnOnce() -> CrateResult<T>) -> Result<Option<T>> {
        if self.plain || self.narrow && self.sort.is_operator() {
            return Ok(None);
        }
        match kernel() {
            Err(e) if is_elsewhere(&e) => Ok(None),
            // libtorch's own operator has libtorch's message.
            Err(Error::Argument { .. }) if self.sort.is_operator() => Ok(None),
            // An error of `forward`, which names the op.
            Err(Error::Argument { message, .. }) => Err(anyhow::Error::msg(message)),
            done => Ok(Some(done?)),
        }
    }

    /// How tensors compute values where no kernel runs. An operator of libtorch's rounds once
    /// to a narrow dtype by itself.
    pub fn way_of_values(&self) -> Way {
        match self.narrow && self.sort.is_operator() {
            true => Way::Plain,
            false => self.way(None),
        }
    }

    /// How tensors compute where no kernel runs; those from the position `whole` on have the
    /// broadcast shape.
    pub fn way(&self, whole: Option<usize>) -> Way {
        if self.plain { Way::Plain } else { Way::Wide { whole } }
    }

    fn of_kind(sort: Sort, x: [&Tensor; N], kind: Kind) -> Result<Prepared<N>> {
        let converted = x.iter().map(|x| x.f_to_kind(kind)).collect::<Result<Vec<_>, _>>()?;
        let narrow = matches!(kind, Kind::Half | Kind::BFloat16);
        let converted = converted.try_into().expect("one for each");
        Ok(Prepared { converted: Some(converted), plain: false, sort, narrow })
    }

    pub fn refs<'a>(&'a self, x: [&'a Tensor; N]) -> [&'a Tensor; N] {
        self.converted.as_ref().map_or(x, |converted| converted.each_ref())
    }
}

fn is_narrow(dtype: i8) -> bool {
    matches!(ffi::kind_of(dtype), Kind::Half | Kind::BFloat16)
}

fn is_floating(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}
