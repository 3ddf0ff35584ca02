//! The functions of `kernel::simd::Float` against exact values: within 2 ulp in
//! f32 and f64, over the whole range.

use anyhow::Result;
use dashu_float::{FBig, round::mode::HalfEven};
use std::f64::consts::LN_2;
use std::sync::LazyLock;
use tch::{Kind, Tensor};
use tch_function::kernel::simd::{self, Float, Lanes};

use test_support::compare::Random;

type Big = FBig<HalfEven, 2>;

/// Enough for the cancellation in tanh and erf.
const BITS: usize = 320;

fn big(x: f64) -> Big {
    Big::try_from(x).expect("a finite number").with_precision(BITS).value()
}

fn tanh(x: f64) -> Big {
    let e = big(2.0 * x.abs()).exp();
    let y = big(1.0) - big(2.0) / (e + big(1.0));
    if x < 0.0 { -y } else { y }
}

/// `2 / sqrt(pi)`, from pi by Machin's formula and the root by Newton's.
static FACTOR: LazyLock<Big> = LazyLock::new(|| {
    let atan_inverse = |n: f64| {
        let (step, mut power) = (big(n * n), big(1.0) / big(n));
        (0..150).fold(big(0.0), |sum, k| {
            let term = &power / big(f64::from(2 * k + 1));
            power = &power / &step;
            if k % 2 == 0 { sum + term } else { sum - term }
        })
    };
    let pi = big(16.0) * atan_inverse(5.0) - big(4.0) * atan_inverse(239.0);
    let half = big(0.564); // 1 / sqrt(pi)
    let better = |y: Big| &y * (big(3.0) - &pi * &y * &y) / big(2.0);
    (0..9).fold(half, |y, _| better(y)) * big(2.0)
});

/// `2 / sqrt(pi) * sum of (-1)^n x^(2n + 1) / (n! (2n + 1))`
fn erf(x: f64) -> Big {
    if x.abs() > 7.0 {
        return big(x.signum()); // but for 1e-22
    }
    let square = big(x) * big(x);
    let (mut power, mut sum) = (big(x), big(0.0));
    for n in 0..260 {
        let term = &power / big(f64::from(2 * n + 1));
        if term.to_f64().value().abs() < 1e-30 * x.abs() {
            break;
        }
        sum += term;
        power = -(&power * &square / big(f64::from(n + 1)));
    }
    sum * &*FACTOR
}

macro_rules! op {
    ($Op:ident $method:ident) => {
        struct $Op;
        impl Lanes<1, 1> for $Op {
            #[inline(always)]
            fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
                [x.$method()]
            }
        }
    };
}
op!(Exp exp);
op!(Ln ln);
op!(Ln1p ln_1p);
op!(Tanh tanh);
op!(Erf erf);
op!(Sigmoid sigmoid);
op!(Ln1pExp ln_1p_exp);

/// The distance in units of the last place of `kind` at the exact value.
fn ulps(kind: Kind, found: f64, exact: &Big) -> f64 {
    let (bits, least, greatest) = match kind {
        Kind::Float => (24, -149, f64::from(f32::MAX)),
        _ => (53, -1074, f64::MAX),
    };
    let near = exact.to_f64().value();
    if near.abs() > greatest {
        return if found == near.signum() * f64::INFINITY { 0.0 } else { f64::INFINITY };
    }
    if !found.is_finite() {
        // Rounded up from just below the greatest number.
        return if near.abs() > greatest * (1.0 - 1e-6) { 1.0 } else { f64::INFINITY };
    }
    let exponent = match near.abs().to_bits() >> 52 {
        0 => -1074,
        biased => biased as i32 - 1023,
    };
    let unit = (exponent - bits + 1).max(least);
    ((big(found) - exact) >> unit as isize).to_f64().value().abs()
}

/// Evenly over each range, and around every power of 2 inside them.
fn samples(ranges: &[(f64, f64)], powers: std::ops::Range<i32>) -> Vec<f64> {
    let mut random = Random::new("samples");
    let mut samples = Vec::new();
    let (from, to) = ranges[0];
    for &(from, to) in ranges {
        samples.extend((0..400).map(|_| from + (to - from) * random.unit()));
    }
    for exponent in powers {
        let power = 2f64.powi(exponent);
        for x in [1.0, 1.0 + random.unit(), 1.5 - 0.1 * random.unit()] {
            samples.extend([x * power, -x * power].into_iter().filter(|x| from <= *x && *x <= to));
        }
    }
    samples
}

fn check(
    name: &str,
    op: &impl Lanes<1, 1>,
    exact: fn(f64) -> Big,
    ranges: &[(f64, f64)],
    limit: f64,
) -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let powers = if kind == Kind::Float { -140..128 } else { -300..300 };
        let x = Tensor::from_slice(&samples(ranges, powers)).to_kind(kind);
        let x = x.masked_select(&x.isfinite());
        let [y] = simd::map(op, [&x])?;
        let numbers = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double));
        let (x, y) = (numbers(&x)?, numbers(&y)?);
        let worst = x.iter().zip(&y).map(|(x, y)| (ulps(kind, *y, &exact(*x)), x));
        let (worst, at) = worst.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are samples");
        println!("{kind:?} {name:<9} {worst:.3} ulp at {at:e}");
        assert!(worst < limit, "{kind:?} {name}({at:e})");
    }
    Ok(())
}

#[test]
fn exp_within_2_ulp() -> Result<()> {
    let exact = |x: f64| big(x.clamp(-1e4, 1e4)).exp();
    check("exp", &Exp, exact, &[(-800.0, 800.0), (-110.0, 95.0), (-1.0, 1.0)], 2.0)
}

#[test]
fn ln_within_2_ulp() -> Result<()> {
    let exact = |x: f64| big(x).ln();
    check("ln", &Ln, exact, &[(1e-300, 1e300), (0.1, 10.0), (0.6, 1.5)], 2.0)
}

#[test]
fn ln_1p_within_2_ulp() -> Result<()> {
    let exact = |x: f64| match x.abs() < 2f64.powi(-200) {
        true => big(x),
        false => (big(1.0) + big(x)).ln(),
    };
    check("ln_1p", &Ln1p, exact, &[(-1.0 + 1e-7, 1e300), (-0.9, 10.0), (-0.4, 0.5)], 2.0)
}

#[test]
fn tanh_within_2_ulp() -> Result<()> {
    let exact = |x: f64| match x.abs() {
        a if a < 2f64.powi(-60) => big(x),
        a if a > 50.0 => big(x.signum()),
        _ => tanh(x),
    };
    check("tanh", &Tanh, exact, &[(-1e5, 1e5), (-20.0, 20.0), (-2.0, 2.0), (0.5, 0.7)], 2.0)
}

#[test]
fn erf_within_2_ulp() -> Result<()> {
    check("erf", &Erf, erf, &[(-1e3, 1e3), (-6.5, 6.5), (-3.0, 3.0), (0.7, 1.3)], 2.0)
}

#[test]
fn sigmoid_within_2_ulp() -> Result<()> {
    let exact = |x: f64| {
        let e = big(-x.abs()).exp();
        if x < 0.0 { &e / (big(1.0) + &e) } else { big(1.0) / (big(1.0) + e) }
    };
    check("sigmoid", &Sigmoid, exact, &[(-700.0, 700.0), (-100.0, 90.0), (-3.0, 3.0)], 2.0)
}

/// Where they have no number to give, or give one of themselves.
#[test]
fn at_the_ends() -> Result<()> {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    type Call<'a> = &'a dyn Fn(&Tensor) -> tch_function::Result<[Tensor; 1]>;
    let table: [(&str, Call<'_>, [f64; 6]); 7] = [
        ("exp", &|x| simd::map(&Exp, [x]), [0.0, inf, 1.0, 1.0, nan, 0.0]),
        ("ln", &|x| simd::map(&Ln, [x]), [nan, inf, -inf, -inf, nan, nan]),
        ("ln_1p", &|x| simd::map(&Ln1p, [x]), [nan, inf, -0.0, 0.0, nan, nan]),
        ("tanh", &|x| simd::map(&Tanh, [x]), [-1.0, 1.0, -0.0, 0.0, nan, -1.0]),
        ("erf", &|x| simd::map(&Erf, [x]), [-1.0, 1.0, -0.0, 0.0, nan, -1.0]),
        ("sigmoid", &|x| simd::map(&Sigmoid, [x]), [0.0, 1.0, 0.5, 0.5, nan, 0.0]),
        ("ln_1p_exp", &|x| simd::map(&Ln1pExp, [x]), [0.0, inf, LN_2, LN_2, nan, 0.0]),
    ];
    for kind in [Kind::Double, Kind::Float] {
        let x = Tensor::from_slice(&[-inf, inf, -0.0, 0.0, nan, -1e30]).to_kind(kind);
        // Long enough for whole vectors, too.
        let x = Tensor::cat(&[x.repeat([8]), x], 0);
        for (name, f, expected) in &table {
            let [y] = f(&x)?;
            let y = Vec::<f64>::try_from(y.to_kind(Kind::Double))?;
            for (found, expected) in y.iter().zip(expected.iter().cycle()) {
                let near = (found - expected).abs() < 1e-6;
                let same =
                    found == expected && found.is_sign_negative() == expected.is_sign_negative();
                let both_nan = found.is_nan() && expected.is_nan();
                assert!(same || both_nan || *expected != 0.0 && near, "{kind:?} {name}: {y:?}");
            }
        }
    }
    Ok(())
}
