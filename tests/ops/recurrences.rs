//! Recurrences, cumulative sums and products: every check, values and derivatives of first and
//! second order beside libtorch's, zeros, dtypes and lengths.

use anyhow::Result;
use tch::{Device, Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::check::Check;
use tch_function::ops::{CumulativeProduct, CumulativeSum, LinearRecurrence};
use tch_function::{Function, GradOptions, Var, grad, gradcheck};

fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7, 1.5, 0.25]).reshape([2, 4])
}

/// With no zero in a row, one, two, and zeros alone.
fn zeros() -> Tensor {
    let rows = [[0.5, -1.25, 2.0, 3.0], [0.5, 0.0, 2.0, -3.0], [0.0, 1.5, 0.0, 2.0], [0.0; 4]];
    Tensor::from_slice(&rows.concat()).reshape([4, 4])
}

fn turned(x: &Tensor, dim: i64, reverse: bool, f: fn(&Tensor, i64) -> Tensor) -> Tensor {
    if reverse && x.dim() > 0 { f(&x.flip([dim]), dim).flip([dim]) } else { f(x, dim) }
}

fn cumsum(x: &Tensor, dim: i64) -> Tensor {
    x.cumsum(dim, None)
}

fn cumprod(x: &Tensor, dim: i64) -> Tensor {
    x.cumprod(dim, None)
}

/// The recurrence by libtorch's operators, which differentiates them.
fn steps(a: &Tensor, b: &Tensor, first: Option<&Tensor>, op: LinearRecurrence) -> Tensor {
    let LinearRecurrence { dim, reverse } = op;
    let all = Tensor::broadcast_tensors(&[a, b]);
    let length = all[0].size()[dim.rem_euclid(all[0].dim() as i64) as usize];
    let mut states = Vec::<Tensor>::new();
    for t in 0..length {
        let t = if reverse { length - 1 - t } else { t };
        let (a, b) = (all[0].select(dim, t), all[1].select(dim, t));
        states.push(match states.last().or(first) {
            Some(h) => a * h + b,
            None => b + a.g_mul_scalar(0i64),
        });
    }
    if reverse {
        states.reverse();
    }
    Tensor::stack(&states, dim)
}

fn recurrence(dim: i64, reverse: bool) -> Check<LinearRecurrence> {
    let op = LinearRecurrence { dim, reverse };
    let same = (x(), x() * 0.5 + 0.125, None);
    let constant = (Tensor::from_slice(&[0.5, 2.0]).reshape([2, 1]), x(), None);
    let few = (x(), Tensor::from(0.75), Some(Tensor::from(1.5)));
    let first = x().select(dim, 0) - 0.25;
    let all = (x() * 1.5, x() - 1.0, Some(first));
    Check::new(op, [same, constant, few, all])
        .reference(move |(a, b, first)| steps(a, b, first, op))
}

tch_function::check_tests! {
    cumulative_sum => Check::new(CumulativeSum { dim: -1, reverse: false }, [x()])
        .reference(|x| x.cumsum(-1, None));
    cumulative_sum_back => Check::new(CumulativeSum { dim: 0, reverse: true }, [x()])
        .reference(|x| turned(x, 0, true, cumsum));
    cumulative_product => Check::new(CumulativeProduct { dim: 1, reverse: false }, [x(), zeros()])
        .reference(|x| x.cumprod(1, None));
    cumulative_product_back => Check::new(CumulativeProduct { dim: -2, reverse: true }, [x(), zeros()])
        .reference(|x| turned(x, -2, true, cumprod));
    linear_recurrence => recurrence(-1, false);
    linear_recurrence_back => recurrence(0, true);
}

const SHAPES: [&[i64]; 9] =
    [&[], &[1], &[5], &[0], &[3, 0], &[2, 1, 3], &[4, 5, 3], &[6, 40], &[2, 33, 20]];

/// `y`, `dx`, and `ddx` of `sum(dx^2)`, at given seeds.
fn derivatives(x: &Tensor, dy: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Result<[Tensor; 3]> {
    let x = x.detach().set_requires_grad(true);
    let y = f(&x);
    let dx = &Tensor::f_run_backward(&[&(&y * dy).sum(None)], &[&x], true, true)?[0];
    let ddx = match dx.requires_grad() {
        true => Tensor::f_run_backward(&[&(dx * dx).sum(None)], &[&x], false, false)?.remove(0),
        false => dx.zeros_like(),
    };
    Ok([y.detach(), dx.detach(), ddx])
}

fn close(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()), "{what}");
    let near = found.allclose(expected, 1e-11, 1e-11, true);
    assert!(near, "{what}: found\n{found}expected\n{expected}");
}

#[test]
fn like_libtorch_inside_it() -> Result<()> {
    for shape in SHAPES {
        let x = Tensor::randn(shape, DOUBLE_CPU);
        let flags = Tensor::rand(shape, DOUBLE_CPU).lt(0.8).to_kind(Kind::Double);
        let dy = Tensor::randn(shape, DOUBLE_CPU);
        let rank = (shape.len() as i64).max(1);
        // Some elements are 0.
        for x in [&x, &(&x * flags)] {
            for dim in -rank..rank {
                for reverse in [false, true] {
                    let what = format!("{shape:?} {dim} {reverse}");
                    let ours = derivatives(x, &dy, |x| {
                        CumulativeSum { dim, reverse }.apply(x).expect("plain")
                    })?;
                    let theirs =
                        derivatives(x, &dy, |x| turned(x, dim, reverse, cumsum) + x * 0.0)?;
                    (0..2).for_each(|i| close(&ours[i], &theirs[i], &format!("sum {what} {i}")));
                    let ours = derivatives(x, &dy, |x| {
                        CumulativeProduct { dim, reverse }.apply(x).expect("plain")
                    })?;
                    let theirs = derivatives(x, &dy, |x| turned(x, dim, reverse, cumprod))?;
                    let product = |i| close(&ours[i], &theirs[i], &format!("product {what} {i}"));
                    (0..3).for_each(product);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn recurrences_like_libtorchs_steps() -> Result<()> {
    for (shape, rows) in [(&[5i64][..], &[][..]), (&[4, 5, 3], &[4, 3]), (&[3, 6, 40], &[3, 40])] {
        let dim = if shape.len() == 1 { 0 } else { 1 };
        let (a, b) = (Tensor::randn(shape, DOUBLE_CPU), Tensor::randn(shape, DOUBLE_CPU));
        let (first, dh) = (Tensor::randn(rows, DOUBLE_CPU), Tensor::randn(shape, DOUBLE_CPU));
        for reverse in [false, true] {
            let op = LinearRecurrence { dim, reverse };
            // As functions of `a`, `b` and the first state.
            for position in 0..3 {
                let at = |own: &Tensor, x: &Tensor, i: usize| {
                    if i == position { x.shallow_clone() } else { own.shallow_clone() }
                };
                let x = [&a, &b, &first][position];
                let inputs = |x: &Tensor| [at(&a, x, 0), at(&b, x, 1), at(&first, x, 2)];
                let ours = derivatives(x, &dh, |x| {
                    let [a, b, first] = inputs(x);
                    op.apply((&a, &b, Some(&first))).expect("plain")
                })?;
                let theirs = derivatives(x, &dh, |x| {
                    let [a, b, first] = inputs(x);
                    steps(&a, &b, Some(&first), op)
                })?;
                for i in 0..3 {
                    close(&ours[i], &theirs[i], &format!("{shape:?} {reverse} {position} {i}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn second_derivatives_beside_finite_differences() -> Result<()> {
    let small = zeros() * 0.7;
    gradcheck(CumulativeProduct { dim: 1, reverse: false }, &small)?.assert();
    gradcheck(CumulativeProduct { dim: 0, reverse: true }, &small)?.assert();
    gradcheck(CumulativeSum { dim: 0, reverse: true }, &small)?.assert();
    let op = LinearRecurrence { dim: 0, reverse: false };
    gradcheck(op, (&small, &(&small + 0.5), Some(&small.select(0, 1))))?.assert();
    // Without elements, of one, and expanded.
    for x in [Tensor::zeros([0, 3], DOUBLE_CPU), Tensor::from(2.0), x().narrow(0, 0, 1)] {
        gradcheck(CumulativeProduct { dim: 0, reverse: false }, &x)?.assert();
        gradcheck(op, (&x, &x, None))?.assert();
    }
    let wide = Tensor::from_slice(&[0.5, -1.5]).expand([3, 2], false);
    gradcheck(CumulativeProduct { dim: 0, reverse: true }, &wide)?.assert();
    gradcheck(op, (&wide, &x().select(1, 0), None))?.assert();
    Ok(())
}

/// Narrow dtypes are added up and multiplied in f64: within half a step of the exact value.
#[test]
fn narrow_dtypes() -> Result<()> {
    for (kind, half) in [(Kind::Float, 6e-8), (Kind::Half, 4.9e-4), (Kind::BFloat16, 3.95e-3)] {
        let x = (Tensor::rand([3, 4000], DOUBLE_CPU) * 0.01 + 0.995).to_kind(kind);
        let wide = x.to_kind(Kind::Double);
        for (found, exact) in [
            (CumulativeSum { dim: 1, reverse: false }.apply(&x)?, wide.cumsum(1, None)),
            (CumulativeProduct { dim: 1, reverse: false }.apply(&x)?, wide.cumprod(1, None)),
            (
                LinearRecurrence { dim: 1, reverse: false }.apply((&(&x * 0.5), &x, None))?,
                steps(
                    &(&x * 0.5).to_kind(Kind::Double),
                    &wide,
                    None,
                    LinearRecurrence { dim: 1, reverse: false },
                ),
            ),
        ] {
            assert_eq!(found.kind(), kind);
            let scale = exact.abs().clamp_min(1e-3);
            let error = ((found.to_kind(Kind::Double) - exact) / scale).abs().max();
            assert!(f64::try_from(&error)? <= half, "{kind:?}: {error}");
        }
    }
    Ok(())
}

/// Gradients and tangents of products whose parts are beyond the dtype, beside those in f64.
#[test]
fn products_beyond_a_dtype() -> Result<()> {
    let chain = |first: &[f64], n: usize, second: f64, m: usize| {
        let first = first.iter().cycle().take(n).copied();
        Tensor::from_slice(&first.chain(std::iter::repeat_n(second, m)).collect::<Vec<f64>>())
    };
    for (kind, x, half) in [
        (Kind::Float, chain(&[2.0], 100, 0.5, 170), 6e-8),
        (Kind::Float, chain(&[1e30], 2, 1e-30, 2), 6e-8),
        (Kind::Half, chain(&[4.0], 7, 0.26, 14), 4.9e-4),
        (Kind::BFloat16, chain(&[1e30, 3.0], 3, 1e-30, 2), 3.95e-3),
    ] {
        let x = x.to_kind(kind);
        let dx = (&x * 0.01).to_kind(kind);
        for reverse in [false, true] {
            let op = CumulativeProduct { dim: 0, reverse };
            let last = if reverse { 0 } else { -1 };
            let derivatives = |kind: Kind| -> Result<[Tensor; 2]> {
                let leaf = x.to_kind(kind).set_requires_grad(true);
                let gradient = grad(&op.apply(&leaf)?.select(0, last), &leaf)?;
                let level = crate::edges::forward_mode();
                let y = op.apply(&level.dual(&x.to_kind(kind), &dx.to_kind(kind))?)?;
                Ok([gradient, level.tangent(&y).expect("a tangent")])
            };
            for (found, exact) in derivatives(kind)?.iter().zip(derivatives(Kind::Double)?) {
                let least = if kind == Kind::Half { 6e-8 } else { 1e-40 };
                let exact = exact.where_self(&exact.to_kind(kind).isfinite(), &exact.zeros_like());
                let found = found.to_kind(Kind::Double);
                let found = found.where_self(&found.isfinite(), &found.zeros_like());
                let error = (found - &exact).abs() / (exact.abs() * half + least);
                assert!(f64::try_from(error.max())? <= 1.1, "{kind:?} {reverse}: {error}");
            }
        }
    }
    Ok(())
}

/// Integers are promoted, and complex numbers differentiated, as by libtorch.
#[test]
fn other_dtypes() -> Result<()> {
    let n = Tensor::from_slice(&[2i32, -3, 4]);
    for reverse in [false, true] {
        let sum = CumulativeSum { dim: 0, reverse }.apply(&n)?;
        close(&sum, &turned(&n, 0, reverse, cumsum), "sum");
        assert_eq!(sum.kind(), Kind::Int64);
        let product = CumulativeProduct { dim: 0, reverse }.apply(&n)?;
        close(&product, &turned(&n, 0, reverse, cumprod), "product");
        let op = LinearRecurrence { dim: 0, reverse };
        close(&op.apply((&n, &n, None))?, &steps(&n, &n, None, op), "recurrence");

        let z = Tensor::randn([4, 3], (Kind::ComplexDouble, Device::Cpu));
        let ours = derivatives_of_complex(&z, |z| {
            CumulativeProduct { dim: 0, reverse }.apply(z).expect("plain")
        })?;
        let theirs = derivatives_of_complex(&z, |z| turned(z, 0, reverse, cumprod))?;
        close(&ours, &theirs, "complex product");
        let ours =
            derivatives_of_complex(&z, |z| op.apply((z, z, Some(&z.get(0)))).expect("plain"))?;
        let theirs = derivatives_of_complex(&z, |z| steps(z, z, Some(&z.get(0)), op))?;
        close(&ours, &theirs, "complex recurrence");
    }
    Ok(())
}

fn derivatives_of_complex(z: &Tensor, f: impl Fn(&Tensor) -> Tensor) -> Result<Tensor> {
    let z = z.detach().set_requires_grad(true);
    let y = (f(&z).real() * 2.0 + f(&z).imag()).sum(None);
    Ok(Tensor::f_run_backward(&[y], &[&z], false, false)?[0].detach())
}

/// Inputs of two dtypes give the wider one, and gradients in their own.
#[test]
fn mixed_dtypes() -> Result<()> {
    let (a, b) = (Var::leaf(x().to_kind(Kind::Float)), Var::leaf(x()));
    let first = Var::leaf(Tensor::from(0.5f32));
    let op = LinearRecurrence { dim: 1, reverse: false };
    let h = op.apply((&a, &b, Some(&first)))?;
    assert_eq!(h.value().kind(), Kind::Double);
    let grads = GradOptions::new().grad(&h.sum()?, [&a, &b, &first])?;
    let wide = x().to_kind(Kind::Float).to_kind(Kind::Double);
    close(h.value(), &steps(&wide, &x(), Some(&Tensor::from(0.5)), op), "h");
    let kinds = grads.map(|g| g.expect("used").value().kind());
    assert_eq!(kinds, [Kind::Float, Kind::Double, Kind::Float]);
    Ok(())
}

#[test]
fn methods_of_vars_and_errors() -> Result<()> {
    let v = Var::leaf(x());
    close(v.cumsum(-1)?.value(), &x().cumsum(-1, None), "cumsum");
    close(v.cumprod(0)?.value(), &x().cumprod(0, None), "cumprod");
    let dx = grad(&v.cumsum(1)?.sum()?, &v)?;
    assert_eq!(Vec::<f64>::try_from(dx.value().get(0))?, [4.0, 3.0, 2.0, 1.0]);
    let error = v.cumsum(2).expect_err("no such dimension").to_string();
    assert!(error.contains("CumulativeSum") && error.contains("dimension 2 of 2"), "{error}");
    let error = LinearRecurrence { dim: 0, reverse: false }.apply((
        &x(),
        &x().get(0).get(0).expand([5], false),
        None,
    ));
    assert!(error.expect_err("shapes").to_string().contains("input 1 has shape [5]"));
    Ok(())
}

/// A row of ten million, and many rows: forward and backward.
#[test]
fn long_ones() -> Result<()> {
    let x = Tensor::ones([10_000_000], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let y = CumulativeSum { dim: 0, reverse: false }.apply(&x)?;
    assert_eq!(y.double_value(&[-1]), 1e7);
    let dx = grad(&y.narrow(0, -1, 1), &x)?;
    assert!(dx.eq(1.0).all().int64_value(&[]) == 1);
    let x = Tensor::ones([2000, 3, 500], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let y = CumulativeProduct { dim: 0, reverse: true }.apply(&x)?;
    let dx = grad(&y.sum(None::<Kind>), &x)?;
    assert_eq!((dx.double_value(&[0, 0, 0]), dx.double_value(&[1999, 2, 499])), (1.0, 2000.0));
    Ok(())
}
