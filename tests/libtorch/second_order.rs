//! Second derivatives inside libtorch.

use super::models::leaf;
use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Error, Function, GradOptions, grad, ops};
use test_support::{assert_error, number, numbers};

// Second derivatives.

/// y = x^3, saving what `save` says.
struct Cube {
    save: Save,
    double_backward: DoubleBackward,
}
#[derive(Clone, Copy, PartialEq)]
enum Save {
    Input,
    Intermediate,
    Constant,
}
impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let square = x * x;
        match self.save {
            Save::Input => ctx.save_for_backward([x])?,
            Save::Intermediate => ctx.save_for_backward([&square])?,
            Save::Constant => {
                ctx.save_for_backward([&square])?;
                ctx.mark_constant(&square);
            }
        }
        Ok(square * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [kept] = ctx.saved_tensors()?;
        let square = if self.save == Save::Input { kept * kept } else { kept.shallow_clone() };
        Ok(Some(dy * square * 3.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}

fn cube(save: Save, double_backward: DoubleBackward) -> Cube {
    Cube { save, double_backward }
}

pub(super) fn create_graph<'a>() -> GradOptions<'a, Tensor> {
    GradOptions::new().create_graph(true)
}

#[test]
fn higher_derivatives_through_saved_inputs() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Input, DoubleBackward::ThroughSaved).apply(&x)?;
    let d1 = create_graph().grad(&y, &x)?.unwrap();
    let d2 = create_graph().grad(&d1, &x)?.unwrap();
    let d3 = create_graph().grad(&d2, &x)?.unwrap();
    assert_eq!([number(&d1), number(&d2), number(&d3)], [12.0, 12.0, 6.0]);
    Ok(())
}

#[test]
fn a_saved_intermediate_is_an_error_on_the_wrong_path_and_only_there() -> Result<()> {
    let x = leaf(&[2.0]);
    let op = || cube(Save::Intermediate, DoubleBackward::ThroughSaved);
    let y = op().apply(&x)?;
    let seed = leaf(&[1.0]);
    let first = create_graph().seeds(&seed).grad(&y, &x)?.unwrap();
    assert_eq!(number(&first), 12.0);
    // With respect to the seed the path is right: d(dy * 3 x^2)/d(dy).
    let keep = GradOptions::new().retain_graph(true);
    assert_eq!(number(&keep.grad(&first, &seed)?.unwrap()), 12.0);
    assert_error!(
        grad(&first, &x),
        Error::SavedIntermediate { op: "Cube", position: 0 },
        "Cube",
        "saved tensor 0",
        "Recompute",
        "mark_constant"
    );
    Ok(())
}

#[test]
fn recomputation_gives_every_order() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Intermediate, DoubleBackward::Recompute).apply(&x)?;
    let d1 = create_graph().grad(&y, &x)?.unwrap();
    let d2 = create_graph().grad(&d1, &x)?.unwrap();
    let d3 = create_graph().grad(&d2, &x)?.unwrap();
    assert_eq!([number(&d1), number(&d2), number(&d3)], [12.0, 12.0, 6.0]);
    let y = cube(Save::Intermediate, DoubleBackward::Recompute).apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 12.0);
    Ok(())
}

#[test]
fn a_declared_constant_has_no_second_path() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Constant, DoubleBackward::ThroughSaved).apply(&x)?;
    let first = create_graph().grad(&y, &x)?.unwrap();
    assert!(
        !first.requires_grad() || GradOptions::new().allow_unused(true).grad(&first, &x)?.is_none()
    );
    Ok(())
}

#[test]
fn once_differentiable_says_so() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Input, DoubleBackward::Once).apply(&x)?;
    let first = create_graph().grad(&y, &x)?.unwrap();
    assert_eq!(number(&first), 12.0);
    assert_error!(
        grad(&first, &x),
        Error::OnceDifferentiable { op: "Cube" },
        "no second derivative"
    );
    Ok(())
}

#[test]
fn the_shipped_ops_have_right_second_derivatives() -> Result<()> {
    let x = leaf(&[0.3, 1.7]);
    let second = |y: Tensor| -> Result<Vec<f64>> {
        let d = create_graph().grad(&y.sum(Kind::Double), &x)?.unwrap();
        Ok(numbers(&grad(&d.sum(Kind::Double), &x)?))
    };
    let pairs = [
        (ops::Log1pExp.apply(&x)?, x.softplus()),
        (ops::Exp.apply(&x)?, x.exp()),
        (ops::Log.apply(&x)?, x.log()),
        (ops::Sqrt.apply(&x)?, x.sqrt()),
        (ops::Tanh.apply(&x)?, x.tanh()),
        (ops::Sigmoid.apply(&x)?, x.sigmoid()),
        (ops::Mul.apply((&x, &x))?, &x * &x),
        (ops::Div.apply((&x.sin(), &x))?, x.sin() / &x),
    ];
    for (i, (own, torch)) in pairs.into_iter().enumerate() {
        for (a, b) in second(own)?.into_iter().zip(second(torch)?) {
            assert!((a - b).abs() < 1e-13 * (1.0 + b.abs()), "pair {i}: {a} and {b}");
        }
    }
    Ok(())
}
