//! [`Derived`]: a formula as a Function.

use super::forms::{At, Count, Form};
use super::lanes::{GradientAt, Gradients, Tangents, Values};
use super::needs::{Part, Plan, restored};
use super::slope::{Slope, array};
use super::sort::{Prepared, Sort, no_complex_tangents};
use super::tensors::{over, scalar_like};
use super::{Formula, Kernels, Scalar, branches, tangents};
use crate::error::Result as CrateResult;
use crate::ffi::memory::{Unfit, memory};
use crate::ffi::modes::is_mode_on;
use crate::ffi::{self, WithScalar as _};
use crate::function::{Ctx, Function, Grads, Of, Refs, Vmap};
use crate::kernel::simd;
use anyhow::Result;
use tch::Tensor;

/// The [`Function`] that a [`Formula`] is.
///
/// Its inputs are a tensor, or a tuple of `I` tensors; so are its outputs.
#[derive(Clone, Copy, Debug)]
pub struct Derived<F, const I: usize = 1, const O: usize = 1>(
    /// The formula.
    pub F,
);

impl<F, const I: usize, const O: usize> Function for Derived<F, I, O>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    type Inputs = <Count<I> as Form<I>>::Tensors;
    type Outputs = <Count<O> as Form<O>>::Tensors;

    fn forward(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, Self::Inputs>,
    ) -> Result<Of<Self::Outputs, Tensor>> {
        const { assert!(O <= 4, "a formula has at most four outputs") };
        branches::check(&self.0)?;
        Ok(Count::<O>::of(forward(&self.0, Sort::User, ctx, Count::<I>::refs(x))?))
    }

    fn backward(&self, ctx: &Ctx, dy: Refs<'_, Self::Outputs>) -> Result<Grads<Self::Inputs>> {
        Ok(Count::<I>::grads(backward(&self.0, Sort::User, ctx, Count::<O>::refs(dy))?))
    }

    fn jvp(
        &self,
        ctx: &Ctx,
        x: Refs<'_, Self::Inputs>,
        dx: Refs<'_, Self::Inputs>,
    ) -> Result<Of<Self::Outputs, Tensor>> {
        let (x, dx) = (Count::<I>::refs(x), Count::<I>::refs(dx));
        Ok(Count::<O>::of(jvp(&self.0, Sort::User, ctx, x, dx)?))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }

    fn name(&self) -> &'static str {
        self.0.op_name()
    }
}

pub(super) const KERNEL: &str = "a formula's kernel";

/// `Function::forward` of a formula.
pub(crate) fn forward<F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    sort: Sort,
    ctx: &mut Ctx,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    ctx.save_for_backward(Plan::of(f).kept(wanted(ctx), x))?;
    values(f, sort, ctx.op(), x)
}

/// `Function::forward` of a formula whose gradients are those of [`OfValue`](super::OfValue).
pub(crate) fn forward_keeping_value<F: Formula<1>>(
    f: &F,
    sort: Sort,
    ctx: &mut Ctx,
    x: [&Tensor; 1],
) -> Result<[Tensor; 1]> {
    let y = values(f, sort, ctx.op(), x)?;
    ctx.save_for_backward(&y)?;
    Ok(y)
}

fn values<F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    sort: Sort,
    op: &'static str,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    let _pins = sort.pins(x)?;
    if const { !matches!(F::KERNELS, Kernels::None) }
        && let Some(y) = simd::map_small(&Values(f), x)
    {
        return Ok(y?);
    }
    let prepared = Prepared::new(op, sort, x)?;
    let x = prepared.refs(x);
    if const { !matches!(F::KERNELS, Kernels::None) }
        && let Some(y) = prepared.by_kernel(|| simd::map_large(&Values(f), x))?
    {
        return Ok(y);
    }
    let y = over(&x, prepared.way_of_values(), &|x| f.eval(array(x)).into())?;
    listed(distinct(op, &x, y)?)
}

/// The tensors `y`, with copies of those that are an `x` or an earlier `y`: an output must be a
/// tensor of its own.
pub(super) fn distinct(op: &'static str, x: &[&Tensor], mut y: Vec<Tensor>) -> Result<Vec<Tensor>> {
    let identity = |t: &Tensor| Ok::<_, anyhow::Error>(ffi::describe(op, t)?.identity);
    let mut seen = x.iter().map(|x| identity(x)).collect::<Result<Vec<_>>>()?;
    for y in &mut y {
        if seen.contains(&identity(y)?) {
            // The product with a float is one of integers, too, as libtorch promotes them.
            *y = y.mul_number(1.0)?;
        }
        seen.push(identity(y)?);
    }
    Ok(y)
}

/// `Function::backward` of a formula.
pub(crate) fn backward<F, const I: usize, const O: usize>(
    f: &F,
    sort: Sort,
    ctx: &Ctx,
    dy: [&Tensor; O],
) -> Result<[Option<Tensor>; I]>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    let (Plan(parts), wanted) = (Plan::of(f), wanted::<I>(ctx));
    let mut computed = [false; I];
    for (i, part) in parts.iter().enumerate() {
        computed[i] = wanted[i] && matches!(part, Part::Computed(_));
    }
    let mut grads = [const { None }; I];
    if computed.contains(&true) {
        let kept = ctx.saved_tensors_vec()?;
        let x = restored(&kept, dy[0]);
        let prepared = Prepared::like(ctx.op(), sort, x, dy[0])?;
        grads = gradients(f, sort, &prepared, x, dy, computed)?;
    }
    for (i, grad) in grads.iter_mut().enumerate().filter(|(i, _)| wanted[*i]) {
        let found = match (parts[i], grad.take()) {
            (Part::Computed(_), Some(computed)) => computed,
            (Part::Same, _) => dy[0].shallow_clone(),
            _ => dy[0].f_zeros_like()?,
        };
        *grad = Some(ctx.reduce_own_to_input(i, found)?);
    }
    Ok(grads)
}

/// Which inputs need a gradient.
#[inline]
fn wanted<const I: usize>(ctx: &Ctx) -> [bool; I] {
    let mut wanted = [false; I];
    for (i, wanted) in wanted.iter_mut().enumerate() {
        *wanted = ctx.needs_input_grad(i);
    }
    wanted
}

/// `Function::jvp` of a formula.
pub(crate) fn jvp<F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    sort: Sort,
    ctx: &Ctx,
    x: [&Tensor; I],
    dx: [&Tensor; I],
) -> Result<[Tensor; O]> {
    no_complex_tangents(ctx.op(), x)?;
    let prepared = Prepared::new(ctx.op(), sort, x)?;
    let x = prepared.refs(x);
    // An input whose dtype has no derivative has an undefined tangent.
    let known = dx.map(Tensor::defined);
    let (zero, kind) = (scalar_like(x[0], 0.0)?, x[0].kind());
    let mut converted = [const { None }; I];
    for (converted, dx) in converted.iter_mut().zip(dx).filter(|(_, dx)| dx.defined()) {
        *converted = (dx.kind() != kind).then(|| dx.f_to_kind(kind)).transpose()?;
    }
    let dx: [&Tensor; I] = std::array::from_fn(|i| match (&converted[i], known[i]) {
        (Some(dx), _) => dx,
        (None, true) => dx[i],
        (None, false) => &zero,
    });
    let _pins = sort.pins(x.into_iter().chain(dx))?;
    if const { matches!(F::KERNELS, Kernels::All) } {
        let kernel = || simd::map_groups(KERNEL, &Tangents(f), (x, dx, []));
        if let Some((dy, [])) = prepared.by_kernel(kernel)? {
            return Ok(dy);
        }
    }
    let all: Vec<&Tensor> = x.into_iter().chain(dx).collect();
    let dy = over(&all, prepared.way(None), &|numbers| {
        let (x, dx) = numbers.split_at(I);
        tangents(f, array(x), only(array(dx), known)).into()
    })?;
    listed(distinct(ctx.op(), &all, dy)?)
}

/// Those numbers that are wanted, none in the places of others.
#[inline(always)]
pub(super) fn only<S: Scalar, const N: usize>(mut x: [S; N], wanted: [bool; N]) -> [S; N] {
    for i in 0..N {
        if !wanted[i] {
            x[i] = S::none();
        }
    }
    x
}

/// Returns whether a kernel could compute with these tensors if libtorch did not record.
fn is_only_recorded<'a>(x: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let mut recorded = false;
    for x in x {
        match memory(x, false) {
            Ok(_) => {}
            Err(Unfit::Recorded | Unfit::Tangent) => recorded = true,
            Err(_) => return false,
        }
    }
    recorded && !is_mode_on()
}

/// The gradients of those `x` that are wanted, of the broadcast shape and in the dtype of
/// `dy`.
pub(super) fn gradients<F, const I: usize, const O: usize>(
    f: &F,
    sort: Sort,
    prepared: &Prepared<I>,
    x: [&Tensor; I],
    dy: [&Tensor; O],
    wanted: [bool; I],
) -> Result<[Option<Tensor>; I]>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    let x = prepared.refs(x);
    if !prepared.plain && ffi::grad_enabled() && is_only_recorded(x.into_iter().chain(dy)) {
        let inputs = (Count::<I>::borrowed(x), Count::<O>::borrowed(dy));
        let slope = Slope::<F, I, O> { f: f.clone(), sort };
        return Ok(some(Count::<I>::list(slope.apply::<Tensor>(inputs)?)));
    }
    let _pins = sort.pins(x.into_iter().chain(dy))?;
    if const { !matches!(F::KERNELS, Kernels::None) }
        && let Some(dx) = prepared.by_kernel(|| kernel(f, x, dy, wanted))?
    {
        return Ok(dx);
    }
    let all: Vec<&Tensor> = x.into_iter().chain(dy).collect();
    let found = over(&all, prepared.way(Some(I)), &|numbers| {
        let (x, dy) = numbers.split_at(I);
        super::gradients(f, array(x), array(dy), wanted).into()
    });
    Ok(some(listed(found?)?))
}

/// The gradients of the wanted `x`, by one kernel for all inputs, or by one for each wanted one.
/// A dev build leaves the latter out where it has the former.
fn kernel<F, const I: usize, const O: usize>(
    f: &F,
    x: [&Tensor; I],
    dy: [&Tensor; O],
    wanted: [bool; I],
) -> CrateResult<[Option<Tensor>; I]>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
{
    if const { I > 1 && matches!(F::KERNELS, Kernels::All) }
        && (const { cfg!(debug_assertions) } || wanted.iter().filter(|wanted| **wanted).count() > 1)
    {
        let (dx, []) = simd::map_groups(KERNEL, &Gradients(f), (x, dy, []))?;
        return Ok(some(dx));
    }
    let mut grads = [const { None }; I];
    for (i, grad) in grads.iter_mut().enumerate().filter(|(i, _)| wanted[*i]) {
        *grad = Some(Count::<I>::at(i, One { f, x, dy })?);
    }
    Ok(grads)
}

/// The gradient of one input.
struct One<'a, F, const I: usize, const O: usize> {
    f: &'a F,
    x: [&'a Tensor; I],
    dy: [&'a Tensor; O],
}

impl<F: Formula<I, O>, const I: usize, const O: usize> At for One<'_, F, I, O> {
    type Output = CrateResult<Tensor>;

    fn call<const K: usize>(self) -> CrateResult<Tensor> {
        let kernel = GradientAt::<F, K>(self.f);
        let ([dx], []) = simd::map_groups(KERNEL, &kernel, (self.x, self.dy, []))?;
        Ok(dx)
    }
}

fn some<const N: usize>(x: [Tensor; N]) -> [Option<Tensor>; N] {
    x.map(Some)
}

pub(super) fn listed<const N: usize>(found: Vec<Tensor>) -> Result<[Tensor; N]> {
    Ok(found.try_into().expect("one for each"))
}
