//! Reductions of great lengths, and of numbers near the ends of their dtype: within 4 epsilon
//! of the sum of magnitudes, recorded or not.

use anyhow::Result;
use dashu_float::{FBig, round::mode::HalfAway};
use tch::{Device, Kind, Reduction, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::{Function, autocast, ops};

fn epsilon(kind: Kind) -> f64 {
    if kind == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) }
}

fn wide(x: &Tensor) -> Tensor {
    x.detach().to_kind(Kind::Double)
}

/// The greatest difference in units of `epsilon * scale`.
fn worst(found: &Tensor, expected: &Tensor, scale: &Tensor) -> Result<f64> {
    let difference = (wide(found) - expected).abs() / (scale * epsilon(found.kind()));
    Ok(f64::try_from(difference.max())?)
}

/// Gradients of `y` under `dy`: plain, and as they are recorded.
fn both_ways(y: &Tensor, x: &[&Tensor], dy: &Tensor) -> Result<[Vec<Tensor>; 2]> {
    let seeded = (y * dy).sum(y.kind());
    let plain = Tensor::f_run_backward(&[&seeded], x, true, false)?;
    Ok([plain, Tensor::f_run_backward(&[&seeded], x, true, true)?])
}

#[test]
fn huber_of_a_hundred_million() -> Result<()> {
    for (kind, n) in [(Kind::Double, 100_000_000), (Kind::Float, 100_000_000)] {
        let x = Tensor::from(0.3).to_kind(kind);
        let each = f64::try_from(&x)?;
        let (x, t) = (x.expand([n], false), Tensor::zeros([1], (kind, Device::Cpu)));
        for reduction in [Reduction::Mean, Reduction::Sum] {
            let y = ops::HuberLoss { delta: 1.0, reduction }.apply((&x, &t))?;
            let count = if reduction == Reduction::Sum { n as f64 } else { 1.0 };
            let error = f64::try_from(&y)? / (each * each / 2.0 * count) - 1.0;
            let error = error.abs() / epsilon(kind);
            println!("{kind:?} {reduction:?}: {error:.2} epsilon");
            assert!(error < 4.0, "{kind:?} {reduction:?}: {error}");
        }
    }
    Ok(())
}

/// The gradient of a far element is `delta / n`, rounded once.
#[test]
fn constants_of_huber_are_rounded_once() -> Result<()> {
    for n in 1..200i64 {
        let x = Tensor::full([n], 9.0, FLOAT_CPU).set_requires_grad(true);
        let y = ops::HuberLoss { delta: 0.7, reduction: Reduction::Mean }
            .apply((&x, &x.zeros_like()))?;
        for dx in both_ways(&y, &[&x], &y.ones_like())?.iter().flatten() {
            assert_eq!(f32::try_from(dx.detach().get(0))?, (0.7 / n as f64) as f32, "{n}");
        }
    }
    Ok(())
}

#[test]
fn cross_entropy_of_a_million_classes() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let n = 1 << 20;
        let x = Tensor::full([n], -0.7, (kind, Device::Cpu));
        let _ = x.narrow(0, 0, 1).fill_(0.0);
        let other = f64::try_from(x.get(1))?.exp();
        let y = ops::CrossEntropy::default().apply((&x, &Tensor::from(0i64)))?;
        let exact = (1.0 + (n - 1) as f64 * other).ln();
        let error = (f64::try_from(&y)? - exact).abs() / epsilon(kind) / 1.7;
        println!("{kind:?}: {error:.2} epsilon");
        assert!(error < 4.0, "{kind:?}: {error}");
    }
    Ok(())
}

#[test]
fn cross_entropy_of_a_million_rows() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let n = 2_000_000;
        let x = Tensor::from_slice(&[0.3, 1.0]).to_kind(kind).expand([n, 2], false);
        let apart = f64::try_from(x.get(0).get(1) - x.get(0).get(0))?;
        let targets = Tensor::zeros([1], (Kind::Int64, Device::Cpu)).expand([n], false);
        let y = ops::CrossEntropy::default().apply((&x, &targets))?;
        let error = (f64::try_from(&y)? - apart.exp().ln_1p()).abs() / epsilon(kind) / 1.7;
        println!("{kind:?}: {error:.2} epsilon");
        assert!(error < 4.0, "{kind:?}: {error}");
    }
    Ok(())
}

#[test]
fn cross_entropy_of_a_certain_class() -> Result<()> {
    for kind in [Kind::Float, Kind::Double] {
        for (classes, score) in [(4096, 16.6155), (4096, 36.7), (50_000, 17.0), (1 << 20, 20.0)] {
            let x = Tensor::zeros([1, classes], (kind, Device::Cpu));
            let _ = x.narrow(1, 0, 1).fill_(score);
            let other = (-f64::try_from(x.get(0).get(0))?).exp();
            let x = x.set_requires_grad(true);
            let y = ops::CrossEntropy::default().apply((&x, &Tensor::from_slice(&[0i64])))?;
            let rest = (classes - 1) as f64 * other;
            for (i, dx) in both_ways(&y, &[&x], &y.ones_like())?.iter().enumerate() {
                let found = f64::try_from(dx[0].detach().get(0).get(0))?;
                let error = (found + rest / (1.0 + rest)).abs() / epsilon(kind);
                println!("{kind:?} {classes} {score} {i}: {error:.2} epsilon of 1 / n");
                assert!(error < 4.0, "{kind:?} {classes} {score} {i}: {error}");
            }
        }
    }
    Ok(())
}

#[test]
fn rows_that_are_left_out_do_not_matter() -> Result<()> {
    for left_out in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for label_smoothing in [0.0, 0.1] {
            let x = Tensor::from_slice(&[1.0, 2.0, left_out, 3.0, left_out, left_out]);
            let x = x.reshape([3, 2]).set_requires_grad(true);
            let targets = Tensor::from_slice(&[0i64, -100, -100]);
            let y = ops::CrossEntropy { label_smoothing }.apply((&x, &targets))?;
            assert!(f64::try_from(&y)?.is_finite());
            let [plain, recorded] = both_ways(&y, &[&x], &y.ones_like())?;
            assert!(plain[0].allclose(&recorded[0], 1e-6, 0.0, false), "{plain:?} {recorded:?}");
            assert_eq!(Vec::<f32>::try_from(plain[0].narrow(0, 1, 2).reshape(-1))?, [0.0; 4]);
            let second = Tensor::f_run_backward(&[recorded[0].get(0).get(0)], &[&x], true, false)?;
            assert_eq!(Vec::<f32>::try_from(second[0].narrow(0, 1, 2).reshape(-1))?, [0.0; 4]);
        }
    }
    Ok(())
}

#[test]
fn rms_norm_of_four_million() -> Result<()> {
    let x = Tensor::full([1 << 22], 0.1, DOUBLE_CPU);
    let y = ops::RmsNorm { eps: 0.0 }.apply((&x, &x.ones_like()))?;
    let error = worst(&y, &x.ones_like(), &x.ones_like())?;
    assert!(error < 3.0, "{error} epsilon");
    Ok(())
}

/// Against 100 bits and more.
#[test]
fn rms_norm_of_exact_rows() -> Result<()> {
    let (rows, n) = (40, 129);
    let (x, w) = (Tensor::randn([rows, n], DOUBLE_CPU), Tensor::randn([n], DOUBLE_CPU));
    let y = Vec::<f64>::try_from(ops::RmsNorm { eps: 0.0 }.apply((&x, &w))?.reshape(-1))?;
    let (x, w) = (Vec::<f64>::try_from(x.reshape(-1))?, Vec::<f64>::try_from(w)?);
    let big =
        |x: f64| FBig::<HalfAway, 2>::try_from(x).expect("finite").with_precision(120).value();
    let mut worst = 0.0f64;
    for (x, y) in x.chunks(n as usize).zip(y.chunks(n as usize)) {
        let squares = x.iter().fold(big(0.0), |sum, x| sum + big(*x) * big(*x));
        let scale = (squares / big(n as f64)).sqrt();
        for i in 0..x.len() {
            let exact = big(x[i]) * big(w[i]) / &scale;
            let error = ((big(y[i]) - &exact) / exact).to_f64().value().abs() / f64::EPSILON;
            worst = worst.max(error);
        }
    }
    println!("{worst:.2} epsilon");
    assert!(worst < 3.0, "{worst} epsilon");
    Ok(())
}

/// The sum over rows, of f64 in twice its digits.
fn sum_of_rows(x: &Tensor) -> Result<Tensor> {
    let n = x.size()[1] as usize;
    let mut sums = vec![(0.0, 0.0); n];
    for (i, x) in Vec::<f64>::try_from(x.reshape(-1))?.into_iter().enumerate() {
        let (sum, lost) = sums[i % n];
        let next: f64 = sum + x;
        let seen = next - sum;
        sums[i % n] = (next, lost + (sum - (next - seen)) + (x - seen));
    }
    Ok(Tensor::from_slice(&sums.iter().map(|(sum, lost)| sum + lost).collect::<Vec<_>>()))
}

#[test]
fn slopes_of_the_weight_are_those_of_few_rows() -> Result<()> {
    tch::manual_seed(5);
    for kind in [Kind::Float, Kind::Double] {
        for (rows, n) in [(100_000, 1), (1_000_003, 1), (30_001, 64), (5_003, 768), (37, 40_001)] {
            for steady in [true, false] {
                // Rows of plus and minus 1 have a root mean square of 1.
                let signs =
                    Tensor::randn([rows, n], (kind, Device::Cpu)).ge(0.0).to_kind(kind) * 2.0 - 1.0;
                let (x, dy) = match steady {
                    true => (signs.ones_like(), signs.ones_like() * 0.1),
                    false => (signs, Tensor::randn([rows, n], (kind, Device::Cpu))),
                };
                let w = Tensor::ones([n], (kind, Device::Cpu)).set_requires_grad(true);
                // Else nothing of the slope would be recorded.
                let x = x.set_requires_grad(true);
                let y = ops::RmsNorm { eps: 0.0 }.apply((&x, &w))?;
                let terms = wide(&x) * wide(&dy);
                let (exact, all) =
                    (sum_of_rows(&terms)?, terms.abs().sum_dim_intlist(0, false, None));
                for (i, dw) in both_ways(&y, &[&w], &dy)?.iter().enumerate() {
                    let error = worst(&dw[0], &exact, &all)?;
                    println!("{kind:?} {rows} x {n} {steady} {i}: {error:.2} epsilon");
                    // Of f64 that is recorded, libtorch makes the sum.
                    let limit = if i == 1 && kind == Kind::Double { 8.0 } else { 4.0 };
                    assert!(error < limit, "{kind:?} {rows} x {n} {steady} {i}: {error}");
                }
            }
        }
    }
    Ok(())
}

/// Where the squares, or the third power of `r`, are no numbers of the dtype.
#[test]
fn rms_norm_of_great_and_small_rows() -> Result<()> {
    tch::manual_seed(6);
    let (x, w) = (Tensor::randn([3, 50], DOUBLE_CPU), Tensor::randn([50], DOUBLE_CPU));
    let dy = Tensor::randn([3, 50], DOUBLE_CPU);
    for kind in [Kind::Float, Kind::Double] {
        for power in [-300, -150, -106, -35, -20, -14, 0, 14, 18, 25, 37, 106, 150, 200, 300i32] {
            if kind == Kind::Float && power.abs() > 37 {
                continue;
            }
            // Powers of 2 change no digit of `y`.
            let scale = (f64::from(power) * 10f64.log2()).round().exp2();
            let [x, w, dy] = [&x, &w, &dy].map(|t| t.to_kind(kind));
            let great = (&x * scale).set_requires_grad(true);
            let w = w.detach().set_requires_grad(true);
            let op = ops::RmsNorm { eps: 0.0 };
            let y = op.apply((&great, &w))?;
            let near = wide(&x).set_requires_grad(true);
            let w_near = wide(&w).set_requires_grad(true);
            let y_near = &near * (near.square().mean_dim(-1, true, None)).rsqrt() * &w_near;
            let [exact, _] = both_ways(&y_near, &[&near, &w_near], &wide(&dy))?;
            assert!(worst(&y, &y_near.detach(), &y_near.detach().abs())? < 4.0, "{kind:?} {power}");
            let greatest = exact[0].abs().max();
            let all =
                (y_near.detach() / wide(&w) * wide(&dy)).abs().sum_dim_intlist(0, false, None);
            for (i, found) in both_ways(&y, &[&great, &w], &dy)?.iter().enumerate() {
                // libtorch's squares in f64 have no others beside them.
                if i == 1 && power.abs() >= 150 {
                    continue;
                }
                let dx = worst(&(wide(&found[0]) * scale).to_kind(kind), &exact[0], &greatest)?;
                let dw = worst(&found[1], &exact[1], &all)?;
                println!("{kind:?} 1e{power} {i}: {dx:.2}, {dw:.2} epsilon");
                assert!(dx < 4.0 && dw < 4.0, "{kind:?} 1e{power} {i}: {dx} {dw}");
            }
        }
    }
    Ok(())
}

/// With and without autocast, `y` has the dtype that libtorch gives it.
#[test]
fn rms_norm_has_the_dtype_of_its_rows() -> Result<()> {
    let kinds = [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16];
    for (a, b) in kinds.into_iter().flat_map(|a| kinds.map(|b| (a, b))) {
        let x = Tensor::randn([2, 5], FLOAT_CPU).to_kind(a).set_requires_grad(true);
        let w = Tensor::randn([5], FLOAT_CPU).to_kind(b).set_requires_grad(true);
        let ours = || ops::RmsNorm { eps: 1e-5 }.apply((&x, &w));
        let libtorchs = || x.rms_norm([5], Some(&w), 1e-5);
        let pairs = [
            (ours()?, libtorchs()),
            (
                autocast(Device::Cpu, Kind::BFloat16, ours)??,
                autocast(Device::Cpu, Kind::BFloat16, libtorchs)?,
            ),
        ];
        for (y, libtorchs) in pairs {
            assert_eq!(y.kind(), libtorchs.kind(), "{a:?} and {b:?}");
            let narrow = [a, b].iter().any(|k| *k == Kind::BFloat16 || *k == Kind::Half);
            let tolerance = if narrow { 0.02 } else { 1e-5 };
            assert!(wide(&y).allclose(&wide(&libtorchs), tolerance, tolerance, false));
            for found in both_ways(&y, &[&x, &w], &y.ones_like())? {
                assert_eq!([found[0].kind(), found[1].kind()], [a, b]);
            }
        }
    }
    Ok(())
}
