//! Reductions of great lengths, in epsilons of the sum of magnitudes.

use crate::measure::{random, write};
use anyhow::Result;
use dashu_float::{FBig, round::mode::HalfEven};
use std::fmt::Write as _;
use tch::{Device, Kind, Tensor};
use tch_function::{Function, ops};
use test_support::numbers;

/// A number as the sum of two.
type Two = [f64; 2];

fn add(a: Two, b: Two) -> Two {
    let sum = a[0] + b[0];
    let seen = sum - a[0];
    let lost = (a[0] - (sum - seen)) + (b[0] - seen);
    [sum, a[1] + b[1] + lost]
}

fn product(a: f64, b: f64) -> Two {
    [a * b, a.mul_add(b, -(a * b))]
}

fn sum(terms: impl IntoIterator<Item = Two>) -> Two {
    terms.into_iter().fold([0.0; 2], add)
}

/// `e^x`
fn exp(x: f64) -> Two {
    let exact = FBig::<HalfEven, 2>::try_from(x).expect("finite").with_precision(160).value().exp();
    let high = exact.to_f64().value();
    let rest = exact - FBig::try_from(high).expect("finite").with_precision(160).value();
    [high, rest.to_f64().value()]
}

/// Numbers of a row: one over and over, whose rounding errors add up, or seven at random.
fn row(kind: Kind, n: usize, one: bool) -> Tensor {
    let values = [-0.3, 0.7, 0.1, -0.9, 0.45, -0.62, 0.23];
    let mut random = random(88_172_645_463_325_252);
    let mut next = || if one { 0.1 } else { values[(random() % 7) as usize] };
    Tensor::from_slice(&(0..n).map(|_| next()).collect::<Vec<f64>>()).to_kind(kind)
}

fn epsilon(kind: Kind) -> f64 {
    if kind == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

/// `found - exact` in epsilons of `scale`.
fn off(kind: Kind, found: f64, exact: Two, scale: f64) -> f64 {
    ((found - exact[0]) - exact[1]).abs() / (epsilon(kind) * scale)
}

fn scalar(t: &Tensor) -> f64 {
    test_support::number(&t.to_kind(Kind::Double))
}

/// The worst of a few elements, in epsilons of each.
fn worst_of(kind: Kind, found: &Tensor, exact: impl Fn(usize) -> (Two, f64)) -> f64 {
    let found = numbers(&found.to_kind(Kind::Double));
    let each = (0..found.len().min(50)).map(|i| {
        let (exact, scale) = exact(i);
        off(kind, found[i], exact, scale)
    });
    each.fold(0.0, f64::max)
}

/// The errors of ours and of libtorch's.
fn measured(kind: Kind, n: usize, one: bool) -> Result<Vec<(&'static str, f64, f64)>> {
    let x = row(kind, n, one);
    let list = numbers(&x.to_kind(Kind::Double));
    let total = sum(list.iter().map(|x| [*x, 0.0]));
    let magnitude: f64 = list.iter().map(|x| x.abs()).sum();
    let mut found = Vec::new();
    let mut of_sum = |name, y: &Tensor, torch: &Tensor, by: f64| {
        let one = |y| off(kind, scalar(y) * by, total, magnitude);
        found.push((name, one(y), one(torch)));
    };
    of_sum("Sum", &ops::Sum::default().apply(&x)?, &x.sum(x.kind()), 1.0);
    of_sum("Mean", &ops::Mean::default().apply(&x)?, &x.mean(x.kind()), n as f64);
    let over = |dims: &[i64]| ops::Sum { dims: dims.to_vec(), keepdim: false };
    let dims = |x: &Tensor, dim: i64| x.sum_dim_intlist([dim].as_slice(), false, x.kind());
    let rows = x.expand([3, n as i64], false).contiguous();
    of_sum("Sum of rows", &over(&[1]).apply(&rows)?.get(1), &dims(&rows, 1).get(1), 1.0);
    let columns = rows.transpose(0, 1).contiguous();
    of_sum("Sum of columns", &over(&[0]).apply(&columns)?.get(1), &dims(&columns, 0).get(1), 1.0);

    let t = Tensor::from(0.2).to_kind(kind);
    let t0 = scalar(&t);
    let error = sum(list.iter().map(|y| {
        let [d, rest] = add([t0, 0.0], [-y, 0.0]);
        let [square, low] = product(d, d);
        [square * 0.5, (low + 2.0 * d * rest) * 0.5]
    }));
    let torch = x.mse_loss(&t.expand_as(&x), tch::Reduction::Sum) * 0.5;
    let ours = ops::SquaredError.apply((&x, &t))?;
    let one = |y: &Tensor| off(kind, scalar(y), error, error[0]);
    found.push(("SquaredError", one(&ours), one(&torch)));

    let mut known: Vec<(f64, Two)> = Vec::new();
    let mut power = |x: f64| match known.iter().find(|(a, _)| *a == x) {
        Some((_, e)) => *e,
        None => {
            let e = exp(x);
            known.push((x, e));
            e
        }
    };
    let powers: Vec<Two> = list.iter().map(|x| power(*x)).collect();
    let all = sum(powers.iter().copied());
    let all = [all[0] + all[1], 0.0];
    let softmax = |i: usize| {
        let y = powers[i][0] / all[0];
        ([y, (-y).mul_add(all[0], powers[i][0]) / all[0] + powers[i][1] / all[0]], y)
    };
    let ours = ops::Softmax { dim: 0 }.apply(&x)?;
    let torch = x.softmax(0, None);
    found.push(("Softmax", worst_of(kind, &ours, softmax), worst_of(kind, &torch, softmax)));
    let log = all[0].ln();
    let log_softmax = |i: usize| ([list[i] - log, 0.0], list[i].abs() + log.abs());
    let ours = ops::LogSoftmax { dim: 0 }.apply(&x)?;
    let torch = x.log_softmax(0, None);
    let worst = [&ours, &torch].map(|y| worst_of(kind, y, log_softmax));
    found.push(("LogSoftmax", worst[0], worst[1]));
    Ok(found)
}

/// The gradients of the two, with `dy` 0.1, 0.4 and 0.7 in turn, from what they return.
fn measured_slopes(kind: Kind, n: usize, one: bool) -> Result<Vec<(&'static str, f64, f64)>> {
    let x = row(kind, n, one).set_requires_grad(true);
    let dy = Tensor::arange(n as i64, (kind, Device::Cpu)).remainder(3.0) * 0.3 + 0.1;
    let (dim, seeds) = (0, numbers(&dy.to_kind(Kind::Double)));
    let slope = |y: &Tensor| Tensor::f_run_backward(&[(y * &dy).sum(kind)], &[&x], false, false);
    let mut found = Vec::new();
    for log in [false, true] {
        let (ours, torch, name) = match log {
            true => {
                (ops::LogSoftmax { dim }.apply(&x)?, x.log_softmax(dim, None), "LogSoftmax's slope")
            }
            false => (ops::Softmax { dim }.apply(&x)?, x.softmax(dim, None), "Softmax's slope"),
        };
        let mut errors = [0.0; 2];
        for (error, y) in errors.iter_mut().zip([&ours, &torch]) {
            let values = numbers(&y.detach().to_kind(Kind::Double));
            let whole = sum(seeds.iter().zip(&values).map(|(dy, y)| match log {
                true => [*dy, 0.0],
                false => product(*dy, *y),
            }));
            let dx = &slope(y)?[0];
            *error = worst_of(kind, dx, |i| {
                let y = if log { values[i].exp() } else { values[i] };
                let (of_dy, of_all) =
                    if log { (seeds[i], y * whole[0]) } else { (y * seeds[i], y * whole[0]) };
                ([of_dy - of_all, -y * whole[1]], of_dy.abs() + of_all.abs())
            });
        }
        found.push((name, errors[0], errors[1]));
    }
    Ok(found)
}

fn all(kind: Kind, n: usize) -> Result<Vec<(&'static str, f64, f64)>> {
    let mut found: Vec<(&'static str, f64, f64)> = Vec::new();
    for one in [false, true] {
        for (name, ours, torch) in
            measured(kind, n, one)?.into_iter().chain(measured_slopes(kind, n, one)?)
        {
            match found.iter_mut().find(|(known, ..)| *known == name) {
                Some(known) => *known = (name, known.1.max(ours), known.2.max(torch)),
                None => found.push((name, ours, torch)),
            }
        }
    }
    Ok(found)
}

#[test]
#[ignore = "`make accuracy` runs it"]
fn write_what_is_measured() -> Result<()> {
    let mut text = String::from("op,type,n,ours,torch\n");
    for (kind, kind_name) in [(Kind::Float, "f32"), (Kind::Double, "f64")] {
        for n in [1000, 10_000, 100_000, 1_000_000, 10_000_000] {
            for (name, ours, torch) in all(kind, n)? {
                writeln!(text, "{name},{kind_name},{n},{ours:.2},{torch:.2}")?;
            }
        }
    }
    write("reductions.csv", &text);
    Ok(())
}

/// docs/accuracy.md has what is measured at more lengths.
#[test]
fn sums_are_within_4_epsilon() -> Result<()> {
    for kind in [Kind::Float, Kind::Double] {
        for n in [7, 1000, 300_007] {
            for (name, ours, _) in all(kind, n)? {
                assert!(ours < 4.0, "{name} {kind:?} of {n}: {ours:.2} epsilon");
            }
        }
    }
    Ok(())
}
