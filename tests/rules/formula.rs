//! A Function that is derived from a formula is a Function like any other.

use crate::host::Host;
use crate::rules;
use tch::Tensor;
use tch_function::formula::{Derived, Formula, Scalar};
use tch_function::{DualLevel, Function, GradOptions, Value, grad};
use test_support::{number, numbers, vector};

rules! {
    a_formula_and_its_derivatives,
    mixed_derivatives,
    a_negative_base,
}

/// `a sin(x)` of two numbers, with a parameter.
#[derive(Clone, Copy)]
struct Wave {
    speed: f64,
}

impl Formula<2> for Wave {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [a, x]: [S; 2]) -> [S; 1] {
        [a * (x * self.speed).sin()]
    }
}

fn near(found: &Tensor, expected: f64) {
    let found = number(&found.detach());
    assert!((found - expected).abs() <= 1e-14 * expected.abs(), "{found} for {expected}");
}

fn a_formula_and_its_derivatives<H: Host>() {
    let (a, x) = (H::leaf(&vector(&[2.0])), H::leaf(&vector(&[0.7])));
    let y = H::apply(Derived(Wave { speed: 3.0 }), &[&a, &x]).unwrap().remove(0);
    near(y.tensor(), 2.0 * 2.1f64.sin());
    let ones = H::constant(&vector(&[1.0]));
    let options = || GradOptions::new().seeds(&ones).create_graph(true);
    let dx = options().grad(&y, &x).unwrap().unwrap();
    near(dx.tensor(), 6.0 * 2.1f64.cos());
    let ddx = options().grad(&dx, &x).unwrap().unwrap();
    near(ddx.tensor(), -18.0 * 2.1f64.sin());
    near(grad(&ddx, &x).unwrap().tensor(), -54.0 * 2.1f64.cos());
}

fn mixed_derivatives<H: Host>() {
    let (a, x) = (H::leaf(&vector(&[2.0])), H::leaf(&vector(&[0.5, 0.7, 0.9])));
    let y = H::apply(Derived(Wave { speed: 1.0 }), &[&a, &x]).unwrap().remove(0);
    let ones = H::constant(&vector(&[1.0; 3]));
    let da = GradOptions::new().seeds(&ones).create_graph(true).grad(&y, &a).unwrap().unwrap();
    near(da.tensor(), 0.5f64.sin() + 0.7f64.sin() + 0.9f64.sin());
    let dadx = numbers(&grad(&da, &x).unwrap().tensor().detach());
    for (found, x) in dadx.into_iter().zip([0.5f64, 0.7, 0.9]) {
        assert!((found - x.cos()).abs() < 1e-14);
    }
}

/// `a^b`
#[derive(Clone, Copy)]
struct Power;

impl Formula<2> for Power {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [a, b]: [S; 2]) -> [S; 1] {
        [a.powf(b)]
    }
}

/// The derivative in the exponent is NaN there, and must not reach the others.
fn a_negative_base<H: Host>() {
    let (a, b) = (H::leaf(&vector(&[-1.5])), H::constant(&vector(&[3.0])));
    let y = H::apply(Derived(Power), &[&a, &b]).unwrap().remove(0);
    let ones = H::constant(&vector(&[1.0]));
    let options = || GradOptions::new().seeds(&ones).create_graph(true);
    let da = options().grad(&y, &a).unwrap().unwrap();
    near(da.tensor(), 3.0 * 2.25);
    let dda = options().grad(&da, &a).unwrap().unwrap();
    near(dda.tensor(), -9.0);
    near(grad(&dda, &a).unwrap().tensor(), 6.0);
}

#[test]
fn a_negative_base_in_forward_mode() {
    let level = DualLevel::enter().unwrap();
    let a = level.dual(&vector(&[-1.5]), &vector(&[2.0])).unwrap();
    let y = Derived(Power).apply((&a, &vector(&[3.0]))).unwrap();
    near(&level.tangent(&y).expect("a tangent"), 2.0 * 3.0 * 2.25);
}
