//! The memory of results: a functional op returns tensors of their own.

use crate::ffi;
use tch::Tensor;

/// Returns the tensors, with a copy of each that shares memory with one before it or
/// with one of `kept`. Memory planners rely on that.
pub(super) fn separated(tensors: Vec<Option<Tensor>>, kept: &[&Tensor]) -> Vec<Option<Tensor>> {
    let mut done = Vec::<Option<Tensor>>::with_capacity(tensors.len());
    for t in tensors {
        let shares = |t: &Tensor| {
            let mut others = done.iter().flatten().chain(kept.iter().copied());
            others.any(|other| ffi::shares_storage(other, t))
        };
        done.push(t.map(|t| if t.defined() && shares(&t) { t.copy() } else { t }));
    }
    done
}

/// Returns whether `t` is a meta tensor, as fake ones are inside an op.
pub(super) fn has_no_data(t: &Tensor) -> bool {
    /// `c10::DeviceType::Meta`.
    const META: i8 = 14;
    ffi::describe("dispatcher", t).is_ok_and(|d| d.device_type == META)
}
