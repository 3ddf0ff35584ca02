//! Functions of the kinds that no shipped operator is: several outputs, in
//! place, outputs without a gradient, absent inputs, second derivatives by
//! recomputation. `op.rs` has the same in plain tch.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{Ctx, Function};

/// `(sin x, cos x)`; saves both outputs.
pub struct SinCos;
impl Function for SinCos {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (sin, cos) = (x.sin(), x.cos());
        ctx.save_for_backward([&sin, &cos])?;
        Ok((sin, cos))
    }
    fn backward(&self, ctx: &Ctx, (dsin, dcos): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [sin, cos] = ctx.saved_tensors()?;
        Ok(Some(dsin * cos - dcos * sin))
    }
}

/// `[a + b, a b]`, broadcast; saves both inputs.
pub struct SumProduct;
impl Function for SumProduct {
    type Inputs = (Tensor, Tensor);
    type Outputs = [Tensor; 2];
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<[Tensor; 2]> {
        ctx.save_for_backward([a, b])?;
        Ok([a + b, a * b])
    }
    fn backward(
        &self,
        ctx: &Ctx,
        [sum, product]: [&Tensor; 2],
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        let gradient = |i, other: &Tensor| {
            let wanted = ctx.needs_input_grad(i);
            wanted.then(|| ctx.reduce_to_input(i, &(sum + product * other))).transpose()
        };
        Ok((gradient(0, b)?, gradient(1, a)?))
    }
}

/// The rows of `x`, as new tensors; those that get no gradient stay undefined.
pub struct Rows;
impl Function for Rows {
    type Inputs = Tensor;
    type Outputs = Vec<Tensor>;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Vec<Tensor>> {
        ctx.set_materialize_grads(false);
        Ok(x.unbind(0).iter().map(Tensor::copy).collect())
    }
    fn backward(&self, ctx: &Ctx, dy: &[Tensor]) -> Result<Option<Tensor>> {
        let row = &ctx.input_size(0)?[1..];
        let zeros = Tensor::zeros(row, (Kind::Double, tch::Device::Cpu));
        let rows: Vec<&Tensor> =
            dy.iter().map(|dy| if dy.defined() { dy } else { &zeros }).collect();
        Ok(Some(Tensor::stack(&rows, 0)))
    }
}

/// `a b + c`, broadcast, or `a b` without `c`.
pub struct Fma;
type ThreeGrads = (Option<Tensor>, Option<Tensor>, Option<Tensor>);
impl Function for Fma {
    type Inputs = (Tensor, Tensor, Option<Tensor>);
    type Outputs = Tensor;
    fn forward(
        &self,
        ctx: &mut Ctx,
        (a, b, c): (&Tensor, &Tensor, Option<&Tensor>),
    ) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        let product = a * b;
        Ok(c.map_or_else(|| product.shallow_clone(), |c| &product + c))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<ThreeGrads> {
        let [a, b] = ctx.saved_tensors()?;
        let gradient = |i, grad: Tensor| {
            ctx.needs_input_grad(i).then(|| ctx.reduce_to_input(i, &grad)).transpose()
        };
        Ok((gradient(0, dy * b)?, gradient(1, dy * a)?, gradient(2, dy.shallow_clone())?))
    }
}

/// `x` itself.
pub struct Same;
impl Function for Same {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

/// `x *= c`.
pub struct ScaleInPlace {
    pub c: f64,
}
impl Function for ScaleInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        Ok(x.shallow_clone().g_mul_scalar_(self.c))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * self.c))
    }
}

/// `x = tanh x`; saves what it changed, its output.
pub struct TanhInPlace;
impl Function for TanhInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        let y = x.shallow_clone().tanh_();
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - y * y)))
    }
}

/// `a += b`, which broadcasts to `a`.
pub struct AddInPlace;
impl Function for AddInPlace {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.mark_dirty(a)?;
        Ok(a.shallow_clone().g_add_(b))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let db = ctx.needs_input_grad(1).then(|| ctx.reduce_to_input(1, dy)).transpose()?;
        Ok((ctx.needs_input_grad(0).then(|| dy.shallow_clone()), db))
    }
}

/// `x += c`, and the sum of the old `x`: in place with one more output.
pub struct ShiftAndSum {
    pub c: f64,
}
impl Function for ShiftAndSum {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.mark_dirty(x)?;
        let sum = x.sum(Kind::Double);
        Ok((x.shallow_clone().g_add_scalar_(self.c), sum))
    }
    fn backward(&self, _: &Ctx, (dy, dsum): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        Ok(Some(dy + dsum))
    }
}
