//! Sums over slices and tensors, as accurate at any length.
//!
//! Each lane adds up blocks of 16 terms, in pairs and in fours, and these with what each
//! addition loses (T. J. Dekker's and D. E. Knuth's exact sum of two numbers). The blocks
//! begin at fixed places, so neither threads nor strides change a bit.

use super::dispatch::dispatch;
use super::slices::{MANY, check, constants, load};
use super::{Lane, Lanes};
use crate::Result;
use crate::kernel::element::sealed::Element as _;
use crate::kernel::fold::blocks;
use pulp::{Simd, WithSimd};
use tch::Tensor;

/// The sums of `op(x)` over slices of one length; a slice of one element stands
/// for that element everywhere.
///
/// Each is within 3 epsilon of `T` of the exact sum of the terms, relatively to the sum of
/// their absolute values, at any length. (Partial sums of up to 1024 terms are numbers of `T`,
/// and overflow where these do.)
///
/// # Panics
/// If a length differs.
pub fn sum<T: Lane, const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&[T]; I],
) -> [f64; O] {
    let n = x.iter().map(|x| x.len()).find(|n| *n != 1).unwrap_or(1);
    check(&x, std::iter::once(n));
    let mut sums = Sums::new();
    dispatch(MANY, Sum { op, x, n, sums: &mut sums });
    sums.value()
}

/// The sums of `op(x)` over all elements of tensors, which broadcast: as accurate as
/// [`sum`]'s, and the same for any number of threads and any strides.
/// All inputs are `f64`, or all are `f32`, f16 or bf16.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel::simd::{self, Float, Lanes};
///
/// /// `x y`
/// struct Product;
///
/// impl Lanes<2, 1> for Product {
///     #[inline(always)]
///     fn call<V: Float>(&self, [x, y]: [V; 2]) -> [V; 1] {
///         [x * y]
///     }
/// }
///
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0]);
/// assert_eq!(simd::sum_of(&Product, [&x, &x])?, [14.0]);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`map`](crate::kernel::map).
pub fn sum_of<const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Result<[f64; O]> {
    let name = "kernel::simd::sum_of";
    const { assert!(I > 0 && O > 0, "an op has an input and an output") };
    if crate::ffi::describe(name, x[0])?.dtype == f64::DTYPE {
        sum_of_all::<f64, I, O>(name, op, x)
    } else {
        sum_of_all::<f32, I, O>(name, op, x)
    }
}

fn sum_of_all<T: Lane, const I: usize, const O: usize>(
    name: &'static str,
    op: &impl Lanes<I, O>,
    x: [&Tensor; I],
) -> Result<[f64; O]> {
    let step = |mut sums: Sums<T, O>, _, n, x: [&[T]; I]| {
        dispatch(MANY, Sum { op, x, n, sums: &mut sums });
        sums
    };
    let sums = blocks::<[T; I], _>(name, x, Sums::new(), &step, Sums::merge)?;
    Ok(sums.value())
}

/// `high + low = high + low + op(x)` on slices of one length, where `low` gets what `high`
/// has no digits for. A slice of one element of `x` stands for that element everywhere.
///
/// # Panics
/// If a length differs.
pub(crate) fn accumulate_exactly<T: Lane, const I: usize>(
    op: &impl Lanes<I, 1>,
    x: [&[T]; I],
    high: &mut [T],
    low: &mut [T],
) {
    check(&x, [high.len(), low.len()].into_iter());
    dispatch(MANY, Accumulate { op, x, high, low });
}

/// Number of values that are found beside each other, so that none waits for the last one.
pub(super) const CHAINS: usize = 4;
/// Number of terms that one lane of a chain adds up.
const TERMS: usize = 4;
/// Number of blocks that lanes add up before they are put together in `f64`.
const BLOCKS: usize = 64;
/// The most lanes that a vector has.
pub(super) const MOST: usize = 16;

/// Sums on their way.
#[derive(Clone)]
struct Sums<T, const O: usize> {
    /// The sum of each lane, and what it has no digits for.
    high: [[T; MOST]; O],
    low: [[T; MOST]; O],
    lanes: usize,
    /// Number of blocks in the lanes.
    blocks: usize,
    total: [(f64, f64); O],
}

impl<T: Lane, const O: usize> Sums<T, O> {
    #[inline]
    fn new() -> Self {
        let zeros = [[T::default(); MOST]; O];
        Sums { high: zeros, low: zeros, lanes: 1, blocks: 0, total: [(0.0, 0.0); O] }
    }

    /// Empties the lanes into the total.
    #[inline(never)]
    fn settle(&mut self) {
        for i in 0..O {
            let mut high = self.high[i].map(Into::<f64>::into);
            let mut low = self.low[i].map(Into::<f64>::into);
            let mut half = self.lanes / 2;
            while half > 0 {
                for j in 0..half {
                    let (sum, lost) = add(high[j], high[j + half]);
                    high[j] = sum;
                    low[j] += low[j + half] + lost;
                }
                half /= 2;
            }
            let (sum, lost) = add(self.total[i].0, high[0]);
            self.total[i] = (sum, self.total[i].1 + low[0] + lost);
        }
        (self.high, self.low) = ([[T::default(); MOST]; O], [[T::default(); MOST]; O]);
        self.blocks = 0;
    }

    fn merge(mut self, mut other: Self) -> Self {
        self.settle();
        other.settle();
        for i in 0..O {
            let (sum, lost) = add(self.total[i].0, other.total[i].0);
            self.total[i] = (sum, self.total[i].1 + other.total[i].1 + lost);
        }
        self
    }

    #[inline]
    fn value(mut self) -> [f64; O] {
        self.settle();
        // What infinity lost is NaN.
        let value = |(high, low): (f64, f64)| if low.is_nan() { high } else { high + low };
        self.total.map(value)
    }
}

/// `a + b`, and what the sum has no digits for.
#[inline(always)]
pub(crate) fn add<V: Copy + std::ops::Add<Output = V> + std::ops::Sub<Output = V>>(
    a: V,
    b: V,
) -> (V, V) {
    let sum = a + b;
    let seen = sum - a;
    (sum, (a - (sum - seen)) + (b - seen))
}

/// Adds `n` terms to `sums`. All calls but the last are of whole blocks.
struct Sum<'a, 'b, F, T, const I: usize, const O: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    n: usize,
    sums: &'b mut Sums<T, O>,
}

impl<F: Lanes<I, O>, T: Lane, const I: usize, const O: usize> WithSimd for Sum<'_, '_, F, T, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Sum { op, x, n, sums } = self;
        let lanes = T::lanes::<S>();
        sums.lanes = lanes;
        let mut vectors = constants::<S, T, I>(s, x, n);
        let zero = T::splat(s, T::default());
        let whole = n - n % lanes;
        let mut at = 0;
        while at < n {
            let (mut high, mut low) = ([zero; O], [zero; O]);
            for i in 0..O {
                high[i] = T::load(s, &sums.high[i][..lanes]);
                low[i] = T::load(s, &sums.low[i][..lanes]);
            }
            while at < whole && sums.blocks < BLOCKS {
                let end = whole.min(at + lanes * CHAINS * TERMS);
                let mut chains = [[zero; O]; CHAINS];
                while at < end {
                    for chain in chains.iter_mut() {
                        if at < end {
                            load(s, &mut vectors, x, at, at + lanes, n);
                            let found = op.call(vectors);
                            for i in 0..O {
                                chain[i] = chain[i] + found[i];
                            }
                            at += lanes;
                        }
                    }
                }
                for i in 0..O {
                    let block = (chains[0][i] + chains[1][i]) + (chains[2][i] + chains[3][i]);
                    let (sum, lost) = add(high[i], block);
                    (high[i], low[i]) = (sum, low[i] + lost);
                }
                sums.blocks += 1;
            }
            if at == whole && at < n {
                load(s, &mut vectors, x, at, n, n);
                let found = op.call(vectors);
                for i in 0..O {
                    let mut terms = [T::default(); MOST];
                    T::store_in(found[i], &mut terms[..n - at]);
                    let (sum, lost) = add(high[i], T::load(s, &terms[..lanes]));
                    (high[i], low[i]) = (sum, low[i] + lost);
                }
                at = n;
            }
            for i in 0..O {
                T::store_in(high[i], &mut sums.high[i][..lanes]);
                T::store_in(low[i], &mut sums.low[i][..lanes]);
            }
            if sums.blocks == BLOCKS {
                sums.settle();
            }
        }
    }
}

struct Accumulate<'a, 'b, F, T, const I: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    high: &'b mut [T],
    low: &'b mut [T],
}

impl<F: Lanes<I, 1>, T: Lane, const I: usize> WithSimd for Accumulate<'_, '_, F, T, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Accumulate { op, x, high, low } = self;
        let (n, lanes) = (high.len(), T::lanes::<S>());
        let mut vectors = constants::<S, T, I>(s, x, n);
        let pairs = high.chunks_mut(lanes).zip(low.chunks_mut(lanes));
        for (i, (high, low)) in pairs.enumerate() {
            load(s, &mut vectors, x, i * lanes, i * lanes + high.len(), n);
            let [found] = op.call(vectors);
            let (sum, lost) = add(T::load(s, high), found);
            T::store_in(sum, high);
            T::store_in(T::load(s, low) + lost, low);
        }
    }
}
