//! Gradients are summed only where they fit, and arrive as libtorch's do.

use crate::leaf;
use anyhow::Result;
use tch::{Device, Kind, Tensor};
use tch_function::{Error, Function, GradOptions, Var, grad, inference_mode, lift, ops};
use test_support::{Op, assert_error, numbers, vector};

#[test]
fn a_leaf_that_was_resized_takes_no_gradient_of_its_old_shape() -> Result<()> {
    let x = Var::leaf(vector(&[1.0]));
    let old = (&x * 2.0).sum()?;
    (&x * 2.0).sum()?.backward()?;
    x.update(|t| {
        let _ = t.resize_([3]);
        let _ = t.fill_(1.0);
    })?;
    let new = || (&x * 2.0).sum();
    assert_error!(new()?.backward(), Error::Torch { .. }, "shape [1]", "shape [3]");
    assert_error!(old.backward(), Error::Argument { op: "leaf", .. }, "shape [1]", "shape [3]");
    assert_eq!(numbers(&x.grad().expect("the old one")), [2.0]);
    x.zero_grad();
    new()?.backward()?;
    assert_eq!(numbers(&x.grad().expect("a gradient")), [2.0; 3]);
    // Both in one pass.
    let y = Var::leaf(vector(&[1.0]));
    let before = (&y * 2.0).sum()?;
    y.update(|t| drop(t.resize_([2])))?;
    assert!((&before + &(&y * 2.0).sum()?).backward().is_err());
    Ok(())
}

#[test]
fn a_leafs_gradient_has_the_leafs_strides() -> Result<()> {
    let shapes: [fn(Tensor) -> Tensor; 3] =
        [|t| t, |t| t.tr().contiguous().tr(), |t| t.unsqueeze(0)];
    for shape in shapes {
        let t = shape(Tensor::ones([3, 4], (Kind::Double, Device::Cpu)));
        for (own, t) in [(true, t.copy()), (false, t.copy().set_requires_grad(true))] {
            let x = Var::leaf(&t);
            for kept in [true, false] {
                // A gradient with other strides, which nobody holds or somebody does.
                let y = lift(&x, |x| Ok(x[0].transpose(-1, -2)))?;
                let held = GradOptions::new().retain_graph(true);
                let seed = Tensor::ones(y.value().size(), (Kind::Double, Device::Cpu));
                let seed = Var::constant(if kept { seed } else { seed * 1.0 });
                held.seeds(&seed).backward(&y)?;
                let grad = x.grad().expect("a gradient");
                assert_eq!(grad.stride(), t.stride(), "own {own}");
                x.zero_grad();
            }
        }
    }
    Ok(())
}

/// libtorch's zeros without memory are summed, handed on and kept as real ones.
#[test]
fn zeros_without_memory_are_zeros() -> Result<()> {
    let zeros = Op::<Tensor, Tensor> {
        forward: |_, x| Ok(x * 2.0),
        backward: |_, dy| {
            Ok(Some(Tensor::internal_efficientzerotensor(dy.size(), (dy.kind(), dy.device()))))
        },
    };
    let x = Var::leaf(vector(&[1.0, 2.0]));
    for order in [true, false] {
        x.zero_grad();
        let (a, b) = (zeros.apply(&x)?, &x * 3.0);
        let y = if order { &a + &b } else { &b + &a };
        y.sum()?.backward()?;
        assert_eq!(numbers(&x.grad().expect("a gradient")), [3.0, 3.0]);
    }
    x.zero_grad();
    zeros.apply(&(&x * 2.0))?.sum()?.backward()?;
    assert_eq!(numbers(&x.grad().expect("a gradient")), [0.0, 0.0]);
    assert_eq!(numbers(grad(&zeros.apply(&x)?.sum()?, &x)?.value()), [0.0, 0.0]);
    let y = lift(&x, |x| Ok(x[0].sgn().sum(Kind::Double)))?;
    assert_eq!(numbers(grad(&y, &x)?.value()), [0.0, 0.0]);
    let seed = Tensor::internal_efficientzerotensor([2], (Kind::Double, Device::Cpu));
    let seed = Var::constant(&seed);
    let dx = GradOptions::new().seeds(&seed).grad(&x.exp()?, &x)?.expect("used");
    assert_eq!(numbers(dx.value()), [0.0, 0.0]);
    Ok(())
}

/// What cannot be watched cannot be saved.
#[test]
fn inference_tensors_are_not_saved() -> Result<()> {
    let frozen = inference_mode(|| vector(&[2.0]) * 1.0);
    let (x, t) = (Var::leaf(vector(&[3.0])), leaf(&[3.0]));
    let text = "is an inference tensor";
    let vars = (&x, &Var::constant(&frozen));
    assert_error!(ops::Mul.apply(vars), Error::SavedUnwatched { op: "Mul", .. }, text);
    assert_error!(ops::Mul.apply((&t, &frozen)), Error::SavedUnwatched { op: "Mul", .. }, text);
    let y = Var::leaf(&frozen);
    assert_error!(y.exp().and_then(|_| ops::Log.apply(&y)), Error::SavedUnwatched { .. }, text);
    // What saves nothing works on it.
    assert_eq!(numbers(grad(&(&y * 3.0), &y)?.value()), [3.0]);
    Ok(())
}

#[test]
fn a_constant_in_a_field_is_checked() -> Result<()> {
    use tch_function::Constant;
    let mut t = vector(&[1.0, 2.0]);
    let constant = Constant::new(&t)?;
    assert_eq!(numbers(&constant.get()?), [1.0, 2.0]);
    let _ = t.fill_(0.0);
    assert_error!(constant.get(), Error::Argument { op: "Constant", .. }, "changed in place");
    let p = leaf(&[1.0]);
    assert_error!(Constant::new(&p), Error::Argument { .. }, "Constant::detached");
    assert!(!Constant::detached(&p)?.get()?.requires_grad());
    assert_error!(Constant::new(&Tensor::new()), Error::Undefined { .. }, "undefined");
    let frozen = inference_mode(|| vector(&[2.0]) * 1.0);
    assert_error!(Constant::new(&frozen), Error::SavedUnwatched { .. }, "inference tensor");
    fn is_shared<T: Send + Sync>(_: &T) {}
    is_shared(&constant);
    Ok(())
}

/// An op that changed its input and then failed says so, and leaves no history.
#[test]
fn a_failing_op_in_place_names_what_it_changed() -> Result<()> {
    let op = Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            let _ = x.shallow_clone().g_mul_scalar_(3.0);
            anyhow::bail!("out of luck")
        },
        backward: |_, dy| Ok(Some(dy * 3.0)),
    };
    let a = leaf(&[1.0]);
    let x = &a * 2.0;
    let text =
        "input 0 was changed in place before forward failed: Op: forward failed: out of luck";
    assert_error!(op.apply(&x), Error::Forward { op: "Op", .. }, text);
    assert_eq!(numbers(&grad(&x, &a)?), [2.0]);
    let v = Var::leaf(vector(&[1.0]));
    let x = &v * 2.0;
    assert_error!(op.apply(&x), Error::Forward { op: "Op", .. }, text);
    assert_error!(x.exp(), Error::ValueChanged { .. }, "changed in place");
    Ok(())
}

#[test]
fn a_device_that_tch_does_not_know_is_named() {
    let meta = Op::<Tensor, Tensor> {
        forward: |_, x| Ok(x * 1.0),
        backward: |_, dy| Ok(Some(meta_like(dy))),
    };
    let x = leaf(&[1.0]);
    let error = grad(&meta.apply(&x).unwrap(), &x).unwrap_err().to_string();
    assert!(error.contains("a gradient on meta for input 0 on Cpu"), "{error}");
    let v = Var::leaf(vector(&[1.0]));
    let seed = Var::constant(meta_like(v.value()));
    let error = GradOptions::new().seeds(&seed).grad(&(&v * 1.0), &v).map(drop).unwrap_err();
    assert!(error.to_string().contains("meta"), "{error}");
}

/// tch cannot make one, TorchScript can.
fn meta_like(t: &Tensor) -> Tensor {
    use test_support::archive::Script;
    let script = Script::returning("x: Tensor -> Tensor", "torch.zeros_like(x, device=\"meta\")");
    script.module().forward_ts(&[t]).expect("a meta tensor")
}
