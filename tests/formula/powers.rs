//! Powers at special numbers: what C's `pow` returns, and the derivatives that libtorch has.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::Function;
use tch_function::formula;
use tch_function::formula::Derived;

formula! {
    struct Power;
    |_, [a, b]| [a.powf(b)]
}

formula! {
    /// `c^x`
    struct PowerOf { c: f64 }
    |f, [x]| [S::of(f.c).powf(x)]
}

formula! {
    /// `x^c`
    struct By { c: f64 }
    |f, [x]| [x.powf(S::of(f.c))]
}

/// Zeros, ones, the ends of the range and beyond it, NaN, odd and even integers of all sizes, and
/// numbers between.
fn special(kind: Kind) -> Vec<f64> {
    let (digits, least, greatest) = match kind {
        Kind::Double => (53, 5e-324, f64::MAX),
        _ => (24, 1e-45, f64::from(f32::MAX)),
    };
    let whole = f64::from(digits).exp2();
    let sizes = [
        0.0,
        least,
        least * 3.0,
        0.1,
        0.5,
        1.0 - 1.0 / whole,
        1.0,
        1.0 + 2.0 / whole,
        1.5,
        2.0,
        3.0,
        4.0,
        5.0,
        63.0,
        100.5,
        whole / 4.0 + 0.5,
        whole / 2.0 - 0.5,
        whole / 2.0 + 1.0,
        whole - 1.0,
        whole,
        whole * 2.0,
        greatest,
        f64::INFINITY,
    ];
    let rounded = |x: f64| if kind == Kind::Double { x } else { f64::from(x as f32) };
    let signed = sizes.into_iter().flat_map(|x| [rounded(x), -rounded(x)]);
    signed.chain([f64::NAN]).collect()
}

/// Whether two numbers are the same, or differ in their last places.
fn agree(kind: Kind, found: f64, expected: f64) -> bool {
    let (epsilon, least) = match kind {
        Kind::Double => (f64::EPSILON, f64::MIN_POSITIVE),
        _ => (f64::from(f32::EPSILON), f64::from(f32::MIN_POSITIVE)),
    };
    if expected.is_nan() || found.is_nan() {
        return expected.is_nan() && found.is_nan();
    }
    let near = (found - expected).abs() <= expected.abs().max(least) * epsilon * 2.0;
    (found == expected || near) && found.is_sign_negative() == expected.is_sign_negative()
}

fn column(x: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(x.detach().to_kind(Kind::Double).view(-1))?)
}

#[test]
fn special_numbers() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let x = special(kind);
        let all = Tensor::from_slice(&x).to_kind(kind);
        let n = x.len() as i64;
        let a = all.view((n, 1)).expand([n, n], false).contiguous().set_requires_grad(true);
        let b = all.view((1, n)).expand([n, n], false).contiguous().set_requires_grad(true);
        let y = Derived(Power).apply((&a, &b))?;
        let torch = a.pow(&b);
        let slopes = Tensor::f_run_backward(&[y.sum(kind)], &[&a, &b], false, false)?;
        let of_torch = Tensor::f_run_backward(&[torch.sum(kind)], &[&a, &b], false, false)?;
        let found = [column(&y)?, column(&slopes[0])?, column(&slopes[1])?];
        let torch = [column(&torch)?, column(&of_torch[0])?, column(&of_torch[1])?];
        let mut wrong = Vec::new();
        for (i, &a) in x.iter().enumerate() {
            for (j, &b) in x.iter().enumerate() {
                let at = i * x.len() + j;
                let value = a.powf(b);
                let value = if kind == Kind::Double { value } else { f64::from(value as f32) };
                if !agree(kind, found[0][at], value) {
                    wrong.push(format!("{kind:?} {a:e}^{b:e}: {:e}, not {value:e}", found[0][at]));
                }
                for order in [1, 2] {
                    let ours = found[order][at];
                    // libtorch's slope may be that of an exponent that is rounded to an integer.
                    let theirs = if value.is_nan() { value } else { torch[order][at] };
                    // What libtorch rounds, makes infinite or loses on its way is measured by
                    // `make accuracy`.
                    let is_end = |x: f64| x == 0.0 || !x.is_finite();
                    if is_end(ours) && is_end(theirs) && ours.is_nan() != theirs.is_nan() {
                        wrong.push(format!(
                            "{kind:?} d{order} {a:e}^{b:e}: {ours:e}, not {theirs:e}"
                        ));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), n * n, wrong.join("\n"));
    }
    Ok(())
}

/// A constant is not rounded to f32, on either side.
#[test]
fn constants_are_not_rounded() -> Result<()> {
    let x: Vec<f64> = (1..200).map(|i| f64::from(0.37f32 * i as f32)).collect();
    let t = Tensor::from_slice(&x).to_kind(Kind::Float);
    for c in [0.1, 1.0 / 3.0, 2.0 / 3.0, 0.999_999_999, 1.7, 1e-3] {
        let of_constant = t.detach().set_requires_grad(true);
        let y = Derived(PowerOf { c }).apply(&of_constant)?;
        let dx = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&of_constant], false, false)?;
        let by_constant = t.detach().set_requires_grad(true);
        let z = Derived(By { c }).apply(&by_constant)?;
        let dz = Tensor::f_run_backward(&[z.sum(Kind::Float)], &[&by_constant], false, false)?;
        for (i, &x) in x.iter().enumerate() {
            let expected = [
                (column(&y)?[i], c.powf(x)),
                (column(&dx[0])?[i], c.powf(x) * c.ln()),
                (column(&z)?[i], x.powf(c)),
                (column(&dz[0])?[i], c * x.powf(c - 1.0)),
            ];
            for (found, expected) in expected {
                let off = (found - expected).abs();
                let unit = f64::from(f32::EPSILON) * expected.abs();
                assert!(off <= unit.max(1.5e-45), "{c} {x}: {found:e}, not {expected:e}");
            }
        }
    }
    Ok(())
}
