//! Inputs of every layout, libtorch's gradients, and the comparison of ours with them.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor};
use tch_function::{GradOptions, Var};

pub type Ours = fn(&[Var]) -> tch_function::Result<Var>;
pub type Theirs = fn(&[Tensor]) -> Tensor;

/// The same numbers in every run, on every thread.
pub struct Random(u64);

impl Random {
    pub fn new(seed: &str) -> Random {
        // FNV-1a
        let mix = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        Random(seed.bytes().fold(0xcbf2_9ce4_8422_2325, mix) | 1)
    }

    /// In [0, 1); xorshift64.
    pub fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A tensor of numbers from `domain`, which takes [0, 1) there.
    pub fn tensor(&mut self, shape: &[i64], domain: Domain) -> Tensor {
        let count = shape.iter().product::<i64>();
        let numbers: Vec<f64> = (0..count).map(|_| domain(self.unit())).collect();
        Tensor::from_slice(&numbers).reshape(shape)
    }
}

/// From [0, 1) to the numbers that an input is drawn from.
pub type Domain = fn(f64) -> f64;

/// Between -2 and 2.
pub const ANY: Domain = |u| 4.0 * u - 2.0;

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    Contiguous,
    /// The dimensions in reverse order.
    Transposed,
    /// Every second element of a larger tensor.
    Sliced,
    /// One row, seen several times with stride 0.
    Expanded,
}

pub const LAYOUTS: [Layout; 4] =
    [Layout::Contiguous, Layout::Transposed, Layout::Sliced, Layout::Expanded];

impl Layout {
    /// `t` in this layout. Expanded, it repeats its first row.
    pub fn of(self, t: &Tensor) -> Tensor {
        let size = t.size();
        match self {
            Layout::Contiguous => t.copy(),
            Layout::Transposed => reversed(&reversed(t).contiguous()),
            Layout::Sliced if size.is_empty() => Tensor::stack(&[t, t], 0).select(0, 1),
            Layout::Sliced => Tensor::stack(&[t, t], -1).flatten(-2, -1).slice(-1, 1, None, 2),
            Layout::Expanded if size.first().is_none_or(|n| *n == 0) => t.copy(),
            Layout::Expanded => t.narrow(0, 0, 1).copy().expand(&size, false),
        }
    }
}

/// With the dimensions in reverse order.
fn reversed(t: &Tensor) -> Tensor {
    t.permute((0..t.dim() as i64).rev().collect::<Vec<_>>())
}

/// A result with the gradients of its inputs.
pub struct Outcome {
    pub y: Tensor,
    pub grads: Vec<Option<Tensor>>,
}

/// Ours: gradients of the inputs that `wanted` says require one.
pub fn ours(f: Ours, x: &[Tensor], wanted: &[bool], seed: Option<&Tensor>) -> Result<Outcome> {
    let x: Vec<Var> = x
        .iter()
        .zip(wanted)
        .map(|(x, w)| if *w { Var::leaf(x) } else { Var::constant(x) })
        .collect();
    let y = f(&x)?;
    let leaves: Vec<&Var> = x.iter().filter(|x| x.requires_grad()).collect();
    let seed = Var::constant(seed.unwrap_or(&y.value().ones_like()));
    let options = GradOptions::new().seeds(&seed).allow_unused(true);
    let mut grads = options.grad(&y, &leaves[..])?.into_iter();
    let grad = |x: &Var| x.requires_grad().then(|| grads.next().flatten()).flatten();
    let grads = x.iter().map(grad).map(|g| g.map(|g| g.value().shallow_clone())).collect();
    Ok(Outcome { y: y.value().shallow_clone(), grads })
}

/// libtorch's, by its own autograd.
pub fn theirs(f: Theirs, x: &[Tensor], wanted: &[bool], seed: Option<&Tensor>) -> Outcome {
    let x: Vec<Tensor> =
        x.iter().zip(wanted).map(|(x, w)| x.detach().set_requires_grad(*w)).collect();
    let y = f(&x);
    // L = Re(sum of y conj(seed)), so that dL/dy = seed, in complex numbers too.
    let product = seed.map_or_else(|| y.shallow_clone(), |seed| &y * seed.conj());
    product.real().sum(None).backward();
    let grads = x.iter().map(|x| Some(x.grad()).filter(Tensor::defined)).collect();
    Outcome { y: y.detach(), grads }
}

/// `|found - expected| <= tolerance * (1 + |expected|)`.
pub fn tolerance(kind: Kind) -> f64 {
    match kind {
        Kind::Double | Kind::ComplexDouble => 1e-13,
        Kind::Float | Kind::ComplexFloat => 1e-5,
        Kind::Half => 4e-3,
        Kind::BFloat16 => 3e-2,
        _ => 0.0,
    }
}

/// The same shape and dtype, and the same numbers but for rounding; NaN is NaN.
pub fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
    ensure!(found.size() == expected.size(), "{:?} for {:?}", found.size(), expected.size());
    ensure!(found.kind() == expected.kind(), "{:?} for {:?}", found.kind(), expected.kind());
    let wide = |t: &Tensor| match t.is_complex() {
        true => t.to_kind(Kind::ComplexDouble),
        false => t.to_kind(Kind::Double),
    };
    let close = wide(found).isclose(&wide(expected), tolerance, tolerance, true);
    ensure!(bool::try_from(close.all())?, "found\n{found}expected\n{expected}");
    Ok(())
}

/// Values and gradients.
pub fn assert_same(found: &Outcome, expected: &Outcome, tolerance: f64) -> Result<()> {
    assert_close(&found.y, &expected.y, tolerance).context("y")?;
    for (i, (found, expected)) in found.grads.iter().zip(&expected.grads).enumerate() {
        match (found, expected) {
            (Some(found), Some(expected)) => {
                assert_close(found, expected, tolerance)
                    .with_context(|| format!("gradient {i}"))?;
            }
            (None, None) => {}
            _ => anyhow::bail!("gradient {i}: found {found:?}, expected {expected:?}"),
        }
    }
    Ok(())
}
