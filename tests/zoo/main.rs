//! A zoo of right Functions of every kind, each of which passes every check.
//!
//! The Functions and their checks stand beside each other, a module for each
//! kind. Where tch has the same op it is the reference.

mod decompositions;
mod elementwise;
mod in_place;
mod linear_algebra;
mod lists;
mod losses;
mod normalisations;
mod piecewise;
mod reductions;
mod shapes;
mod straight_through;

use tch::Tensor;
use tch_function::check::Random;

type Grad = anyhow::Result<Option<Tensor>>;
type Grads2 = anyhow::Result<(Option<Tensor>, Option<Tensor>)>;
type Grads3 = anyhow::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)>;

fn vector(values: &[f64]) -> Tensor {
    Tensor::from_slice(values)
}

fn integers(values: &[i64]) -> Tensor {
    Tensor::from_slice(values)
}

/// 2 x 3, no two alike, none at a kink.
fn x() -> Tensor {
    vector(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7]).reshape([2, 3])
}

/// 3 numbers.
fn row() -> Tensor {
    vector(&[1.5, -0.5, 0.25])
}

/// 3 x 2.
fn column_pair() -> Tensor {
    vector(&[1.5, -0.5, 0.25, 0.75, -1.0, 2.0]).reshape([3, 2])
}

/// Numbers of which no two are alike.
fn apart(random: &mut Random, _: usize, shape: &[i64]) -> Tensor {
    let n = shape.iter().product::<i64>();
    let steps = Tensor::arange(n, tch::kind::DOUBLE_CPU).reshape(shape);
    (steps * 2.4).sin() * 3.0 + random.tensor(shape, -0.01, 0.01)
}

/// The list of tests that this program has.
#[test]
fn there_are_forty_functions_or_more() -> anyhow::Result<()> {
    let list = std::process::Command::new(std::env::current_exe()?).arg("--list").output()?;
    let list = String::from_utf8(list.stdout)?;
    let functions = list.lines().filter(|line| line.ends_with("::gradcheck: test")).count();
    assert!(functions >= 40, "{functions} Functions");
    Ok(())
}
