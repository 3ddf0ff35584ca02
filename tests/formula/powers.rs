//! Powers at special numbers: what C's `pow` returns, and the derivatives that libtorch has.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::formula;
use tch_function::formula::Derived;
use tch_function::{Function, GradOptions, ops};

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

/// In f32, where f64 is exact enough to compare with and has room on the way: the slopes and the
/// second derivatives of every pair, those too that are out of range on the way or at the end.
#[test]
fn derivatives_of_special_numbers() -> Result<()> {
    let mut x = special(Kind::Float);
    x.extend([1e-30, 3e-19, 2e19, 1e20, -1e10, 1e10, 0.999, 1e-42].map(|x| f64::from(x as f32)));
    let (n, kind) = (x.len() as i64, Kind::Float);
    let all = Tensor::from_slice(&x).to_kind(kind);
    let a = all.view((n, 1)).expand([n, n], false).contiguous().set_requires_grad(true);
    let b = all.view((1, n)).expand([n, n], false).contiguous().set_requires_grad(true);
    let recorded = GradOptions::new().create_graph(true).retain_graph(true);
    let y = Derived(Power).apply((&a, &b))?;
    let [da, db] = recorded.grad(&y.sum(kind), [&a, &b])?.map(|t| t.expect("used"));
    // With both gradients given, a kernel computes the second derivatives in a dev build, too.
    let seeds = [da.ones_like(), db.zeros_like()];
    let plain = GradOptions::new().retain_graph(true);
    let dda = plain.seeds(&seeds).grad([&da, &db], &a)?.expect("used");
    let found = [column(&da)?, column(&db)?, column(&dda)?];
    let mut wrong = Vec::new();
    for (i, &a) in x.iter().enumerate() {
        for (j, &b) in x.iter().enumerate().filter(|(_, b)| a.is_finite() && b.is_finite()) {
            let mixed = a.powf(b - 1.0) * (1.0 + b * a.ln());
            let is_real = a >= 0.0 || b == b.trunc();
            let exact = [
                if b == 0.0 { 0.0 } else { b * a.powf(b - 1.0) },
                if a == 0.0 && b >= 0.0 { 0.0 } else { a.powf(b) * a.ln() },
                if b == 0.0 || b == 1.0 { 0.0 } else { b * (b - 1.0) * a.powf(b - 2.0) },
            ];
            for (order, exact) in exact.into_iter().enumerate() {
                let ours = found[order][i * x.len() + j];
                // The mixed derivative by 0.
                if order == 2 && ours.is_nan() && !(mixed as f32).is_finite() {
                    continue;
                }
                // f64 takes one less than a great even number for an even one.
                if a < 0.0 && b.abs() >= f64::EPSILON.recip() {
                    continue;
                }
                let exact = if is_real { f64::from(exact as f32) } else { f64::NAN };
                let (least, epsilon) = (f64::from(f32::MIN_POSITIVE), f64::from(f32::EPSILON));
                let near = (ours - exact).abs() <= exact.abs().max(least) * epsilon * 2.0;
                if !(near || ours == exact || ours.is_nan() && exact.is_nan()) {
                    wrong.push(format!("d{order} {a:e}^{b:e}: {ours:e}, not {exact:e}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), n * n, wrong.join("\n"));
    Ok(())
}

/// Where no kernel runs: infinite bases, and a complex one.
#[test]
fn tensor_forms_at_the_ends() -> Result<()> {
    for kind in [Kind::Half, Kind::BFloat16] {
        let a = Tensor::from_slice(&[f64::INFINITY, f64::NEG_INFINITY, 2e19]).to_kind(kind);
        let b = Tensor::from_slice(&[2.0, 3.0, 2.0]).to_kind(kind);
        let a = a.set_requires_grad(true);
        let ours = GradOptions::new().grad(&ops::Pow.apply((&a, &b))?.sum(kind), &a)?;
        let theirs = GradOptions::new().grad(&a.pow(&b).sum(kind), &a)?;
        assert!(ours.expect("used").allclose(&theirs.expect("used"), 1e-2, 0.0, true), "{kind:?}");
    }
    // A complex base and a real exponent that wants a gradient.
    let a = Tensor::complex(&Tensor::from_slice(&[1.0]), &Tensor::from_slice(&[1.0]));
    let b = Tensor::from_slice(&[2.0]).set_requires_grad(true);
    let grad = |y: Tensor| GradOptions::new().grad(&y.real().sum(Kind::Double), &b);
    let (ours, theirs) = (grad(ops::Pow.apply((&a, &b))?)?, grad(a.pow(&b))?);
    assert!(ours.expect("used").allclose(&theirs.expect("used"), 1e-12, 0.0, false));
    Ok(())
}

/// Exponents next to 1 and 2, and constants that f32 has no number for.
#[test]
fn constants_beyond_f32() -> Result<()> {
    let x = [0.0, 1e-38, 1e-30, 1e-10, 0.5, 3.2001963538451535e-20, 8.31e-20, 2.0, 1e30]
        .map(|x| f64::from(x as f32));
    let t = Tensor::from_slice(&x).to_kind(Kind::Float);
    let recorded = GradOptions::new().create_graph(true).retain_graph(true);
    for c in [1.0 + 1e-9, 1.0 - 1e-9, 2.0 + 1e-8, 1e-42, 1e-50, -1e-20, 4.0, 3.0, -1.0, 0.5, 2.5] {
        let x_c = t.detach().set_requires_grad(true);
        let y = Derived(By { c }).apply(&x_c)?;
        let dx = recorded.grad(&y.sum(Kind::Float), &x_c)?.expect("used");
        let ddx = GradOptions::new().grad(&dx.sum(Kind::Float), &x_c)?.expect("used");
        for (i, &x) in x.iter().enumerate() {
            for (found, exact) in [
                (&y, x.powf(c)),
                (&dx, c * x.powf(c - 1.0)),
                (&ddx, c * (c - 1.0) * x.powf(c - 2.0)),
            ] {
                let (found, exact) = (column(found)?[i], f64::from(exact as f32));
                let unit = exact.abs().max(f64::from(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
                let near = (found - exact).abs() <= unit * 2.0;
                assert!(found == exact || near, "{x:e}^{c:e}: {found:e}, not {exact:e}");
            }
        }
    }
    for c in [1e-50, 1e50] {
        let t = Tensor::from_slice(&[0.5, -0.5, 0.1]).to_kind(Kind::Float);
        let y = column(&Derived(PowerOf { c }).apply(&t)?)?;
        for (y, x) in y.iter().zip([0.5, -0.5, f64::from(0.1f32)]) {
            let exact = c.powf(x);
            assert!((y - exact).abs() <= exact * 1e-6, "{c:e}^{x}: {y:e}, not {exact:e}");
        }
    }
    Ok(())
}

/// A constant is not rounded to f32, on either side, nor its logarithm to f64.
#[test]
fn constant_bases_in_f64() -> Result<()> {
    let t = Tensor::from_slice(&[1000.0, 300.0, 2.0, -600.0, 0.37, 500.25]);
    for c in [2.0, 10.0, 3.0, 1.5, 0.1, 1.0 / 3.0] {
        let found = column(&Derived(PowerOf { c }).apply(&t)?)?;
        for (x, found) in column(&t)?.into_iter().zip(found) {
            assert!(
                agree(Kind::Double, found, c.powf(x)),
                "{c}^{x}: {found:e}, not {:e}",
                c.powf(x)
            );
        }
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
