//! Functions of single numbers, with all that can be saved.

use super::*;
use anyhow::Result;
use tch::Kind;
use tch_function::check::{Check, Domain};
use tch_function::{Ctx, DoubleBackward, Function};

/// Saves its input: `y = x^3`, `dy/dx = 3 x^2`.
struct Cube;

impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * (x * x * 3.0)))
    }
    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx * (x * x * 3.0))
    }
}

/// Saves its output: `y = tanh x`, `dy/dx = 1 - y^2`.
struct Tanh;

impl Function for Tanh {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.tanh();
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - y * y)))
    }
    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx * (1.0 - x.tanh().square()))
    }
}

/// Saves an intermediate, and recomputes it: `y = x s`, `s = 1 / (1 + e^-x)`,
/// `dy/dx = s (1 + x (1 - s))`.
struct Swish;

impl Function for Swish {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let s = x.sigmoid();
        ctx.save_for_backward([x, &s])?;
        Ok(x * s)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x, s] = ctx.saved_tensors()?;
        Ok(Some(dy * (s * (1.0 + x * (1.0 - s)))))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// Saves an intermediate, for a first derivative alone: `y = erf x`,
/// `dy/dx = 2 / sqrt(pi) e^(-x^2)`.
struct Erf;

impl Function for Erf {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([&(-x * x).exp()])?;
        Ok(x.erf())
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [e] = ctx.saved_tensors()?;
        Ok(Some(dy * e * std::f64::consts::FRAC_2_SQRT_PI))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}

/// Saves an intermediate that is a constant: a mask that does not depend on `x`.
struct Dropout {
    keep: f64,
}

/// Ones and zeros in a fixed pattern, divided by what is kept.
fn mask(x: &Tensor, keep: f64) -> Tensor {
    let position = Tensor::arange(x.numel() as i64, (Kind::Double, x.device())).view_as(x);
    let drawn = (position * 0.618_033_988_749_895 + 0.3).frac();
    drawn.lt(keep).to_kind(x.kind()) / keep
}

impl Function for Dropout {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mask = mask(x, self.keep);
        ctx.save_for_backward([&mask])?;
        ctx.mark_constant(&mask);
        Ok(x * mask)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [mask] = ctx.saved_tensors()?;
        Ok(Some(dy * mask))
    }
}

/// Saves nothing: `y = k x + c`.
struct Affine {
    k: f64,
    c: f64,
}

impl Function for Affine {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * self.k + self.c)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy * self.k))
    }
    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx * self.k)
    }
}

/// Defined by an equation: `y e^y = x` for `x >= 0` (Lambert's W), so
/// `dy/dx = 1 / (e^y (1 + y))`.
struct LambertW;

impl Function for LambertW {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mut y = x.log1p();
        for _ in 0..8 {
            // Newton's method.
            y = &y - (&y - x * (-&y).exp()) / (&y + 1.0);
        }
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy / (y.exp() * (y + 1.0))))
    }
}

/// Three inputs that broadcast: `y = a b + c`.
struct Fma;

impl Function for Fma {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b, c): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok(a * b + c)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads3 {
        let [a, b] = ctx.saved_tensors()?;
        let wanted = |i, grad: &dyn Fn() -> Tensor| -> Grad {
            Ok(if ctx.needs_input_grad(i) { Some(ctx.reduce_to_input(i, &grad())?) } else { None })
        };
        Ok((wanted(0, &|| dy * b)?, wanted(1, &|| dy * a)?, wanted(2, &|| dy.shallow_clone())?))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (a, b, _): (&Tensor, &Tensor, &Tensor),
        (da, db, dc): (&Tensor, &Tensor, &Tensor),
    ) -> Result<Tensor> {
        Ok(da * b + a * db + dc)
    }
}

/// Two inputs and two outputs: `x = r cos t`, `y = r sin t`.
struct FromPolar;

impl Function for FromPolar {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, (r, t): (&Tensor, &Tensor)) -> Result<(Tensor, Tensor)> {
        ctx.save_for_backward([r, t])?;
        Ok((r * t.cos(), r * t.sin()))
    }
    fn backward(&self, ctx: &Ctx, (dx, dy): (&Tensor, &Tensor)) -> Grads2 {
        let [r, t] = ctx.saved_tensors()?;
        let (sin, cos) = (t.sin(), t.cos());
        Ok((Some(dx * &cos + dy * &sin), Some(r * (dy * cos - dx * sin))))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (r, t): (&Tensor, &Tensor),
        (dr, dt): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor)> {
        let (sin, cos) = (t.sin(), t.cos());
        Ok((dr * &cos - r * &sin * dt, dr * sin + r * cos * dt))
    }
}

/// One input and two outputs, which it saves, and sees undefined seeds.
struct SinCos;

impl Function for SinCos {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (sin, cos) = (x.sin(), x.cos());
        ctx.save_for_backward([&sin, &cos])?;
        ctx.set_materialize_grads(false);
        Ok((sin, cos))
    }
    fn backward(&self, ctx: &Ctx, (dsin, dcos): (&Tensor, &Tensor)) -> Grad {
        let [sin, cos] = ctx.saved_tensors()?;
        Ok(match (dsin.defined(), dcos.defined()) {
            (true, true) => Some(dsin * cos - dcos * sin),
            (true, false) => Some(dsin * cos),
            (false, true) => Some(-dcos * sin),
            (false, false) => None,
        })
    }
}

tch_function::check_tests! {
    cube => Check::new(Cube, [x()]).reference(|x| x.pow_tensor_scalar(3));
    tanh => Check::new(Tanh, [x()]).reference(|x| x.tanh());
    swish => Check::new(Swish, [x()]).reference(|x| x.silu());
    erf => Check::new(Erf, [x()]).reference(|x| x.erf());
    dropout => Check::new(Dropout { keep: 0.5 }, [x()]).reference(|x| x * mask(x, 0.5));
    affine => Check::new(Affine { k: -1.5, c: 0.25 }, [x()]).reference(|x| x * -1.5 + 0.25);
    lambert_w => Check::new(LambertW, [x().abs()]).domain(Domain::Positive);
    fma => Check::new(Fma, [(x(), x() * 0.5, x() + 1.0), (x(), row(), Tensor::from(0.3))])
        .reference(|(a, b, c)| a * b + c);
    from_polar => Check::new(FromPolar, [(x(), x() * 0.3)])
        .reference(|(r, t)| (r * t.cos(), r * t.sin()));
    sin_cos => Check::new(SinCos, [x()]).reference(|x| (x.sin(), x.cos()));
}
