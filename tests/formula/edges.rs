//! Where formulas are easily wrong: unused outputs, slopes of the author's own, points without a
//! direction, forgotten branches.

use super::derived::Angle;
use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::formula::{Derived, Formula, Scalar};
use tch_function::{Error, Function, GradOptions, Var, grad};
use test_support::{assert_error, number, numbers, vector};

/// An output that nobody uses adds nothing to a gradient, also where its derivative is infinite
/// or NaN: the gradients are those of a formula without it.
#[test]
fn an_unused_output_adds_nothing() -> Result<()> {
    formulas! {
        Root<1, 2>: [x] => [x.sqrt(), x * x];
        Logarithm<1, 3>: [x] => [S::one() / x, x.ln(), x.cbrt() + x * x];
        Square<1, 1>: [x] => [x * x];
        CubeRoot<1, 1>: [x] => [x.cbrt() + x * x];
        Powers<2, 2>: [a, b] => [a.powf(b), a * b];
    }
    let values = [-2.0, -1.0, 0.0, 4.0, f64::INFINITY];
    let gradients = |y: &Tensor, x: &Tensor| -> Result<[Vec<f64>; 3]> {
        let recorded = GradOptions::new().create_graph(true).retain_graph(true);
        let dx = recorded.grad(&y.sum(Kind::Double), x)?.expect("used");
        let ddx = recorded.grad(&dx.sum(Kind::Double), x)?.expect("used");
        let plain = grad(&y.sum(Kind::Double), x)?;
        Ok([plain, dx.detach(), ddx.detach()].map(|t| numbers(&t)))
    };
    let same = |found: [Vec<f64>; 3], expected: [Vec<f64>; 3]| {
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{found} {expected}");
        }
    };
    let x = vector(&values).set_requires_grad(true);
    same(gradients(&Derived(Root).apply(&x)?.1, &x)?, gradients(&Derived(Square).apply(&x)?, &x)?);
    same(
        gradients(&Derived(Logarithm).apply(&x)?.2, &x)?,
        gradients(&Derived(CubeRoot).apply(&x)?, &x)?,
    );
    let (a, b) = (Var::leaf(vector(&[-2.0, 0.0])), Var::leaf(vector(&[0.5, -1.0])));
    let (_, product) = Derived(Powers).apply((&a, &b))?;
    let [da, db] = grad(&product.sum()?, [&a, &b])?;
    assert_eq!([numbers(da.value()), numbers(db.value())], [vec![0.5, -1.0], vec![-2.0, 0.0]]);
    Ok(())
}

/// `slopes` may be other functions than the derivatives, and then second derivatives are
/// theirs, by kernel, on tensors and in forward mode.
#[test]
fn surrogate_slopes_are_differentiated_as_they_stand() -> Result<()> {
    #[derive(Clone)]
    struct Surrogate;
    impl Formula<2> for Surrogate {
        #[inline(always)]
        fn eval<S: Scalar>(&self, [x, y]: [S; 2]) -> [S; 1] {
            [x * y]
        }
        #[inline(always)]
        fn slopes<S: Scalar>(&self, [x, y]: [S; 2]) -> Option<[[S; 2]; 1]> {
            Some([[y * y * 2.0, x * x * y]])
        }
    }
    let [x, y] = [2.0, 3.0].map(|t| vector(&[t]).set_requires_grad(true));
    let recorded = GradOptions::new().create_graph(true).retain_graph(true).allow_unused(true);
    let z = Derived(Surrogate).apply((&x, &y))?;
    let slopes = recorded.grad(&z, [&x, &y])?.map(|t| t.expect("used"));
    assert_eq!(slopes.each_ref().map(|t| number(&t.detach())), [18.0, 12.0]);
    let second = |of: &Tensor| -> Result<[Option<f64>; 2]> {
        Ok(recorded.grad(of, [&x, &y])?.map(|t| t.map(|t| number(&t.detach()))))
    };
    let or_zero = |second: [Option<f64>; 2]| second.map(|t| t.unwrap_or(0.0));
    // Of 2 y^2 and of x^2 y, and of a sum of both, which is another kernel.
    assert_eq!(or_zero(second(&slopes[0])?), [0.0, 12.0]);
    assert_eq!(or_zero(second(&slopes[1])?), [12.0, 4.0]);
    assert_eq!(second(&(&slopes[0] * 10.0 + &slopes[1]))?, [Some(12.0), Some(124.0)]);
    Ok(())
}

/// Derivatives where libtorch chose 0.
#[test]
fn derivatives_of_no_direction_are_zero() -> Result<()> {
    formulas! {
        Between<1, 1>: [x] => [x.clamp(-1.0, 2.0)];
        Crossed<1, 1>: [x] => [x.clamp(2.0, 1.0)];
    }
    for (a, b) in [(0.0, 0.0), (0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0)] {
        let [ours, theirs] = [true, false].map(|ours| {
            let [a, b] = [a, b].map(|t| vector(&[t]).set_requires_grad(true));
            let y = if ours { Derived(Angle).apply((&a, &b)).expect("plain") } else { a.atan2(&b) };
            let [da, db] = grad(&y, [&a, &b]).expect("used");
            [y.detach(), da, db].map(|t| number(&t))
        });
        assert_eq!(ours, theirs, "{a} {b}");
    }
    let x = vector(&[f64::NAN, -1.0, 2.0, -3.0, 7.0, f64::INFINITY]).set_requires_grad(true);
    let y = Derived(Between).apply(&x)?;
    assert!(number(&y.detach().get(0)).is_nan());
    assert_eq!(numbers(&y.detach().slice(0, 1, None, 1)), [-1.0, 2.0, -1.0, 2.0, 2.0]);
    assert_eq!(numbers(&grad(&y.sum(Kind::Double), &x)?), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    let crossed = Derived(Crossed).apply(&vector(&[0.0, 1.0, 1.5, 3.0]))?;
    assert_eq!(numbers(&crossed), [1.0; 4]);
    Ok(())
}

/// A mask that reaches no `select` is an error at the call, also one among others, or beside a
/// constant; one that does is none, also where a constant or a parameter decides.
#[test]
#[allow(unused_must_use)]
fn a_comparison_that_takes_no_branch_is_named() -> Result<()> {
    formulas! {
        Alone<1, 1>: [x] => { x.lt(S::zero()); [x] };
        Second<2, 2>: [a, b] => {
            let y = S::select(a.le(b), a, b);
            let _mask = (a * 2.0).exp().eq(y) | !S::zero().ge(b);
            [y, a]
        };
        Inner<1, 1>: [x] => [S::select(x.lt(S::one()) & (x.gt(S::zero()) | x.eq(x)), x, x)];
        Settled<1, 1>: [x] => {
            let masks = S::zero().lt(S::one()) | x.lt(S::zero()) & S::one().lt(S::zero());
            [S::select(masks, S::zero(), S::zero()) + x.max(S::zero()).clamp(0.0, 1.0).relu()]
        };
        Many<1, 1>: [x] => [(0..100).fold(x, |y, i| S::select(y.gt(S::of(f64::from(i))), y, x))];
    }
    let x = vector(&[0.5, 2.0]);
    assert_error!(
        Derived(Alone).apply(&x),
        Error::Argument { op: "Alone", .. },
        "comparison 0",
        "select"
    );
    let [a, b] = [Var::leaf(x.copy()), Var::leaf(x.copy())];
    assert_error!(
        Derived(Second).apply((&a, &b)),
        Error::Argument { op: "Second", .. },
        "comparison 1"
    );
    Derived(Inner).apply(&x)?;
    Derived(Settled).apply(&x)?;
    Derived(Many).apply(&x)?;
    Ok(())
}
