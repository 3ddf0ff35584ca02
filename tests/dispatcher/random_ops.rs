//! Ops that draw random numbers, read data, or meet errors of Python's.

use anyhow::Result;
use tch::Tensor;
use tch_function::{Ctx, DoubleBackward, Function, grad};

/// y = m x for a random mask m, which is saved.
pub struct Dropout {
    pub double_backward: DoubleBackward,
}

impl Function for Dropout {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mask = x.rand_like().gt(0.5).to_kind(x.kind());
        ctx.save_for_backward([&mask])?;
        Ok(x * mask)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [mask] = ctx.saved_tensors()?;
        Ok(Some(dy * mask))
    }

    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}

/// y = x max|x|, which reads the maximum, as a number or as tch panics on it.
pub struct ReadsData {
    pub panics: bool,
}

impl Function for ReadsData {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let max = x.abs().max();
        let max = if self.panics { max.double_value(&[]) } else { max.f_double_value(&[])? };
        ctx.save(max)?;
        Ok(x * max)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * *ctx.state::<f64>()?))
    }
}

/// y = x, after a pass from `loss` to `p` whose error is dropped.
pub struct Swallows {
    pub by_tch: bool,
}

impl Function for Swallows {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (x, loss, p): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let failed = match self.by_tch {
            true => Tensor::f_run_backward(&[loss], &[p], false, false).is_err(),
            false => grad(loss, p).is_err(),
        };
        anyhow::ensure!(failed, "the pass did not fail");
        Ok(x * 1.0)
    }

    fn backward(
        &self,
        _: &Ctx,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy * 1.0), None, None))
    }
}

/// y = x, after a pass of tch's from `loss` to `p`, whose error is its own.
pub struct PassesOn {
    pub panics: bool,
}

impl Function for PassesOn {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, (x, loss, p): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        let done = Tensor::f_run_backward(&[loss], &[p], false, false);
        drop(if self.panics { done.unwrap() } else { done? });
        Ok(x * 1.0)
    }

    fn backward(
        &self,
        _: &Ctx,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy * 1.0), None, None))
    }
}

/// y = 2 x in one row, as a view of a new tensor.
pub struct InOneRow;

impl Function for InOneRow {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok((x * 2.0).view(-1))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((dy * 2.0).view(ctx.input_size(0)?)))
    }
}

tch_function::library! {
    /// Registers the ops.
    pub fn register() for "tf_random" {
        "dropout(Tensor x) -> Tensor" [NondeterministicSeeded] =>
            || Dropout { double_backward: DoubleBackward::ThroughSaved },
        "untagged(Tensor x) -> Tensor" =>
            || Dropout { double_backward: DoubleBackward::ThroughSaved },
        "recomputed(Tensor x) -> Tensor" [NondeterministicSeeded] =>
            || Dropout { double_backward: DoubleBackward::Recompute },
        "reads(Tensor x, bool panics=False) -> Tensor" => |panics| ReadsData { panics },
        "swallows(Tensor x, Tensor loss, Tensor p, *, bool by_tch=False) -> Tensor" =>
            |by_tch| Swallows { by_tch },
        "passes_on(Tensor x, Tensor loss, Tensor p, bool panics) -> Tensor" =>
            |panics| PassesOn { panics },
        "in_one_row(Tensor x) -> Tensor" => || InOneRow,
    }
}
