//! Recorded gradients as plain ones, and rows and numbers at the ends of the type.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{Function, GradOptions, ops};

/// The gradients of `y` under `dy`: plain, and as they are recorded.
fn both_ways(y: &Tensor, x: &Tensor, dy: &Tensor) -> Result<[Tensor; 2]> {
    let plain = GradOptions::new().seeds(dy).retain_graph(true).grad(y, x)?.context("used")?;
    let seed = dy.detach().set_requires_grad(true);
    let recorded = GradOptions::new().seeds(&seed).create_graph(true).grad(y, x)?;
    Ok([plain, recorded.context("used")?.detach()])
}

/// The gradient of the weight has the same bits; that of rows near the ends of f64 is finite and
/// near.
#[test]
fn rms_norm_of_far_rows() -> Result<()> {
    let x = Tensor::from_slice(&[1e-200, 3e-200, -2e-200, 1e170, -4e170, 2e170, 0.5, 1.0, -3.0]);
    let x = x.reshape([3, 3]).set_requires_grad(true);
    let w = Tensor::from_slice(&[0.5, 2.0, -1.5]).set_requires_grad(true);
    let y = ops::RmsNorm { eps: 0.0 }.apply((&x, &w))?;
    let dy = Tensor::from_slice(&[0.3, -0.7, 1.1]).expand([3, 3], false);
    let [plain, recorded] = both_ways(&y, &w, &dy)?;
    assert!(plain.allclose(&recorded, 0.0, 0.0, false), "{plain} {recorded}");
    let [plain, recorded] = both_ways(&y, &x, &dy)?;
    assert!(bool::try_from(recorded.isfinite().all())?);
    assert!(plain.allclose(&recorded, 1e-13, 0.0, false), "{plain} {recorded}");
    Ok(())
}

#[test]
fn long_softmax_is_recorded_as_it_is() -> Result<()> {
    let x = (Tensor::arange(3000, DOUBLE_CPU).sin() * 3.0).set_requires_grad(true);
    let dy = Tensor::arange(3000, DOUBLE_CPU).cos();
    for log in [false, true] {
        let y = match log {
            false => ops::Softmax { dim: 0 }.apply(&x)?,
            true => ops::LogSoftmax { dim: 0 }.apply(&x)?,
        };
        let [plain, recorded] = both_ways(&y, &x, &dy)?;
        assert!(plain.allclose(&recorded, 0.0, 0.0, false), "log {log}");
        // The second derivative, in a direction, beside libtorch's.
        let reference = if log { x.log_softmax(0, None) } else { x.softmax(0, None) };
        let second = |y: &Tensor| -> Result<Tensor> {
            let recorded = GradOptions::new().seeds(&dy).create_graph(true);
            let dx = recorded.grad(y, &x)?.context("used")?;
            GradOptions::new().seeds(&dy.sin()).grad(&dx, &x)?.context("used")
        };
        let (ours, torch) = (second(&y)?, second(&reference)?);
        let off = f64::try_from((&ours - &torch).abs().max())? / f64::try_from(torch.abs().max())?;
        assert!(off < 1e-11, "log {log}: {off}");
    }
    Ok(())
}

/// In silu's tail, where `1 + e^x` is 1; at the ends the limits, and no NaN.
#[test]
fn gates_have_tails_and_ends() -> Result<()> {
    let silu = |x: f64| -> Result<f64> { Ok(f64::try_from(ops::Silu.apply(&Tensor::from(x))?)?) };
    for x in [-50.0f64, -100.0, -300.0, -700.0] {
        assert!((silu(x)? / (x * x.exp()) - 1.0).abs() < 4.0 * f64::EPSILON, "{x}");
    }
    let x = Tensor::from_slice(&[f64::INFINITY, 1e300, 0.0, -0.0, -1e300, f64::NEG_INFINITY]);
    for kind in [Kind::Double, Kind::Float] {
        let x = x.to_kind(kind).set_requires_grad(true);
        for y in [ops::Gelu.apply(&x)?, ops::GeluTanh.apply(&x)?, ops::Silu.apply(&x)?] {
            let expected = x.detach().maximum(&(x.detach() * 0.0).nan_to_num(0.0, 0.0, 0.0));
            assert!(y.detach().allclose(&expected, 0.0, 0.0, false), "{y}");
            let signs = test_support::numbers(&y.detach().to_kind(Kind::Double));
            assert!(signs[3..].iter().all(|y| y.is_sign_negative()), "{signs:?}");
            let [plain, recorded] = both_ways(&y, &x, &y.ones_like())?;
            for dx in [plain, recorded] {
                let dx = test_support::numbers(&dx.to_kind(Kind::Double));
                assert_eq!(dx, [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]);
            }
        }
    }
    Ok(())
}
