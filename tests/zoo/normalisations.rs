//! Functions that give their inputs a common scale.

use super::*;
use anyhow::Result;
use tch_function::check::Check;
use tch_function::{Ctx, DoubleBackward, Function};

fn mean(x: &Tensor) -> Tensor {
    x.mean_dim(-1, true, None)
}

/// `y = softmax x` of each row, `dx = y (dy - sum(dy y))`; saves its output.
struct Softmax;

impl Function for Softmax {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.softmax(-1, None);
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(y * (dy - (dy * y).sum_dim_intlist(-1, true, None))))
    }
    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        let y = x.softmax(-1, None);
        Ok(&y * (dx - (dx * &y).sum_dim_intlist(-1, true, None)))
    }
}

/// `y = h w + b`, `h = (x - mean) s`, `s = 1 / sqrt(var + eps)` of each row;
/// saves `h` and `s`. `dx = s (g - mean g - h mean(g h))` of `g = dy w` (Ba,
/// Kiros and Hinton 2016, "Layer normalization"; the gradient as in Ioffe and
/// Szegedy 2015).
struct LayerNorm;

impl Function for LayerNorm {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w, b): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let s = (x.var_dim(-1, false, true) + EPS).rsqrt();
        let h = (x - mean(x)) * &s;
        ctx.save_for_backward([&h, &s, w])?;
        Ok(h * w + b)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads3 {
        let [h, s, w] = ctx.saved_tensors()?;
        let g = dy * w;
        let dx = s * (&g - mean(&g) - h * mean(&(&g * h)));
        let (dw, db) = (ctx.reduce_to_input(1, &(dy * h))?, ctx.reduce_to_input(2, dy)?);
        Ok((Some(dx), Some(dw), Some(db)))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

const EPS: f64 = 1e-3;

fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor) -> Tensor {
    let n = [x.size()[x.dim() - 1]];
    x.layer_norm(n, Some(w), Some(b), EPS, false)
}

/// `y = x s w`, `s = 1 / sqrt(mean x^2 + eps)` of each row; saves inputs alone.
/// `dx = s (g - x s^2 mean(g x))` of `g = dy w` (Zhang and Sennrich 2019, "Root
/// mean square layer normalization").
struct RmsNorm;

fn rms_scale(x: &Tensor) -> Tensor {
    (mean(&(x * x)) + EPS).rsqrt()
}

impl Function for RmsNorm {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, w])?;
        Ok(x * rms_scale(x) * w)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads2 {
        let [x, w] = ctx.saved_tensors()?;
        let (s, g) = (rms_scale(x), dy * w);
        let dx = &s * (&g - x * s.square() * mean(&(&g * x)));
        Ok((Some(dx), Some(ctx.reduce_to_input(1, &(dy * x * s))?)))
    }
}

/// `y = (x - mean) / sqrt(var + eps)` of each column, with the mean and the
/// variance, which it marks as not differentiable: running statistics want them.
struct BatchNorm;

impl Function for BatchNorm {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (y, mean, var) = batch_norm(x);
        ctx.mark_non_differentiable(&mean);
        ctx.mark_non_differentiable(&var);
        ctx.save_for_backward([&y, x])?;
        Ok((y, mean, var))
    }
    fn backward(&self, ctx: &Ctx, (dy, _, _): (&Tensor, &Tensor, &Tensor)) -> Grad {
        let [y, x] = ctx.saved_tensors()?;
        let mean = |t: &Tensor| t.mean_dim(0, true, None);
        let s = (x.var_dim(0, false, true) + EPS).rsqrt();
        Ok(Some(s * (dy - mean(dy) - y * mean(&(dy * y)))))
    }
}

fn batch_norm(x: &Tensor) -> (Tensor, Tensor, Tensor) {
    let (mean, var) = (x.mean_dim(0, false, None), x.var_dim(0, false, false));
    ((x - &mean) * (&var + EPS).rsqrt(), mean, var)
}

/// `x / |x|` of each row, `dx = (dy - y sum(dy y)) / |x|`; undefined at 0.
struct UnitRows;

fn length(x: &Tensor) -> Tensor {
    (x * x).sum_dim_intlist(-1, true, None).sqrt()
}

impl Function for UnitRows {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x / length(x);
        ctx.save_for_backward([x, &y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x, y] = ctx.saved_tensors()?;
        Ok(Some((dy - y * (dy * y).sum_dim_intlist(-1, true, None)) / length(x)))
    }
}

tch_function::check_tests! {
    softmax => Check::new(Softmax, [x()]).reference(|x| x.softmax(-1, None));
    layer_norm => Check::new(LayerNorm, [(x(), row(), row() + 1.0)])
        .reference(|(x, w, b)| layer_norm(x, w, b));
    rms_norm => Check::new(RmsNorm, [(x(), row())])
        .reference(|(x, w)| x * (x.square().mean_dim(-1, true, None) + EPS).rsqrt() * w);
    batch_norm => Check::new(BatchNorm, [column_pair()]).reference(batch_norm);
    unit_rows => Check::new(UnitRows, [x()]).reference(|x| x / x.norm_scalaropt_dim(2.0, -1, true));
}
