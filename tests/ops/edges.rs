//! Ops that are formulas at the ends of their range, beside libtorch's own ops: infinite
//! gradients, zeros of both signs, numbers that a dtype does not hold, and tensors that could be
//! handed on.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::formula::Derived;
use tch_function::{DualLevel, Function, GradOptions, formula, grad, ops};
use test_support::{number, numbers, vector};

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

/// Enters forward mode, of which libtorch has one level for all threads.
pub(super) fn forward_mode() -> DualLevel {
    loop {
        match DualLevel::enter() {
            Ok(level) => return level,
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
}

/// Asserts that two tensors have the same dtype and numbers, which include NaN and the sign of 0;
/// others may differ by some units in the last place.
fn assert_alike(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.kind(), expected.kind(), "{what}");
    let (f, e) = (numbers(&found.to_kind(Kind::Double)), numbers(&expected.to_kind(Kind::Double)));
    for (a, b) in f.iter().zip(&e) {
        let same = a == b && a.is_sign_negative() == b.is_sign_negative();
        let near = a.is_finite() && b.is_finite() && (a - b).abs() <= 1e-6 * b.abs();
        assert!(same || near && *b != 0.0 || a.is_nan() && b.is_nan(), "{what}: {f:?} {e:?}");
    }
}

/// The gradients of `x` for the seed `dy`: plain, and recorded.
fn gradients(y: &Tensor, x: &[&Tensor], dy: &Tensor) -> Result<Vec<Tensor>> {
    let options = || GradOptions::new().retain_graph(true).seeds(dy);
    let plain = options().grad(y, x)?;
    let recorded = options().create_graph(true).grad(y, x)?;
    Ok(plain.into_iter().chain(recorded).map(|dx| dx.expect("used").detach()).collect())
}

fn leaf(values: &[f64], kind: Kind) -> Tensor {
    Tensor::from_slice(values).to_kind(kind).set_requires_grad(true)
}

/// A gradient that is not wanted at a place is 0 there, and not the product of 0 and infinity.
#[test]
fn what_is_not_taken_has_no_gradient() -> Result<()> {
    formula! {
        struct Taken;
        |_, [x]| [x.relu() + x.max(S::zero()) + S::select(x.gt(S::zero()), x, S::zero())]
    }
    for kind in [Kind::Double, Kind::Float, Kind::Half] {
        for dy in [INF, -INF, NAN, 2.0] {
            let (x, zero) =
                (leaf(&[-1.0, 3.0, NAN], kind), Tensor::zeros([3], (kind, tch::Device::Cpu)));
            let dy = Tensor::from_slice(&[dy; 3]).to_kind(kind);
            let theirs: [(&str, Tensor, Tensor); 4] = [
                ("relu", ops::Relu.apply(&x)?, x.relu()),
                ("max", ops::Maximum.apply((&x, &zero))?, x.maximum(&zero)),
                ("min", ops::Minimum.apply((&x, &zero))?, x.minimum(&zero)),
                ("formula", Derived(Taken).apply(&x)?, x.relu() + x.relu() + x.relu()),
            ];
            for (name, ours, theirs) in theirs {
                let expected = gradients(&theirs, &[&x], &dy)?;
                for (found, expected) in gradients(&ours, &[&x], &dy)?.iter().zip(&expected) {
                    let most = if name == "formula" { 2 } else { 3 };
                    let what = format!("{name} {kind:?} {dy}");
                    assert_alike(&found.narrow(0, 0, most), &expected.narrow(0, 0, most), &what);
                }
            }
        }
    }
    let x = vector(&[-1.0]).set_requires_grad(true);
    assert_eq!(number(&grad(&ops::Sqrt.apply(&ops::Relu.apply(&x)?)?, &x)?), 0.0);
    Ok(())
}

/// The dtype of a product with 1 is libtorch's, and the tensor is a new one.
#[test]
fn an_output_is_a_tensor_of_its_own() -> Result<()> {
    formula! {
        struct Twice;
        |_, [x]| [x, x]
    }
    let kinds = [
        Kind::Double,
        Kind::Float,
        Kind::Half,
        Kind::BFloat16,
        Kind::Int64,
        Kind::Uint8,
        Kind::Bool,
        Kind::ComplexFloat,
    ];
    for kind in kinds {
        let x = Tensor::from_slice(&[1.0, 0.0]).to_kind(kind);
        let theirs = [&x * 1.0, &x / 1.0, &x + 0.0];
        let ours = [
            ops::MulScalar { c: 1.0 }.apply(&x)?,
            ops::DivScalar { c: 1.0 }.apply(&x)?,
            ops::AddScalar { c: 0.0 }.apply(&x)?,
        ];
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!((ours.kind(), ours), (theirs.kind(), theirs), "{kind:?}");
            assert_ne!(ours.data_ptr(), x.data_ptr(), "{kind:?}");
        }
    }
    for kind in [Kind::Double, Kind::Float, Kind::Half] {
        let level = forward_mode();
        let x = Tensor::from_slice(&[1.0, 0.0]).to_kind(kind);
        let dual = level.dual(&x, &x)?;
        let (a, b) = Derived(Twice).apply(&dual)?;
        assert_eq!(numbers(&level.tangent(&(a + b)).expect("dual")), [2.0, 0.0]);
        let y = ops::MulScalar { c: 1.0 }.apply(&dual)?;
        assert_eq!(numbers(&level.tangent(&y).expect("dual")), [1.0, 0.0]);
        drop(level);
        let x = x.set_requires_grad(true);
        let (a, b) = Derived(Twice).apply(&x)?;
        assert_ne!(a.data_ptr(), b.data_ptr());
        assert_eq!(numbers(&grad(&(&a + &b * 2.0).sum(kind), &x)?), [3.0, 3.0]);
    }
    Ok(())
}

/// Numbers beside tensors, and those that f32 does not hold.
#[test]
fn numbers_of_every_size() -> Result<()> {
    let numbers =
        [0.1, -0.1, 3.3, 1e-46, 1e39, -1e39, f64::MAX, INF, -INF, NAN, 1.0, 0.0, -0.0, 1e-30];
    let x = [0.0, -0.0, 1.0, -7.5, 1e-45, -1e-45, 1e-30, 3e38, -3e38, INF, -INF, NAN];
    for kind in [Kind::Float, Kind::Double] {
        let x = Tensor::from_slice(&x).to_kind(kind);
        for c in numbers {
            let what = |op: &str| format!("{op} {c} {kind:?} of {x:?}");
            let exact = |f: &dyn Fn(&Tensor) -> Tensor| f(&x.to_kind(Kind::Double)).to_kind(kind);
            let near = f64::from(c as f32);
            let is_held = kind == Kind::Double || near.is_finite();
            // Where the dtype holds the number about, the right value is that of f64, rounded.
            let right = |f: &dyn Fn(&Tensor) -> Tensor| if is_held { exact(f) } else { f(&x) };
            let add = ops::AddScalar { c }.apply(&x)?;
            assert_alike(&add, &right(&|x| x + c), &what("add"));
            assert_alike(
                &ops::ScalarSub { c }.apply(&x)?,
                &right(&|x| Tensor::from(c) - x),
                &what("c - x"),
            );
            if kind == Kind::Double || near.is_finite() && (near != 0.0 || c == 0.0) {
                let close = |found: Tensor, f: &dyn Fn(&Tensor) -> Tensor, op: &str| {
                    let (found, expected) =
                        (found.to_kind(Kind::Double), exact(f).to_kind(Kind::Double));
                    // Subnormal results have fewer digits.
                    let normal = expected.abs().ge(1e-37).logical_or(&expected.isnan());
                    let [found, expected] = [found, expected].map(|t| t.masked_select(&normal));
                    assert_alike(&found, &expected, &what(op));
                };
                // The sign of zeros, of which no product with a finite number is anything else.
                let product = ops::MulScalar { c }.apply(&x)?.masked_select(&x.eq(0.0));
                if c.is_finite() {
                    let theirs = (&x * c).masked_select(&x.eq(0.0));
                    assert_alike(&product, &theirs, &what("0 c"));
                }
                close(ops::MulScalar { c }.apply(&x)?, &|x| x * c, "mul");
                close(ops::DivScalar { c }.apply(&x)?, &|x| x / c, "div");
                close(ops::ScalarDiv { c }.apply(&x)?, &|x| Tensor::from(c) / x, "c / x");
            }
        }
    }
    Ok(())
}

/// `v` is 0 at a place: as a function of `v` the product is not.
#[test]
fn a_direction_of_zero_has_derivatives() -> Result<()> {
    formula! {
        struct Square;
        |_, [x]| [x * x]
    }
    let [x, w, v] = [3.0, 1.0, 0.0].map(|x| vector(&[x]).set_requires_grad(true));
    let recorded = || GradOptions::new().create_graph(true);
    let dx = recorded().grad(&(&w * Derived(Square).apply(&x)?), &x)?.expect("used");
    let dw = recorded().grad(&(dx * &v), &w)?.expect("used");
    assert_eq!(number(&grad(&dw, &v)?), 6.0);
    Ok(())
}

/// Gradients that fit the dtype, although a number on the way may not.
#[test]
fn nothing_overflows_on_the_way() -> Result<()> {
    let [a, b] = [[1e30, 1e-30], [1e10, 1e-10]].map(|x| leaf(&x, Kind::Float));
    let dy = Tensor::from_slice(&[1e20f32, 1e-25]);
    let found = gradients(&ops::Div.apply((&a, &b))?, &[&a, &b], &dy)?;
    for (found, expected) in found.iter().zip([[1e10, 1e-15], [-1e30, -1e-35]].iter().cycle()) {
        assert_alike(found, &Tensor::from_slice(expected).to_kind(Kind::Float), "div");
    }
    let x = leaf(&[1e-39, 2e-39], Kind::Float);
    let dy = Tensor::from_slice(&[1e-10f32, 1e-5]);
    let exact = (dy.to_kind(Kind::Double) / x.detach().to_kind(Kind::Double)).to_kind(Kind::Float);
    for found in gradients(&ops::Log.apply(&x)?, &[&x], &dy)? {
        assert_alike(&found, &exact, "log");
    }
    let far = leaf(&[1.0], Kind::Float);
    let huber = ops::HuberLoss::default()
        .apply((&far.expand([4], false), &Tensor::zeros([4], (Kind::Float, tch::Device::Cpu))))?;
    for found in gradients(&huber, &[&far], &Tensor::from(2e38f32))? {
        assert_alike(&found, &Tensor::from_slice(&[2e38f32]), "huber");
    }
    Ok(())
}

#[test]
fn complex_numbers_of_large_real_parts() -> Result<()> {
    for (kind, part) in [(Kind::Float, Kind::ComplexFloat), (Kind::Double, Kind::ComplexDouble)] {
        let real =
            Tensor::from_slice(&[50.0, -50.0, 95.0, -95.0, 400.0, -400.0, 0.3]).to_kind(kind);
        let x = Tensor::complex(&real, &(&real * 0.0 + 1.0)).set_requires_grad(true);
        assert_eq!(x.kind(), part);
        let dy = x.detach() * 0.0 + 1.0;
        for (ours, theirs) in
            [(ops::Tanh.apply(&x)?, x.tanh()), (ops::Sigmoid.apply(&x)?, x.sigmoid())]
        {
            let expected = gradients(&theirs, &[&x], &dy)?;
            for (found, expected) in gradients(&ours, &[&x], &dy)?.iter().zip(&expected) {
                let off = (found - expected).abs().nan_to_num(1e9, 1e9, 1e9);
                let off = off.where_self(&expected.isfinite(), &Tensor::from(0f32)).max();
                assert!(number(&off.to_kind(Kind::Double)) < 1e-6, "{found} {expected}");
            }
        }
        // Of a complex exponent only its own gradient is refused.
        let y = ops::Pow.apply((&x, &x.detach()))?;
        let (found, expected) =
            (grad(&y.real().sum(kind), &x)?, grad(&x.pow(&x.detach()).real().sum(kind), &x)?);
        assert!(found.narrow(0, 6, 1).allclose(&expected.narrow(0, 6, 1), 1e-4, 1e-6, false));
    }
    Ok(())
}

/// Mixed dtypes in forward mode, and beside tensors of one number.
#[test]
fn mixed_dtypes() -> Result<()> {
    formula! {
        struct Product;
        |_, [a, b]| [a * b]
    }
    for (one, other) in [(Kind::Float, Kind::Double), (Kind::Half, Kind::Float)] {
        for (one, other) in [(one, other), (other, one)] {
            let level = forward_mode();
            let [a, b] = [one, other].map(|kind| Tensor::from_slice(&[0.5, 2.0]).to_kind(kind));
            let (a, b) = (level.dual(&a, &a)?, level.dual(&b, &b)?);
            for y in [Derived(Product).apply((&a, &b))?, ops::Mul.apply((&a, &b))?] {
                assert_alike(
                    &level.tangent(&y).expect("dual"),
                    &level.tangent(&(&a * &b)).expect("dual"),
                    "product",
                );
            }
            let loss = ops::HuberLoss::default().apply((&a, &b))?;
            assert_eq!(number(&level.tangent(&loss).expect("dual").to_kind(Kind::Double)), 0.0);
        }
    }
    for kind in [Kind::Half, Kind::BFloat16] {
        let x = leaf(&[3.0, 7.0, -0.3], kind);
        let (c, dy) = (Tensor::from(0.1), x.detach());
        let pairs = [
            (ops::Mul.apply((&x, &c))?, &x * &c),
            (ops::Add.apply((&x, &c))?, &x + &c),
            (ops::Sub.apply((&c, &x))?, &c - &x),
            (ops::Div.apply((&x, &c))?, &x / &c),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
            let expected = gradients(&theirs, &[&x], &dy)?;
            assert_eq!(gradients(&ours, &[&x], &dy)?, expected);
        }
    }
    Ok(())
}

/// The derivative of `a^b` in `b` is NaN at a negative `a`; whoever does not move `b` does not
/// meet it, also forward over reverse.
#[test]
fn an_input_that_does_not_move_adds_nothing() -> Result<()> {
    formula! {
        struct Power;
        |_, [a, b]| [a.powf(b)]
    }
    let level = forward_mode();
    let (a, b) = (leaf(&[-2.0], Kind::Double), vector(&[3.0]));
    let dual = level.dual(&a, &vector(&[1.0]))?;
    let y = Derived(Power).apply((&dual, &b))?;
    let da = GradOptions::new().create_graph(true).grad(&y, &dual)?.expect("used");
    assert_eq!(number(&da.detach()), 12.0);
    assert_eq!(number(&level.tangent(&da).expect("dual").detach()), -12.0);
    Ok(())
}
