//! Two ops for Python: an activation with loops of its own, and a loss that
//! tch-function brings along.

use anyhow::{Result, ensure};
use tch::Tensor;
use tch_function::kernel::simd::{self, Float, Lanes};
use tch_function::{Ctx, Function, Vmap, kernel, ops};

/// `y = (x + r) / 2` with `r = sqrt(x^2 + b)`: a smooth relative of `relu`;
/// `dy/dx = (1 + x / r) / 2` (J. T. Barron, arXiv:2112.11687).
///
/// Floating-point inputs of any shape.
struct Squareplus {
    b: f64,
}

struct Value(f64);

impl Lanes<1, 1> for Value {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [(x + (x * x + self.0).sqrt()) * 0.5]
    }
}

struct Slope(f64);

impl Lanes<2, 1> for Slope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        [dy * (x / (x * x + self.0).sqrt() + 1.0) * 0.5]
    }
}

impl Squareplus {
    fn new(b: f64) -> Result<Squareplus> {
        ensure!(b > 0.0, "b is {b}; give a positive number");
        Ok(Squareplus { b })
    }
}

// One pass over the memory where there is memory to read. Elsewhere the formula:
// for tensors that torch.compile traces or vmap has batched, and in a backward
// that is differentiated again.
impl Function for Squareplus {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        if kernel::runs_on(x) {
            let [y] = simd::map(&Value(self.b), [x])?;
            return Ok(y);
        }
        Ok((x + (x * x + self.b).sqrt()) * 0.5)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        if kernel::runs_on(x) && kernel::runs_on(dy) {
            let [dx] = simd::map(&Slope(self.b), [x, dy])?;
            return Ok(Some(dx));
        }
        Ok(Some(dy * (x / (x * x + self.b).sqrt() + 1.0) * 0.5))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

tch_function::library! {
    /// Registers the ops; loading the library in Python does it.
    pub fn register() for "digit_ops" {
        "squareplus(Tensor x, float b=4.0) -> Tensor" => Squareplus::new,
        "cross_entropy(Tensor scores, Tensor labels, float smoothing=0.0) -> Tensor" =>
            |label_smoothing| ops::CrossEntropy { label_smoothing },
    }
}
