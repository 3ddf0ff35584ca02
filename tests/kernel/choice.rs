//! Whether a kernel runs, in which dtype, and what is computed in its place.

use super::map::same;
use anyhow::Result;
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::kernel::{self, Float};
use tch_function::{Ctx, Error, Function, GradOptions, Var, grad};

const FLOATS: [Kind; 4] = [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16];
const ALL: [Kind; 12] = [
    Kind::Double,
    Kind::Float,
    Kind::Half,
    Kind::BFloat16,
    Kind::Uint8,
    Kind::Int8,
    Kind::Int16,
    Kind::Int,
    Kind::Int64,
    Kind::Bool,
    Kind::ComplexFloat,
    Kind::ComplexDouble,
];

/// `reads` says what a kernel then does, in every dtype.
#[test]
fn the_question_has_the_answer_of_the_kernel() {
    for kind in ALL {
        let x = Tensor::ones([3], DOUBLE_CPU).to_kind(kind);
        macro_rules! check {
            ($($T:ty),+) => {$(
                let runs = kernel::map(&x, |x: $T| x);
                assert_eq!(kernel::reads::<$T>(&x), runs.is_ok(), "{kind:?}");
                if let Err(e) = runs {
                    assert!(matches!(e, Error::KernelDtype { found, .. } if found == kind), "{e}");
                }
            )+};
        }
        check!(f32, f64, u8, i8, i16, i32, i64, bool);
        assert_eq!(kernel::runs_on(&x), !x.is_complex(), "{kind:?}");
    }
    let x = Tensor::ones([3], DOUBLE_CPU);
    let recorded = x.copy().set_requires_grad(true);
    assert!(!kernel::reads::<f64>(&recorded) && !kernel::runs_on(&recorded));
    assert!(tch::no_grad(|| kernel::reads::<f64>(&recorded)));
    assert!(kernel::reads::<[f64; 2]>([&x, &x]) && !kernel::reads::<[f64; 2]>([&x, &recorded]));
    assert!(!kernel::reads::<f64>(&Tensor::new()));
    let narrow = x.to_kind(Kind::Half);
    assert!(kernel::reads::<(f32, (f64, bool))>((&narrow, (&x, &x.gt(0.0)))));
}

/// A formula stands in for a kernel that does not run, not for one that is wrong.
#[test]
fn a_formula_hides_no_mistake() -> Result<()> {
    let (x, three) = (Tensor::ones([2], DOUBLE_CPU), Tensor::ones([3], DOUBLE_CPU));
    let formula = || Ok(Tensor::from(7.0));
    let of = |done| kernel::or_formula(done, formula);
    same(&of(kernel::map(&x, |x: f64| x + 1.0))?, &(&x + 1.0));
    same(&of(kernel::map(&x, |x: f32| x))?, &Tensor::from(7.0));
    same(&of(kernel::map(&x.copy().set_requires_grad(true), |x: f64| x))?, &Tensor::from(7.0));
    same(
        &of(kernel::map(&x.to_sparse(None, None::<&[i64]>, None), |x: f64| x))?,
        &Tensor::from(7.0),
    );
    let mistakes = [
        of(kernel::map((&x, &three), |(a, b): (f64, f64)| a + b)),
        of(kernel::rows::<f64, f64>(&x, &[], |_, _| {})),
        of(kernel::map(&Tensor::new(), |x: f64| x)),
        of(kernel::map(&x, |_: f64| -> f64 { panic!("here") })),
    ];
    for mistake in mistakes {
        let error = mistake.expect_err("a mistake");
        let known = error.downcast_ref();
        assert!(matches!(
            known,
            Some(Error::Argument { .. } | Error::Undefined { .. } | Error::Panic { .. })
        ));
    }
    let error = kernel::or_formula::<()>(kernel::map(&x, |x: f32| x).map(drop), || {
        anyhow::bail!("no formula")
    });
    assert_eq!(error.expect_err("of the formula").to_string(), "no formula");
    Ok(())
}

#[test]
fn an_error_that_says_which_dtype() {
    let x = Tensor::ones([2], DOUBLE_CPU);
    let error = kernel::map((&x, &x), |(a, b): (f64, i32)| a + f64::from(b));
    assert_eq!(
        error.expect_err("another dtype").to_string(),
        "kernel::map: input 1 has dtype Double, the kernel is written for Int; convert it with \
         to_kind(Int), or write the kernel for Double (kernel::floats! writes one for every \
         floating-point dtype)"
    );
}

/// `x^2 + ln(x)` with functions of `Float`, and the largest of a row.
fn body<T: Float>(x: T) -> T {
    x.mul_add(x, x.ln()) + T::of(0.25) - (T::PI() - T::of(3.0)).erf() * T::zero()
}

#[test]
fn one_body_for_every_dtype() -> Result<()> {
    let wide = Tensor::rand([100], DOUBLE_CPU) + 0.5;
    for kind in FLOATS {
        let x = wide.to_kind(kind);
        let expected = x.to_kind(Kind::Double);
        let expected = &expected * &expected + expected.log() + 0.25;
        let epsilon = match kind {
            Kind::Double => 1e-15,
            Kind::Float => 1e-6,
            Kind::Half => 1e-3,
            _ => 8e-3,
        };
        let found = kernel::floats!(T of x => kernel::map(&x, body::<T>))?;
        assert_eq!(found.kind(), kind);
        let near = found.to_kind(Kind::Double).allclose(&expected, epsilon, 3.0 * epsilon, false);
        assert!(near, "{kind:?}");
        // As a block, of a reference, with a parameter of another type.
        let (x, factor) = (&x, 0.5f64);
        let found = kernel::floats!(T of x => {
            let factor = factor as T;
            kernel::map(x, |x: T| x * factor)
        })?;
        same(&found, &(x * 0.5));
        // In rows.
        let most = kernel::floats!(U of x => kernel::rows::<U, U>(x, &[1], |x, y| {
            y[0] = x.iter().copied().fold(U::NEG_INFINITY, U::max);
        }))?;
        same(&most, &x.amax(-1, true));
    }
    let error = kernel::floats!(T of wide => kernel::map(&wide.to_kind(Kind::Int), |x: T| x));
    assert!(matches!(error, Err(Error::KernelDtype { .. })));
    Ok(())
}

/// Up to eight tensors, in and out.
#[test]
fn eight_of_a_kind() -> Result<()> {
    let x: Vec<Tensor> = (1..9).map(|i| Tensor::from_slice(&[f64::from(i), 0.5])).collect();
    let [a, b, c, d, e, f, g, h] = std::array::from_fn(|i| &x[i]);
    type Eight = (f64, f64, f64, f64, f64, f64, f64, f64);
    let turned = |(a, b, c, d, e, f, g, h): Eight| (h, g, f, e, d, c, b, a);
    let (s, t, u, v, w, y, z, last) = kernel::map((a, b, c, d, e, f, g, h), turned)?;
    for (found, expected) in [s, t, u, v, w, y, z, last].iter().zip(x.iter().rev()) {
        same(found, expected);
    }
    let five = kernel::map((a, b, c, d, e), |(a, b, c, d, e): (f64, f64, f64, f64, f64)| {
        a + b + c + d + e
    })?;
    same(&five, &Tensor::from_slice(&[15.0, 2.5]));
    Ok(())
}

/// `y = x^3`, with a formula where `backward` is recorded.
struct Cube;

impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x * x * x))?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let dx =
            kernel::floats!(T of x => kernel::map((x, dy), |(x, dy): (T, T)| 3.0 * x * x * dy));
        kernel::or_formula(dx, || Ok(x * x * dy * 3.0)).map(Some)
    }
}

#[test]
fn derivatives_up_to_the_third() -> Result<()> {
    for kind in FLOATS {
        let x = Var::leaf(Tensor::from(2.0).to_kind(kind));
        let recorded = || GradOptions::new().create_graph(true);
        let first = recorded().grad(&Cube.apply(&x)?, &x)?.expect("used");
        let second = recorded().grad(&first, &x)?.expect("used");
        let third = grad(&second, &x)?;
        let found = [&first, &second, &third].map(|y| y.value().double_value(&[]));
        assert_eq!(found, [12.0, 12.0, 6.0]);
    }
    Ok(())
}
