//! Tensors that should be the same, and where they are not.

use super::failure::Difference;
use super::subject::Flat;
use tch::{Kind, Tensor};

/// The kind of a list of tensors.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Are {
    Outputs,
    /// Gradients: an absent one means zeros.
    Gradients,
}

impl Are {
    pub fn name(self, position: usize) -> String {
        match self {
            Are::Outputs => format!("output {position}"),
            Are::Gradients => format!("gradient of input {position}"),
        }
    }
}

/// Maximum difference of numbers: relative to the greatest finite one of their
/// tensor, and absolutely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub rtol: f64,
    pub atol: f64,
}

impl Allowed {
    pub fn times(self, factor: f64) -> Allowed {
        Allowed { atol: self.atol * factor, ..self }
    }
}

/// Every element of `found` as near to `expected` as is allowed; gives how many
/// there are.
pub(super) fn same(
    are: Are,
    expected: &Flat,
    found: &Flat,
    allowed: Allowed,
) -> Result<usize, Box<Difference>> {
    let mut compared = 0;
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        let what = || are.name(i);
        compared += match (expected, found) {
            (None, None) => 0,
            (Some(e), Some(f)) => same_tensor(what, e, f, allowed)?,
            (Some(e), None) if are == Are::Gradients => {
                same_tensor(what, e, &e.zeros_like(), allowed)?
            }
            (None, Some(f)) if are == Are::Gradients => {
                same_tensor(what, &f.zeros_like(), f, allowed)?
            }
            (e, _) => {
                let there = |there| if there { "there" } else { "absent" };
                let text = format!("{} and {}", there(e.is_some()), there(e.is_none()));
                return Err(Box::new(Difference::of_form(what(), text)));
            }
        };
    }
    Ok(compared)
}

fn same_tensor(
    what: impl Fn() -> String,
    expected: &Tensor,
    found: &Tensor,
    allowed: Allowed,
) -> Result<usize, Box<Difference>> {
    let form = |t: &Tensor| (t.size(), t.kind());
    if form(expected) != form(found) {
        let text = format!("{:?} and {:?}", form(expected), form(found));
        return Err(Box::new(Difference::of_form(what(), text)));
    }
    let (e, f) = (numbers(expected), numbers(found));
    let atol = allowed.rtol * greatest(&e) + allowed.atol;
    match worst(&e, &f, atol, allowed.rtol) {
        None => Ok(e.len()),
        Some(i) => Err(Box::new(Difference::at(what(), i, &expected.size(), e[i], f[i]))),
    }
}

/// The element that differs most from what it may.
pub(super) fn worst(expected: &[f64], found: &[f64], atol: f64, rtol: f64) -> Option<usize> {
    let excess = |i: &usize| {
        let (e, f) = (expected[*i], found[*i]);
        if e == f || e.is_nan() && f.is_nan() {
            return f64::NEG_INFINITY;
        }
        let excess = (e - f).abs() - atol - rtol * e.abs();
        if excess.is_nan() { f64::INFINITY } else { excess }
    };
    let worst = (0..expected.len()).max_by(|a, b| excess(a).total_cmp(&excess(b)));
    worst.filter(|i| excess(i) > 0.0)
}

/// Returns whether two numbers are further apart than is allowed; NaN is from all.
pub(super) fn apart(a: f64, b: f64, allowed: f64) -> bool {
    let difference = (a - b).abs();
    difference.is_nan() || difference > allowed
}

/// The greatest finite magnitude; 0 where there is none.
pub(super) fn greatest(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max)
}

/// The elements in row-major order.
pub(super) fn numbers(t: &Tensor) -> Vec<f64> {
    let flat = t.detach().to_kind(Kind::Double).reshape(-1);
    Vec::try_from(flat).expect("a flat f64 tensor is a list of numbers")
}

/// Returns whether both hold the same numbers, NaN at the same places.
pub(super) fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |t: &Tensor| numbers(t).into_iter().map(f64::to_bits).collect::<Vec<_>>();
    a.size() == b.size() && a.kind() == b.kind() && bits(a) == bits(b)
}
