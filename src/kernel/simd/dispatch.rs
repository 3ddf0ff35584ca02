//! The choice of the instruction set. What is compiled for several of them takes the longest
//! to compile of all in this crate, so dev builds have fewer.

use pulp::{Arch, Simd, WithSimd};
use std::sync::OnceLock;

/// Below this many elements the widest vectors (AVX-512) do not pay: for some
/// microseconds after their first use the processor runs slower.
const FEW: usize = 2048;

/// Runs `op` on some of `n` elements, with the best instruction set for them.
#[inline]
pub(in crate::kernel) fn dispatch<W: WithSimd>(n: usize, op: W) -> W::Output {
    if cfg!(debug_assertions) || n < FEW {
        return dispatch_narrow(op);
    }
    static BEST: OnceLock<Arch> = OnceLock::new();
    BEST.get_or_init(Arch::new).dispatch(op)
}

/// Runs `op` with vectors that are not of the widest.
#[cfg(target_arch = "x86_64")]
#[inline]
fn dispatch_narrow<W: WithSimd>(op: W) -> W::Output {
    static NARROW: OnceLock<Option<pulp::x86::V3>> = OnceLock::new();
    match NARROW.get_or_init(pulp::x86::V3::try_new) {
        Some(v3) => Simd::vectorize(*v3, op),
        None => Simd::vectorize(pulp::Scalar::new(), op),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn dispatch_narrow<W: WithSimd>(op: W) -> W::Output {
    Arch::new().dispatch(op)
}

/// Runs `op`, which is seldom needed or seldom on large tensors.
#[inline]
pub(in crate::kernel) fn dispatch_rarely<W: WithSimd>(op: W) -> W::Output {
    if cfg!(debug_assertions) {
        return Simd::vectorize(pulp::Scalar::new(), op);
    }
    dispatch_narrow(op)
}
