//! Functions with kinks.

use super::*;
use anyhow::Result;
use tch_function::check::Check;
use tch_function::{Ctx, Function};

/// `y = x` for `x > 0`, else `slope x`.
struct LeakyRelu {
    slope: f64,
}

impl Function for LeakyRelu {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.where_self(&x.gt(0.0), &(x * self.slope)))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy.where_self(&x.gt(0.0), &(dy * self.slope))))
    }
    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        Ok(dx.where_self(&x.gt(0.0), &(dx * self.slope)))
    }
}

/// `y` is `x` between `low` and `high`; saves where, which is constant between
/// the kinks.
struct Clamp {
    low: f64,
    high: f64,
}

impl Function for Clamp {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let inside = x.ge(self.low).logical_and(&x.le(self.high));
        ctx.save_for_backward([&inside])?;
        ctx.mark_constant(&inside);
        Ok(x.clamp(self.low, self.high))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [inside] = ctx.saved_tensors()?;
        Ok(Some(dy * inside))
    }
}

/// As `Clamp` from -1 to 1, with no slope at the kinks; saves its output.
struct HardTanh;

impl Function for HardTanh {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.clamp(-1.0, 1.0);
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy * y.abs().lt(1.0)))
    }
}

/// `y = x` for `x > 0`, else `e^x - 1`, where the slope is `y + 1`.
struct Elu;

impl Function for Elu {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = x.where_self(&x.gt(0.0), &x.expm1());
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(dy.where_self(&y.gt(0.0), &(dy * (y + 1.0)))))
    }
}

/// Saves what is no tensor: whether there is anything to do. `y = x` where
/// `|x| <= limit`, else 0.
struct Clip {
    limit: f64,
}

impl Function for Clip {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let kept = x.abs().le(self.limit);
        ctx.save(bool::try_from(kept.all())?)?;
        ctx.save_for_backward([&kept])?;
        ctx.mark_constant(&kept);
        Ok(x * kept)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        if *ctx.state::<bool>()? {
            return Ok(Some(dy.shallow_clone()));
        }
        let [kept] = ctx.saved_tensors()?;
        Ok(Some(dy * kept))
    }
}

/// Linear interpolation in a table of values at 0, 1, 2, ..:
/// `y = v[i] + (x - i) (v[i+1] - v[i])` with `i` the whole part of `x`.
struct Interpolate;

impl Function for Interpolate {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (table, x): (&Tensor, &Tensor)) -> Result<Tensor> {
        anyhow::ensure!(table.size1()? >= 2, "the table needs two values or more");
        let i = x.floor().clamp(0.0, table.size1()? as f64 - 2.0).to_kind(tch::Kind::Int64);
        ctx.save_for_backward([table, x, &i])?;
        ctx.mark_constant(&i);
        Ok(interpolated(table, x, &i))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads2 {
        let [table, x, i] = ctx.saved_tensors()?;
        let t = x - i;
        let flat = |t: &Tensor| t.reshape(-1);
        let dtable = table.zeros_like();
        let dtable = dtable.index_add(0, &flat(i), &flat(&(dy * (1.0 - &t))));
        let dtable = dtable.index_add(0, &flat(&(i + 1)), &flat(&(dy * t)));
        Ok((Some(dtable), Some(dy * (table.take(&(i + 1)) - table.take(i)))))
    }
}

fn interpolated(table: &Tensor, x: &Tensor, i: &Tensor) -> Tensor {
    let left = table.take(i);
    let rise = table.take(&(i + 1)) - &left;
    left + (x - i) * rise
}

fn interpolated_reference(table: &Tensor, x: &Tensor) -> Tensor {
    let last = table.size()[0] as f64 - 2.0;
    interpolated(table, x, &x.floor().clamp(0.0, last).to_kind(tch::Kind::Int64))
}

tch_function::check_tests! {
    leaky_relu => Check::new(LeakyRelu { slope: 0.01 }, [x()]).reference(|x| x.leaky_relu());
    clamp => Check::new(Clamp { low: -1.0, high: 0.5 }, [x() + 0.03])
        .reference(|x| x.clamp(-1.0, 0.5));
    hard_tanh => Check::new(HardTanh, [x()]).reference(|x| x.hardtanh());
    elu => Check::new(Elu, [x()]).reference(|x| x.elu());
    clip => Check::new(Clip { limit: 2.5 }, [x(), row()])
        .reference(|x| x * x.abs().le(2.5));
    interpolate => Check::new(Interpolate, [(vector(&[0.5, -1.0, 2.0, 0.25]), x())])
        .reference(|(table, x)| interpolated_reference(table, x));
}
