//! How close each function and its derivatives are to the exact values. `make accuracy`
//! measures it at many numbers, and makes the sample that this compares.

use super::functions::ALL;
use super::measure::{KINDS, joined, lines, points, sample, ulp, write};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use tch::{Kind, Tensor};

/// The number of units in the last place that a result may be off: the value, the first and the
/// second derivative of a function. docs/accuracy.md says them.
fn bound(kind: &str, name: &str, order: usize) -> f64 {
    match (kind, name, order) {
        ("f16" | "bf16", ..) => 0.51,
        (.., order) => [2.0, 2.0, 4.0][order],
    }
}

/// Each line of the sample: function, type, order of the derivative, `x` as bits, and the exact
/// value as its nearest f64 and what is left of it.
#[test]
fn the_sample_is_exact() -> Result<()> {
    let mut wrong = String::new();
    for line in include_str!("exact.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, kind_name, order, x, nearest, rest] = fields[..] else {
            anyhow::bail!("{line}");
        };
        let (_, [ours, _]) = ALL.iter().find(|(known, _)| *known == name).context("a function")?;
        let (kind, _) =
            KINDS.into_iter().find(|(_, known)| *known == kind_name).context("a type")?;
        let order: usize = order.parse()?;
        let x = f64::from_bits(u64::from_str_radix(x, 16)?);
        let (nearest, rest): (f64, f64) = (nearest.parse()?, rest.parse()?);
        let found =
            ours(&Tensor::from(x).to_kind(kind))?[order].to_kind(Kind::Double).double_value(&[]);
        let off = ((found - nearest) - rest).abs() / ulp(kind, nearest);
        if off.is_nan() || off > bound(kind_name, name, order) {
            writeln!(wrong, "{name} {kind:?} order {order} at {x:e}: {found:e}, {off:.2} ulp")?;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    Ok(())
}

/// Writes each function and its derivatives, ours and libtorch's, for `scripts/accuracy`.
#[test]
#[ignore = "`make accuracy` runs it"]
fn write_what_is_measured() -> Result<()> {
    let mut text = String::from("function,type,x,y,dy,ddy,torch y,torch dy,torch ddy\n");
    for (kind, kind_name) in KINDS {
        let x = sample(kind, points(4000), 0x9e37_79b9_7f4a_7c15);
        for (name, [ours, torch]) in ALL {
            let x = x.shallow_clone();
            let found = joined([vec![x.shallow_clone()], ours(&x)?.into(), torch(&x)?.into()]);
            lines(&mut text, &format!("{name},{kind_name}"), &found);
        }
    }
    write("functions.csv", &text);
    Ok(())
}
