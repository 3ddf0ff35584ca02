//! What kernels refuse, and where they do not run.

use super::map::same;
use anyhow::Result;
use tch::{CModule, Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{Ctx, Error, Function, kernel, ops};

pub(super) fn refused(result: tch_function::Result<Tensor>, expected: &str) {
    let error = result.expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_refused() {
    let double = |x: &Tensor| kernel::map(x, |x: f64| x + x);
    let x = Tensor::from_slice(&[1.0, 2.0]);
    refused(double(&Tensor::new()), "input 0 is an undefined tensor");
    refused(double(&x.to_kind(Kind::Float)), "to_kind(Double), or write the kernel for Float");
    refused(double(&x.to_kind(Kind::ComplexDouble)), "has dtype ComplexDouble");
    refused(double(&x.to_sparse(None, None::<&[i64]>, None)), "call to_dense()");
    refused(double(&x.copy().set_requires_grad(true)), "forward of a Function");
    let without_data = Tensor::internal_efficientzerotensor([2], DOUBLE_CPU);
    assert!(kernel::runs_on(&x) && !kernel::runs_on(&without_data));
    refused(double(&without_data), "has no data");
    let complex = x.to_kind(Kind::ComplexDouble).conj();
    refused(double(&complex.imag()), "resolve_neg()");
    let quantised = x.to_kind(Kind::Float).quantize_per_tensor(0.1, 0, Kind::QInt8);
    refused(double(&quantised), "call dequantize()");
    let three = Tensor::from_slice(&[1.0, 2.0, 3.0]);
    let sum = kernel::map((&x, &three), |(a, b): (f64, f64)| a + b);
    refused(sum, "input 1 has shape [3], which does not broadcast to that of the others, [2]");
}

/// `y = 2x`, by a kernel alone.
struct Double;

impl Function for Double {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(kernel::map(x, |x: f64| x + x)?)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(kernel::map(dy, |dy: f64| dy + dy)?))
    }
}

#[test]
fn without_data_a_function_says_what_to_provide() -> Result<()> {
    let x = Tensor::internal_efficientzerotensor([2], DOUBLE_CPU);
    refused(Double.apply(&x), "Double: forward failed");
    refused(Double.apply(&x), "ask kernel::runs_on, and compute it with tch operators there");
    // Those of the crate do so.
    same(&ops::Log1pExp.apply(&x)?, &Tensor::from_slice(&[std::f64::consts::LN_2; 2]));
    same(&ops::Silu.apply(&x)?, &Tensor::from_slice(&[0.0, 0.0]));
    Ok(())
}

/// What a kernel makes would be a constant in the module.
#[test]
fn under_tracing() -> Result<()> {
    let x = || Tensor::from_slice(&[1.0, 2.0]);
    let mut log1p_exp = |x: &[Tensor]| vec![ops::Log1pExp.apply(&x[0]).expect("plain")];
    let module = CModule::create_by_tracing("Traced", "forward", &[x()], &mut log1p_exp)?;
    let other = Tensor::from_slice(&[3.0, -2.0]);
    assert!(module.forward_ts(&[&other])?.allclose(&other.softplus(), 1e-15, 0.0, false));

    let mut error = None;
    let mut double = |x: &[Tensor]| {
        error = Double.apply(&x[0]).err();
        vec![x[0].shallow_clone()]
    };
    CModule::create_by_tracing("Traced", "forward", &[x()], &mut double)?;
    refused(Err(error.expect("a kernel cannot be traced")), "input 0 is being traced");
    same(&Double.apply(&x())?, &(x() * 2.0));
    Ok(())
}

#[test]
fn under_no_grad() -> Result<()> {
    let x = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
    let y = tch::no_grad(|| Double.apply(&x))?;
    assert!(!y.requires_grad());
    same(&y, &(x.detach() * 2.0));
    let y = tch::no_grad(|| kernel::map(&x, |x: f64| x + x))?;
    same(&y, &(x.detach() * 2.0));
    Ok(())
}

#[test]
fn outputs_that_are_refused() {
    let x = Tensor::arange(12, DOUBLE_CPU);
    let into = |y: &mut Tensor, x: &Tensor| {
        kernel::map_into(y, x, |x: f64| x + 1.0).map(|()| Tensor::new())
    };
    let overlap = "elements of output 0 share memory";
    refused(into(&mut Tensor::from(0.0).expand([12], false), &x), overlap);
    refused(into(&mut x.copy().as_strided([3, 4], [2, 1], None), &x.reshape([3, 4])), overlap);
    // Steps of 4 that meet after a step of 8.
    refused(
        into(&mut Tensor::zeros([17], DOUBLE_CPU).as_strided([2, 3], [8, 4], None), &x.get(0)),
        overlap,
    );
    let shifted = "input 0 overlaps an output";
    refused(into(&mut x.narrow(0, 1, 10), &x.narrow(0, 0, 10)), shifted);
    refused(into(&mut x.reshape([3, 4]), &x.reshape([4, 3]).transpose(0, 1)), shifted);
    refused(into(&mut Tensor::zeros([5], DOUBLE_CPU), &x), "input 0 has shape [12]");
    let both =
        kernel::map_into((&mut x.narrow(0, 0, 6), &mut x.narrow(0, 5, 6)), &x.get(0), |x: f64| {
            (x, x + 1.0)
        });
    refused(both.map(|()| Tensor::new()), "output 1 overlaps");
    same(&x, &Tensor::arange(12, DOUBLE_CPU)); // nothing was changed
}

/// A dimension of one element has no next place, whatever its stride.
#[test]
fn strides_that_lead_nowhere() -> Result<()> {
    let mut y = Tensor::zeros([6], DOUBLE_CPU).as_strided([1, 3, 1], [0, 2, 1], None);
    kernel::map_into(&mut y, &Tensor::arange(3, DOUBLE_CPU).unsqueeze(1), |x: f64| x)?;
    assert_eq!(Vec::<f64>::try_from(y.flatten(0, 2))?, [0.0, 1.0, 2.0]);
    Ok(())
}

#[test]
fn a_panic_comes_back_as_an_error() -> Result<()> {
    for n in [4, 1_000_000] {
        let x = Tensor::arange(n, DOUBLE_CPU);
        let last = (n - 1) as f64;
        let panics = |x: f64| if x == last { panic!("at {x}") } else { x };
        let error = kernel::map(&x, panics).expect_err("a panic");
        assert_eq!(error.to_string(), format!("kernel::map: the closure panicked: at {last}"));
        same(&kernel::map(&x, |x: f64| x)?, &x);
        let folded = kernel::fold(&x, 0.0, |sum, _, x: f64| sum + panics(x), |a, b| a + b);
        assert!(matches!(folded, Err(Error::Panic { .. })));
    }
    Ok(())
}
