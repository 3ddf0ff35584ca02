//! y = sin(x) from -pi to pi, fitted by y = a + b P3(c + d x), where P3 is the
//! Legendre polynomial of degree 3, written as a Function with its own backward
//! and used on ordinary tch tensors: PyTorch's tutorial "Defining New autograd
//! Functions", with its points, start, learning rate and number of steps, in f64.
//!
//! ```sh
//! cargo run --example two_layer_net
//! ```

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::chart::SeriesLabelPosition;
use std::f64::consts::PI;
use std::path::PathBuf;
use tch::{Kind, Tensor, kind::DOUBLE_CPU, no_grad};
use tch_function::{Ctx, Function, grad, gradcheck};

#[path = "common/plot.rs"]
mod plot;
use plot::{Curve, Frame, Style};

const POINTS: i64 = 2000;
const STEPS: usize = 2000;
const LEARNING_RATE: f64 = 5e-6;

/// Maximum distance of P3's gradients from those of libtorch's own ops, relative to
/// the largest: both are sums of 2000 terms in f64.
const ROUNDING: f64 = 1e-11;

/// The loss that the fit must come below; that of the best cubic is 8.817.
const LOSS: f64 = 9.0;

/// `P3(x) = (5 x^3 - 3 x) / 2`; `dP3/dx = 1.5 (5 x^2 - 1)`.
#[derive(Clone, Copy)]
struct LegendrePolynomial3;

impl Function for LegendrePolynomial3 {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok((5.0 * x.pow_tensor_scalar(3) - 3.0 * x) * 0.5)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * 1.5 * (5.0 * x.square() - 1.0)))
    }
}

/// P3 from libtorch's own ops, differentiated by libtorch.
fn reference(x: &Tensor) -> Result<Tensor> {
    Ok((5.0 * x.pow_tensor_scalar(3) - 3.0 * x) * 0.5)
}

/// y = a + b P3(c + d x)
struct Model {
    parameters: [Tensor; 4],
}

impl Model {
    fn new() -> Model {
        let parameter = |start: f64| Tensor::from(start).set_requires_grad(true);
        Model { parameters: [0.0, -1.0, 0.0, 0.3].map(parameter) }
    }

    fn forward(&self, p3: impl Fn(&Tensor) -> Result<Tensor>, x: &Tensor) -> Result<Tensor> {
        let [a, b, c, d] = &self.parameters;
        Ok(a + b * p3(&(c + d * x))?)
    }

    fn numbers(&self) -> Result<[f64; 4]> {
        numbers(&self.parameters)
    }
}

fn main() -> Result<()> {
    ensure!(std::env::args().len() == 1, "usage: two_layer_net    (it takes no arguments)");
    let x = Tensor::linspace(-PI, PI, POINTS, DOUBLE_CPU);
    let y = x.sin();
    gradcheck(LegendrePolynomial3, &Tensor::linspace(-1.5, 1.5, 20, DOUBLE_CPU))?.assert();
    println!("P3's backward agrees with finite differences of its forward.\n");

    let model = Model::new();
    let loss = train(&model, &x, &y)?;
    let [a, b, c, d] = model.numbers()?.map(rounded);
    println!("\nResult: y = {a} + {b} P3({c} + {d} x)");
    println!("        y = {}", expanded(&model)?);
    println!("Fit: {}", draw(&model, &x)?.display());
    ensure!(loss < LOSS, "the loss is {loss}, expected less than {LOSS}");
    Ok(())
}

/// Gradient descent. Returns the loss at its end.
fn train(model: &Model, x: &Tensor, y: &Tensor) -> Result<f64> {
    let style = ProgressStyle::with_template("{bar:40} step {pos} of {len}, {eta} left")?;
    let progress = ProgressBar::new(STEPS as u64).with_style(style);
    let mut last = f64::INFINITY;
    println!("{:>5} {:>12} {:>35}", "step", "loss", "gradients differ from libtorch's by");
    for step in 1..=STEPS {
        let p3 = |x: &Tensor| Ok(LegendrePolynomial3.apply(x)?);
        let loss = squared_error(&model.forward(p3, x)?, y);
        let gradients = grad(&loss, model.parameters.each_ref())?;
        if step % 200 == 0 {
            last = f64::try_from(&loss)?;
            let difference = difference(model, &gradients, x, y)?;
            progress.suspend(|| println!("{step:>5} {last:>12.6} {difference:>35.1e}"));
            ensure!(difference < ROUNDING, "expected a difference below {ROUNDING:e}");
        }
        no_grad(|| {
            for (parameter, gradient) in model.parameters.iter().zip(gradients) {
                let _ = parameter.shallow_clone().g_sub_(&(LEARNING_RATE * gradient));
            }
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(last)
}

fn squared_error(found: &Tensor, y: &Tensor) -> Tensor {
    (found - y).square().sum(Kind::Double)
}

/// The largest difference between `gradients` and those of the same model with
/// libtorch's own ops, relative to the largest gradient.
fn difference(model: &Model, gradients: &[Tensor; 4], x: &Tensor, y: &Tensor) -> Result<f64> {
    let loss = squared_error(&model.forward(reference, x)?, y);
    let expected = numbers(&grad(&loss, model.parameters.each_ref())?)?;
    let largest = expected.iter().fold(0.0, |m: f64, g| m.max(g.abs()));
    let found = numbers(gradients)?.into_iter().zip(expected);
    Ok(found.fold(0.0, |m: f64, (g, h)| m.max((g - h).abs())) / largest)
}

fn numbers(tensors: &[Tensor; 4]) -> Result<[f64; 4]> {
    let mut numbers = [0.0; 4];
    for (number, tensor) in numbers.iter_mut().zip(tensors) {
        *number = f64::try_from(tensor)?;
    }
    Ok(numbers)
}

/// The polynomial that a + b P3(c + d x) is.
fn expanded(model: &Model) -> Result<String> {
    let [a, b, c, d] = model.numbers()?;
    let b = b / 2.0;
    let powers = [
        a + b * (5.0 * c.powi(3) - 3.0 * c),
        b * (15.0 * c * c - 3.0) * d,
        b * 15.0 * c * d * d,
        b * 5.0 * d.powi(3),
    ];
    let [k0, k1, k2, k3] = powers.map(rounded);
    Ok(format!("{k0} + {k1} x + {k2} x^2 + {k3} x^3"))
}

/// To six digits after the point; no "-0".
fn rounded(k: f64) -> f64 {
    (k * 1e6).round() / 1e6 + 0.0
}

fn draw(model: &Model, x: &Tensor) -> Result<PathBuf> {
    let curve = |label: &str, color, y: &Tensor| -> Result<Curve> {
        let (x, y) = (Vec::<f64>::try_from(x)?, Vec::<f64>::try_from(y)?);
        Ok(Curve::new(label, color, Style::Line, x.into_iter().zip(y).step_by(10).collect()))
    };
    let fit = no_grad(|| model.forward(reference, x))?;
    let curves = [
        curve("y = sin(x)", plot::BLUE, &x.sin())?,
        curve("y = a + b P3(c + d x)", plot::ORANGE, &fit)?,
    ];
    let frame = Frame {
        title: "sin(x) fitted with a Legendre polynomial",
        axes: ["x", "y"],
        x: -PI..PI,
        y: -1.2..1.2,
        legend: SeriesLabelPosition::UpperLeft,
    };
    plot::draw("two_layer_net.svg", &frame, &curves)
}
