//! Autocast, inference mode and no_grad, in both engines.

use anyhow::Result;
use tch::{Device, Kind, Tensor};
use tch_function::{Ctx, Error, Function, Var, autocast, grad, inference_mode, ops};
use test_support::{assert_error, number, numbers, vector};

/// y = x w; says in which dtype it saw its inputs and its gradient.
#[derive(Clone, Copy)]
struct Product {
    dtype: Option<Kind>,
    /// What `forward` and `backward` have to see.
    sees: Kind,
}
impl Function for Product {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        assert_eq!((x.kind(), w.kind()), (self.sees, self.sees));
        ctx.save_for_backward([x, w])?;
        Ok(x.f_matmul(w)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        assert_eq!(dy.kind(), x.kind());
        assert_eq!(ctx.input_kind(1)?, self.sees);
        assert!(matches!(ctx.input_kind(2), Err(Error::NoInput { input: 2, count: 2, .. })));
        Ok((Some(dy.f_matmul(&w.tr())?), Some(x.tr().f_matmul(dy)?)))
    }
    fn cast_inputs(&self) -> Option<Kind> {
        self.dtype
    }
}

fn inputs() -> (Tensor, Tensor) {
    let option = (Kind::Float, Device::Cpu);
    (Tensor::ones([2, 3], option) * 0.1, Tensor::ones([3, 2], option) * 0.3)
}

#[test]
fn a_function_gets_the_dtype_that_it_asks_for() -> Result<()> {
    for sees in [Kind::BFloat16, Kind::Float] {
        let op = Product { dtype: Some(sees), sees };
        let (x, w) = inputs();
        let (x, w) = (x.set_requires_grad(true), w.set_requires_grad(true));
        let y = autocast(Device::Cpu, Kind::BFloat16, || {
            let h = x.matmul(&x.tr()).matmul(&x); // in bf16
            assert_eq!(h.kind(), Kind::BFloat16);
            op.apply((&h, &w))
        })??;
        assert_eq!(y.kind(), sees);
        // Gradients come back in the inputs' own dtype.
        let [dx, dw] = grad(&y.sum(Kind::Float), [&x, &w])?;
        assert_eq!((dx.kind(), dw.kind()), (Kind::Float, Kind::Float));
        assert!(numbers(&dw).iter().all(|&d| (d - 0.012).abs() < 1e-4));
    }
    Ok(())
}

#[test]
fn the_own_engine_casts_alike() -> Result<()> {
    let op = Product { dtype: Some(Kind::BFloat16), sees: Kind::BFloat16 };
    let (x, w) = inputs();
    let (x, w) = (Var::leaf(x), Var::leaf(w));
    let y = autocast(Device::Cpu, Kind::BFloat16, || op.apply((&x, &w)))??;
    assert_eq!(y.value().kind(), Kind::BFloat16);
    let [dx, dw] = grad(&y.sum()?, [&x, &w])?;
    assert_eq!((dx.value().kind(), dw.value().kind()), (Kind::Float, Kind::Float));
    assert!(numbers(dw.value()).iter().all(|&d| (d - 0.2).abs() < 1e-3));
    Ok(())
}

#[test]
fn nothing_is_cast_outside_autocast_nor_where_nothing_is_asked_for() -> Result<()> {
    let (x, w) = inputs();
    let asks = Product { dtype: Some(Kind::BFloat16), sees: Kind::Float };
    assert_eq!(asks.apply((&x, &w))?.kind(), Kind::Float);
    // As in PyTorch, forward runs under autocast as it is.
    let plain = Product { dtype: None, sees: Kind::Float };
    let y = autocast(Device::Cpu, Kind::BFloat16, || plain.apply((&x, &w)))??;
    assert_eq!(y.kind(), Kind::BFloat16);
    // f64 and integers are left alone.
    let asks = Product { dtype: Some(Kind::Float), sees: Kind::Double };
    let (x, w) = (x.to_kind(Kind::Double), w.to_kind(Kind::Double));
    let y = autocast(Device::Cpu, Kind::BFloat16, || asks.apply((&x, &w)))??;
    assert_eq!(y.kind(), Kind::Double);
    Ok(())
}

#[test]
fn autocast_ends_with_its_closure_also_after_a_panic() -> Result<()> {
    let (x, w) = inputs();
    let panics = || autocast::<()>(Device::Cpu, Kind::BFloat16, || panic!("inside"));
    assert!(std::panic::catch_unwind(panics).is_err());
    assert_eq!(x.matmul(&w).kind(), Kind::Float);
    Ok(())
}

#[test]
fn a_device_without_autocast_is_an_error() {
    let failed = autocast(Device::Vulkan, Kind::Half, || ());
    assert_error!(failed, Error::Torch { op: "autocast", .. }, "device type");
}

#[test]
fn inference_mode_records_nothing() -> Result<()> {
    let x = vector(&[0.5]).set_requires_grad(true);
    let y = inference_mode(|| ops::Log1pExp.apply(&x))?;
    assert!(!y.requires_grad());
    assert_eq!(number(&y), number(&ops::Log1pExp.apply(&x)?));
    let v = Var::leaf(vector(&[0.5]));
    assert!(!inference_mode(|| ops::Log1pExp.apply(&v))?.requires_grad());
    Ok(())
}

#[test]
fn a_tensor_made_in_inference_mode_cannot_be_saved_for_a_gradient() -> Result<()> {
    let x = inference_mode(|| vector(&[0.5]) * 2.0);
    let w = vector(&[3.0]).set_requires_grad(true);
    let text = "Mul: saved tensor 0 is an inference tensor";
    assert_error!(ops::Mul.apply((&x, &w)), Error::SavedUnwatched { op: "Mul", .. }, text);
    let vars = (&Var::constant(&x), &Var::leaf(&w));
    assert_error!(ops::Mul.apply(vars), Error::SavedUnwatched { op: "Mul", .. }, text);
    // Outside, a copy is an ordinary tensor.
    let y = ops::Mul.apply((&x.copy(), &w))?;
    assert_eq!(number(&grad(&y, &w)?), 1.0);
    Ok(())
}

#[test]
fn no_grad_records_nothing() -> Result<()> {
    let x = vector(&[0.5]).set_requires_grad(true);
    let y = tch::no_grad(|| ops::Log1pExp.apply(&x))?;
    assert!(!y.requires_grad());
    let error = grad(&y, &x).map(drop).unwrap_err();
    assert!(matches!(error, Error::NoGraph { output: 0 }), "{error}");
    Ok(())
}
