//! The two ops as Functions: a kernel for values, one for gradients and one for tangents, and
//! each once more in tensor operators, for second derivatives, tracers and vmap.

use anyhow::Result;
use tch::Tensor;
use tch_function::kernel::simd::{self, Float, Lanes};
use tch_function::{Ctx, Error, Function, Vmap};

// op: both
/// What a kernel computed; what `tensors` gives where the kernel does not run.
fn or<const O: usize>(
    kernel: tch_function::Result<[Tensor; O]>,
    tensors: impl FnOnce() -> [Tensor; O],
) -> Result<[Tensor; O]> {
    match kernel {
        Err(Error::NoKernel { .. }) => Ok(tensors()),
        done => Ok(done?),
    }
}

// op: softplus
/// `log(1 + e^x)`
pub struct Softplus;

struct SoftplusValue;

impl Lanes<1, 1> for SoftplusValue {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [x.max(x.of(0.0)) + (-x.abs()).exp().ln_1p()]
    }
}

struct SoftplusSlope;

impl Lanes<2, 1> for SoftplusSlope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        [dy * x.sigmoid()]
    }
}

impl Function for Softplus {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        let tensors = || [x.clamp_min(0.0) + (-x.abs()).exp().log1p()];
        let [y] = or(simd::map(&SoftplusValue, [x]), tensors)?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let [dx] = or(simd::map(&SoftplusSlope, [x, dy]), || [dy * x.sigmoid()])?;
        Ok(Some(dx))
    }

    fn jvp(&self, _: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        let [dy] = or(simd::map(&SoftplusSlope, [x, dx]), || [dx * x.sigmoid()])?;
        Ok(dy)
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

// op: gate
/// `tanh(a b + c) sigmoid(a - c) + scale e^(-b^2) c`
pub struct Gate {
    pub scale: f64,
}

struct GateValue(f64);

impl Lanes<3, 1> for GateValue {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b, c]: [V; 3]) -> [V; 1] {
        [(a * b + c).tanh() * (a - c).sigmoid() + (-b * b).exp() * c * self.0]
    }
}

/// The derivatives in a, b and c.
#[inline(always)]
fn gate_slopes<V: Float>(scale: f64, [a, b, c]: [V; 3]) -> [V; 3] {
    let (t, s) = ((a * b + c).tanh(), (a - c).sigmoid());
    let dt = -t * t + 1.0;
    let ds = s * (-s + 1.0);
    let e = (-b * b).exp() * scale;
    [dt * b * s + t * ds, dt * a * s - e * b * c * 2.0, dt * s - t * ds + e]
}

struct GateGradients(f64);

impl Lanes<4, 3> for GateGradients {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b, c, dy]: [V; 4]) -> [V; 3] {
        let [da, db, dc] = gate_slopes(self.0, [a, b, c]);
        [dy * da, dy * db, dy * dc]
    }
}

struct GateTangent(f64);

impl Lanes<6, 1> for GateTangent {
    #[inline(always)]
    fn call<V: Float>(&self, [a, b, c, va, vb, vc]: [V; 6]) -> [V; 1] {
        let [da, db, dc] = gate_slopes(self.0, [a, b, c]);
        [va * da + vb * db + vc * dc]
    }
}

impl Gate {
    fn value_of_tensors(&self, [a, b, c]: [&Tensor; 3]) -> Tensor {
        (a * b + c).tanh() * (a - c).sigmoid() + (-b * b).exp() * c * self.scale
    }

    fn slopes_of_tensors(&self, [a, b, c]: [&Tensor; 3]) -> [Tensor; 3] {
        let (t, s) = ((a * b + c).tanh(), (a - c).sigmoid());
        let dt: Tensor = 1.0 - &t * &t;
        let ds = &s * (1.0 - &s);
        let e = (-b * b).exp() * self.scale;
        let da = &dt * b * &s + &t * &ds;
        let db = &dt * a * &s - &e * b * c * 2.0;
        let dc = &dt * &s - &t * &ds + &e;
        [da, db, dc]
    }
}

impl Function for Gate {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (a, b, c): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b, c])?;
        let x = [a, b, c];
        let [y] = or(simd::map(&GateValue(self.scale), x), || [self.value_of_tensors(x)])?;
        Ok(y)
    }

    fn backward(
        &self,
        ctx: &Ctx,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = ctx.saved_tensors()?;
        let tensors = || self.slopes_of_tensors([a, b, c]).map(|slope| dy * slope);
        let [da, db, dc] = or(simd::map(&GateGradients(self.scale), [a, b, c, dy]), tensors)?;
        Ok((
            Some(ctx.reduce_to_input(0, &da)?),
            Some(ctx.reduce_to_input(1, &db)?),
            Some(ctx.reduce_to_input(2, &dc)?),
        ))
    }

    fn jvp(
        &self,
        _: &Ctx,
        (a, b, c): (&Tensor, &Tensor, &Tensor),
        (va, vb, vc): (&Tensor, &Tensor, &Tensor),
    ) -> Result<Tensor> {
        let tensors = || {
            let [da, db, dc] = self.slopes_of_tensors([a, b, c]);
            [va * da + vb * db + vc * dc]
        };
        let [dy] = or(simd::map(&GateTangent(self.scale), [a, b, c, va, vb, vc]), tensors)?;
        Ok(dy)
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}
