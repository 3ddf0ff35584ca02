//! Functions that change their inputs.

use super::*;
use anyhow::Result;
use tch_function::check::Check;
use tch_function::{Ctx, Function};

/// `x <- k x`; saves nothing.
struct ScaleInPlace {
    k: f64,
}

impl Function for ScaleInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        Ok(x.shallow_clone().g_mul_scalar_(self.k))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy * self.k))
    }
}

/// `x <- tanh x`; saves its output, which is its input too.
struct TanhInPlace;

impl Function for TanhInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        let y = x.shallow_clone().tanh_();
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - y * y)))
    }
}

/// `x <- x + w w`: one input that changes and one that is saved.
struct AddSquareInPlace;

impl Function for AddSquareInPlace {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        ctx.save_for_backward([w])?;
        Ok(x.shallow_clone().g_add_(&(w * w)))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads2 {
        let [w] = ctx.saved_tensors()?;
        Ok((Some(dy.shallow_clone()), Some(ctx.reduce_to_input(1, &(dy * w * 2.0))?)))
    }
}

/// `(a, b) <- (a + b, a - b)`: two inputs that change.
struct ButterflyInPlace;

impl Function for ButterflyInPlace {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<(Tensor, Tensor)> {
        ctx.mark_dirty(a)?;
        ctx.mark_dirty(b)?;
        let (sum, difference) = (a + b, a - b);
        let (mut a, mut b) = (a.shallow_clone(), b.shallow_clone());
        a.copy_(&sum);
        b.copy_(&difference);
        Ok((a, b))
    }
    fn backward(&self, _: &Ctx, (dsum, ddifference): (&Tensor, &Tensor)) -> Grads2 {
        Ok((Some(dsum + ddifference), Some(dsum - ddifference)))
    }
}

tch_function::check_tests! {
    scale_in_place => Check::new(ScaleInPlace { k: -2.5 }, [x()]).reference(|x| x * -2.5);
    tanh_in_place => Check::new(TanhInPlace, [x()]).reference(|x| x.tanh());
    add_square_in_place => Check::new(AddSquareInPlace, [(x(), x() * 0.5), (x(), row())])
        .reference(|(x, w)| x + w * w);
    butterfly_in_place => Check::new(ButterflyInPlace, [(x(), x() * 0.25 + 1.0)])
        .reference(|(a, b)| (a + b, a - b));
}
