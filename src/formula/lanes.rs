//! Formulas over vectors: the kernels of every derivative.

use super::binary::Binary;
use super::functions::Unary;
use super::outlined::{Quick, quick, term};
use super::slope::second;
use super::term::{Base, Term};
use super::{Formula, gradients, tangents};
use crate::kernel::simd::{Float, Groups, Lanes};

/// A vector of numbers.
#[derive(Clone, Copy)]
pub struct Vector<V>(V);

impl<V: Float> Base for Vector<V> {
    type Mask = V::Mask;

    #[inline(always)]
    fn of(self, c: f64) -> Self {
        Vector(self.0.of(c))
    }
    #[inline(always)]
    fn unary<F: Unary>(self) -> Self {
        Vector(F::lanes(self.0))
    }
    #[inline(always)]
    fn binary<F: Binary>(self, other: Self) -> Self {
        Vector(F::lanes(self.0, other.0))
    }
    #[inline(always)]
    fn with_right<F: Binary>(self, c: f64) -> Self {
        Vector(F::with_right(self.0, c))
    }
    #[inline(always)]
    fn with_left<F: Binary>(self, c: f64) -> Self {
        Vector(F::with_left(c, self.0))
    }
    #[inline(always)]
    fn lt(self, other: Self) -> V::Mask {
        self.0.lt(other.0)
    }
    #[inline(always)]
    fn le(self, other: Self) -> V::Mask {
        self.0.le(other.0)
    }
    #[inline(always)]
    fn eq(self, other: Self) -> V::Mask {
        self.0.eq(other.0)
    }
    #[inline(always)]
    fn select(mask: V::Mask, yes: Self, no: Self) -> Self {
        Vector(V::select(mask, yes.0, no.0))
    }
}

type Number<V> = Quick<Vector<V>>;

// Bare loops, since closures over arrays are not always inlined, and what is not has no
// vector registers.
#[inline(always)]
fn numbers<V: Float, const N: usize>(x: [V; N]) -> [Number<V>; N] {
    let mut numbers = [quick(Term::None); N];
    for i in 0..N {
        numbers[i] = quick(Term::Value(Vector(x[i])));
    }
    numbers
}

#[inline(always)]
fn vectors<V: Float, const N: usize>(x: [Number<V>; N], like: V) -> [V; N] {
    let mut vectors = [like; N];
    for i in 0..N {
        vectors[i] = term(x[i]).value(Vector(like)).0;
    }
    vectors
}

/// `y` of `x`
pub(crate) struct Values<'a, F>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize> Lanes<I, O> for Values<'_, F> {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I]) -> [V; O] {
        vectors(self.0.eval(numbers(x)), x[0])
    }
}

/// The gradients of `x` from `x` and `dy`: `dx_i = sum over o of dy_o dy_o/dx_i`.
pub(super) struct Gradients<'a, F>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize> Groups<I, O, 0, I, 0> for Gradients<'_, F> {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I], dy: [V; O], _: [V; 0]) -> ([V; I], [V; 0]) {
        (vectors(gradients(self.0, numbers(x), numbers(dy), [true; I]), x[0]), [])
    }
}

/// The gradient of `x_K` from `x` and `dy`.
pub(super) struct GradientAt<'a, F, const K: usize>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize, const K: usize> Groups<I, O, 0, 1, 0>
    for GradientAt<'_, F, K>
{
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I], dy: [V; O], _: [V; 0]) -> ([V; 1], [V; 0]) {
        let mut wanted = [false; I];
        wanted[K] = true;
        let dx = gradients(self.0, numbers(x), numbers(dy), wanted);
        (vectors([dx[K]], x[0]), [])
    }
}

/// The tangents of `y` from `x` and `dx`: `dy_o = sum over i of dy_o/dx_i dx_i`.
pub(super) struct Tangents<'a, F>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize> Groups<I, I, 0, O, 0> for Tangents<'_, F> {
    const IS_RARE: bool = true;

    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I], dx: [V; I], _: [V; 0]) -> ([V; O], [V; 0]) {
        (vectors(tangents(self.0, numbers(x), numbers(dx)), x[0]), [])
    }
}

/// The gradients of `x` and of `dy` from `x`, `dy` and the gradients of what [`Gradients`]
/// returns.
pub(super) struct SecondGradients<'a, F>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize> Groups<I, O, I, I, O>
    for SecondGradients<'_, F>
{
    const IS_RARE: bool = true;

    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I], dy: [V; O], ddx: [V; I]) -> ([V; I], [V; O]) {
        let (dx, ddy) = second(self.0, numbers(x), numbers(dy), numbers(ddx));
        (vectors(dx, x[0]), vectors(ddy, x[0]))
    }
}

/// Does what [`SecondGradients`] does, in the direction of `x_K` alone.
pub(super) struct SecondGradientsAt<'a, F, const K: usize>(pub &'a F);

impl<F: Formula<I, O>, const I: usize, const O: usize, const K: usize> Groups<I, O, 1, I, O>
    for SecondGradientsAt<'_, F, K>
{
    const IS_RARE: bool = true;

    #[inline(always)]
    fn call<V: Float>(&self, x: [V; I], dy: [V; O], ddx: [V; 1]) -> ([V; I], [V; O]) {
        let mut direction = [quick(Term::None); I];
        direction[K] = numbers(ddx)[0];
        let (dx, ddy) = second(self.0, numbers(x), numbers(dy), direction);
        (vectors(dx, x[0]), vectors(ddy, x[0]))
    }
}
