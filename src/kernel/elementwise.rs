//! [`map`], [`map_into`] and [`update`]: a closure on every element.

use super::elements::{Elements, output_dtype, stored};
use super::layout::{Layout, Operand, Operands, Role};
use super::refusals::nothing;
use super::view::{BLOCK, Work, drive};
use crate::ffi::panic_message;
use crate::ffi::{self, parallel::Payload};
use crate::{Error, Result};
use tch::Tensor;

/// Below this many elements another thread is not worth waking: what libtorch
/// takes for its own elementwise ops.
pub(super) const GRAIN: usize = 32_768;

/// A new tensor, or several, with `f` of every element.
///
/// ```
/// use tch::Tensor;
/// use tch_function::kernel;
///
/// let x = Tensor::from_slice(&[0.5f32, 2.0]);
/// let n = Tensor::from_slice(&[3i64, 2]);
/// let (power, slope) = kernel::map((&x, &n), |(x, n): (f32, i64)| {
///     let n = n as i32;
///     (x.powi(n), n as f32 * x.powi(n - 1))
/// })?;
/// assert_eq!(Vec::<f32>::try_from(power)?, [0.125, 4.0]);
/// assert_eq!(Vec::<f32>::try_from(slope)?, [0.75, 4.0]);
/// # anyhow::Ok(())
/// ```
///
/// A closure takes one argument, with a place for each tensor. Another number of them does
/// not compile:
///
/// ```compile_fail
/// # let (x, n) = (tch::Tensor::from(0.5f32), tch::Tensor::from(3i64));
/// tch_function::kernel::map((&x, &n), |x: f32| x)?; // two tensors, one place
/// # anyhow::Ok(())
/// ```
///
/// ```compile_fail
/// # let (x, n) = (tch::Tensor::from(0.5f32), tch::Tensor::from(3i64));
/// tch_function::kernel::map((&x, &n), |x: f32, n: i64| x)?; // two arguments, not a pair
/// # anyhow::Ok(())
/// ```
///
/// The inputs broadcast as in libtorch. Each output has the broadcast shape,
/// the dimensions in memory in the order of the first input of that shape, and
/// the dtype of its [`Element`](super::Element).
///
/// # Errors
/// [`Error::NoKernel`] for a tensor that kernels cannot read;
/// [`Error::KernelDtype`] for one of another dtype;
/// [`Error::Argument`] for shapes that do not fit;
/// [`Error::Panic`] if `f` panics.
pub fn map<A: Elements, R: Elements>(
    x: A::Tensors<'_>,
    f: impl Fn(A) -> R + Sync,
) -> Result<R::Outputs> {
    fresh::<A, R>("kernel::map", x, &|n, x, y| each::<A, R>(n, x, y, &f))
}

/// Does what [`map`] does, into given tensors: of the broadcast shape of the
/// inputs, with any strides. Counts as a change of them in place.
///
/// ```
/// # use tch::{Kind, Tensor};
/// # use tch_function::kernel;
/// let x = Tensor::from_slice(&[1i64, 2, 3]);
/// let mut y = Tensor::zeros([3, 2], (Kind::Bool, tch::Device::Cpu));
/// kernel::map_into(&mut y.select(1, 1), &x, |x: i64| x % 2 == 1)?;
/// assert_eq!(Vec::<bool>::try_from(y.flatten(0, 1))?, [false, true, false, false, false, true]);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`map`]; and [`Error::Argument`] where elements of an output share
/// memory with each other (an expanded tensor) or with an input.
pub fn map_into<A: Elements, R: Elements>(
    y: R::OutputsMut<'_>,
    x: A::Tensors<'_>,
    f: impl Fn(A) -> R + Sync,
) -> Result<()> {
    let op = "kernel::map_into";
    // Outputs first: memory that is copied on write moves when it is to be written.
    let (outputs, inputs) = (lent::<R>(op, &y)?, operands::<A>(op, Role::Input, x)?);
    let layout = Layout::of_outputs(op, &outputs, &inputs)?;
    let sources = sources::<A>(op, &layout, &inputs, &outputs)?;
    let mut targets = targets::<R>(op, &layout, &y, &outputs)?;
    let done = drive::<A, R>(work(layout.count), &sources, &mut targets, &|x, y| {
        each::<A, R>(layout.count, x, y, &f);
    });
    finish(op, done)
}

/// Changes every element of `y` in place: to `f(y, x)`, with the elements of
/// further tensors that broadcast to its shape.
///
/// ```
/// # use tch::Tensor;
/// # use tch_function::kernel;
/// let mut y = Tensor::from_slice(&[1.0f64, 2.0]);
/// let x = Tensor::from(10.0f64);
/// kernel::update(&mut y, &x, |y: f64, x: f64| y + x)?;
/// assert_eq!(Vec::<f64>::try_from(y)?, [11.0, 12.0]);
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`map_into`].
pub fn update<T: super::Element, A: Elements>(
    y: &mut Tensor,
    x: A::Tensors<'_>,
    f: impl Fn(T, A) -> T + Sync,
) -> Result<()> {
    let op = "kernel::update";
    let (outputs, inputs) = (lent::<T>(op, &y)?, operands::<A>(op, Role::Input, x)?);
    let layout = Layout::of_outputs(op, &outputs, &inputs)?;
    let old = sources::<T>(op, &layout, &outputs, &outputs)?;
    let sources = (old, sources::<A>(op, &layout, &inputs, &outputs)?);
    let mut targets = targets::<T>(op, &layout, &y, &outputs)?;
    let f = |(y, x)| f(y, x);
    let done = drive::<(T, A), T>(work(layout.count), &sources, &mut targets, &|x, y| {
        each::<(T, A), T>(layout.count, x, y, &f);
    });
    finish(op, done)
}

/// The loop through a block of `count` elements, compiled for several
/// instruction sets.
#[inline]
fn each<A: Elements, R: Elements>(
    count: usize,
    x: A::Slices<'_>,
    mut y: R::Slots<'_>,
    f: &(impl Fn(A) -> R + Sync),
) {
    let n = R::len(&y);
    let x = A::cut(x, n);
    super::simd::here(count, move || {
        for i in 0..n {
            R::put(&mut y, i, f(A::get(x, i)));
        }
    });
}

/// Makes the outputs, and fills them by `body(count, slices, slots)`, block by
/// block of `count` elements. A `dyn` body shares this code with every other one.
#[inline]
pub(super) fn fresh<A: Elements, R: Elements>(
    op: &'static str,
    x: A::Tensors<'_>,
    body: &(impl Fn(usize, A::Slices<'_>, R::Slots<'_>) + Sync + ?Sized),
) -> Result<R::Outputs> {
    if R::ARITY == 0 {
        return Err(nothing(op, Role::Output));
    }
    let inputs = operands::<A>(op, Role::Input, x)?;
    let layout = Layout::new(op, &inputs)?;
    let (outputs, mut targets) = R::make(&mut |dtype, as_stored| {
        let kept = inputs.iter().map(|x| (x.seen, x.memory.dtype));
        let dtype = output_dtype(dtype, kept);
        let (output, data) = layout.empty(op, dtype)?;
        Ok((output, (layout.fresh(data, stored(as_stored, dtype)), layout.count, false)))
    })?;
    let sources = sources::<A>(op, &layout, &inputs, &[])?;
    let body = |x: A::Slices<'_>, y: R::Slots<'_>| body(layout.count, x, y);
    finish(op, drive::<A, R>(work(layout.count), &sources, &mut targets, &body))?;
    Ok(outputs)
}

#[inline]
fn work(count: usize) -> Work {
    Work { count, grain: GRAIN, block: BLOCK }
}

#[inline]
pub(super) fn finish<T>(op: &'static str, done: Result<T, Payload>) -> Result<T> {
    let stage = "the closure";
    done.map_err(|payload| Error::Panic { op, stage, message: panic_message(payload) })
}

#[inline]
pub(super) fn operands<'t, A: Elements>(
    op: &'static str,
    role: Role,
    x: A::Tensors<'t>,
) -> Result<Operands<'t>> {
    operands_after::<A>(op, role, x, 0)
}

/// Does the same for tensors that come after `before` other ones, as errors count them.
#[inline]
pub(super) fn operands_after<'t, A: Elements>(
    op: &'static str,
    role: Role,
    x: A::Tensors<'t>,
    before: usize,
) -> Result<Operands<'t>> {
    if A::ARITY == 0 {
        return Err(nothing(op, role));
    }
    let mut operands = Operands::default();
    A::visit(x, &mut |t, stored, seen| {
        operands.push(op, t, |i| Operand::of(op, (role, before + i), t, stored, seen))
    })?;
    Ok(operands)
}

fn lent<'t, R: Elements>(op: &'static str, y: &'t R::OutputsMut<'_>) -> Result<Operands<'t>> {
    operands::<R>(op, Role::Output, R::lend(y))
}

#[inline]
fn sources<'t, A: Elements>(
    op: &'static str,
    layout: &Layout,
    inputs: &[Operand<'t>],
    outputs: &[Operand<'_>],
) -> Result<A::Sources<'t>> {
    let mut i = 0;
    let mut failed = None;
    let sources = A::sources(&mut || {
        let input = &inputs[i];
        let shared = layout.is_output(op, i, input, outputs).unwrap_or_else(|e| {
            failed.get_or_insert(e);
            true
        });
        i += 1;
        (input.place(layout.walk(input), 1), layout.count, shared)
    });
    failed.map_or(Ok(sources), Err)
}

/// The memory of outputs that are given, to be changed.
fn targets<'t, R: Elements>(
    op: &'static str,
    layout: &Layout,
    y: &'t R::OutputsMut<'_>,
    outputs: &[Operand<'t>],
) -> Result<R::Targets<'t>> {
    R::visit(R::lend(y), &mut |t, _, _| ffi::bump_version(op, t))?;
    let mut outputs = outputs.iter();
    Ok(R::targets(&mut || {
        let output = outputs.next().expect("one for each");
        (output.place(layout.walk(output), 1), layout.count, false)
    }))
}
