//! Sums over slices and tensors, as accurate at any length.
//!
//! Each lane adds up blocks of 16 terms, and these with what each addition loses (D. E.
//! Knuth's exact sum of two numbers). The blocks begin at fixed places, so neither threads
//! nor strides change a bit.

use super::dispatch::dispatch;
use super::slices::{MANY, check, constants, load};
use super::{AHEAD, Lane, Lanes, prefetch};
use crate::Result;
use crate::kernel::element::sealed::Element as _;
use crate::kernel::fold::blocks;
use pulp::{Simd, WithSimd};
use tch::Tensor;

/// The sums of `op(x)` over slices of one length; a slice of one element stands
/// for that element everywhere.
///
/// Each is within 4 epsilon of `T` of the exact sum of the terms, relatively to the sum of
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
    dispatch(MANY, Sum { op, x, n, totals: [(0.0, 0.0); O] })
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
    const { assert!(I > 0 && O > 0, "an op has an input and an output") };
    let name = "kernel::simd::sum_of";
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
        dispatch(MANY, Resumed { op, x, n, sums: &mut sums });
        sums
    };
    let sums = blocks::<[T; I], _>(name, x, Sums::new(), &step, Sums::merge)?;
    Ok(value(sums.settled()))
}

/// `high + low = high + low + ops[0](x[0]) + ops[1](x[1]) + ..` on slices of one length, where
/// `low` gets what `high` has no digits for.
///
/// # Panics
/// If a length differs.
pub(crate) fn accumulate_exactly<T: Lane, const I: usize, const R: usize>(
    ops: [impl Lanes<I, 1>; R],
    x: [[&[T]; I]; R],
    high: &mut [T],
    low: &mut [T],
) {
    let same = x.iter().flatten().all(|x| x.len() == high.len()) && high.len() == low.len();
    assert!(same, "slices of several lengths");
    dispatch(MANY, Accumulate { ops, x, high, low });
}

/// Number of values that are found beside each other, so that none waits for the last one.
pub(super) const CHAINS: usize = 4;
/// Number of terms that one lane of a chain adds up.
const TERMS: usize = 4;
/// Number of blocks that lanes add up before these are put together in `f64`.
const BLOCKS: usize = 64;
/// The most lanes that a vector has.
pub(super) const MOST: usize = 16;

/// What sums are, and what these numbers have no digits for.
type Totals<const O: usize> = [(f64, f64); O];

fn value<const O: usize>(totals: Totals<O>) -> [f64; O] {
    // What infinity lost is NaN.
    totals.map(|(high, low)| if low.is_nan() { high } else { high + low })
}

/// Sums on their way.
#[derive(Clone)]
struct Sums<T, const O: usize> {
    /// The sum of each lane, and its loss.
    high: [[T; MOST]; O],
    low: [[T; MOST]; O],
    /// The number of blocks in the lanes.
    blocks: usize,
    totals: Totals<O>,
}

impl<T: Lane, const O: usize> Sums<T, O> {
    fn new() -> Self {
        let zeros = [[T::default(); MOST]; O];
        Sums { high: zeros, low: zeros, blocks: 0, totals: [(0.0, 0.0); O] }
    }

    fn settled(mut self) -> Totals<O> {
        (0..O).for_each(|i| include(&mut self.totals[i], &self.high[i], &self.low[i]));
        self.totals
    }

    fn merge(self, other: Self) -> Self {
        let (mut totals, others) = (self.settled(), other.settled());
        for i in 0..O {
            let (sum, lost) = add(totals[i].0, others[i].0);
            totals[i] = (sum, totals[i].1 + others[i].1 + lost);
        }
        Sums { totals, ..Sums::new() }
    }
}

/// Adds lanes to a total.
#[inline(always)]
fn include<T: Lane>(total: &mut (f64, f64), high: &[T; MOST], low: &[T; MOST]) {
    let (sum, lost) = add(total.0, in_pairs(high));
    *total = (sum, total.1 + in_pairs(low) + lost);
}

#[inline(always)]
fn in_pairs<T: Lane>(lanes: &[T; MOST]) -> f64 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    (0..8).for_each(|i| eight[i] = lanes[i].into() + lanes[i + 8].into());
    (0..4).for_each(|i| four[i] = eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
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

struct Sum<'a, 'b, F, T, const I: usize, const O: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    n: usize,
    totals: Totals<O>,
}

impl<F: Lanes<I, O>, T: Lane, const I: usize, const O: usize> WithSimd for Sum<'_, '_, F, T, I, O> {
    type Output = [f64; O];

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> [f64; O] {
        let Sum { op, x, n, mut totals } = self;
        let lanes = T::lanes::<S>();
        if n < lanes {
            let mut vectors = constants::<S, T, I>(s, x, n);
            load(s, &mut vectors, x, 0, n, n);
            let found = op.call(vectors);
            let mut sums = [0.0; O];
            for i in 0..O {
                let mut terms = [T::default(); MOST];
                T::store_in(found[i], &mut terms[..n]);
                terms[..n].iter().for_each(|term| sums[i] += (*term).into());
            }
            return sums;
        }
        let zero = T::splat(s, T::default());
        let (mut high, mut low) = ([zero; O], [zero; O]);
        add_all::<S, F, T, I, O>(s, op, x, n, &mut (&mut high, &mut low, &mut 0, &mut totals));
        empty::<S, T, O>(lanes, high, low, &mut totals);
        value(totals)
    }
}

/// Adds `n` terms to `sums`. All calls but the last are of whole blocks.
struct Resumed<'a, 'b, F, T, const I: usize, const O: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    n: usize,
    sums: &'b mut Sums<T, O>,
}

impl<F: Lanes<I, O>, T: Lane, const I: usize, const O: usize> WithSimd
    for Resumed<'_, '_, F, T, I, O>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Resumed { op, x, n, sums } = self;
        let lanes = T::lanes::<S>();
        let zero = T::splat(s, T::default());
        let (mut high, mut low) = ([zero; O], [zero; O]);
        for i in 0..O {
            high[i] = T::load(s, &sums.high[i][..lanes]);
            low[i] = T::load(s, &sums.low[i][..lanes]);
        }
        let mut state = (&mut high, &mut low, &mut sums.blocks, &mut sums.totals);
        add_all::<S, F, T, I, O>(s, op, x, n, &mut state);
        for i in 0..O {
            T::store_in(high[i], &mut sums.high[i][..lanes]);
            T::store_in(low[i], &mut sums.low[i][..lanes]);
        }
    }
}

/// The lanes' sums, what these have no digits for, the number of blocks in them, and the rest.
type State<'s, V, const O: usize> =
    (&'s mut [V; O], &'s mut [V; O], &'s mut usize, &'s mut Totals<O>);

#[inline(always)]
fn add_all<S: Simd, F: Lanes<I, O>, T: Lane, const I: usize, const O: usize>(
    s: S,
    op: &F,
    x: [&[T]; I],
    n: usize,
    (high, low, blocks, totals): &mut State<'_, T::Vector<S>, O>,
) {
    let lanes = T::lanes::<S>();
    let mut vectors = constants::<S, T, I>(s, x, n);
    let zero = T::splat(s, T::default());
    let whole = n - n % lanes;
    let mut at = 0;
    while at < whole {
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
        **blocks += 1;
        if **blocks == BLOCKS {
            empty::<S, T, O>(lanes, **high, **low, totals);
            (**high, **low, **blocks) = ([zero; O], [zero; O], 0);
        }
    }
    if at < n {
        load(s, &mut vectors, x, at, n, n);
        let found = op.call(vectors);
        for i in 0..O {
            let mut terms = [T::default(); MOST];
            T::store_in(found[i], &mut terms[..n - at]);
            let (sum, lost) = add(high[i], T::load(s, &terms[..lanes]));
            (high[i], low[i]) = (sum, low[i] + lost);
        }
    }
}

#[inline(always)]
fn empty<S: Simd, T: Lane, const O: usize>(
    lanes: usize,
    high: [T::Vector<S>; O],
    low: [T::Vector<S>; O],
    totals: &mut Totals<O>,
) {
    for i in 0..O {
        let mut both = [[T::default(); MOST]; 2];
        T::store_in(high[i], &mut both[0][..lanes]);
        T::store_in(low[i], &mut both[1][..lanes]);
        include(&mut totals[i], &both[0], &both[1]);
    }
}

struct Accumulate<'b, F, T, const I: usize, const R: usize> {
    ops: [F; R],
    x: [[&'b [T]; I]; R],
    high: &'b mut [T],
    low: &'b mut [T],
}

impl<F: Lanes<I, 1>, T: Lane, const I: usize, const R: usize> WithSimd
    for Accumulate<'_, F, T, I, R>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Accumulate { ops, x, high, low } = self;
        let (n, lanes) = (high.len(), T::lanes::<S>());
        let zero = T::splat(s, T::default());
        // Short rows are over before the processor foresees the next ones, behind the last.
        let ahead = R * n.min(AHEAD);
        let mut at = 0;
        while at < n {
            let end = if n - at >= lanes { at + lanes } else { n };
            let mut sums = [zero; 2];
            for i in 0..R {
                let mut vectors = [zero; I];
                load(s, &mut vectors, x[i], at, end, n);
                x[i].iter().for_each(|x| prefetch(x, at + ahead));
                let [found] = ops[i].call(vectors);
                sums[i % 2] = sums[i % 2] + found;
            }
            let (high, low) = (&mut high[at..end], &mut low[at..end]);
            let (sum, lost) = add(T::load(s, high), sums[0] + sums[1]);
            T::store_in(sum, high);
            T::store_in(T::load(s, low) + lost, low);
            at = end;
        }
    }
}
