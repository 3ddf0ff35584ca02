//! The page on second derivatives, gradients, hooks, modes, errors and ops.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor, nn};
use tch_function::ops::Log1pExp;
use tch_function::{
    Ctx, DoubleBackward, Error, Function, GradOptions, Gradcheck, Vmap, autocast, backward,
    dispatcher, grad, grad_fn, gradcheck, inference_mode, register_hook,
};
use test_support::{number, vector};

use super::functions::{Mul, ScaledSquare, Square, leaf};

/// y = x^3 with x^2 saved.
struct Cube;
impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let square = x * x;
        ctx.save_for_backward([&square])?;
        Ok(square * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [square] = ctx.saved_tensors()?;
        Ok(Some(dy * 3.0 * square))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

struct Dropout;
impl Function for Dropout {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mask = x.empty_like().bernoulli_float_(0.5) * 2.0;
        ctx.mark_constant(&mask);
        ctx.save_for_backward([&mask])?;
        Ok(x * mask)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [mask] = ctx.saved_tensors()?;
        Ok(Some(dy * mask))
    }
}

#[test]
fn second_derivatives() -> Result<()> {
    let second = |y: Tensor, x: &Tensor| {
        let dy = GradOptions::new().create_graph(true).grad(&y, x)?.unwrap();
        grad(&dy, x)
    };
    let x = leaf(&[2.0]);
    assert_eq!(number(&second(Cube.apply(&x)?, &x)?), 12.0);
    let error = second(Square.apply(&x)?, &x).unwrap_err();
    assert!(matches!(error, Error::OnceDifferentiable { op: "Square" }));
    let y = Dropout.apply(&(&x * &x))?;
    assert_eq!(number(&second(y.copy(), &x)?), number(&(y / (&x * &x) * 2.0)));
    Ok(())
}

#[test]
fn asking_for_gradients() -> Result<()> {
    let (x, w, b) = (leaf(&[2.0]), leaf(&[3.0]), leaf(&[1.0]));
    let v = vector(&[10.0]);
    let y = Mul.apply((&x, &w))?;
    let options = GradOptions::new().seeds(&v).create_graph(true).allow_unused(true);
    let [dx, db] = options.grad(&y, [&x, &b])?;
    assert_eq!((dx.map(|dx| number(&dx)), db.is_none()), (Some(30.0), true));

    let y = Mul.apply((&x, &w))?;
    GradOptions::new().seeds(&v).backward(&y)?;
    let loss = Mul.apply((&x, &w))?;
    backward(&loss)?;
    assert_eq!(number(&x.grad()), 33.0);
    let loss = Mul.apply((&x, &w))?;
    loss.backward();
    let loss = Mul.apply((&x, &w))?;
    let dx = GradOptions::new().retain_graph(true).grad(&loss, &x)?;
    assert_eq!(number(&dx.unwrap()), 3.0);
    let dx = grad(&loss, &x)?;
    assert_eq!(number(&dx), 3.0);
    let loss = Mul.apply((&x, &w))?;
    let [dx, dw] = grad(&loss, [&x, &w])?;
    assert_eq!([number(&dx), number(&dw)], [3.0, 2.0]);
    assert!(!tch::no_grad(|| Mul.apply((&x, &w)))?.requires_grad());

    gradcheck(Mul, (&x, &w))?.assert();
    Gradcheck::new().eps(1e-4).atol(1e-3).check(Square, &x)?.assert();
    Ok(())
}

#[test]
fn hooks_and_modes() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = ScaledSquare { k: 1.0 }.apply(&x)?;
    let handle = register_hook(&y, |g| Ok(Some(g * 2.0)))?;
    assert_eq!(number(&grad(&y, &x)?), 4.0);
    handle.remove();
    let node = grad_fn(&y).expect("y was computed");
    assert_eq!(node.name(), "ScaledSquareBackward");
    let f = || Log1pExp.apply(&x);
    let y = inference_mode(f)?;
    assert!(!y.requires_grad());
    let x = Tensor::ones([2, 2], (Kind::BFloat16, Device::Cpu));
    let f = || Full.apply(&x);
    let y = autocast(Device::Cpu, Kind::BFloat16, f)?;
    assert_eq!(y?.kind(), Kind::Float);
    let model = nn::seq().add(Log1pExp.into_module());
    assert_eq!(x.apply(&model).size(), [2, 2]);
    Ok(())
}

/// Sees f32 under autocast.
struct Full;
impl Function for Full {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ensure!(x.kind() == Kind::Float);
        Ok(x * 0.5)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 0.5))
    }
    fn cast_inputs(&self) -> Option<Kind> {
        Some(Kind::Float)
    }
}

/// Breaks the rule that it is told to break.
struct Wrong(&'static str);
impl Function for Wrong {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        match self.0 {
            "saved twice" => {
                ctx.save_for_backward([x])?;
                ctx.save_for_backward([x])?;
            }
            "changed" => drop(x.shallow_clone().exp_()),
            "intermediate" => ctx.save_for_backward([&(x * 1.0)])?,
            _ => {}
        }
        Ok(x * 1.0)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = dy.copy();
        Ok(Some(match self.0 {
            "shape" => dx.sum(Kind::Double),
            "dtype" => dx.to_kind(Kind::Float),
            "reduced" => ctx.reduce_to_input(0, &dx)?,
            "intermediate" => dx * ctx.saved_tensors::<1>()?[0],
            _ => dx,
        }))
    }
}

#[test]
fn errors() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let found = |rule| {
        let y = Wrong(rule).apply(&(&x * 1.0))?.sum(Kind::Double);
        let dx = GradOptions::new().create_graph(rule == "intermediate").grad(&y, &x)?;
        let dx = dx.unwrap().sum(Kind::Double);
        match rule {
            "twice" => grad(&y, &x),
            "intermediate" => grad(&dx, &x),
            _ => Ok(dx),
        }
    };
    assert!(matches!(found("shape"), Err(Error::GradientShape { .. })));
    assert!(matches!(found("dtype"), Err(Error::GradientDtype { .. })));
    assert!(matches!(found("saved twice"), Err(Error::SavedTwice { .. })));
    assert!(matches!(found("changed"), Err(Error::InputChanged { .. })));
    assert!(matches!(found("twice"), Err(Error::GraphFreed { .. })));
    assert!(matches!(found("intermediate"), Err(Error::SavedIntermediate { .. })));
    assert_eq!(number(&found("reduced")?), 2.0);
    assert_eq!(number(&found("none")?), 2.0);
    Ok(())
}

struct Leaky {
    slope: f64,
}

impl Function for Leaky {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.maximum(&(x * self.slope)))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy.where_self(&x.gt(0.0), &(dy * self.slope))))
    }

    fn fake(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.empty_like())
    }

    fn jvp(&self, ctx: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        ensure!(ctx.input_size(0)? == dx.size());
        Ok(dx.where_self(&x.gt(0.0), &(dx * self.slope)))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

tch_function::library! {
    /// Registers the op.
    pub fn register() for "my_ops" {
        "leaky(Tensor x, float slope=0.01) -> Tensor" => |slope| Leaky { slope },
    }
}

#[test]
fn ops_with_a_name() -> Result<()> {
    register()?;
    let file = "no such file";
    let load = || -> Result<_> { Ok(dispatcher::load_module(file, Device::Cpu)?) };
    assert!(load().unwrap_err().to_string().contains(file));
    assert_ne!(Leaky { slope: 0.0 }.vmap(), Vmap::Loop);
    gradcheck(Leaky { slope: 0.2 }, &vector(&[-1.0, 2.0]))?.assert();
    Ok(())
}
