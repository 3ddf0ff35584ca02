//! Conversions round once.

use crate::measure::random;
use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{Function, GradOptions, ops};

/// The number of a type with that many digits, and that exponent of its least normal number,
/// which is nearest to `x`; of two, the one whose last digit is even.
fn nearest(x: f64, digits: i32, least: i32, greatest: f64) -> f64 {
    if !x.is_finite() || x == 0.0 {
        return x;
    }
    let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
    let unit = 2f64.powi(exponent.max(least) - digits + 1);
    let y = (x / unit).round_ties_even() * unit;
    if y.abs() > greatest { f64::INFINITY.copysign(x) } else { y }
}

fn numbers() -> Vec<f64> {
    let mut random = random(0x9e37_79b9_7f4a_7c15);
    let mut x = vec![1.0 + 2f64.powi(-11) + 2f64.powi(-40), 0.0, -0.0, f64::INFINITY, 1e300];
    for _ in 0..20_000 {
        // Near the middle of two neighbours, in all the exponents of f16 and around.
        let tie = 1.0 + f64::from((random() % 2048) as u32) / 2048.0 + 2f64.powi(-12);
        let near = [0.0, 2f64.powi(-26), -2f64.powi(-30), 2f64.powi(-45), -2f64.powi(-50)];
        let x0 = (tie + near[(random() % 5) as usize]) * 2f64.powi((random() % 48) as i32 - 30);
        x.extend([x0, -x0, x0 * 0.5_f64.mul_add(0.25, 0.9), x0 * 8.0]);
    }
    x
}

#[test]
fn to_f16_and_bf16() -> Result<()> {
    let x = numbers();
    let of_bf16 = (2.0 - 2f64.powi(-7)) * 2f64.powi(127);
    for (kind, digits, least, greatest) in
        [(Kind::Half, 11, -14, 65504.0), (Kind::BFloat16, 8, -126, of_bf16)]
    {
        let t = Tensor::from_slice(&x);
        let once = ops::ToKind { kind }.apply(&t)?;
        // A gradient of f64 for an input of `kind`, plain and recorded.
        let narrow = t.ones_like().to_kind(kind).set_requires_grad(true);
        let back = ops::ToKind { kind: Kind::Double }.apply(&narrow)?;
        let plain = GradOptions::new().seeds(&t).retain_graph(true).grad(&back, &narrow)?;
        let seed = t.detach().set_requires_grad(true);
        let recorded = GradOptions::new().seeds(&seed).create_graph(true).grad(&back, &narrow)?;
        for found in [Some(once), plain, recorded] {
            let found = found.expect("used").detach().to_kind(Kind::Double);
            for (x, found) in x.iter().zip(test_support::numbers(&found)) {
                let expected = nearest(*x, digits, least, greatest);
                assert_eq!(found.to_bits(), expected.to_bits(), "{kind:?} {x:e}");
            }
        }
    }
    Ok(())
}
