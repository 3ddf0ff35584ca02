//! Functions whose backward is not the gradient of their forward, and says of
//! what it is.

use super::*;
use anyhow::Result;
use tch_function::check::Check;
use tch_function::{Ctx, Function};

/// Whole numbers, with the gradient of the identity (Bengio, Léonard and
/// Courville 2013, "Estimating or propagating gradients through stochastic
/// neurons").
struct Round;

impl Function for Round {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.round())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.shallow_clone()))
    }
}

/// The sign, with the gradient of a clamp to [-1, 1] (Hubara et al. 2016,
/// "Binarized neural networks").
struct Binarize;

impl Function for Binarize {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.sign())
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x.abs().le(1.0)))
    }
}

/// The identity, and `-lambda` times its gradient (Ganin and Lempitsky 2015,
/// "Unsupervised domain adaptation by backpropagation"). Returns its input.
struct ReverseGradient {
    lambda: f64,
}

impl Function for ReverseGradient {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy * -self.lambda))
    }
}

tch_function::check_tests! {
    round => Check::new(Round, [x()])
        .reference(|x| x.round())
        .claims_gradient_of(|x| x.shallow_clone());
    binarize => Check::new(Binarize, [x()])
        .reference(|x| x.sign())
        .claims_gradient_of(|x| x.clamp(-1.0, 1.0));
    reverse_gradient => Check::new(ReverseGradient { lambda: 0.3 }, [x()])
        .reference(|x| x.shallow_clone())
        .claims_gradient_of(|x| x * -0.3);
}
