//! [`Slope`]: the gradients of a formula as a Function, of which second derivatives are taken.

use super::derived::{KERNEL, distinct, gradients, listed, only};
use super::dual::Dual;
use super::forms::{At, Count, Form};
use super::lanes::{SecondGradients, SecondGradientsAt};
use super::sort::{Prepared, Sort};
use super::tensors::{Number, Way, are_zero, over, scalar_like};
use super::{Formula, Kernels, Scalar, along_inputs, along_outputs, jacobian};
use crate::error::Result as CrateResult;
use crate::function::{Ctx, Function, Grads, Of, Refs, Vmap};
use crate::kernel::simd;
use anyhow::Result;
use tch::Tensor;

/// `dx` of `x` and `dy`, which are of one dtype and broadcast.
pub(super) struct Slope<F, const I: usize, const O: usize> {
    pub f: F,
    pub sort: Sort,
}

impl<F, const I: usize, const O: usize> Function for Slope<F, I, O>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    type Inputs = (<Count<I> as Form<I>>::Tensors, <Count<O> as Form<O>>::Tensors);
    type Outputs = <Count<I> as Form<I>>::Tensors;

    fn forward(
        &self,
        ctx: &mut Ctx,
        (x, dy): Refs<'_, Self::Inputs>,
    ) -> Result<Of<Self::Outputs, Tensor>> {
        let (x, dy) = (Count::<I>::refs(x), Count::<O>::refs(dy));
        ctx.save_for_backward(x.into_iter().chain(dy))?;
        // A zero would meet a derivative that is NaN, such as that of `a^b` in `b` for a
        // negative `a`, although nobody asked for it.
        ctx.set_materialize_grads(false);
        let prepared = Prepared::like(ctx.op(), self.sort, x, dy[0])?;
        let found = gradients(&self.f, self.sort, &prepared, x, dy, [true; I])?;
        let found = found.into_iter().map(|dx| dx.expect("all are wanted")).collect();
        let inputs: Vec<_> = x.into_iter().chain(dy).collect();
        Ok(Count::<I>::of(listed(distinct(ctx.op(), &inputs, found)?)?))
    }

    fn backward(&self, ctx: &Ctx, ddx: Refs<'_, Self::Outputs>) -> Result<Grads<Self::Inputs>> {
        let saved = ctx.saved_tensors_vec()?;
        let x: [&Tensor; I] = std::array::from_fn(|i| saved[i]);
        let dy: [&Tensor; O] = std::array::from_fn(|o| saved[I + o]);
        let ddx = Count::<I>::refs(ddx);
        let is_given = ddx.map(Tensor::defined);
        let given = is_given.iter().filter(|is_given| **is_given).count();
        let prepared = Prepared::like(ctx.op(), self.sort, x, dy[0])?;
        let mut found = None;
        if const { matches!(F::KERNELS, Kernels::All) } {
            if given == I {
                found = prepared.by_kernel(|| self.second_by_kernel(x, dy, ddx))?;
            } else if const { I > 1 && !cfg!(debug_assertions) } && given == 1 {
                found = prepared.by_kernel(|| self.second_along_one(x, dy, ddx))?;
            }
        }
        let (dx, ddy) = match found {
            Some(found) => found,
            None => self.second_on_tensors(x, dy, ddx)?,
        };
        let is_zero = are_zero(I + O + I, &|x| second_numbers(&self.f, x, is_given));
        let (mut of_x, mut of_dy) = ([const { None }; I], [const { None }; O]);
        let places = of_x.iter_mut().chain(&mut of_dy);
        for (i, (place, grad)) in places.zip(dx.into_iter().chain(ddy)).enumerate() {
            if ctx.needs_input_grad(i) && !is_zero[i] {
                *place = Some(ctx.reduce_own_to_input(i, grad)?);
            }
        }
        Ok((Count::<I>::grads(of_x), Count::<O>::grads(of_dy)))
    }

    fn jvp(
        &self,
        _: &Ctx,
        (x, dy): Refs<'_, Self::Inputs>,
        (tx, tdy): Refs<'_, Self::Inputs>,
    ) -> Result<Of<Self::Outputs, Tensor>> {
        let (x, dy) = (Count::<I>::refs(x), Count::<O>::refs(dy));
        let (tx, tdy) = (Count::<I>::refs(tx), Count::<O>::refs(tdy));
        let (zero, is_moved) = (scalar_like(x[0], 0.0)?, tx.map(Tensor::defined));
        let moves_dy = tdy.map(Tensor::defined);
        let directions = tx.into_iter().chain(tdy).map(|t| if t.defined() { t } else { &zero });
        let all: Vec<&Tensor> = x.into_iter().chain(dy).chain(directions).collect();
        let found = over(&all, WIDE, &|numbers| {
            let (x, rest) = numbers.split_at(I);
            let (dy, rest) = rest.split_at(O);
            let (tx, tdy) = rest.split_at(I);
            let (first, second) = moved_numbers(&self.f, array(x), only(array(tx), is_moved));
            let tdy = only(array(tdy), moves_dy);
            let (through_dy, through_x) =
                (along_outputs(&first, tdy), along_outputs(&second, array(dy)));
            through_dy.into_iter().zip(through_x).map(|(a, b)| a + b).collect()
        })?;
        Ok(Count::<I>::of(listed(found)?))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }

    fn name(&self) -> &'static str {
        self.f.op_name()
    }
}

/// The gradients of `x` and of `dy`.
type Second<const I: usize, const O: usize> = ([Tensor; I], [Tensor; O]);

impl<F: Formula<I, O>, const I: usize, const O: usize> Slope<F, I, O> {
    fn second_by_kernel(
        &self,
        x: [&Tensor; I],
        dy: [&Tensor; O],
        ddx: [&Tensor; I],
    ) -> CrateResult<Second<I, O>> {
        let _pins = self.sort.pins(x.into_iter().chain(dy).chain(ddx))?;
        simd::map_groups(KERNEL, &SecondGradients(&self.f), (x, dy, ddx))
    }

    /// Does the same for the only `ddx` that is defined.
    fn second_along_one(
        &self,
        x: [&Tensor; I],
        dy: [&Tensor; O],
        ddx: [&Tensor; I],
    ) -> CrateResult<Second<I, O>>
    where
        Count<I>: Form<I>,
    {
        let _pins = self
            .sort
            .pins(x.into_iter().chain(dy).chain(ddx.into_iter().filter(|t| t.defined())))?;
        let i = ddx.iter().position(|t| t.defined()).expect("one is defined");
        Count::<I>::at(i, AlongOne { f: &self.f, x, dy, ddx: ddx[i] })
    }

    /// Does the same by tch's operators. Undefined `ddx` are none.
    fn second_on_tensors(
        &self,
        x: [&Tensor; I],
        dy: [&Tensor; O],
        ddx: [&Tensor; I],
    ) -> Result<Second<I, O>> {
        let zero = scalar_like(x[0], 0.0)?;
        let given = ddx.map(|t| if t.defined() { t } else { &zero });
        let all: Vec<&Tensor> = x.into_iter().chain(dy).chain(given).collect();
        let is_given = ddx.map(Tensor::defined);
        let found = over(&all, WIDE, &|numbers| second_numbers(&self.f, numbers, is_given))?;
        let mut found = found.into_iter();
        let mut next = || found.next().expect("one for each");
        Ok((std::array::from_fn(|_| next()), std::array::from_fn(|_| next())))
    }
}

const WIDE: Way = Way::Wide { whole: None };

/// The second derivatives in the direction of one input.
struct AlongOne<'a, F, const I: usize, const O: usize> {
    f: &'a F,
    x: [&'a Tensor; I],
    dy: [&'a Tensor; O],
    ddx: &'a Tensor,
}

impl<F: Formula<I, O>, const I: usize, const O: usize> At for AlongOne<'_, F, I, O> {
    type Output = CrateResult<Second<I, O>>;

    fn call<const K: usize>(self) -> CrateResult<Second<I, O>> {
        let kernel = SecondGradientsAt::<F, K>(self.f);
        simd::map_groups(KERNEL, &kernel, (self.x, self.dy, [self.ddx]))
    }
}

pub(super) fn array<T: Copy, const N: usize>(x: &[T]) -> [T; N] {
    std::array::from_fn(|i| x[i])
}

/// Does what [`second`] does for those `ddx` that are given, with `x`, `dy` and `ddx` in a row.
fn second_numbers<'a, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    numbers: &[Number<'a>],
    is_given: [bool; I],
) -> Vec<Number<'a>> {
    let (x, rest) = numbers.split_at(I);
    let (dy, ddx) = rest.split_at(O);
    let (x, ddx) = (array(x), only(array(ddx), is_given));
    let (first, second) = own_second(f, x, ddx).unwrap_or_else(|| moved_numbers(f, x, ddx));
    let dx = along_outputs(&second, array(dy));
    dx.into_iter().chain(along_inputs(&first, ddx)).collect()
}

/// Does what [`moved`] does. It is compiled once for all that calls it.
#[inline(never)]
fn moved_numbers<'a, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [Number<'a>; I],
    direction: [Number<'a>; I],
) -> Jacobians<Number<'a>, I, O> {
    moved(f, x, direction)
}

/// The derivatives of each output in each input, and their derivatives in one direction.
type Jacobians<S, const I: usize, const O: usize> = ([[S; I]; O], [[S; I]; O]);

/// The derivatives of each output in each input, and their derivatives in one direction.
#[inline(always)]
fn moved<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    direction: [S; I],
) -> Jacobians<S, I, O> {
    let mut moved = [Dual::constant(S::none()); I];
    for i in 0..I {
        moved[i] = Dual { value: x[i], slopes: [direction[i]] };
    }
    let slopes = jacobian::<Dual<S, 1>, F, I, O>(f, moved);
    let (mut first, mut second) = ([[S::none(); I]; O], [[S::none(); I]; O]);
    for o in 0..O {
        for i in 0..I {
            first[o][i] = slopes[o][i].value;
            second[o][i] = slopes[o][i].slopes[0];
        }
    }
    (first, second)
}

/// The gradients of `x` and of `dy` from those of what [`Slope`] returns.
#[inline(always)]
pub(super) fn second<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    dy: [S; O],
    ddx: [S; I],
) -> ([S; I], [S; O]) {
    // Derived second derivatives are symmetric, so one direction is enough.
    let (first, second) = own_second(f, x, ddx).unwrap_or_else(|| moved(f, x, ddx));
    (along_outputs(&second, dy), along_inputs(&first, ddx))
}

/// The slopes that an author wrote, and the derivatives in each input of their sums along `ddx`;
/// they need not be symmetric.
#[inline(always)]
fn own_second<S: Scalar, F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    x: [S; I],
    ddx: [S; I],
) -> Option<Jacobians<S, I, O>> {
    if I == 1 {
        return None;
    }
    let mut moving = [Dual::constant(S::none()); I];
    for i in 0..I {
        moving[i] = Dual::<S, I>::moving(x[i], i, S::one());
    }
    let slopes = f.slopes(moving)?;
    let (mut first, mut second) = ([[S::none(); I]; O], [[S::none(); I]; O]);
    for o in 0..O {
        for i in 0..I {
            first[o][i] = slopes[o][i].value;
            let (along, sums) = (slopes[o][i].slopes, &mut second[o]);
            for k in 0..I {
                sums[k] = sums[k] + along[k] * ddx[i];
            }
        }
    }
    Some((first, second))
}
