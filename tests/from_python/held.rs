//! The page on what a Function holds, and on what it declares.

use anyhow::Result;
use tch::Tensor;
use tch_function::{Constant, Ctx, DoubleBackward, Error, Function, GradOptions, grad};
use test_support::{number, numbers, vector};

use super::functions::leaf;

/// `y = round(mask x)`, with the gradient of `mask x`.
struct Rounded {
    mask: Constant,
}

impl Function for Rounded {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok((x * self.mask.get()?).round())
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = tch::no_grad(|| anyhow::Ok(dy * self.mask.get()?))?;
        Ok(Some(ctx.constant_gradient(&dx)?))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::ThroughSaved
    }
}

#[test]
fn a_constant_and_a_gradient_that_is_not_the_derivative() -> Result<()> {
    let mask = Constant::new(&vector(&[1.0, 0.0]))?;
    let x = leaf(&[1.7, 2.7]);
    let y = Rounded { mask: mask.clone() }.apply(&x)?;
    assert_eq!(numbers(&y.detach()), [2.0, 0.0]);
    let loss = (&y * &y).sum(None::<tch::Kind>);
    let dx = GradOptions::new().create_graph(true).grad(&loss, &x)?.expect("x was used");
    assert_eq!(numbers(&dx.detach()), [4.0, 0.0]);
    assert!(matches!(grad(&dx.sum(None::<tch::Kind>), &x), Err(Error::Unused { .. })));
    Ok(())
}

tch_function::library! {
    /// Registers the op.
    pub fn register() for "tf_held" {
        "noise(Tensor x) -> Tensor" [NondeterministicSeeded] => || Noise,
    }
}

/// `x` and random numbers from 0 to 1.
struct Noise;

impl Function for Noise {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x + x.rand_like())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

#[test]
fn an_op_with_a_tag() -> Result<()> {
    register()?;
    let x = leaf(&[3.0]);
    assert_eq!(number(&grad(&Noise.apply(&x)?, &x)?), 1.0);
    Ok(())
}
