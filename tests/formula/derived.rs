//! Formulas of several numbers: every check, every host, and bad input.

use super::{row, x};
use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::check::Check;
use tch_function::formula::{Derived, Formula, Scalar};
use tch_function::{Error, Function, GradOptions, Value, Var, formula, grad};
use test_support::{assert_error, number, numbers, vector};

/// Stamps formulas without parameters.
macro_rules! formulas {
    ($($F:ident<$I:literal, $O:literal>: $x:pat => $y:expr;)+) => {$(
        #[derive(Clone, Copy)]
        pub(super) struct $F;
        impl Formula<$I, $O> for $F {
            #[inline(always)]
            fn eval<S: Scalar>(&self, $x: [S; $I]) -> [S; $O] {
                $y
            }
        }
    )+};
}

formulas! {
    Product<2, 1>: [a, b] => [a * b];
    Quotient<2, 1>: [a, b] => [a / b];
    Extrema<2, 2>: [a, b] => [a.max(b), a.min(b)];
    Power<2, 1>: [a, b] => [a.powf(b)];
    Angle<2, 1>: [y, x] => [y.atan2(x)];
    Modulo<2, 1>: [a, b] => [a.remainder(b)];
    Polar<2, 2>: [r, t] => [r * t.cos(), r * t.sin()];
    Constant<1, 2>: [_] => [S::of(3.0), S::of(2.0) * 4.0];
    Five<5, 3>: [a, b, c, d, e] => [a * b + c, d.exp() * e, a * a - e];
    Eight<8, 4>: [a, b, c, d, e, f, g, h] => [a * b, c * d, e * f, g * h * a];
    Branch<2, 1>: [a, b] => {
        let inside = a.lt(b) & !(a.lt(-b) | a.eq(S::zero()));
        [S::select(inside, a * a, b)]
    };
}

formula! {
    /// `w log(1 + e^(s (x - c)))`, with a parameter.
    struct Shifted {
        center: f64,
    }
    |op, [x, w, s]| [w * (s * (x - op.center)).ln_1p_exp()]
}

formula! {
    /// Several outputs, counted, and steps between.
    #[allow(missing_copy_implementations)]
    pub(crate) struct Rotated { angle: f64 };
    |Rotated { angle }, [x, y]| -> [S; 2] {
        let (sine, cosine) = angle.sin_cos();
        [x * cosine - y * sine, x * sine + y * cosine]
    }
}

formula! {
    struct Listed;
    |_, [a, b,]| [a + b, a * b, a - b,]
}

/// `(sqrt(x^2 + 1) - 1) / x`, with a derivative of its own, and one that is wrong.
#[derive(Clone)]
struct Overridden {
    factor: f64,
}

impl Formula<1> for Overridden {
    #[inline(always)]
    fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
        [x / ((x * x + 1.0).sqrt() + 1.0)]
    }
    #[inline(always)]
    fn slopes<S: Scalar>(&self, [x]: [S; 1]) -> Option<[[S; 1]; 1]> {
        let root = (x * x + 1.0).sqrt();
        Some([[S::of(self.factor) / (root * (root + 1.0))]])
    }
}

fn column() -> Tensor {
    vector(&[0.6, -1.3]).reshape([2, 1])
}

tch_function::check_tests! {
    product => Check::new(Derived(Product), [(x(), row()), (x(), column())])
        .reference(|(a, b)| a * b);
    quotient => Check::new(Derived(Quotient), [(x(), row())]).reference(|(a, b)| a / b);
    extrema => Check::new(Derived(Extrema), [(x(), row())])
        .reference(|(a, b)| (a.maximum(b), a.minimum(b)));
    power => Check::new(Derived(Power), [(x().abs(), row())])
        .domain(tch_function::check::Domain::Positive)
        .reference(|(a, b)| a.pow(b));
    angle => Check::new(Derived(Angle), [(x(), row())]).reference(|(a, b)| a.atan2(b));
    modulo => Check::new(Derived(Modulo), [(x(), row())])
        .domain(tch_function::check::Domain::NearSamples)
        .reference(|(a, b)| a.remainder_tensor(b));
    polar => Check::new(Derived(Polar), [(x(), column())])
        .reference(|(r, t)| (r * t.cos(), r * t.sin()));
    five => Check::new(Derived(Five), [(x(), row(), column(), x() * 0.5, Tensor::from(0.3))])
        .reference(|(a, b, c, d, e)| (a * b + c, d.exp() * e, a * a - e));
    eight => Check::new(
        Derived(Eight),
        [(x(), row(), column(), x(), x(), row(), x(), Tensor::from(0.3))],
    );
    branch => Check::new(Derived(Branch), [(x(), row())])
        .domain(tch_function::check::Domain::NearSamples);
    shifted => Check::new(Derived(Shifted { center: 0.4 }), [(x(), row(), column())])
        .reference(|(x, w, s)| w * (s * (x - 0.4)).softplus());
    rotated => Check::new(Derived(Rotated { angle: 0.3 }), [(x(), row())]);
    listed => Check::new(Derived(Listed), [(x(), row())])
        .reference(|(a, b)| (a + b, a * b, a - b));
    overridden => Check::new(Derived(Overridden { factor: 1.0 }), [x()])
        .reference(|x| x / ((x * x + 1.0).sqrt() + 1.0));
}

#[test]
fn an_overridden_derivative_is_used_everywhere() -> Result<()> {
    let (right, wrong) = (Derived(Overridden { factor: 1.0 }), Derived(Overridden { factor: 3.0 }));
    let x = vector(&[0.7]).set_requires_grad(true);
    let dx = |f: Derived<Overridden>| -> Result<Vec<f64>> {
        let y = f.apply(&x)?;
        let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.expect("used");
        let ddx = GradOptions::new().create_graph(true).grad(&dx, &x)?.expect("used");
        let third = grad(&ddx, &x)?;
        Ok([&y, &dx, &ddx, &third].map(|t| number(&t.detach())).to_vec())
    };
    let (right, wrong) = (dx(right)?, dx(wrong)?);
    assert_eq!(right[0], wrong[0]);
    for (right, wrong) in right.iter().zip(&wrong).skip(1) {
        assert!((3.0 * right - wrong).abs() < 1e-12, "{right} {wrong}");
    }
    Ok(())
}

/// Plain, recorded, and by each engine: the same bits.
#[test]
fn every_way_gives_the_same_numbers() -> Result<()> {
    let values: Vec<f64> = (-40..40).map(|i| f64::from(i) * 0.173).collect();
    for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
        let t = Tensor::from_slice(&values).to_kind(kind);
        let seed = t.cos();
        let f = || Derived(Shifted { center: 0.4 });
        let (w, s) = (t.sin(), t.ones_like() * 1.3);
        let on_tensors = |recorded: bool| -> Result<Tensor> {
            let x = t.detach().set_requires_grad(true);
            let y = f().apply((&x, &w, &s))?;
            let options = GradOptions::new().seeds(&seed).create_graph(recorded);
            Ok(options.grad(&y, &x)?.expect("used").detach())
        };
        let x = Var::leaf(&t);
        let y = f().apply((&x, &Var::constant(&w), &Var::constant(&s)))?;
        let seeds = Var::constant(&seed);
        let options = GradOptions::new().seeds(&seeds).create_graph(true);
        let on_vars = options.grad(&y, &x)?.expect("used");
        let plain = on_tensors(false)?;
        assert_eq!(plain, on_tensors(true)?, "{kind:?}");
        assert_eq!(&plain, on_vars.tensor(), "{kind:?}");
        // The tangent of each element is that of its gradient's kernel.
        let level = tch_function::DualLevel::enter()?;
        let dual = level.dual(&t, &seed)?;
        let tangent = level.tangent(&f().apply((&dual, &w, &s))?);
        assert_eq!(plain, tangent.expect("a tangent"), "{kind:?}");
    }
    Ok(())
}

#[test]
fn constants_and_unused_inputs() -> Result<()> {
    let x = Var::leaf(x());
    let (three, eight) = Derived(Constant).apply(&x)?;
    assert_eq!(three.value(), &(x.value().zeros_like() + 3.0));
    assert_eq!(numbers(eight.value()), [8.0; 6]);
    let dx = grad(&(&three + &eight).sum()?, &x)?;
    assert_eq!(numbers(dx.value()), [0.0; 6]);
    Ok(())
}

/// A second derivative that no input moves is `None`, as in PyTorch, and not zeros.
#[test]
fn what_is_zero_everywhere_is_unused() -> Result<()> {
    let (options, all) = (GradOptions::new().create_graph(true), GradOptions::new());
    let all = all.allow_unused(true).retain_graph(true);
    let [a, b] = [0.7, -1.3].map(|x| vector(&[x]).set_requires_grad(true));
    let da = options.grad(&Derived(Product).apply((&a, &b))?, &a)?.expect("used");
    let second = all.grad(&da, [&a, &b])?;
    assert!(second[0].is_none() && number(second[1].as_ref().expect("used")) == 1.0);
    let (sum, product, _) = Derived(Listed).apply((&a, &b))?;
    let db = options.grad(&(sum + product), &b)?.expect("used");
    let second = all.grad(&db, [&a, &b])?;
    assert!(second[1].is_none() && number(second[0].as_ref().expect("used")) == 1.0);
    Ok(())
}

/// As libtorch promotes them; gradients come back in the inputs' dtypes.
#[test]
fn dtypes_are_promoted() -> Result<()> {
    let double = Tensor::from_slice(&[1.0, 2.0]);
    let kinds = [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double, Kind::Int64, Kind::Bool];
    for (a, b) in kinds.iter().flat_map(|&a| kinds.map(|b| (a, b))) {
        for scalar in [false, true] {
            let x = double.to_kind(a);
            let z = if scalar { Tensor::from(3.0).to_kind(b) } else { double.to_kind(b) };
            let expected = (&x * &z).kind();
            let floating = |k: Kind| !matches!(k, Kind::Int64 | Kind::Bool);
            let expected = if floating(expected) { expected } else { Kind::Float };
            let x = if floating(a) { x.set_requires_grad(true) } else { x };
            let y = Derived(Product).apply((&x, &z))?;
            assert_eq!(y.kind(), expected, "{a:?} {b:?} {scalar}");
            if floating(a) {
                assert_eq!(grad(&y.sum(None::<Kind>), &x)?.kind(), a);
            }
        }
    }
    Ok(())
}

#[test]
fn bad_input_is_named() {
    let x = vector(&[1.0, 2.0]);
    assert_error!(
        Derived(Product).apply((&x, &vector(&[1.0, 2.0, 3.0]))),
        Error::Forward { op: "Product", .. },
        "[2]",
        "[3]",
        "broadcast"
    );
    assert_error!(
        Derived(Product).apply((&x, &x.to_kind(Kind::ComplexDouble))),
        Error::Argument { op: "Product", .. },
        "input 1",
        "real numbers"
    );
    assert_error!(
        Derived(Product).apply((&x, &Tensor::new())),
        Error::Undefined { op: "Product", .. },
        "input 1"
    );
    #[derive(Clone)]
    struct Panics;
    impl Formula<1> for Panics {
        fn eval<S: Scalar>(&self, _: [S; 1]) -> [S; 1] {
            panic!("not today")
        }
    }
    assert_error!(Derived(Panics).apply(&x), Error::Panic { op: "Panics", .. }, "not today");
}
