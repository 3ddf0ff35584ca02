//! gradcheck finds what is wrong, says where, and lets pass what is right.

use anyhow::{Result, bail};
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{Ctx, Error, Function, Gradcheck, Var, gradcheck, gradcheck_fn, ops};

/// `y = x^2`, `z = x w`, and the signs of `x`; `wrong` is added to one element
/// of the gradient of `w`.
struct Two {
    wrong: f64,
}

impl Function for Two {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor, Tensor);

    fn forward(
        &self,
        ctx: &mut Ctx,
        (x, w): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor, Tensor)> {
        ctx.save_for_backward([x, w])?;
        let signs = x.sign();
        ctx.mark_non_differentiable(&signs);
        Ok((x * x, x * w, signs))
    }

    fn backward(
        &self,
        ctx: &Ctx,
        (dy, dz, _): (&Tensor, &Tensor, &Tensor),
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        let dw = dz * x;
        let _ = dw.get(1).get(0).g_add_scalar_(self.wrong);
        Ok((Some(2.0 * x * dy + w * dz), Some(dw)))
    }
}

fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.5, 2.0, 3.0]).reshape([2, 2])
}

fn w() -> Tensor {
    Tensor::from_slice(&[1.0, 2.0, -3.0, 0.25]).reshape([2, 2])
}

#[test]
fn right_functions_pass() -> Result<()> {
    let report = gradcheck(Two { wrong: 0.0 }, (&x(), &w()))?;
    report.assert();
    assert!(report.is_ok() && report.mismatches().is_empty());
    // Two outputs of four elements by two inputs of four elements.
    assert_eq!(report.compared(), 2 * 4 * 2 * 4);
    assert!(report.max_difference() < 1e-8, "{report}");
    assert!(report.to_string().starts_with("Two: 0 of 64 derivatives differ"), "{report}");
    report.into_result()?;
    Ok(())
}

#[test]
fn a_wrong_derivative_is_named_with_both_numbers() -> Result<()> {
    let report = gradcheck(Two { wrong: 0.5 }, (&x(), &w()))?;
    // For every seed, so against all eight elements of the outputs.
    assert_eq!(report.mismatches().len(), 8);
    let of_z: Vec<_> = report.mismatches().iter().filter(|m| m.output == 1).collect();
    assert!(of_z.iter().all(|m| m.input == 1 && m.input_element == [1, 0]), "{report}");
    let own = of_z.iter().find(|m| m.output_element == [1, 0]).expect("dz[1, 0] / dw[1, 0]");
    assert!((own.numeric - 2.0).abs() < 1e-8 && (own.analytic - 2.5).abs() < 1e-12, "{report}");

    let text = report.to_string();
    assert!(text.contains("output 1 [1, 0]") && text.contains("input 1 [1, 0]"), "{text}");
    assert!(text.contains("2.000000e0") && text.contains("2.500000e0"), "{text}");
    assert!(text.contains("Two: 8 of 64 derivatives differ (largest difference 5.0"), "{text}");
    assert_eq!(report.into_result().expect_err("they differ").to_string(), text);
    Ok(())
}

#[test]
#[should_panic(expected = "Two: 8 of 64 derivatives differ")]
fn assert_panics_with_the_table() {
    gradcheck(Two { wrong: 0.5 }, (&x(), &w())).expect("both run").assert();
}

#[test]
fn a_long_table_is_cut() -> Result<()> {
    let report = Gradcheck::new().check(Forgets, &Tensor::ones([30], DOUBLE_CPU))?;
    assert_eq!(report.mismatches().len(), 30);
    assert!(report.to_string().contains("\nand 10 more\n"), "{report}");
    Ok(())
}

/// `y = 3 x`, with no gradient.
struct Forgets;

impl Function for Forgets {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 3.0)
    }
    fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

#[test]
fn a_missing_gradient_counts_as_zero() -> Result<()> {
    let report = gradcheck(Forgets, &Tensor::from(2.0))?;
    let [m] = report.mismatches() else { panic!("{report}") };
    assert_eq!((m.analytic, m.input_element.len()), (0.0, 0));
    assert!((m.numeric - 3.0).abs() < 1e-8);
    Ok(())
}

/// `y = x + 0`, with a gradient that is NaN.
struct Nan;

impl Function for Nan {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x + 0.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * f64::NAN))
    }
}

#[test]
fn nan_agrees_with_nothing() -> Result<()> {
    let report = gradcheck(Nan, &x())?;
    assert_eq!(report.mismatches().len(), 16);
    assert!(report.max_difference().is_nan());
    Ok(())
}

#[test]
fn coarse_dtypes_need_tolerances() -> Result<()> {
    let x = x().to_kind(Kind::Float);
    let refused = gradcheck(ops::Exp, &x).expect_err("f32").to_string();
    assert!(refused.starts_with("Exp: gradcheck: input 0 is Float"), "{refused}");
    assert!(refused.contains("to_kind(Kind::Double), or give eps, atol and rtol"), "{refused}");
    assert!(Gradcheck::new().eps(1e-2).atol(1e-2).check(ops::Exp, &x).is_err(), "no rtol");
    let explicit = Gradcheck::new().eps(1e-2).atol(1e-3).rtol(1e-2);
    explicit.check(ops::Exp, &x)?.assert();
    // Too narrow for it: the tolerances are the ones given.
    assert!(!explicit.atol(1e-9).rtol(1e-9).check(ops::Exp, &x)?.is_ok());
    // f32 inside shows in the output.
    let refused = gradcheck(Halves, &w()).expect_err("f32 output").to_string();
    assert!(refused.starts_with("Halves: gradcheck: output 0 is Float"), "{refused}");
    Ok(())
}

/// `y = x / 2` in f32.
struct Halves;

impl Function for Halves {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok((x / 2.0).to_kind(Kind::Float))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.to_kind(Kind::Double) / 2.0))
    }
}

#[test]
fn complex_numbers_are_refused() {
    let x = x().to_kind(Kind::ComplexDouble);
    let all = Gradcheck::new().eps(1e-3).atol(1e-3).rtol(1e-3);
    for refused in [gradcheck(ops::Exp, &x), all.check(ops::Exp, &x)] {
        let refused = refused.expect_err("complex").to_string();
        assert!(refused.contains("input 0 is ComplexDouble"), "{refused}");
        assert!(refused.contains("only real numbers are checked"), "{refused}");
    }
}

#[test]
fn the_tensors_given_stay_as_they_are() -> Result<()> {
    let whole = Tensor::arange(12, DOUBLE_CPU).reshape([3, 4]) * 0.1 + 0.3;
    let before = whole.copy();
    let strange = [whole.transpose(0, 1), whole.slice(1, 1, 4, 2), whole.slice(0, 0, 1, 1)];
    for x in strange.iter().chain([&strange[2].expand([5, 4], false), &whole]) {
        gradcheck(ops::Sqrt, x)?.assert();
        gradcheck(ops::Mul, (x, x))?.assert();
        gradcheck(Doubles, x)?.assert();
    }
    assert_eq!(whole, before);
    let followed = whole.copy().set_requires_grad(true);
    gradcheck(ops::Log, &followed)?.assert();
    assert!(!followed.grad().defined() && followed.is_leaf());
    Ok(())
}

/// `y = 2 x`, in place.
struct Doubles;

impl Function for Doubles {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        Ok(x.shallow_clone().g_mul_scalar_(2.0))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 2.0))
    }
}

/// `y = a[index] + sum of the others`, where `a` and the others may be absent.
struct Nest;

impl Function for Nest {
    type Inputs = (Option<Tensor>, Tensor, Vec<Tensor>);
    type Outputs = Vec<Tensor>;
    fn forward(
        &self,
        ctx: &mut Ctx,
        (a, index, others): (Option<&Tensor>, &Tensor, &[Tensor]),
    ) -> Result<Vec<Tensor>> {
        ctx.save((a.map(Tensor::size), others.len()))?;
        ctx.save_for_backward([index])?;
        let first = a.map(|a| a.index_select(0, index));
        Ok(first.into_iter().chain(others.iter().map(|x| x * 3.0)).collect())
    }
    fn backward(
        &self,
        ctx: &Ctx,
        dy: &[Tensor],
    ) -> Result<(Option<Tensor>, Option<Tensor>, Vec<Option<Tensor>>)> {
        let (size, others) = ctx.state::<(Option<Vec<i64>>, usize)>()?;
        let [index] = ctx.saved_tensors()?;
        let da = size.as_ref().map(|s| Tensor::zeros(s, DOUBLE_CPU).index_add(0, index, &dy[0]));
        let rest = dy[dy.len() - others..].iter().map(|dy| Some(dy * 3.0)).collect();
        Ok((da, None, rest))
    }
}

#[test]
fn integers_options_and_lists() -> Result<()> {
    let (a, index) = (x(), Tensor::from_slice(&[1i64, 1, 0]));
    let report = gradcheck(Nest, (Some(&a), &index, &[w(), x()]))?;
    report.assert();
    assert_eq!(report.compared(), (6 + 4 + 4) * 12);
    gradcheck(Nest, (None, &index, &[w()]))?.assert();
    gradcheck(Nest, (Some(&a), &index, &[]))?.assert();
    Ok(())
}

#[test]
fn nothing_to_compare_is_an_error() {
    let e = gradcheck(ops::Greater, (&x(), &w())).expect_err("boolean").to_string();
    assert!(e.contains("Greater: gradcheck: no output depends on a floating-point input"), "{e}");
    let e = gradcheck(ops::Neg, &Tensor::from_slice(&[1i64])).expect_err("integers").to_string();
    assert!(e.contains("no output depends on a floating-point input"), "{e}");
}

#[test]
fn an_empty_tensor_has_no_derivatives() -> Result<()> {
    let report = gradcheck(ops::Exp, &Tensor::zeros([0, 3], DOUBLE_CPU))?;
    assert!(report.is_ok() && report.compared() == 0);
    Ok(())
}

/// Fails where it is told to.
struct Fails {
    forward: bool,
}

impl Function for Fails {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        if self.forward {
            bail!("no forward today")
        }
        Ok(x + 1.0)
    }
    fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
        bail!("no backward today")
    }
}

#[test]
fn errors_of_the_function_come_through() {
    let e = gradcheck(Fails { forward: true }, &x()).expect_err("forward fails");
    assert!(matches!(&e, Error::Forward { op: "Fails", .. }), "{e}");
    let e = gradcheck(Fails { forward: false }, &x()).expect_err("backward fails");
    assert!(matches!(&e, Error::Backward { op: "Fails", .. }), "{e}");
}

#[test]
fn closures_over_vars() -> Result<()> {
    gradcheck_fn(|[x, w]| (x * w).log1p_exp()?.matmul(&(x + 1.0)), [&x(), &w()])?.assert();
    // detach() hides a path from backward, and differences see it.
    let report = gradcheck_fn(|[x]| (x * x.detach()).sum(), [&x()])?;
    assert_eq!(report.mismatches().len(), 4, "{report}");
    // Integers reach the closure as constants.
    let index = Tensor::from_slice(&[1i64]);
    gradcheck_fn(|[x, i]| x.index_select(0, i), [&x(), &index])?.assert();
    Ok(())
}

#[test]
fn under_no_grad_too() -> Result<()> {
    tch::no_grad(|| gradcheck(ops::Exp, &x()))?.assert();
    Ok(())
}

#[test]
fn shared_functions_and_vars_elsewhere_are_untouched() -> Result<()> {
    let function = std::sync::Arc::new(Two { wrong: 0.0 });
    gradcheck(function.clone(), (&x(), &w()))?.assert();
    let v = Var::leaf(x());
    gradcheck(function, (v.value(), &w()))?.assert();
    assert!(v.grad().is_none());
    Ok(())
}
