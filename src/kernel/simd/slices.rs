//! Vectors over slices, for the rows of [`rows`](crate::kernel::rows()).

use super::dispatch::dispatch;
use super::sums::{CHAINS, MOST};
use super::{AHEAD, Float, Lane, Lanes, prefetch};
use pulp::{Simd, WithSimd};

/// `y = op(x)` on slices of one length. A slice of one element stands for that
/// element everywhere.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel::{self, simd::{self, Float, Lanes}};
///
/// /// `e^(x - max)`
/// struct Exp { max: f64 }
///
/// impl Lanes<1, 1> for Exp {
///     #[inline(always)]
///     fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
///         [(x - self.max).exp()]
///     }
/// }
///
/// /// `c x`
/// struct Times(f64);
///
/// impl Lanes<1, 1> for Times {
///     #[inline(always)]
///     fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
///         [x * self.0]
///     }
/// }
///
/// let x = Tensor::from_slice(&[0.0f32, 0.0, 9.0, 9.0]).reshape([2, 2]);
/// let softmax = kernel::rows::<f32, f32>(&x, &[2], |x, y| {
///     let max = f64::from(simd::max(x));
///     simd::apply(&Exp { max }, [x], [&mut *y]);
///     let [sum] = simd::sum(&Times(1.0), [&*y]);
///     simd::update(&Times(1.0 / sum), y);
/// })?;
/// assert_eq!(Vec::<f32>::try_from(softmax.flatten(0, 1))?, [0.5; 4]);
/// # anyhow::Ok(())
/// ```
///
/// # Panics
/// If a length differs.
pub fn apply<T: Lane, const I: usize, const O: usize>(
    op: &impl Lanes<I, O>,
    x: [&[T]; I],
    y: [&mut [T]; O],
) {
    check(&x, y.iter().map(|y| y.len()));
    dispatch(MANY, Apply { op, x, y });
}

/// `y = op(y)` on a slice.
pub fn update<T: Lane>(op: &impl Lanes<1, 1>, y: &mut [T]) {
    dispatch(MANY, Update { op, y });
}

/// `y = y + op(x)` on slices of one length; as [`apply`].
///
/// # Panics
/// If a length differs.
pub fn accumulate<T: Lane, const I: usize>(op: &impl Lanes<I, 1>, x: [&[T]; I], y: &mut [T]) {
    check(&x, std::iter::once(y.len()));
    dispatch(MANY, Accumulate { op, x, y });
}

/// The greatest element, minus infinity of none. With a NaN among them, any
/// of them.
pub fn max<T: Lane>(x: &[T]) -> T {
    dispatch(MANY, Max { x })
}

pub(super) fn check<T, const I: usize>(x: &[&[T]; I], y: impl Iterator<Item = usize>) {
    for n in y {
        let fit = x.iter().all(|x| x.len() == n || x.len() == 1);
        assert!(fit, "slices of lengths {:?} for {n}", x.map(<[T]>::len));
    }
}

struct Apply<'a, 'b, F, T, const I: usize, const O: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    y: [&'b mut [T]; O],
}

impl<F: Lanes<I, O>, T: Lane, const I: usize, const O: usize> WithSimd
    for Apply<'_, '_, F, T, I, O>
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Apply { op, x, y } = self;
        let (n, lanes) = (y[0].len(), T::lanes::<S>());
        let mut vectors = constants::<S, T, I>(s, x, n);
        let mut at = 0;
        while at < n {
            let end = if n - at >= lanes { at + lanes } else { n };
            load(s, &mut vectors, x, at, end, n);
            let found = op.call(vectors);
            for i in 0..O {
                T::store_in(found[i], &mut y[i][at..end]);
            }
            at = end;
        }
    }
}

struct Update<'a, 'b, F, T> {
    op: &'a F,
    y: &'b mut [T],
}

impl<F: Lanes<1, 1>, T: Lane> WithSimd for Update<'_, '_, F, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for y in self.y.chunks_mut(T::lanes::<S>()) {
            let [found] = self.op.call([T::load(s, y)]);
            T::store_in(found, y);
        }
    }
}

struct Accumulate<'a, 'b, F, T, const I: usize> {
    op: &'a F,
    x: [&'b [T]; I],
    y: &'b mut [T],
}

impl<F: Lanes<I, 1>, T: Lane, const I: usize> WithSimd for Accumulate<'_, '_, F, T, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Accumulate { op, x, y } = self;
        let (n, lanes) = (y.len(), T::lanes::<S>());
        let mut vectors = constants::<S, T, I>(s, x, n);
        for (i, y) in y.chunks_mut(lanes).enumerate() {
            load(s, &mut vectors, x, i * lanes, i * lanes + y.len(), n);
            let [found] = op.call(vectors);
            T::store_in(T::load(s, y) + found, y);
        }
    }
}

/// A number of elements for which the widest vectors pay: there are many slices.
pub(super) const MANY: usize = usize::MAX;

struct Max<'b, T> {
    x: &'b [T],
}

impl<T: Lane> WithSimd for Max<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) -> T {
        let (x, lanes) = (self.x, T::lanes::<S>());
        let mut all = [T::of(f64::NEG_INFINITY); MOST];
        if x.len() < lanes {
            all[..x.len()].copy_from_slice(x);
            return greatest(all);
        }
        let mut found = [T::load(s, &x[..lanes]); CHAINS];
        let chunks = x.chunks_exact(lanes * CHAINS);
        let rest = chunks.remainder();
        for chunk in chunks {
            for i in 0..CHAINS {
                prefetch(chunk, i * lanes + AHEAD / size_of::<T>());
                found[i] = found[i].max(T::load(s, &chunk[i * lanes..(i + 1) * lanes]));
            }
        }
        let vectors = rest.chunks_exact(lanes);
        for (i, vector) in vectors.enumerate() {
            found[i] = found[i].max(T::load(s, vector));
        }
        // Some of the last elements once more.
        let last = T::load(s, &x[x.len() - lanes..]);
        let found = found[0].max(found[1]).max(found[2].max(found[3])).max(last);
        T::store_in(found, &mut all[..lanes]);
        greatest(all)
    }
}

#[inline(always)]
fn greatest<T: Lane>(mut all: [T; MOST]) -> T {
    let mut half = MOST / 2;
    while half > 0 {
        for i in 0..half {
            if all[i].into() < all[i + half].into() {
                all[i] = all[i + half];
            }
        }
        half /= 2;
    }
    all[0]
}

/// Makes blocks of slices that are one element for `n`.
#[inline(always)]
pub(super) fn constants<S: Simd, T: Lane, const I: usize>(
    s: S,
    x: [&[T]; I],
    n: usize,
) -> [T::Vector<S>; I] {
    let mut vectors = [T::splat(s, T::default()); I];
    for i in 0..I {
        if x[i].len() == 1 && n > 1 {
            vectors[i] = T::splat(s, x[i][0]);
        }
    }
    vectors
}

#[inline(always)]
pub(super) fn load<S: Simd, T: Lane, const I: usize>(
    s: S,
    vectors: &mut [T::Vector<S>; I],
    x: [&[T]; I],
    at: usize,
    end: usize,
    n: usize,
) {
    for i in 0..I {
        if x[i].len() == n {
            vectors[i] = T::load(s, &x[i][at..end]);
        }
    }
}
