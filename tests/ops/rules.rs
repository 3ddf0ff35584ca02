//! Kinks, shapes, dtypes, and what operators refuse and save.

use anyhow::{Context, Result};
use tch::{Kind, Reduction, Tensor, kind::DOUBLE_CPU};
use tch_function::{Error, Function, Var, grad, gradcheck_fn, ops};
use test_support::compare::{
    ANY, Ours, Random, Theirs, assert_close, assert_same, ours, theirs, tolerance,
};

/// `1 / a` overflows for a subnormal `a`, and `b` is 0.
#[test]
fn a_subnormal_base_to_the_power_of_0() -> Result<()> {
    for (kind, a) in [(Kind::Double, 1e-310), (Kind::Float, 1e-40), (Kind::Half, 1e-5)] {
        let a = Var::leaf(Tensor::from_slice(&[a, -a]).to_kind(kind));
        let b = Var::constant(Tensor::zeros([2], (kind, tch::Device::Cpu)));
        let da = grad(&a.pow(&b)?.sum()?, &a)?;
        assert_eq!(Vec::<f64>::try_from(da.value().to_kind(Kind::Double))?, [0.0, 0.0]);
    }
    Ok(())
}

/// At kinks, poles and the like, where only libtorch can say what is meant:
/// the same values and gradients, to the last bit but for rounding.
#[test]
fn kinks() -> Result<()> {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    let line = || Tensor::from_slice(&[-inf, -2.0, -0.0, 0.0, 1.0, inf, nan]);
    // Every pair, unbroadcast: a NaN would spread in the sum over a row.
    let pairs = |a: Tensor, b: Tensor| {
        let pairs = Tensor::broadcast_tensors(&[a.reshape([-1, 1]), b]);
        pairs.iter().map(Tensor::copy).collect::<Vec<_>>()
    };
    let exponents =
        || Tensor::from_slice(&[-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, inf, nan]);
    let ties =
        || Tensor::from_slice(&[1.0, 3.0, 3.0, 3.0, 2.0, 3.0, nan, 1.0, 5.0]).reshape([3, 3]);
    let closed =
        || Tensor::from_slice(&[-inf, 1.0, -inf, -inf, inf, 1.0, nan, 1.0]).reshape([4, 2]);
    let none = || Tensor::zeros([0], DOUBLE_CPU);
    let wide = || Tensor::from_slice(&[-800.0, -40.0, -1e-300, 1e-300, 40.0, 800.0]);

    let kinks: &[(&str, Ours, Theirs, Vec<Tensor>)] = &[
        ("relu", |x| x[0].relu(), |x| x[0].relu(), vec![line()]),
        ("abs", |x| x[0].abs(), |x| x[0].abs(), vec![line()]),
        ("sqrt", |x| x[0].sqrt(), |x| x[0].sqrt(), vec![line()]),
        ("log", |x| x[0].log(), |x| x[0].log(), vec![line()]),
        ("exp", |x| x[0].exp(), |x| x[0].exp(), vec![wide()]),
        ("tanh", |x| x[0].tanh(), |x| x[0].tanh(), vec![line()]),
        ("sigmoid", |x| x[0].sigmoid(), |x| x[0].sigmoid(), vec![wide()]),
        ("mul", |x| Ok(&x[0] * &x[1]), |x| &x[0] * &x[1], pairs(line(), line())),
        ("div", |x| Ok(&x[0] / &x[1]), |x| &x[0] / &x[1], pairs(line(), line())),
        ("1 / x", |x| Ok(1.0 / &x[0]), |x| 1.0 / &x[0], vec![line()]),
        ("pow", |x| x[0].pow(&x[1]), |x| x[0].pow(&x[1]), pairs(line(), exponents())),
        ("x^0", |x| x[0].pow_scalar(0.0), |x| x[0].pow_tensor_scalar(0.0), vec![line()]),
        ("x^0.5", |x| x[0].pow_scalar(0.5), |x| x[0].pow_tensor_scalar(0.5), vec![line()]),
        ("x^1", |x| x[0].pow_scalar(1.0), |x| x[0].pow_tensor_scalar(1.0), vec![line()]),
        ("x^2", |x| x[0].pow_scalar(2.0), |x| x[0].pow_tensor_scalar(2.0), vec![line()]),
        ("x^-1", |x| x[0].pow_scalar(-1.0), |x| x[0].pow_tensor_scalar(-1.0), vec![line()]),
        ("maximum", |x| x[0].maximum(&x[1]), |x| x[0].maximum(&x[1]), pairs(line(), line())),
        ("minimum", |x| x[0].minimum(&x[1]), |x| x[0].minimum(&x[1]), pairs(line(), line())),
        ("maximum of one", |x| x[0].maximum(&x[0]), |x| x[0].maximum(&x[0]), vec![line()]),
        ("amax", |x| x[0].amax(&[1], false), |x| x[0].amax(1, false), vec![ties()]),
        ("amin", |x| x[0].amin(&[0], true), |x| x[0].amin(0, true), vec![ties()]),
        (
            "amax of all",
            |x| x[0].amax(&[], false),
            |x| x[0].amax([0i64; 0].as_slice(), false),
            vec![ties()],
        ),
        ("max_dim", |x| Ok(x[0].max_dim(1, false)?.0), |x| x[0].max_dim(1, false).0, vec![ties()]),
        ("min_dim", |x| Ok(x[0].min_dim(0, true)?.0), |x| x[0].min_dim(0, true).0, vec![ties()]),
        ("softmax", |x| x[0].softmax(1), |x| x[0].softmax(1, None), vec![closed()]),
        ("log_softmax", |x| x[0].log_softmax(1), |x| x[0].log_softmax(1, None), vec![closed()]),
        ("mean of none", |x| x[0].mean(), |x| x[0].mean(None), vec![none()]),
        ("sum of none", |x| x[0].sum(), |x| x[0].sum(None), vec![none()]),
        (
            // Not the NaN that is not taken.
            "where",
            |x| x[0].log()?.where_self(&x[0].gt(&x[1])?, &x[1]),
            |x| x[0].log().where_self(&x[0].gt_tensor(&x[1]), &x[1]),
            vec![line(), line() * 0.0],
        ),
    ];
    for (name, f, g, x) in kinks {
        for kind in [Kind::Double, Kind::Float] {
            let x: Vec<Tensor> = x.iter().map(|x| x.to_kind(kind)).collect();
            let wanted = vec![true; x.len()];
            let (found, expected) = (ours(*f, &x, &wanted, None)?, theirs(*g, &x, &wanted, None));
            assert_same(&found, &expected, tolerance(kind))
                .with_context(|| format!("{name} {x:?}"))?;
        }
    }
    Ok(())
}

/// Scalars have no dimension 0, and libtorch lets 0 and -1 name it.
#[test]
fn dimensions_of_a_scalar() -> Result<()> {
    let cases: &[(Ours, Theirs)] = &[
        (|x| x[0].sum_dim(&[0], false), |x| x[0].sum_dim_intlist(0, false, None)),
        (|x| x[0].mean_dim(&[-1], true), |x| x[0].mean_dim(-1, true, None)),
        (|x| x[0].amax(&[-1], false), |x| x[0].amax(-1, false)),
        (|x| Ok(x[0].max_dim(0, false)?.0), |x| x[0].max_dim(0, false).0),
        (|x| Ok(x[0].min_dim(-1, true)?.0), |x| x[0].min_dim(-1, true).0),
        (
            |x| x[0].index_select(0, &Var::constant(Tensor::from_slice(&[0i64]))),
            |x| x[0].index_select(0, &Tensor::from_slice(&[0i64])),
        ),
        (
            |x| x[0].gather(0, &Var::constant(Tensor::from(0i64))),
            |x| x[0].gather(0, &Tensor::from(0i64), false),
        ),
        (
            |x| x[0].gather(0, &Var::constant(Tensor::from_slice(&[0i64, 0]))),
            |x| x[0].gather(0, &Tensor::from_slice(&[0i64, 0]), false),
        ),
        (|x| x[0].transpose(0, -1), |x| x[0].transpose(0, -1)),
    ];
    for (i, (f, g)) in cases.iter().enumerate() {
        let x = [Tensor::from(1.5)];
        let (found, expected) = (ours(*f, &x, &[true], None)?, theirs(*g, &x, &[true], None));
        assert_same(&found, &expected, 0.0).with_context(|| format!("case {i}"))?;
    }
    Ok(())
}

#[test]
fn cross_entropy_takes_every_shape_and_leaves_targets_out() -> Result<()> {
    fn check(x: &[i64], targets: Tensor) -> Result<()> {
        let x = Random::new("cross_entropy").tensor(x, ANY);
        let leaf = Var::leaf(&x);
        let y = leaf.cross_entropy(&Var::constant(&targets))?;
        let theirs = x.detach().set_requires_grad(true);
        let loss = theirs.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Mean, -100, 0.0);
        loss.backward();
        assert_close(y.value(), &loss.detach(), 1e-14)?;
        assert_close(grad(&y, &leaf)?.value(), &theirs.grad(), 1e-14)
    }
    check(&[3], Tensor::from(1i64))?;
    check(&[2, 3], Tensor::from_slice(&[2i64, 0]))?;
    check(&[2, 3], Tensor::from_slice(&[2u8, 0]))?;
    check(&[2, 3], Tensor::from_slice(&[-100i64, 1]))?;
    check(&[2, 3], Tensor::from_slice(&[-100i64, -100]))?;
    check(&[1, 3, 2, 2], Tensor::from_slice(&[0i64, 1, -100, 2]).reshape([1, 2, 2]))?;
    check(&[2, 3, 2], Tensor::from_slice(&[0i64, 1, 1, 2]).reshape([2, 2]))
}

#[test]
fn max_gives_indices_too() -> Result<()> {
    let x = Var::leaf(Tensor::from_slice(&[1.0, 5.0, 3.0, 4.0, 0.0, 4.0]).reshape([2, 3]));
    for ((values, indices), expected) in [
        (x.max_dim(1, false)?, x.value().max_dim(1, false)),
        (x.min_dim(0, true)?, x.value().min_dim(0, true)),
    ] {
        assert_eq!((values.value(), indices.value()), (&expected.0, &expected.1));
        assert!(values.requires_grad() && !indices.requires_grad());
        assert!(matches!(grad(&indices, &x), Err(Error::NotDifferentiable { .. })));
    }
    Ok(())
}

#[test]
fn comparisons_have_values_and_no_gradient() -> Result<()> {
    type Comparison = (&'static str, Ours, fn(&Tensor, &Tensor) -> Tensor);
    let comparisons: [Comparison; 6] = [
        ("Greater", |x| x[0].gt(&x[1]), Tensor::gt_tensor),
        ("GreaterEqual", |x| x[0].ge(&x[1]), Tensor::ge_tensor),
        ("Less", |x| x[0].lt(&x[1]), Tensor::lt_tensor),
        ("LessEqual", |x| x[0].le(&x[1]), Tensor::le_tensor),
        ("Equal", |x| x[0].eq(&x[1]), Tensor::eq_tensor),
        ("NotEqual", |x| x[0].ne(&x[1]), Tensor::ne_tensor),
    ];
    let a = Tensor::from_slice(&[1.0, 2.0, f64::NAN, 3.0]);
    let b = Tensor::from_slice(&[2.0f32, f32::NAN]).reshape([2, 1]);
    for (name, f, expected) in comparisons {
        let x = [Var::leaf(&a), Var::leaf(&b)];
        let y = f(&x)?;
        assert_eq!((y.value(), y.value().kind()), (&expected(&a, &b), Kind::Bool), "{name}");
        assert!(!y.requires_grad());
        // Directly, and through what is computed from it.
        let one = Var::constant(Tensor::from(1.0));
        let chosen = one.where_self(&y, &-&one)?.sum()?;
        for (what, y) in [("itself", &y), ("through where", &chosen)] {
            let e = grad(y, &x[0]).expect_err("no gradient");
            assert!(matches!(e, Error::NotDifferentiable { op } if op == name), "{what}: {e}");
            assert!(e.to_string().starts_with(&format!("{name} has no gradient")), "{e}");
        }
    }
    Ok(())
}

#[test]
fn integers_have_values_and_no_gradient() -> Result<()> {
    let n = Var::constant(Tensor::from_slice(&[3i64, -4, 0]));
    let x = Var::leaf(Tensor::from_slice(&[0.5f32, 1.0, 2.0]));
    assert_eq!((&n + &n).value(), &Tensor::from_slice(&[6i64, -8, 0]));
    assert_eq!((&n * 0.5).value(), &Tensor::from_slice(&[1.5f32, -2.0, 0.0]));
    assert_eq!(n.sum()?.value(), &Tensor::from(-1i64));
    assert_eq!(n.relu()?.value(), &Tensor::from_slice(&[3i64, 0, 0]));
    assert_eq!(n.amax(&[], false)?.value(), &Tensor::from(3i64));
    assert_eq!(n.gt(&(&n * &n))?.value(), &Tensor::from_slice(&[false, false, false]));
    assert!((&n / &n).value().kind() == Kind::Float);
    // A gradient for the float among them, in its dtype.
    let y = (&n * &x + x.pow(&n)? - &n / &x).sum()?;
    let expected = x.value().detach().set_requires_grad(true);
    let n = n.value();
    (n * &expected + expected.pow(n) - n / &expected).sum(None).backward();
    assert_close(grad(&y, &x)?.value(), &expected.grad(), 1e-6)
}

#[test]
fn what_an_op_does_not_take_is_an_error() -> Result<()> {
    let x = Var::leaf(Tensor::zeros([2, 3], DOUBLE_CPU));
    let w = Var::leaf(Tensor::zeros([2, 4], DOUBLE_CPU));
    let index = Var::constant(Tensor::from_slice(&[7i64, 0]));
    let int = Var::constant(Tensor::from_slice(&[1i64, 2]));
    let complex = Var::leaf(Tensor::zeros([2], (Kind::ComplexDouble, tch::Device::Cpu)));
    for (op, part, result) in [
        ("Add", "must match the size", ops::Add.apply((&x, &w))),
        ("Sub", "must match the size", ops::Sub.apply((&x, &w))),
        ("Mul", "must match the size", ops::Mul.apply((&x, &w))),
        ("Div", "must match the size", ops::Div.apply((&x, &w))),
        ("Pow", "must match the size", x.pow(&w)),
        ("Maximum", "must match the size", x.maximum(&w)),
        ("Minimum", "not implemented for complex", complex.minimum(&complex)),
        ("Where", "expected condition to be a boolean tensor", x.where_self(&x, &x)),
        ("Greater", "must match the size", x.gt(&w)),
        ("SquaredError", "must match the size", x.squared_error(&w)),
        ("Relu", "not supported for complex", complex.relu()),
        ("Sum", "Dimension out of range", x.sum_dim(&[2], false)),
        ("Mean", "Dimension out of range", x.mean_dim(&[-3], false)),
        ("Mean", "dtype", int.mean()),
        ("Amax", "Dimension out of range", x.amax(&[5], false)),
        ("Max", "Dimension out of range", x.max_dim(5, false).map(|y| y.0)),
        ("Min", "Dimension out of range", x.min_dim(5, false).map(|y| y.0)),
        ("Matmul", "shapes cannot be multiplied", x.matmul(&w)),
        ("Transpose", "Dimension out of range", x.transpose(0, 2)),
        ("Reshape", "is invalid for input of size 6", x.reshape(&[4])),
        ("IndexSelect", "out of DATA bounds", x.index_select(1, &index)),
        ("Gather", "Index tensor must have the same number of dimensions", x.gather(1, &index)),
        ("Softmax", "Dimension out of range", x.softmax(2)),
        ("LogSoftmax", "Dimension out of range", x.log_softmax(2)),
        ("CrossEntropy", "Target 7 is out of bounds", x.cross_entropy(&index)),
        ("CrossEntropy", "", x.cross_entropy(&w)),
    ] {
        let e = result.expect_err(op);
        let text = e.to_string();
        assert!(matches!(e, Error::Forward { op: found, .. } if found == op), "{op}: {text}");
        assert!(text.starts_with(&format!("{op}: forward failed: ")), "{text}");
        assert!(text.contains(part), "{op}: {text}");
        assert!(!text.contains("frame #"), "{op}: {text}");
    }
    Ok(())
}

#[test]
fn rust_operators_take_references_values_and_numbers() -> Result<()> {
    let (a, b) = (Var::leaf(Tensor::from(7.0)), Var::leaf(Tensor::from(2.0)));
    let value = |v: Var| f64::try_from(v.value());
    let owned = || (a.clone(), b.clone());
    let (c, d) = owned();
    assert_eq!([value(&a + &b)?, value(c + d)?], [9.0; 2]);
    let (c, d) = owned();
    assert_eq!([value(&a - d)?, value(c - &b)?], [5.0; 2]);
    let (c, d) = owned();
    assert_eq!([value(c * 2.0)?, value(7.0 * d)?, value(&a * 2.0)?, value(7.0 * &b)?], [14.0; 4]);
    let (c, d) = owned();
    assert_eq!([value(c / 2.0)?, value(7.0 / d)?, value(&a / &b)?, value(7.0 / &b)?], [3.5; 4]);
    assert_eq!([value(-&a)?, value(-a.clone())?, value(-7.0 + &a - &a)?], [-7.0; 3]);
    Ok(())
}

#[test]
#[should_panic(
    expected = "Add: forward failed: Internal torch error: The size of tensor a (3) must match"
)]
fn rust_operators_panic_with_the_error() {
    let _ = Var::leaf(Tensor::zeros([3], DOUBLE_CPU)) + Var::leaf(Tensor::zeros([4], DOUBLE_CPU));
}

/// Only what some gradient will need: what is not saved may change.
#[test]
fn no_more_is_saved_than_needed() -> Result<()> {
    let leaf = || Var::leaf(Tensor::from_slice(&[0.5, 2.0]));
    let constant = Var::constant(Tensor::from_slice(&[3.0, 4.0]));
    type Of = fn(&Var, &Var) -> tch_function::Result<Var>;
    let spares_input: [(&str, Of); 13] = [
        ("add", |x, c| Ok(x + c)),
        ("sub", |x, c| Ok(c - x)),
        ("mul", |x, c| Ok(x * c)),
        ("div", |x, c| Ok(x / c)),
        ("matmul", |x, c| x.matmul(c)),
        ("scalars", |x, _| Ok(1.0 - (x * 2.0 + 3.0) / 4.0)),
        ("exp", |x, _| x.exp()),
        ("relu", |x, _| x.relu()),
        ("sum", |x, _| x.sum()),
        ("mean", |x, _| x.mean()),
        ("max_dim", |x, _| Ok(x.max_dim(0, false)?.0)),
        ("softmax", |x, _| x.softmax(0)),
        ("log_softmax", |x, _| x.log_softmax(0)),
    ];
    for (name, f) in spares_input {
        let x = leaf();
        let y = f(&x, &constant)?.sum()?;
        x.update(|x| drop(x.g_mul_scalar_(-1.0)))?;
        grad(&y, &x).with_context(|| name)?;
    }
    // And what was saved and changed is noticed.
    let keeps_input: [Of; 6] = [
        |x, _| Ok(x * x),
        |x, _| x.sqrt(),
        |x, _| x.log(),
        |x, c| x.pow(c),
        // Their slopes lose digits if they are computed from the value.
        |x, _| x.tanh(),
        |x, _| x.sigmoid(),
    ];
    for f in keeps_input {
        let x = leaf();
        let y = f(&x, &constant)?.sum()?;
        x.update(|x| drop(x.g_mul_scalar_(-1.0)))?;
        assert!(matches!(grad(&y, &x), Err(Error::SavedChanged { .. })));
    }
    Ok(())
}

#[test]
fn functions_of_the_table_compose() -> Result<()> {
    let mut random = Random::new("compose");
    let [x, w, b] = [&[4, 3][..], &[3, 2], &[2]].map(|shape| random.tensor(shape, ANY));
    let classes = Var::constant(Tensor::from_slice(&[1i64, 0, 0, 1]));
    gradcheck_fn(|[x, w, b]| (x.matmul(w)? + b).tanh()?.cross_entropy(&classes), [&x, &w, &b])?
        .assert();
    Ok(())
}
