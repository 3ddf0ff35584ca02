//! Functions that make few numbers of many.

use super::*;
use anyhow::Result;
use tch_function::check::{Check, Domain};
use tch_function::{Ctx, DoubleBackward, Function};

/// The sum of everything; saves nothing but the shape, which the context knows.
struct Sum;

impl Function for Sum {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.sum(None))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.expand(ctx.input_size(0)?, false)))
    }
    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx.sum(None))
    }
}

/// The mean of each row; keeps their length, which is no tensor.
struct MeanRows;

impl Function for MeanRows {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        anyhow::ensure!(x.dim() > 0, "a scalar has no rows");
        ctx.save(x.size()[x.dim() - 1])?;
        Ok(x.mean_dim(-1, false, None))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let n: i64 = *ctx.state()?;
        Ok(Some((dy / n).unsqueeze(-1).expand(ctx.input_size(0)?, false)))
    }
}

/// `y = log(sum e^x)` of each row, `dy/dx = e^(x - y)`.
struct LogSumExp;

impl Function for LogSumExp {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.logsumexp(-1, true);
        ctx.save_for_backward([x, &y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x, y] = ctx.saved_tensors()?;
        Ok(Some(dy * (x - y).exp()))
    }
    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok((x.softmax(-1, None) * dx).sum_dim_intlist(-1, true, None))
    }
}

/// `y = sqrt(sum x^2)`, `dy/dx = x / y`; undefined at 0.
struct Norm;

impl Function for Norm {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.norm();
        ctx.save_for_backward([x, &y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x, y] = ctx.saved_tensors()?;
        Ok(Some(dy * x / y))
    }
}

/// `y = mean (x - mean x)^2`, `dy/dx = 2 (x - mean x) / n`: the mean's own
/// derivative cancels out.
struct Variance;

impl Function for Variance {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let centred = x - x.mean(None);
        ctx.save_for_backward([&centred])?;
        Ok(centred.square().mean(None))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [centred] = ctx.saved_tensors()?;
        Ok(Some(dy * centred * (2.0 / centred.numel() as f64)))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// The product of each row. `dy/dx[i]` is the product of the others, from the
/// left times from the right, so that zeros do no harm.
struct Product;

/// Of each element, the product of those before it.
fn before(x: &Tensor) -> Tensor {
    let n = x.size()[x.dim() - 1];
    let one = x.narrow(-1, 0, 1).ones_like();
    Tensor::cat(&[one, x.narrow(-1, 0, n - 1)], -1).cumprod(-1, None)
}

impl Function for Product {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.prod_dim_int(-1, true, None))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x] = ctx.saved_tensors()?;
        if x.numel() == 0 || x.dim() == 0 {
            return Ok(Some(dy.expand_as(x)));
        }
        Ok(Some(dy * before(x) * before(&x.flip(-1)).flip(-1)))
    }
}

/// Running sums; the gradient runs the other way.
struct CumulativeSum;

impl Function for CumulativeSum {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.cumsum(0, None))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        if dy.dim() == 0 {
            return Ok(Some(dy.shallow_clone()));
        }
        Ok(Some(dy.flip(0).cumsum(0, None).flip(0)))
    }
    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx.cumsum(0, None))
    }
}

/// The greatest of each row and where it is: an integer output, which it saves.
struct MaxOfRows;

impl Function for MaxOfRows {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, index) = x.max_dim(-1, true);
        ctx.save_for_backward([&index])?;
        Ok((y, index))
    }
    fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Grad {
        let [index] = ctx.saved_tensors()?;
        let zeros = Tensor::zeros(ctx.input_size(0)?, (dy.kind(), dy.device()));
        Ok(Some(zeros.scatter_add(-1, index, dy)))
    }
}

tch_function::check_tests! {
    sum => Check::new(Sum, [x(), row()]).reference(|x| x.sum(None));
    mean_rows => Check::new(MeanRows, [x(), row()]).reference(|x| x.mean_dim(-1, false, None));
    log_sum_exp => Check::new(LogSumExp, [x()]).reference(|x| x.logsumexp(-1, true));
    norm => Check::new(Norm, [x()]).reference(|x| x.norm());
    variance => Check::new(Variance, [x()]).reference(|x| x.var(false));
    product => Check::new(Product, [x(), vector(&[0.0, 2.0, 3.0]), vector(&[0.0, 2.0, 0.0])])
        .reference(|x| x.prod_dim_int(-1, true, None));
    cumulative_sum => Check::new(CumulativeSum, [x()]).reference(|x| x.cumsum(0, None));
    max_of_rows => Check::new(MaxOfRows, [x()])
        .reference(|x| x.max_dim(-1, true))
        .domain(Domain::Draw(apart));
}
