//! The ops that are kernels: values and first and second derivatives against
//! their formulas in f64, in every dtype and layout; and gradcheck.

use anyhow::Result;
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{Function, GradOptions, Var, gradcheck, ops};

type Apply = fn(&Var) -> tch_function::Result<Var>;
type Formula = fn(&Tensor) -> Tensor;

/// An op, and `y`, `dy/dx` and `d2y/dx2` as its documentation gives them.
struct Case {
    name: &'static str,
    apply: Apply,
    formulas: [Formula; 3],
}

fn density(x: &Tensor) -> Tensor {
    (x * x * -0.5).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn normal(x: &Tensor) -> Tensor {
    (x * -std::f64::consts::FRAC_1_SQRT_2).erfc() * 0.5
}

/// `s`, `u'` and `u''` of GELU with tanh.
fn tanh_parts(x: &Tensor) -> [Tensor; 3] {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let u = (x + x * x * x * 0.044715) * c;
    [(u * 2.0).sigmoid(), (x * x * 0.134145 + 1.0) * c, x * (0.26829 * c)]
}

const CASES: [Case; 4] = [
    Case {
        name: "log1p_exp",
        apply: Var::log1p_exp,
        formulas: [
            |x| x.relu() + (-x.abs()).exp().log1p(),
            Tensor::sigmoid,
            |x| x.sigmoid() * (-x).sigmoid(),
        ],
    },
    Case {
        name: "gelu",
        apply: Var::gelu,
        formulas: [
            |x| x * normal(x),
            |x| normal(x) + x * density(x),
            |x| density(x) * (2.0 - x * x),
        ],
    },
    Case {
        name: "gelu_tanh",
        apply: Var::gelu_tanh,
        formulas: [
            |x| x * &tanh_parts(x)[0],
            |x| {
                let [s, u1, _] = tanh_parts(x);
                &s + x * &s * &tanh_parts(&-x)[0] * u1 * 2.0
            },
            |x| {
                let [s, u1, u2] = tanh_parts(x);
                let rest = tanh_parts(&-x)[0].shallow_clone(); // 1 - s, which is right for large x
                let inner = &u1 * 2.0 + x * u2 + x * &u1 * &u1 * (&rest - &s) * 2.0;
                &s * &rest * inner * 2.0
            },
        ],
    },
    Case {
        name: "silu",
        apply: Var::silu,
        formulas: [
            |x| x * x.sigmoid(),
            |x| x.sigmoid() * (1.0 + x * (-x).sigmoid()),
            |x| x.sigmoid() * (-x).sigmoid() * (2.0 + x * (1.0 - x.sigmoid() * 2.0)),
        ],
    },
];

/// `y`, `dy/dx` and `d2y/dx2` of each element, through the own engine; and
/// `dy/dx` again, as it is recorded.
fn derivatives(apply: Apply, x: &Tensor) -> Result<[Tensor; 4]> {
    let x = Var::leaf(x);
    let y = apply(&x)?;
    let seed = Var::constant(y.value().ones_like());
    let recorded = GradOptions::new().seeds(&seed).create_graph(true);
    let composed = recorded.grad(&y, &x)?.expect("used");
    let curvature = GradOptions::new().seeds(&seed).grad(&composed, &x)?.expect("used");
    // Not recorded, it is the kernel's.
    let y = apply(&x)?;
    let slope = GradOptions::new().seeds(&seed).grad(&y, &x)?.expect("used");
    Ok([&y, &slope, &curvature, &composed].map(|v| v.value().shallow_clone()))
}

/// In units of the dtype's epsilon times `max(1, |x|)`.
fn worst(kind: Kind, x: &Tensor, found: &Tensor, expected: &Tensor) -> Result<f64> {
    let epsilon = match kind {
        Kind::Double => f64::EPSILON,
        Kind::Float => f64::from(f32::EPSILON),
        Kind::Half => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    };
    let scale = x.abs().clamp_min(1.0) * epsilon;
    Ok(f64::try_from(((found.to_kind(Kind::Double) - expected) / scale).abs().max())?)
}

#[test]
fn values_and_derivatives() -> Result<()> {
    let even = (Tensor::arange(60_001, DOUBLE_CPU) - 30_000.0) / 1500.0;
    let powers = (Tensor::arange(200, DOUBLE_CPU) - 180.0).exp2();
    for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
        let x = Tensor::cat(&[&even, &powers, &-&powers], 0).to_kind(kind);
        let x = x.masked_select(&x.isfinite());
        let column = Tensor::stack(&[&x, &x], 1).select(1, 1);
        for (layout, x) in [("flat", &x), ("strided", &column)] {
            let wide = x.to_kind(Kind::Double);
            for Case { name, apply, formulas } in &CASES {
                for (i, found) in derivatives(*apply, x)?.iter().enumerate() {
                    let order = [0, 1, 2, 1][i];
                    assert_eq!(found.kind(), kind);
                    let error = worst(kind, &wide, found, &formulas[order](&wide))?;
                    println!("{kind:?} {layout} {name} derivative {order}: {error:.2} epsilon");
                    // What is composed is rounded after each of many steps.
                    let limit = if i < 2 { 8.0 } else { 40.0 };
                    assert!(error < limit, "{kind:?} {layout} {name} {order}: {error}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_are_right() -> Result<()> {
    for x in [
        (Tensor::arange(12, DOUBLE_CPU) - 6.0).reshape([3, 4]).transpose(0, 1) * 0.7,
        Tensor::zeros([0, 3], DOUBLE_CPU),
        Tensor::from_slice(&[-0.3, 2.0]).expand([3, 2], false),
    ] {
        gradcheck(ops::Gelu, &x)?.assert();
        gradcheck(ops::GeluTanh, &x)?.assert();
        gradcheck(ops::Silu, &x)?.assert();
    }
    Ok(())
}

#[test]
fn at_the_ends() -> Result<()> {
    let (inf, last) = (f64::INFINITY, f64::from(f32::MAX));
    let x = Tensor::from_slice(&[inf, last, 1e18, f64::NAN, -1e18, -last, -inf]);
    for Case { name, apply, .. } in &CASES {
        for kind in [Kind::Double, Kind::Float] {
            let found = derivatives(*apply, &x.to_kind(kind))?;
            let above = [[inf, last, 1e18], [1.0; 3], [0.0; 3], [1.0; 3]];
            for (found, above) in found.iter().zip(above) {
                let expected = [&above[..], &[f64::NAN], &[0.0; 3]].concat();
                let expected = Tensor::from_slice(&expected).to_kind(kind);
                assert!(found.allclose(&expected, 0.0, 0.0, true), "{kind:?} {name}:\n{found}");
            }
        }
    }
    Ok(())
}

/// Inside libtorch's autograd, beside its own.
#[test]
fn like_libtorch() -> Result<()> {
    let x = Tensor::randn([1000], DOUBLE_CPU);
    type Op = fn(&Tensor) -> Tensor;
    let pairs: [(Op, Op); 3] = [
        (|x| ops::Gelu.apply(x).expect("plain"), |x| x.gelu("none")),
        (|x| ops::GeluTanh.apply(x).expect("plain"), |x| x.gelu("tanh")),
        (|x| ops::Silu.apply(x).expect("plain"), Tensor::silu),
    ];
    for (ours, libtorch) in pairs {
        let [(y, dx), (y2, dx2)] = [ours, libtorch].map(|op| {
            let x = x.detach().set_requires_grad(true);
            let y = op(&x);
            y.sum(Kind::Double).backward();
            (y, x.grad())
        });
        assert!(y.allclose(&y2, 1e-13, 1e-13, false) && dx.allclose(&dx2, 1e-13, 1e-13, false));
    }
    Ok(())
}
