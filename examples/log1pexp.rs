//! y = log(1 + exp(x)) and its derivative, in four ways side by side, and drawn.
//!
//! ```sh
//! cargo run --example log1pexp [-- X]    # X is 4.5 unless given
//! ```

use anyhow::{Context, Result, ensure};
use plotters::chart::SeriesLabelPosition;
use tch::Tensor;
use tch_function::{Ctx, Function, Var, grad, ops};

#[path = "common/plot.rs"]
mod plot;
use plot::{Curve, Frame, Style};

const USAGE: &str = "usage: log1pexp [X]    X is a number from -1e6 to 1e6, 4.5 unless given";

/// Maximum distance of the shipped op's y' from the finite difference.
const TOLERANCE: f64 = 1e-8;

/// A new operator, as a textbook writes it:
///
/// ```text
/// e = exp(x)    y = log(1 + e)    dy/dx = e / (1 + e) = 1 - 1 / (1 + e)
/// ```
///
/// Its range: where exp(x) overflows, above 709.78 in f64 and 88.72 in f32, y is
/// infinite. Where 1 + e rounds to 1, below -36.7 and -16.6, y and dy/dx are 0
/// and not exp(x). `ops::Log1pExp` is right everywhere.
struct Log1pExp;

impl Function for Log1pExp {
    type Inputs = Tensor;
    type Outputs = Tensor;

    // Computes y, and keeps for `backward` what is expensive to compute again.
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let e = x.exp();
        ctx.save_for_backward([&e])?;
        Ok((e + 1.0).log())
    }

    // The chain rule: from dL/dy of any later result L it makes dL/dx = dL/dy dy/dx.
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [e] = ctx.saved_tensors()?;
        Ok(ctx.needs_input_grad(0).then(|| dy * (1.0 - 1.0 / (1.0 + e))))
    }
}

/// y and dy/dx.
type Pair = (f64, f64);

fn main() -> Result<()> {
    let x = argument()?;
    let shipped = engine(ops::Log1pExp, x)?;
    let differences = finite_differences(x);

    println!("y = log(1 + exp(x)) at x = {x}\n");
    println!("{:<43} {:>23} {:>23}", "", "y", "dy/dx");
    row("own engine, the textbook's Log1pExp", engine(Log1pExp, x)?);
    row("own engine, ops::Log1pExp", shipped);
    row("libtorch's autograd, the textbook's formula", libtorch(x));
    row("central finite differences", differences);

    let error = (shipped.1 - differences.1).abs();
    ensure!(error < TOLERANCE, "ops::Log1pExp and the finite difference differ by {error:e}");
    println!("\nops::Log1pExp and the finite difference agree within {TOLERANCE:e}.");
    println!("Curve: {}", draw()?.display());
    Ok(())
}

fn argument() -> Result<f64> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ensure!(arguments.len() <= 1, "expected one number at most\n{USAGE}");
    let text = arguments.first().map_or("4.5", String::as_str);
    let x: f64 = text.parse().with_context(|| format!("{text:?} is no number\n{USAGE}"))?;
    ensure!(x.abs() <= 1e6, "{text} is out of range\n{USAGE}");
    Ok(x)
}

fn row(way: &str, (y, dy): Pair) {
    println!("{way:<43} {y:>23?} {dy:>23?}");
}

/// Runs the op on a Var: a leaf, the op, the gradient.
fn engine(op: impl Function<Inputs = Tensor, Outputs = Tensor>, x: f64) -> Result<Pair> {
    let x = Var::leaf(Tensor::from(x));
    let y = op.apply(&x)?;
    let dy = grad(&y, &x)?;
    Ok((f64::try_from(y.value())?, f64::try_from(dy.value())?))
}

/// The same formula on a tensor that libtorch differentiates.
fn libtorch(x: f64) -> Pair {
    let x = Tensor::from(x).set_requires_grad(true);
    let y = (x.exp() + 1.0).log();
    y.backward();
    (y.double_value(&[]), x.grad().double_value(&[]))
}

/// y'(x) is about (y(x + h) - y(x - h)) / 2h: a derivative without any calculus.
fn finite_differences(x: f64) -> Pair {
    // log(1 + exp(x)) = x + log(1 + exp(-x)): the sign that cannot overflow.
    let y = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    // Smaller, and rounding spoils the difference; larger, and the bend of y does.
    let h = f64::EPSILON.cbrt() * x.abs().max(1.0);
    (y(x), (y(x + h) - y(x - h)) / (2.0 * h))
}

fn draw() -> Result<std::path::PathBuf> {
    let x = Var::leaf(Tensor::linspace(-10.0, 10.0, 401, tch::kind::DOUBLE_CPU));
    let y = ops::Log1pExp.apply(&x)?;
    // Each element of y depends on the same one of x alone, so the gradient of
    // their sum holds y' of each.
    let dy = grad(&y.sum()?, &x)?;
    let curve = |label: &str, color, y: &Tensor| -> Result<Curve> {
        let (x, y) = (Vec::<f64>::try_from(x.value())?, Vec::<f64>::try_from(y)?);
        Ok(Curve::new(label, color, Style::Line, x.into_iter().zip(y).collect()))
    };
    let curves = [
        curve("y = log(1 + exp(x))", plot::BLUE, y.value())?,
        curve("y' = 1 - 1 / (1 + exp(x))", plot::ORANGE, dy.value())?,
    ];
    let frame = Frame {
        title: "Log1pExp and its derivative",
        axes: ["x", "y, y'"],
        x: -10.0..10.0,
        y: -0.5..10.5,
        legend: SeriesLabelPosition::UpperLeft,
    };
    plot::draw("log1pexp.svg", &frame, &curves)
}
