//! The two ops as candle's custom ops: a loop for values; gradients in candle's operators.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use half::{bf16, f16};

// op: softplus
/// `log(1 + e^x)`
struct Softplus;

/// The loop, for one dtype; it computes in f64.
macro_rules! softplus_loop {
    ($x:expr, $layout:expr, $T:ty, $Storage:ident, $from:expr, $to:expr) => {{
        let Some((from, to)) = $layout.contiguous_offsets() else {
            bail!("softplus: x is not contiguous")
        };
        let f = |&x: &$T| {
            let x: f64 = $from(x);
            $to(x.max(0.0) + (-x.abs()).exp().ln_1p())
        };
        CpuStorage::$Storage($x[from..to].iter().map(f).collect())
    }};
}

impl CustomOp1 for Softplus {
    fn name(&self) -> &'static str {
        "softplus"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F64(x) => softplus_loop!(x, layout, f64, F64, f64::from, |y| y),
            CpuStorage::F32(x) => softplus_loop!(x, layout, f32, F32, f64::from, |y| y as f32),
            CpuStorage::F16(x) => softplus_loop!(x, layout, f16, F16, f64::from, f16::from_f64),
            CpuStorage::BF16(x) => softplus_loop!(x, layout, bf16, BF16, f64::from, bf16::from_f64),
            _ => bail!("softplus: a floating-point dtype is needed"),
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((dy / (x.neg()?.exp()? + 1.0)?)?))
    }
}

pub fn softplus(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Softplus)
}

// op: gate
/// `tanh(a b + c) sigmoid(a - c) + scale e^(-b^2) c`
struct Gate {
    scale: f64,
}

impl Gate {
    fn value(&self, a: f64, b: f64, c: f64) -> f64 {
        (a * b + c).tanh() / (1.0 + (c - a).exp()) + self.scale * (-b * b).exp() * c
    }
}

/// The loop, for one dtype; it computes in f64.
macro_rules! gate_loop {
    ($f:expr, $x:expr, $layouts:expr, $Storage:ident, $from:expr, $to:expr) => {{
        let (mut x, layouts) = ($x, $layouts);
        for i in 0..3 {
            let Some((from, to)) = layouts[i].contiguous_offsets() else {
                bail!("gate: input {i} is not contiguous")
            };
            x[i] = &x[i][from..to];
        }
        let f = |i: usize| $to($f.value($from(x[0][i]), $from(x[1][i]), $from(x[2][i])));
        CpuStorage::$Storage((0..x[0].len()).map(f).collect())
    }};
}

impl CustomOp3 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        use CpuStorage::{BF16, F16, F32, F64};
        let l = [la, lb, lc];
        let y = match (a, b, c) {
            (F64(a), F64(b), F64(c)) => {
                gate_loop!(self, [&a[..], b, c], l, F64, f64::from, |y| y)
            }
            (F32(a), F32(b), F32(c)) => {
                gate_loop!(self, [&a[..], b, c], l, F32, f64::from, |y| y as f32)
            }
            (F16(a), F16(b), F16(c)) => {
                gate_loop!(self, [&a[..], b, c], l, F16, f64::from, f16::from_f64)
            }
            (BF16(a), BF16(b), BF16(c)) => {
                gate_loop!(self, [&a[..], b, c], l, BF16, f64::from, bf16::from_f64)
            }
            _ => bail!("gate: three tensors of one floating-point dtype are needed"),
        };
        Ok((y, la.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let t = ((a * b)? + c)?.tanh()?;
        let s = ((c - a)?.exp()? + 1.0)?.recip()?;
        let dt = (1.0 - t.sqr()?)?;
        let ds = (&s * (1.0 - &s)?)?;
        let e = (b.sqr()?.neg()?.exp()? * self.scale)?;
        let (dt_s, t_ds) = ((dt * &s)?, (t * ds)?);
        let da = ((&dt_s * b)? + &t_ds)?;
        let db = ((&dt_s * a)? - (((&e * b)? * c)? * 2.0)?)?;
        let dc = ((dt_s - t_ds)? + e)?;
        Ok((Some((dy * da)?), Some((dy * db)?), Some((dy * dc)?)))
    }
}

pub fn gate(a: &Tensor, b: &Tensor, c: &Tensor, scale: f64) -> Result<Tensor> {
    let shape = a.shape().broadcast_shape_binary_op(b.shape(), "gate")?;
    let shape = shape.broadcast_shape_binary_op(c.shape(), "gate")?;
    let [a, b, c] = [a, b, c].map(|x| x.broadcast_as(&shape)?.contiguous());
    a?.apply_op3(&b?, &c?, Gate { scale })
}
