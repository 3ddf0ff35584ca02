//! How close each function and its derivatives are to the exact values. `make accuracy`
//! measures it at many numbers, and makes the sample that this compares.

use super::functions::ALL;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use tch::{Kind, Tensor};
use test_support::numbers;

const KINDS: [(Kind, &str); 2] = [(Kind::Float, "f32"), (Kind::Double, "f64")];

/// The number of units in the last place that a result may be off: the value, the first and the
/// second derivative of a function. docs/accuracy.md says them.
fn bound(name: &str, order: usize) -> f64 {
    match (name, order) {
        ("normal_cdf", 0) => 2.5,
        ("tanh" | "sigmoid", 1) => 2.25,
        ("normal_pdf", 1) => 3.0,
        ("asin" | "acos", 2) => 5.0,
        (_, order) => [2.0, 2.0, 4.0][order],
    }
}

/// The distance of neighbours of the type at `x`.
fn ulp(kind: Kind, x: f64) -> f64 {
    let (digits, least) = if kind == Kind::Float { (24, -149) } else { (53, -1074) };
    let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 - digits + 1 };
    2f64.powi(exponent.max(least))
}

/// Each line of the sample: function, type, order of the derivative, `x` as bits, and the exact
/// value as its nearest f64 and what is left of it.
#[test]
fn the_sample_is_exact() -> Result<()> {
    let mut wrong = String::new();
    for line in include_str!("exact.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, kind, order, x, nearest, rest] = fields[..] else {
            anyhow::bail!("{line}");
        };
        let (_, [ours, _]) = ALL.iter().find(|(known, _)| *known == name).context("a function")?;
        let (kind, _) = KINDS.into_iter().find(|(_, known)| *known == kind).context("a type")?;
        let order: usize = order.parse()?;
        let x = f64::from_bits(u64::from_str_radix(x, 16)?);
        let (nearest, rest): (f64, f64) = (nearest.parse()?, rest.parse()?);
        let found = ours(&Tensor::from(x).to_kind(kind))?[order].double_value(&[]);
        let off = ((found - nearest) - rest).abs() / ulp(kind, nearest);
        if off.is_nan() || off > bound(name, order) {
            writeln!(wrong, "{name} {kind:?} order {order} at {x:e}: {found:e}, {off:.2} ulp")?;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// Numbers of the type of all magnitudes and both signs, and more of them near 1.
fn sample(kind: Kind, n: u64) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut x: Vec<f64> = Vec::new();
    for i in 0..n {
        let bits = random();
        let uniform = (random() >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        x.push(match (i % 4, kind) {
            (0, Kind::Float) => f64::from(f32::from_bits(bits as u32)),
            (0, _) => f64::from_bits(bits),
            (1, _) => uniform,
            (2, _) => uniform * 10.0,
            _ => uniform * 10f64.powi((bits % 7) as i32 - 3),
        });
    }
    x.retain(|x| x.is_finite());
    Tensor::from_slice(&x).to_kind(kind)
}

/// Writes each function and its derivatives, ours and libtorch's, for `scripts/accuracy`.
#[test]
#[ignore = "`make accuracy` runs it"]
fn write_what_is_measured() -> Result<()> {
    let n = std::env::var("TCH_FUNCTION_POINTS").map_or(Ok(4000), |n| n.parse())?;
    let mut lines = String::from("function,type,x,y,dy,ddy,torch y,torch dy,torch ddy\n");
    for (kind, kind_name) in KINDS {
        let x = sample(kind, n);
        for (name, runs) in ALL {
            let mut columns = vec![numbers(&x.to_kind(Kind::Double))];
            for run in runs {
                let found = run(&x)?;
                columns.extend(found.map(|t| numbers(&t.to_kind(Kind::Double))));
            }
            for i in 0..columns[0].len() {
                write!(lines, "{name},{kind_name}")?;
                columns
                    .iter()
                    .try_for_each(|column| write!(lines, ",{:016x}", column[i].to_bits()))?;
                lines.push('\n');
            }
        }
    }
    let path = std::env::var("TCH_FUNCTION_ACCURACY").context("the file to write")?;
    Ok(std::fs::write(path, lines)?)
}
