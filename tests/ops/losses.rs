//! HuberLoss, CrossEntropy and RmsNorm against their formulas in f64 (and, in
//! f64, against libtorch's): accuracy in epsilon, every dtype, long rows and
//! short ones, and what they refuse.

use anyhow::Result;
use tch::{Kind, Reduction, Tensor, kind::DOUBLE_CPU};
use tch_function::{Function, ops};

const KINDS: [Kind; 4] = [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16];

fn epsilon(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::EPSILON,
        Kind::Float => f64::from(f32::EPSILON),
        Kind::Half => 2f64.powi(-10),
        _ => 2f64.powi(-7),
    }
}

/// `y`, and the gradients of `sum(y v)` for a `v` of its shape.
fn run(op: impl Fn(&[Tensor]) -> Tensor, x: &[Tensor], v: Option<&Tensor>) -> Vec<Tensor> {
    let float = |t: &&Tensor| t.is_floating_point();
    let x: Vec<Tensor> = x
        .iter()
        .map(|t| if float(&t) { t.detach().set_requires_grad(true) } else { t.shallow_clone() })
        .collect();
    let y = op(&x);
    let seed = v.map_or_else(|| y.ones_like(), |v| v.to_kind(y.kind()));
    (&y * seed).sum(y.kind()).backward();
    let mut all = vec![y.detach()];
    all.extend(x.iter().filter(float).map(Tensor::grad));
    all
}

/// The greatest error in units of `epsilon * max(|expected|, least)`.
fn worst(kind: Kind, found: &Tensor, expected: &Tensor, least: f64) -> Result<f64> {
    assert_eq!(found.kind(), kind);
    let scale = expected.abs().clamp_min(least) * epsilon(kind);
    Ok(f64::try_from(((found.to_kind(Kind::Double) - expected) / scale).abs().max())?)
}

fn wide(x: &[Tensor]) -> Vec<Tensor> {
    let wide = |t: &Tensor| if t.is_floating_point() { t.to_kind(Kind::Double) } else { t.copy() };
    x.iter().map(wide).collect()
}

fn randn(size: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(size, DOUBLE_CPU).to_kind(kind)
}

#[test]
fn huber_is_accurate() -> Result<()> {
    tch::manual_seed(1);
    for kind in KINDS {
        for n in [1, 7, 100_003] {
            for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
                let x = [randn(&[n], kind), randn(&[n], kind)];
                let op = ops::HuberLoss { delta: 0.7, reduction };
                let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &x, None);
                let exact = run(|x| x[0].huber_loss(&x[1], reduction, 0.7), &wide(&x), None);
                for (i, (found, exact)) in found.iter().zip(&exact).enumerate() {
                    let total = i == 0 && reduction != Reduction::None;
                    if !found.isfinite().all().try_into().unwrap_or(false) {
                        assert!(kind == Kind::Half && total, "an f16 sum overflows");
                        continue;
                    }
                    // Below, f16 has subnormal numbers.
                    let error = worst(kind, found, exact, if total { 0.0 } else { 1e-4 })?;
                    println!("{kind:?} {n} {reduction:?} {i}: {error:.2} epsilon");
                    assert!(
                        error < if total { 4.0 } else { 3.0 },
                        "{kind:?} {n} {reduction:?} {i}"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn huber_refuses_a_delta_that_is_not_positive() {
    let x = randn(&[2], Kind::Float);
    for delta in [0.0, -1.0, f64::NAN] {
        let op = ops::HuberLoss { delta, reduction: Reduction::Mean };
        let e = op.apply((&x, &x)).expect_err("no loss").to_string();
        assert!(e.contains("give a positive number"), "{e}");
    }
}

#[test]
fn huber_keeps_nan_and_infinity() -> Result<()> {
    let x = Tensor::from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    let zero = x.zeros_like();
    let op = ops::HuberLoss { delta: 1.0, reduction: Reduction::None };
    let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &[x, zero], None);
    let (y, dx) = (Vec::<f32>::try_from(&found[0])?, Vec::<f32>::try_from(&found[1])?);
    assert!(y[0].is_nan() && dx[0].is_nan());
    assert_eq!((&y[1..], &dx[1..]), (&[f32::INFINITY; 2][..], &[1.0, -1.0][..]));
    Ok(())
}

/// One shape and dtype of the losses, whoever computes them, and gradients of
/// each input's.
#[test]
fn huber_of_two_dtypes_and_of_a_great_delta() -> Result<()> {
    let kinds = [Kind::Half, Kind::Float, Kind::Double];
    for (kind_x, kind_t) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            let (x, t) = (randn(&[5], kind_x), randn(&[5], kind_t));
            let op = ops::HuberLoss { delta: 1.0, reduction };
            let libtorch = x.huber_loss(&t, reduction, 1.0);
            let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &[x, t], None);
            let kinds: Vec<_> = found.iter().map(Tensor::kind).collect();
            assert_eq!(kinds, [libtorch.kind(), kind_x, kind_t], "{reduction:?}");
            assert!(found[0].allclose(&libtorch, 0.01, 0.01, false), "{reduction:?}");
        }
    }
    let x = Tensor::from_slice(&[3f32, -4.0]).set_requires_grad(true);
    let op = ops::HuberLoss { delta: 1e300, reduction: Reduction::Sum };
    let y = op.apply((&x, &x.zeros_like()))?;
    let dx = Tensor::f_run_backward(&[y], &[&x], true, true)?.remove(0);
    assert_eq!(Vec::<f32>::try_from(dx.detach())?, [3.0, -4.0]);
    Ok(())
}

/// Scores of a spread, and targets of which one is left out.
fn classified(rows: i64, classes: i64, spread: f64, kind: Kind) -> [Tensor; 2] {
    let x = (Tensor::randn([rows, classes], DOUBLE_CPU) * spread).to_kind(kind);
    let targets = Tensor::randint(classes, [rows], (Kind::Int64, tch::Device::Cpu));
    if rows > 2 {
        let _ = targets.narrow(0, 1, 1).fill_(-100);
    }
    [x, targets]
}

/// Of one row, in f64 with the standard library's functions and a compensated
/// sum; libtorch's in f64 is up to 15 epsilon away.
fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let (mut sum, mut lost) = (0.0, 0.0);
    for e in &e {
        let next = sum + e;
        lost += if sum > *e { sum - next + e } else { e - next + sum };
        sum = next;
    }
    e.iter().map(|e| e / (sum + lost)).collect()
}

/// The loss and its gradient by the formulas.
fn smoothed(x: &[Tensor], s: f64) -> [Tensor; 2] {
    let (x, targets) = (&x[0], &x[1]);
    let counted = targets.ne(-100).to_kind(Kind::Double);
    let class = targets.clamp_min(0).unsqueeze(1);
    let hot = x.zeros_like().scatter_value(1, &class, 1.0);
    let q = hot * (1.0 - s) + s / x.size()[1] as f64;
    let weight = (&counted / counted.sum(None)).unsqueeze(1);
    let loss = (x.log_softmax(1, None) * &q * &weight).sum(None) * -1.0;
    let numbers = Vec::<f64>::try_from(x.reshape(-1)).expect("f64");
    let p: Vec<f64> = numbers.chunks(x.size()[1] as usize).flat_map(softmax).collect();
    [loss, (Tensor::from_slice(&p).view_as(x) - q) * weight]
}

#[test]
fn cross_entropy_is_accurate() -> Result<()> {
    tch::manual_seed(2);
    for kind in KINDS {
        for (rows, classes, spread) in [(5, 1, 1.0), (40, 3, 5.0), (300, 1000, 1.0), (7, 5003, 9.0)]
        {
            for s in [0.0, 0.1, 1.0] {
                let x = classified(rows, classes, spread, kind);
                let op = ops::CrossEntropy { label_smoothing: s };
                let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &x, None);
                let exact = smoothed(&wide(&x), s);
                let range = f64::try_from(
                    x[0].to_kind(Kind::Double).max() - x[0].to_kind(Kind::Double).min(),
                )?;
                let counted = f64::try_from(x[1].ne(-100).sum(Kind::Double))?;
                let errors = [
                    worst(kind, &found[0], &exact[0], 1.0 + range)?,
                    worst(kind, &found[1], &exact[1], 1.0 / counted)?,
                ];
                println!("{kind:?} {rows} x {classes}, smoothing {s}: {errors:.3?} epsilon");
                assert!(errors.iter().all(|e| *e < 4.0), "{kind:?} {rows} x {classes} {s}");
            }
        }
    }
    Ok(())
}

#[test]
fn cross_entropy_of_great_scores() -> Result<()> {
    let x = Tensor::from_slice(&[1e30f32, 0.0, -1e30, f32::NEG_INFINITY]).reshape([1, 4]);
    let x = [x, Tensor::from_slice(&[0i64])];
    let op = ops::CrossEntropy::default();
    let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &x, None);
    assert_eq!(f64::try_from(&found[0])?, 0.0);
    assert_eq!(Vec::<f32>::try_from(found[1].reshape(-1))?, [0.0; 4]);
    Ok(())
}

#[test]
fn cross_entropy_refuses() {
    let [x, targets] = classified(4, 3, 1.0, Kind::Float);
    let apply = |x: &Tensor, t: &Tensor, s| {
        let op = ops::CrossEntropy { label_smoothing: s };
        op.apply((x, t)).expect_err("no loss").to_string()
    };
    assert!(apply(&x, &targets, 1.5).contains("give 0 to 1"));
    assert!(apply(&x, &(&targets + 3), 0.1).contains("out of bounds"));
    assert!(apply(&x, &targets.narrow(0, 0, 1), 0.1).contains("CrossEntropy: forward failed"));
}

#[test]
fn rms_norm_is_accurate() -> Result<()> {
    tch::manual_seed(3);
    let formula = |x: &[Tensor]| {
        let r = (x[0].square().mean_dim(-1, true, None) + 1e-5).rsqrt();
        &x[0] * r * &x[1]
    };
    for kind in KINDS {
        for size in [vec![1], vec![5, 3], vec![2, 3, 1000], vec![300, 128], vec![3, 40_001]] {
            let n = size[size.len() - 1];
            let x = [randn(&size, kind), randn(&[n], kind)];
            let v = randn(&size, kind);
            let op = ops::RmsNorm { eps: 1e-5 };
            let found = run(|x| op.apply((&x[0], &x[1])).expect("plain"), &x, Some(&v));
            let exact = run(formula, &wide(&x), Some(&v.to_kind(Kind::Double)));
            let greatest = |t: &Tensor| f64::try_from(t.abs().max());
            let wide = wide(&[x[0].shallow_clone(), x[1].shallow_clone(), v]);
            let r = (wide[0].square().mean_dim(-1, true, None) + 1e-5).rsqrt();
            let least = [1e-4, greatest(&(r * &wide[1] * &wide[2]))?, greatest(&exact[2])?];
            for i in 0..3 {
                let error = worst(kind, &found[i], &exact[i], least[i])?;
                println!("{kind:?} {size:?} {}: {error:.3} epsilon", ["y", "dx", "dw"][i]);
                // libtorch's formula in f64 is not exact (`long.rs` has exact rows).
                let limit = if i > 0 {
                    8.0
                } else if kind == Kind::Double {
                    4.0
                } else {
                    3.0
                };
                assert!(error < limit, "{kind:?} {size:?} {i}: {error}");
            }
        }
    }
    Ok(())
}

/// No rows, and rows of nothing: with a kernel and recorded.
#[test]
fn rms_norm_of_nothing() -> Result<()> {
    for size in [[0, 3], [3, 0]] {
        let x = Tensor::zeros(size, DOUBLE_CPU).set_requires_grad(true);
        let w = Tensor::ones([size[1]], DOUBLE_CPU).set_requires_grad(true);
        let y = ops::RmsNorm { eps: 1e-5 }.apply((&x, &w))?;
        for create_graph in [false, true] {
            let sum = y.sum(Kind::Double);
            let found = Tensor::f_run_backward(&[sum], &[&x, &w], true, create_graph)?;
            assert_eq!((found[0].size(), found[1].size()), (x.size(), w.size()));
            assert!(found[1].detach().equal(&w.zeros_like()));
        }
    }
    Ok(())
}

#[test]
fn rms_norm_of_strided_rows_and_of_two_dtypes() -> Result<()> {
    let (x, w) = (randn(&[6, 5], Kind::Double).tr(), randn(&[6], Kind::Double));
    let op = ops::RmsNorm { eps: 1e-6 };
    let apply = |x: &[Tensor]| op.apply((&x[0], &x[1])).expect("plain");
    let found = run(apply, &[x.shallow_clone(), w.shallow_clone()], None);
    let packed = run(apply, &[x.contiguous(), w.shallow_clone()], None);
    assert!(found.iter().zip(&packed).all(|(a, b)| a == b));
    let mixed = run(apply, &[x.to_kind(Kind::Half), w.to_kind(Kind::Float)], None);
    assert_eq!(
        mixed.iter().map(Tensor::kind).collect::<Vec<_>>(),
        [Kind::Half, Kind::Half, Kind::Float]
    );
    assert!(
        mixed
            .iter()
            .zip(&found)
            .all(|(a, b)| a.to_kind(Kind::Double).allclose(b, 0.01, 0.01, false))
    );
    let e = op.apply((&x, &w.narrow(0, 0, 2))).expect_err("another shape").to_string();
    assert!(e.contains("give one of the last dimension"), "{e}");
    Ok(())
}
