//! The whole Jacobian, twice: from `backward`, and from differences.

use super::gradcheck::Evaluate;
use crate::{Ctx, Error, Function, GradOptions, Result, Var, error};
use tch::{Kind, Tensor};

/// The facts about an output.
pub(super) struct Output {
    pub differentiable: bool,
    pub shape: Vec<i64>,
    pub kind: Kind,
}

/// The derivatives that `backward` gives.
pub(super) struct Analytic {
    /// The outputs, one per position.
    pub outputs: Vec<Output>,
    /// Indexed by output, its element, input, its element; empty for outputs and
    /// inputs that are not differentiable.
    derivatives: Vec<Vec<Vec<Vec<f64>>>>,
}

impl Analytic {
    /// The greatest finite magnitude among them.
    pub fn greatest(&self) -> f64 {
        let all = self.derivatives.iter().flatten().flatten().flatten();
        all.map(|d| d.abs()).filter(|d| d.is_finite()).fold(0.0, f64::max)
    }

    /// The derivative that `slope` is of.
    pub fn at(&self, slope: &Slope) -> f64 {
        self.derivatives[slope.output][slope.output_element][slope.input][slope.input_element]
    }
}

/// A derivative from differences. Elements are counted in row-major order.
pub(super) struct Slope {
    pub input: usize,
    pub input_element: usize,
    pub output: usize,
    pub output_element: usize,
    pub value: f64,
}

pub(super) fn analytic(
    op: &'static str,
    inputs: &[Option<&Tensor>],
    f: &Evaluate<'_>,
) -> Result<Analytic> {
    tch::with_grad(|| {
        let leaves = inputs.iter().map(|x| x.map(leaf).transpose()).collect::<Result<Vec<_>>>()?;
        let copies = leaves.iter().map(|x| x.as_ref().map(|x| Copy.apply(x)).transpose());
        let y = f(&copies.collect::<Result<Vec<_>>>()?)?;
        let outputs: Vec<Output> = y.iter().map(describe).collect();
        if !outputs.iter().any(|y| y.differentiable) {
            let message = "gradcheck: no output depends on a floating-point input".to_owned();
            return Err(Error::Argument { op, message });
        }
        let derivatives = y.iter().map(|y| rows(op, y.as_ref(), &leaves)).collect::<Result<_>>()?;
        Ok(Analytic { outputs, derivatives })
    })
}

fn leaf(x: &Tensor) -> Result<Var> {
    let x = x.detach().copy();
    match x.is_floating_point() {
        true => Var::try_leaf(x),
        false => Ok(Var::constant(x)),
    }
}

fn describe(y: &Option<Var>) -> Output {
    match y {
        Some(y) => Output {
            differentiable: y.requires_grad(),
            shape: y.value().size(),
            kind: y.value().kind(),
        },
        None => Output { differentiable: false, shape: Vec::new(), kind: Kind::Bool },
    }
}

/// The derivatives of each element of `y`.
fn rows(op: &'static str, y: Option<&Var>, leaves: &[Option<Var>]) -> Result<Vec<Vec<Vec<f64>>>> {
    let Some(y) = y.filter(|y| y.requires_grad()) else { return Ok(Vec::new()) };
    let wanted: Vec<&Var> = leaves.iter().flatten().filter(|x| x.requires_grad()).collect();
    let row = |element| {
        let seed = y.value().f_zeros_like().map_err(error::torch(op))?;
        fill_element(op, &seed, element, 1.0)?;
        let seed = Var::constant(seed);
        let options = GradOptions::new().seeds(&seed).retain_graph(true).allow_unused(true);
        let mut grads = options.grad(y, &wanted[..])?.into_iter();
        let of = |x: &Option<Var>| match x.as_ref().filter(|x| x.requires_grad()) {
            None => Ok(Vec::new()),
            Some(x) => match grads.next().flatten() {
                Some(grad) => numbers(op, grad.value()),
                None => Ok(vec![0.0; x.value().numel()]),
            },
        };
        leaves.iter().map(of).collect()
    };
    (0..y.value().numel()).map(row).collect()
}

pub(super) fn numeric(
    op: &'static str,
    inputs: &[Option<&Tensor>],
    f: &Evaluate<'_>,
    outputs: &[Output],
    eps: f64,
) -> Result<Vec<Slope>> {
    let _no_grad = tch::no_grad_guard();
    let mut slopes = Vec::new();
    for (input, x) in inputs.iter().enumerate() {
        let Some(x) = x.filter(|x| x.is_floating_point()) else { continue };
        for input_element in 0..x.numel() {
            let at = |step| evaluate(op, inputs, f, outputs, Move { input, input_element, step });
            let (above, below) = (at(eps)?, at(-eps)?);
            // The distance after the dtype has rounded both points.
            let width = above.x - below.x;
            for (output, (above, below)) in above.y.into_iter().zip(below.y).enumerate() {
                slopes.extend(above.into_iter().zip(below).enumerate().map(
                    |(output_element, (above, below))| {
                        let value = (above - below) / width;
                        Slope { input, input_element, output, output_element, value }
                    },
                ));
            }
        }
    }
    Ok(slopes)
}

/// Evaluates with one element of one input moved by `step`.
struct Move {
    input: usize,
    input_element: usize,
    step: f64,
}

/// The value that an element was moved to, and the outputs there.
struct Moved {
    x: f64,
    y: Vec<Vec<f64>>,
}

fn evaluate(
    op: &'static str,
    inputs: &[Option<&Tensor>],
    f: &Evaluate<'_>,
    outputs: &[Output],
    change: Move,
) -> Result<Moved> {
    // A new copy of each, since `f` may work in place.
    let x: Vec<Option<Tensor>> = inputs.iter().map(|x| x.map(|x| x.detach().copy())).collect();
    let target = x[change.input].as_ref().expect("the input is there");
    let moved = element(op, target, change.input_element)?;
    let to = numbers(op, &moved)?[0] + change.step;
    fill(op, moved.shallow_clone(), to)?;
    let to = numbers(op, &moved)?[0];
    let x: Vec<Option<Var>> = x.into_iter().map(|x| x.map(Var::constant)).collect();
    let of = |(j, (y, expected)): (usize, (Option<Var>, &Output))| match y {
        Some(y) if expected.differentiable => {
            let found = y.value().size();
            if found == expected.shape {
                return numbers(op, y.value());
            }
            let message = format!(
                "gradcheck: output {j} has shape {:?} and, after an input element moved, {found:?}",
                expected.shape
            );
            Err(Error::Argument { op, message })
        }
        _ => Ok(Vec::new()),
    };
    let y = f(&x)?.into_iter().zip(outputs).enumerate().map(of).collect::<Result<_>>()?;
    Ok(Moved { x: to, y })
}

/// The elements in row-major order.
fn numbers(op: &'static str, t: &Tensor) -> Result<Vec<f64>> {
    let flat = t.f_to_kind(Kind::Double).and_then(|t| t.f_reshape(-1));
    flat.and_then(Vec::try_from).map_err(error::torch(op))
}

/// A view of one element, counted in row-major order, of a tensor that begins
/// its memory.
fn element(op: &'static str, t: &Tensor, mut index: usize) -> Result<Tensor> {
    let mut offset = 0;
    for (size, stride) in t.size().into_iter().zip(t.stride()).rev() {
        offset += (index as i64 % size) * stride;
        index /= size as usize;
    }
    t.f_as_strided([0i64; 0], [0i64; 0], offset).map_err(error::torch(op))
}

fn fill(op: &'static str, mut t: Tensor, value: f64) -> Result<()> {
    t.f_fill_(value).map(drop).map_err(error::torch(op))
}

fn fill_element(op: &'static str, t: &Tensor, index: usize, value: f64) -> Result<()> {
    fill(op, element(op, t, index)?, value)
}

/// `y = x` in new memory, so that what is checked may work in place: on a leaf
/// it may not.
struct Copy;

impl Function for Copy {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> anyhow::Result<Tensor> {
        Ok(x.copy())
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> anyhow::Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}
