//! The same op for every instruction set, written once over a vector type.

mod dispatch;
mod erf;
pub(crate) mod gates;
mod groups;
mod math;
mod normal;
pub(crate) mod pow;
mod slices;
mod sums;
mod two;
mod vector;

pub(crate) use groups::{Groups, map_groups};
pub use slices::{accumulate, apply, max, update};
pub(crate) use sums::{accumulate_exactly, add};
pub use sums::{sum, sum_of};
pub use vector::Float;

use super::element::{Element, sealed::Element as _};
use super::elementwise::{GRAIN, finish, fresh};
use super::view::{alike, prefetch};
use crate::ffi::memory::Pin;
use crate::{Result, ffi};
use dispatch::dispatch;
use pulp::{Simd, WithSimd};
use smallvec::SmallVec;
use std::mem::MaybeUninit;
use tch::Tensor;
use vector::{F32, F64};

/// An elementwise op of `I` tensors that gives `O`, over vectors of any width.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel::simd::{self, Float, Lanes};
///
/// /// `log(1 + e^x)` and its derivative in one pass.
/// struct Softplus;
///
/// impl Lanes<1, 2> for Softplus {
///     #[inline(always)]
///     fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 2] {
///         let e = (-x.abs()).exp();
///         let q = e / (e + 1.0);
///         let slope = V::select(x.lt(x.of(0.0)), q, -q + 1.0);
///         [x.max(x.of(0.0)) + e.ln_1p(), slope]
///     }
/// }
///
/// let x = Tensor::from_slice(&[0.0f64, 1000.0]);
/// let [y, slope] = simd::map(&Softplus, [&x])?;
/// assert_eq!(Vec::<f64>::try_from(y)?, [std::f64::consts::LN_2, 1000.0]);
/// assert_eq!(Vec::<f64>::try_from(slope)?, [0.5, 1.0]);
/// # anyhow::Ok(())
/// ```
///
/// `#[inline(always)]` matters: what is not inlined is compiled without the
/// instruction set's registers.
pub trait Lanes<const I: usize, const O: usize>: Sync {
    /// The op on one vector of each input.
    fn call<V: Float>(&self, x: [V; I]) -> [V; O];
}

/// New tensors with `op` of every element, as [`map`](super::map) makes them.
/// All inputs are `f64`, or all are `f32`, f16 or bf16.
///
/// # Errors
/// As [`map`](super::map).
pub fn map<const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    let _pins = x.iter().map(|x| Pin::of(MAP, x)).collect::<Result<SmallVec<[Pin; 3]>>>()?;
    map_with_own(op, x)
}

const MAP: &str = "kernel::simd::map";

/// Does what [`map`] does, with an op of this crate: its code cannot resize an input.
#[inline]
pub(crate) fn map_with_own<const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    map_small(op, x).unwrap_or_else(|| map_large(op, x))
}

/// Does what [`map_with_own`] does, if all `x` are small, contiguous and of one shape and
/// dtype.
#[inline]
pub(crate) fn map_small<const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Option<Result<[Tensor; O]>> {
    const { assert!(I > 0 && O > 0, "an op has an input and an output") };
    let done = alike::<f32, I, O>(x, GRAIN, |x, y| run(op, y[0].len(), x, y))
        .or_else(|| alike::<f64, I, O>(x, GRAIN, |x, y| run(op, y[0].len(), x, y)))?;
    Some(finish(MAP, done))
}

/// Does what [`map_with_own`] does, for tensors of any size.
pub(crate) fn map_large<const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    if ffi::describe(MAP, x[0])?.dtype == f64::DTYPE {
        let body: &Body<'_, f64, I, O> = &|n, x, y| run(op, n, x, y);
        fresh::<[f64; I], [f64; O]>(MAP, x, body)
    } else {
        let body: &Body<'_, f32, I, O> = &|n, x, y| run(op, n, x, y);
        fresh::<[f32; I], [f32; O]>(MAP, x, body)
    }
}

/// What runs on a block.
type Body<'a, T, const I: usize, const O: usize> =
    dyn Fn(usize, [&[T]; I], [&mut [MaybeUninit<T>]; O]) + Sync + 'a;

/// Runs `f`, which goes through some of `n` elements, compiled for several instruction
/// sets, in the best one here.
#[inline(always)]
pub(super) fn here(n: usize, f: impl FnOnce()) {
    struct Here<F>(F);
    impl<F: FnOnce()> WithSimd for Here<F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) {
            (self.0)()
        }
    }
    dispatch(n, Here(f));
}

/// Distance in bytes at which memory is prefetched. (The processor does
/// so by itself, but not across pages, and not early enough for long ops.)
const AHEAD: usize = 4096;

/// An op on slices of one length; those of one element have it in each place.
struct Run<'a, 'b, F, T, const I: usize, const O: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    y: [&'b mut [MaybeUninit<T>]; O],
}

impl<F: Lanes<I, O>, T: Lane, const I: usize, const O: usize> WithSimd for Run<'_, '_, F, T, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Run { op, x, y } = self;
        let n = y[0].len();
        let lanes = T::lanes::<S>();
        // (`map` of an array and closures are not always inlined, and what is
        // not has no vector registers.)
        let mut vectors = [T::splat(s, T::default()); I];
        for i in 0..I {
            if x[i].len() == 1 {
                vectors[i] = T::splat(s, x[i][0]);
            }
        }
        let mut at = 0;
        while at < n {
            let end = if n - at >= lanes { at + lanes } else { n };
            for i in (0..I).filter(|&i| x[i].len() > 1) {
                prefetch(x[i], at + AHEAD / size_of::<T>());
                vectors[i] = T::load(s, &x[i][at..end]);
            }
            let found = op.call(vectors);
            for i in 0..O {
                T::store(found[i], &mut y[i][at..end]);
            }
            at = end;
        }
    }
}

#[inline]
fn run<T: Lane, const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    count: usize,
    x: [&[T]; I],
    y: [&mut [MaybeUninit<T>]; O],
) {
    dispatch(count, Run { op, x, y });
}

/// A type that vectors are made of: `f32` or `f64`.
pub trait Lane: Element + Into<f64> {
    /// `value`, rounded.
    fn of(value: f64) -> Self;
    #[doc(hidden)]
    type Vector<S: Simd>: Float;
    #[doc(hidden)]
    fn lanes<S: Simd>() -> usize;
    #[doc(hidden)]
    fn splat<S: Simd>(s: S, value: Self) -> Self::Vector<S>;
    #[doc(hidden)]
    /// Loads at most `lanes` elements; the rest are zeros.
    fn load<S: Simd>(s: S, from: &[Self]) -> Self::Vector<S>;
    #[doc(hidden)]
    /// Stores as many elements as there is room for.
    fn store<S: Simd>(vector: Self::Vector<S>, to: &mut [MaybeUninit<Self>]);
    #[doc(hidden)]
    /// Does what `store` does.
    fn store_in<S: Simd>(vector: Self::Vector<S>, to: &mut [Self]);
}

macro_rules! lane {
    ($T:ty, $V:ident, $splat:ident, $lanes:ident, $load:ident, $split:ident, $room:ident, $mut:ident) => {
        impl Lane for $T {
            type Vector<S: Simd> = $V<S>;
            fn of(value: f64) -> $T {
                value as $T
            }
            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }
            #[inline(always)]
            fn splat<S: Simd>(s: S, value: $T) -> $V<S> {
                $V(s, s.$splat(value))
            }
            #[inline(always)]
            fn load<S: Simd>(s: S, from: &[$T]) -> $V<S> {
                if let [vector] = S::$split(from).0 {
                    return $V(s, *vector);
                }
                $V(s, s.$load(from))
            }
            #[inline(always)]
            fn store<S: Simd>(vector: $V<S>, to: &mut [MaybeUninit<$T>]) {
                if let (&mut [ref mut to], _) = S::$room(to) {
                    to.write(vector.1);
                    return;
                }
                let vector = [vector.1];
                let lanes: &[$T] = pulp::bytemuck::cast_slice(&vector);
                for (to, x) in to.iter_mut().zip(lanes) {
                    to.write(*x);
                }
            }
            #[inline(always)]
            fn store_in<S: Simd>(vector: $V<S>, to: &mut [$T]) {
                if let (&mut [ref mut to], _) = S::$mut(to) {
                    *to = vector.1;
                    return;
                }
                let vector = [vector.1];
                let lanes: &[$T] = pulp::bytemuck::cast_slice(&vector);
                to.iter_mut().zip(lanes).for_each(|(to, x)| *to = *x);
            }
        }
    };
}
lane!(
    f32,
    F32,
    splat_f32s,
    F32_LANES,
    partial_load_f32s,
    as_simd_f32s,
    as_uninit_mut_simd_f32s,
    as_mut_simd_f32s
);
lane!(
    f64,
    F64,
    splat_f64s,
    F64_LANES,
    partial_load_f64s,
    as_simd_f64s,
    as_uninit_mut_simd_f64s,
    as_mut_simd_f64s
);

/// Each instruction set of this machine gives what the best one gives, which
/// `tests/kernel/math.rs` compares with exact values.
#[test]
fn every_instruction_set() {
    use pulp::Arch;
    struct All;
    impl Lanes<1, 8> for All {
        #[inline(always)]
        fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 8] {
            let positive = x.abs();
            [
                x.exp(),
                positive.ln(),
                positive.ln_1p(),
                x.tanh(),
                x.erf(),
                x.sigmoid(),
                x.ln_1p_exp(),
                positive.sqrt().copysign(x).max(-x).min(x.mul_add(x, positive)),
            ]
        }
    }
    fn run<T: Lane + tch::kind::Element>(arch: Arch, x: &[T]) -> [Vec<f64>; 8] {
        let x = Tensor::from_slice(x);
        let done = alike::<T, 1, 8>([&x], usize::MAX, |x, y| {
            arch.dispatch(Run { op: &All, x, y });
        });
        let y = done.expect("a plain tensor").unwrap_or_else(|_| panic!("no panic"));
        y.map(|y| Vec::try_from(y.to_kind(tch::Kind::Double)).expect("numbers"))
    }
    let mut sets = vec![Arch::Scalar, Arch::new()];
    #[cfg(target_arch = "x86_64")]
    sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
    let x: Vec<f64> = (-2000..=2003).map(|i| f64::from(i) * 0.043).collect();
    let narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
    let (best, best_narrow) = (run(Arch::new(), &x), run(Arch::new(), &narrow));
    for set in sets {
        let pairs = [
            (run(set, &x), &best, 4.0 * f64::EPSILON),
            (run(set, &narrow), &best_narrow, 4.0 * f64::from(f32::EPSILON)),
        ];
        for (found, expected, tolerance) in pairs {
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                let near = (found - expected).abs() <= tolerance * expected.abs();
                let same = found == expected || found.is_nan() && expected.is_nan();
                assert!(near || same, "{found} for {expected}");
            }
        }
    }
}
