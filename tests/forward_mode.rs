//! libtorch's forward mode. One test: there is one dual level in a process.

use anyhow::{Result, bail};
use tch::{Kind, Tensor};
use tch_function::{Ctx, DualLevel, Error, Function, grad, ops};
use test_support::{assert_error, number, numbers, vector};

/// y = a sin(b), with a jvp that `how` says.
struct Product {
    how: How,
}
#[derive(Clone, Copy)]
enum How {
    Right,
    Shape,
    Dtype,
    Fails,
    Panics,
    View,
}
impl Function for Product {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<(Tensor, Tensor)> {
        let (sin, cos) = (b.sin(), b.cos());
        ctx.save_for_backward([&sin, &cos, a])?;
        let y = if matches!(self.how, How::View) { a.view([2, 1]) } else { a * &sin };
        Ok((y, b.to_kind(Kind::Int64)))
    }
    fn backward(
        &self,
        ctx: &Ctx,
        (dy, _): (&Tensor, &Tensor),
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [sin, cos, a] = ctx.saved_tensors()?;
        Ok((Some(dy * sin), Some(dy * a * cos)))
    }
    fn jvp(
        &self,
        ctx: &Ctx,
        (_, _): (&Tensor, &Tensor),
        (da, db): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor)> {
        let [sin, cos, a] = ctx.saved_tensors()?;
        let dy = da * sin + a * cos * db;
        let dy = match self.how {
            How::Right | How::View => dy,
            How::Shape => dy.sum(Kind::Double),
            How::Dtype => dy.to_kind(Kind::Float),
            How::Fails => bail!("no table"),
            How::Panics => panic!("at 7"),
        };
        Ok((dy, Tensor::new()))
    }
}

#[test]
fn forward_mode() -> Result<()> {
    let (a, b) = (vector(&[2.0, 3.0]), vector(&[0.4, 1.3]));
    let (da, db) = (vector(&[1.0, -1.0]), vector(&[0.5, 2.0]));
    let level = DualLevel::enter()?;
    assert_error!(DualLevel::enter(), Error::Torch { .. }, "Nested forward mode");
    assert_error!(
        level.dual(&a, &vector(&[1.0])),
        Error::Argument { .. },
        "shape [1]",
        "shape [2]"
    );
    let (x, y) = (level.dual(&a, &da)?, level.dual(&b, &db)?);
    let expected = level.tangent(&(&x * y.sin())).expect("libtorch's own");
    let run = |how| Product { how }.apply((&x, &y));

    // The same tangent as libtorch's own ops give, alone and between them.
    let (z, index) = run(How::Right)?;
    assert_eq!(numbers(&level.tangent(&z).expect("a tangent")), numbers(&expected));
    assert!(level.tangent(&index).is_none());
    let through = level.tangent(&(&z * 2.0)).expect("passed on");
    assert_eq!(numbers(&through), numbers(&(&expected * 2.0)));

    // An input without a tangent counts as one with zeros.
    let (z, _) = Product { how: How::Right }.apply((&x, &b))?;
    assert_eq!(numbers(&level.tangent(&z).expect("a tangent")), numbers(&(&da * b.sin())));
    let (z, _) = Product { how: How::Right }.apply((&a, &b))?;
    assert!(level.tangent(&z).is_none());

    // Forward and reverse mode together.
    let w = level.dual(&a, &da)?.set_requires_grad(true);
    let (z, _) = Product { how: How::Right }.apply((&w, &y))?;
    assert!(level.tangent(&z).is_some());
    assert_eq!(numbers(&grad(&z.sum(Kind::Double), &w)?), numbers(&b.sin()));

    // The kernels' own.
    let kernels: [(Tensor, Tensor); 3] = [
        (ops::Log1pExp.apply(&x)?, x.softplus()),
        (ops::Gelu.apply(&x)?, x.gelu("none")),
        (ops::Silu.apply(&x)?, x.silu()),
    ];
    for (ours, libtorch) in kernels {
        let [found, expected] = [&ours, &libtorch].map(|t| level.tangent(t).expect("a tangent"));
        assert!(found.allclose(&expected, 1e-14, 0.0, false), "{found} for {expected}");
    }

    // Of rows whose mean square has no third power in the dtype.
    let scaled = |scale: f64, kind| -> Result<Tensor> {
        let [x, dx] = [[1.0, -2.0, 3.0], [0.5, 0.25, -1.0]]
            .map(|t| (Tensor::from_slice(&t) * scale).to_kind(kind));
        Ok(level.dual(&x, &dx)?)
    };
    let near = scaled(1.0, Kind::Double)?;
    let normed = &near * near.square().mean_dim(0, true, None).rsqrt();
    let expected = level.tangent(&normed).expect("libtorch's own");
    for (scale, kind, tolerance) in [
        (1e14, Kind::Float, 1e-6),
        (1e-16, Kind::Float, 1e-6),
        (1e30, Kind::Float, 1e-6),
        (1e106, Kind::Double, 1e-14),
        (1e-130, Kind::Double, 1e-14),
    ] {
        let w = Tensor::ones([3], (kind, tch::Device::Cpu));
        let y = ops::RmsNorm { eps: 0.0 }.apply((&scaled(scale, kind)?, &w))?;
        let found = level.tangent(&y).expect("a tangent").to_kind(Kind::Double);
        assert!(found.allclose(&expected, tolerance, 0.0, false), "{scale}: {found}");
    }

    // Never zeros, never a wrong number.
    assert_error!(
        ops::Softmax { dim: 0 }.apply(&x),
        Error::NoForwardMode { op: "Softmax" },
        "Softmax has no jvp"
    );
    assert_error!(
        run(How::Shape),
        Error::Argument { op: "Product", .. },
        "tangent of shape []",
        "output 0 of shape [2]"
    );
    assert_error!(run(How::Dtype), Error::Argument { .. }, "dtype Float", "dtype Double");
    assert_error!(run(How::Fails), Error::Forward { op: "Product", .. }, "no table");
    assert_error!(
        run(How::Panics),
        Error::Panic { stage: "jvp", .. },
        "Product: jvp panicked: at 7"
    );
    assert_error!(run(How::View), Error::Argument { .. }, "return a copy");

    // An op that changes its input refuses before it does.
    struct InPlace;
    impl Function for InPlace {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            ctx.mark_dirty(x)?;
            Ok(x.shallow_clone().fill_(0.0))
        }
        fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
            Ok(None)
        }
    }
    assert_error!(InPlace.apply(&x), Error::Argument { .. }, "changed in place");
    assert_eq!(numbers(&a), [2.0, 3.0]);

    // The mode is as it was, and the level ends with its guard.
    assert_eq!(
        numbers(&level.tangent(&x.sin()).expect("libtorch's own")),
        numbers(&(&da * a.cos()))
    );
    drop(level);
    assert_eq!(number(&ops::Exp.apply(&vector(&[0.0]))?), 1.0);
    drop(DualLevel::enter()?);
    Ok(())
}
