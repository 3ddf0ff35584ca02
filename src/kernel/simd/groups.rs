//! [`map_groups`]: an elementwise op of several groups of tensors.

use super::dispatch::{dispatch, dispatch_rarely};
use super::{AHEAD, Float, Lane};
use crate::kernel::element::sealed::Element as _;
use crate::kernel::elementwise::{GRAIN, finish, fresh};
use crate::kernel::view::{alike_groups, prefetch};
use crate::{Result, ffi};
use pulp::{Simd, WithSimd};
use std::mem::MaybeUninit;
use tch::Tensor;

/// An elementwise op of three groups of inputs that gives two groups of outputs, over
/// vectors of any width. The first group of each has at least one tensor.
pub(crate) trait Groups<
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
>: Sync
{
    /// Whether the op is seldom needed.
    const IS_RARE: bool = false;

    /// The op on one vector of each input.
    fn call<V: Float>(&self, a: [V; A], b: [V; B], c: [V; C]) -> ([V; D], [V; E]);
}

/// The inputs of an op of [`Groups`].
type Inputs<T, const A: usize, const B: usize, const C: usize> = ([T; A], [T; B], [T; C]);

/// New tensors with `op` of every element, as [`map`](crate::kernel::map) makes them. All
/// inputs are `f64`, or all are `f32`, f16 or bf16.
///
/// # Errors
/// As [`map`](crate::kernel::map).
pub(crate) fn map_groups<
    O: Groups<A, B, C, D, E>,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
>(
    name: &'static str,
    op: &O,
    x: Inputs<&Tensor, A, B, C>,
) -> Result<([Tensor; D], [Tensor; E])> {
    const { assert!(A > 0 && D > 0, "the first groups are not empty") };
    let short = alike_groups::<f32, A, B, C, D, E>(x, GRAIN, |x, y| run(op, y.0[0].len(), x, y))
        .or_else(|| {
            alike_groups::<f64, A, B, C, D, E>(x, GRAIN, |x, y| run(op, y.0[0].len(), x, y))
        });
    if let Some(done) = short {
        return finish(name, done);
    }
    if ffi::describe(name, x.0[0])?.dtype == f64::DTYPE {
        map_of::<f64, O, A, B, C, D, E>(name, op, x)
    } else {
        map_of::<f32, O, A, B, C, D, E>(name, op, x)
    }
}

fn map_of<
    T: Lane,
    O: Groups<A, B, C, D, E>,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
>(
    name: &'static str,
    op: &O,
    x: Inputs<&Tensor, A, B, C>,
) -> Result<([Tensor; D], [Tensor; E])> {
    let body: &Body<'_, T, A, B, C, D, E> = &|count, x, y| run(op, count, x, y);
    fresh::<Inputs<T, A, B, C>, ([T; D], [T; E])>(name, x, body)
}

#[inline]
fn run<
    T: Lane,
    O: Groups<A, B, C, D, E>,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
>(
    op: &O,
    count: usize,
    x: Inputs<&[T], A, B, C>,
    y: Slots<'_, T, D, E>,
) {
    match O::IS_RARE {
        true => dispatch_rarely(Run { op, x, y }),
        false => dispatch(count, Run { op, x, y }),
    }
}

/// What runs on a block.
type Body<'a, T, const A: usize, const B: usize, const C: usize, const D: usize, const E: usize> =
    dyn Fn(usize, Inputs<&[T], A, B, C>, Slots<'_, T, D, E>) + Sync + 'a;

type Slots<'b, T, const D: usize, const E: usize> =
    ([&'b mut [MaybeUninit<T>]; D], [&'b mut [MaybeUninit<T>]; E]);

/// An op on slices of one length; those of one element have it in each place.
struct Run<
    'a,
    'b,
    F,
    T,
    const A: usize,
    const B: usize,
    const C: usize,
    const D: usize,
    const E: usize,
> {
    op: &'a F,
    x: Inputs<&'b [T], A, B, C>,
    y: Slots<'b, T, D, E>,
}

impl<F, T, const A: usize, const B: usize, const C: usize, const D: usize, const E: usize> WithSimd
    for Run<'_, '_, F, T, A, B, C, D, E>
where
    F: Groups<A, B, C, D, E>,
    T: Lane,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Run { op, x: (a, b, c), y: (mut d, mut e) } = self;
        let (n, lanes) = (d[0].len(), T::lanes::<S>());
        let (mut at_a, mut at_b, mut at_c) =
            (constants::<S, T, A>(s, a), constants::<S, T, B>(s, b), constants::<S, T, C>(s, c));
        let mut at = 0;
        while at < n {
            let end = if n - at >= lanes { at + lanes } else { n };
            load(s, &mut at_a, a, at, end);
            load(s, &mut at_b, b, at, end);
            load(s, &mut at_c, c, at, end);
            let (found, more) = op.call(at_a, at_b, at_c);
            store::<S, T, D>(found, &mut d, at, end);
            store::<S, T, E>(more, &mut e, at, end);
            at = end;
        }
    }
}

/// Vectors of the slices of one element.
#[inline(always)]
fn constants<S: Simd, T: Lane, const N: usize>(s: S, x: [&[T]; N]) -> [T::Vector<S>; N] {
    let mut vectors = [T::splat(s, T::default()); N];
    for i in 0..N {
        if x[i].len() == 1 {
            vectors[i] = T::splat(s, x[i][0]);
        }
    }
    vectors
}

#[inline(always)]
fn load<S: Simd, T: Lane, const N: usize>(
    s: S,
    vectors: &mut [T::Vector<S>; N],
    x: [&[T]; N],
    at: usize,
    end: usize,
) {
    for i in (0..N).filter(|&i| x[i].len() > 1) {
        prefetch(x[i], at + AHEAD / size_of::<T>());
        vectors[i] = T::load(s, &x[i][at..end]);
    }
}

#[inline(always)]
fn store<S: Simd, T: Lane, const N: usize>(
    vectors: [T::Vector<S>; N],
    y: &mut [&mut [MaybeUninit<T>]; N],
    at: usize,
    end: usize,
) {
    for i in 0..N {
        T::store(vectors[i], &mut y[i][at..end]);
    }
}
