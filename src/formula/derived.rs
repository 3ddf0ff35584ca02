//! [`Derived`]: a formula as a Function.

use super::forms::{Count, Form};
use super::lanes::{Gradients, Tangents, Values};
use super::slope::{Slope, array};
use super::tensors::{over, scalar_like};
use super::{Formula, along_inputs, along_outputs, jacobian_in};
use crate::error::{Error, Result as CrateResult};
use crate::ffi::memory::{Pin, Unfit, memory};
use crate::ffi::modes::{NoAutocast, is_mode_on};
use crate::ffi::{self, Meta};
use crate::function::{Ctx, Function, Grads, Of, Refs, Vmap};
use crate::kernel::simd;
use anyhow::Result;
use smallvec::SmallVec;
use tch::{Kind, Tensor};

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
        Ok(Count::<O>::of(forward(&self.0, Author::User, ctx, Count::<I>::refs(x))?))
    }

    fn backward(&self, ctx: &Ctx, dy: Refs<'_, Self::Outputs>) -> Result<Grads<Self::Inputs>> {
        Ok(Count::<I>::grads(backward(&self.0, Author::User, ctx, Count::<O>::refs(dy))?))
    }

    fn jvp(
        &self,
        ctx: &Ctx,
        x: Refs<'_, Self::Inputs>,
        dx: Refs<'_, Self::Inputs>,
    ) -> Result<Of<Self::Outputs, Tensor>> {
        let (x, dx) = (Count::<I>::refs(x), Count::<I>::refs(dx));
        Ok(Count::<O>::of(jvp(&self.0, Author::User, ctx, x, dx)?))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }

    fn name(&self) -> &'static str {
        crate::function::short_name(std::any::type_name::<F>())
    }
}

/// Who has written a formula: what a user has written could resize a tensor that it holds,
/// so tensors are pinned while it runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    User,
    Crate,
}

impl Author {
    /// Holds the tensors' storages until the result is dropped, if that is needed.
    pub(super) fn pins<'a>(self, x: impl IntoIterator<Item = &'a Tensor>) -> CrateResult<Pins> {
        match self {
            Author::User => x.into_iter().map(|x| Pin::of(KERNEL, x)).collect(),
            Author::Crate => Ok(Pins::new()),
        }
    }
}

pub(super) type Pins = SmallVec<[Pin; 4]>;

pub(super) const KERNEL: &str = "a formula's kernel";

/// `Function::forward` of a formula.
pub(crate) fn forward<F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    author: Author,
    ctx: &mut Ctx,
    x: [&Tensor; I],
) -> Result<[Tensor; O]> {
    ctx.save_for_backward(x)?;
    let converted = Converted::new(ctx.op(), x)?;
    let x = converted.refs(x);
    let kernel = || {
        let _pins = author.pins(x)?;
        simd::map_with_own(&Values(f), x)
    };
    elsewhere(kernel(), || listed(over(&x, |x| f.eval(array(x)).into())?))
}

/// `Function::backward` of a formula.
pub(crate) fn backward<F, const I: usize, const O: usize>(
    f: &F,
    author: Author,
    ctx: &Ctx,
    dy: [&Tensor; O],
) -> Result<[Option<Tensor>; I]>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    let x: [&Tensor; I] = ctx.saved_tensors()?;
    let converted = Converted::new(ctx.op(), x)?;
    let wanted = std::array::from_fn(|i| ctx.needs_input_grad(i));
    let found = gradients(f, author, converted.refs(x), dy, wanted)?;
    let mut grads = [const { None }; I];
    for (i, grad) in found.into_iter().enumerate().filter(|(i, _)| wanted[*i]) {
        grads[i] = Some(ctx.reduce_own_to_input(i, grad)?);
    }
    Ok(grads)
}

/// `Function::jvp` of a formula.
pub(crate) fn jvp<F: Formula<I, O>, const I: usize, const O: usize>(
    f: &F,
    author: Author,
    ctx: &Ctx,
    x: [&Tensor; I],
    dx: [&Tensor; I],
) -> Result<[Tensor; O]> {
    let converted = Converted::new(ctx.op(), x)?;
    let x = converted.refs(x);
    // An input whose dtype has no derivative has an undefined tangent.
    let known = dx.map(Tensor::defined);
    let zero = scalar_like(x[0], 0.0)?;
    let dx: [&Tensor; I] = std::array::from_fn(|i| if known[i] { dx[i] } else { &zero });
    let kernel = || {
        let _pins = author.pins(x.into_iter().chain(dx))?;
        simd::map_groups(KERNEL, &Tangents(f), (x, dx, []))
    };
    elsewhere(kernel().map(|(dy, [])| dy), || {
        let all: Vec<&Tensor> = x.into_iter().chain(dx).collect();
        listed(over(&all, |numbers| {
            let (x, dx) = numbers.split_at(I);
            along_inputs(&jacobian_in(f, array(x), known), array(dx)).into()
        })?)
    })
}

/// Inputs in the one dtype in which libtorch's ops compute with them.
struct Converted<const N: usize>(Option<[Tensor; N]>);

impl<const N: usize> Converted<N> {
    /// # Errors
    /// [`Error::Argument`] for complex numbers.
    fn new(op: &'static str, x: [&Tensor; N]) -> Result<Converted<N>> {
        let mut same = true;
        let first = ffi::describe(op, x[0])?.dtype;
        for (i, x) in x.iter().enumerate() {
            let d = ffi::describe(op, x)?;
            if d.is_complex() {
                let message = format!(
                    "input {i} is {}, and a formula is of real numbers; apply it to the real and \
                     the imaginary part, or write a Function of tch operators",
                    Meta::of(&d)
                );
                return Err(Error::Argument { op, message }.into());
            }
            same &= d.dtype == first && d.is_differentiable();
        }
        if same {
            return Ok(Converted(None));
        }
        let together = ffi::kind_of(ffi::result_type(op, &x)?);
        let kind = if is_floating(together) { together } else { Kind::Float };
        let converted = x.iter().map(|x| x.f_to_kind(kind)).collect::<Result<Vec<_>, _>>()?;
        Ok(Converted(converted.try_into().ok()))
    }

    fn refs<'a>(&'a self, x: [&'a Tensor; N]) -> [&'a Tensor; N] {
        self.0.as_ref().map_or(x, |converted| converted.each_ref())
    }
}

fn is_floating(kind: Kind) -> bool {
    matches!(kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double)
}

/// Returns the kernel's result; that of `formula`, of tensors, where the kernel does not run.
pub(super) fn elsewhere<T>(done: CrateResult<T>, formula: impl FnOnce() -> Result<T>) -> Result<T> {
    match done {
        Err(Error::NoKernel { .. }) => {
            let _off = NoAutocast::enter();
            formula()
        }
        done => Ok(done?),
    }
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

/// The gradients of `x`, of the broadcast shape and in the dtype of `x`.
pub(super) fn gradients<F, const I: usize, const O: usize>(
    f: &F,
    author: Author,
    x: [&Tensor; I],
    dy: [&Tensor; O],
    wanted: [bool; I],
) -> Result<[Tensor; I]>
where
    F: Formula<I, O>,
    Count<I>: Form<I>,
    Count<O>: Form<O>,
{
    if ffi::grad_enabled() && is_only_recorded(x.into_iter().chain(dy)) {
        let inputs = (Count::<I>::borrowed(x), Count::<O>::borrowed(dy));
        let slope = Slope::<F, I, O> { f: f.clone(), author };
        return Ok(Count::<I>::list(slope.apply::<Tensor>(inputs)?));
    }
    let kernel = || {
        let _pins = author.pins(x.into_iter().chain(dy))?;
        simd::map_groups(KERNEL, &Gradients(f), (x, dy, []))
    };
    elsewhere(kernel().map(|(dx, [])| dx), || {
        let all: Vec<&Tensor> = x.into_iter().chain(dy).collect();
        listed(over(&all, |numbers| {
            let (x, dy) = numbers.split_at(I);
            along_outputs(&jacobian_in(f, array(x), wanted), array(dy)).into()
        })?)
    })
}

fn listed<const N: usize>(found: Vec<Tensor>) -> Result<[Tensor; N]> {
    Ok(found.try_into().expect("one for each"))
}
