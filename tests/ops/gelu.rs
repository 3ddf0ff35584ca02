//! GeluTanh in f64 against exact values: whose the errors are that
//! `tests/fused.rs` sees between the kernel and its formula.

use anyhow::Result;
use dashu_float::{FBig, round::mode::HalfEven};
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{GradOptions, Var};

type Big = FBig<HalfEven, 2>;

const BITS: usize = 200;

fn big(x: f64) -> Big {
    Big::try_from(x).expect("a finite number").with_precision(BITS).value()
}

/// `2 sqrt(2 / pi)`, from the decimal digits of pi.
fn factor() -> Big {
    let pi = big(3_141_592_653_589_793.0) + big(0.238_462_643_383_279_5);
    let pi = pi / big(1e15);
    big(2.0) * (big(2.0) / pi).sqrt()
}

/// `y` and `dy/dx`.
fn exact(x: f64, factor: &Big) -> [Big; 2] {
    let (x, one) = (big(x), big(1.0));
    let cubic = big(44_715.0) / big(1e6);
    let square = &x * &x;
    let v = factor * &x * (&one + &cubic * &square);
    let e = (-v.clone()).exp();
    let s = &one / (&one + &e);
    let slope = factor * (&one + big(3.0) * &cubic * &square);
    [&x * &s, &s + &x * &s * (&e / (&one + &e)) * slope]
}

/// As tests/fused.rs has it.
fn formula(x: &Tensor) -> Tensor {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let s = ((x + x * x * x * 0.044715) * c * 2.0).sigmoid();
    let slope = (x * x * 0.134145 + 1.0) * c;
    &s + x * &s * (1.0 - &s) * slope * 2.0
}

/// In epsilon times `max(1, |x|)`.
fn error(found: f64, exact: &Big, x: f64) -> f64 {
    (big(found) - exact).to_f64().value().abs() / (f64::EPSILON * x.abs().max(1.0))
}

#[test]
fn values_and_slopes() -> Result<()> {
    let factor = factor();
    let x = (Tensor::arange(8001, DOUBLE_CPU) - 4000.0) / 499.7;
    let leaf = Var::leaf(&x);
    let y = leaf.gelu_tanh()?;
    let seed = Var::constant(x.ones_like());
    let dx = GradOptions::new().seeds(&seed).grad(&y, &leaf)?.expect("used");
    let list = |t: &Tensor| Vec::<f64>::try_from(t.to_kind(Kind::Double));
    let (y, dx, other) = (list(y.value())?, list(dx.value())?, list(&formula(&x))?);
    let mut worst = [(0.0, 0.0); 3];
    for (i, x) in list(&x)?.into_iter().enumerate() {
        let [y_exact, slope] = exact(x, &factor);
        let errors =
            [error(y[i], &y_exact, x), error(dx[i], &slope, x), error(other[i], &slope, x)];
        for (worst, error) in worst.iter_mut().zip(errors) {
            if error > worst.0 {
                *worst = (error, x);
            }
        }
    }
    println!(
        "y {:?}, dy/dx {:?}, of the formula in tch operators {:?}",
        worst[0], worst[1], worst[2]
    );
    assert!(worst[0].0 < 2.0 && worst[1].0 < 2.0);
    Ok(())
}

/// Where `1 + e^x` is 1, silu is `x e^x`; the limit at minus infinity is -0.
#[test]
fn silu_has_a_tail() -> anyhow::Result<()> {
    for x in [-50.0f64, -100.0, -300.0, -700.0] {
        let y = f64::try_from(Var::constant(Tensor::from(x)).silu()?.value())?;
        assert!((y / (x * x.exp()) - 1.0).abs() < 4.0 * f64::EPSILON, "{x}: {y}");
    }
    let y = Var::constant(Tensor::from(f64::NEG_INFINITY)).silu()?;
    assert_eq!(f64::try_from(y.value())?.to_bits(), (-0.0f64).to_bits());
    Ok(())
}
