//! Gradient descent, x_(n+1) = x_n - gamma_n grad F(x_n), with a constant and
//! with a decaying step gamma_n, on two functions whose minimum is known:
//! Rosenbrock's valley, and the squared error of a line through Hubble's nebulae.
//!
//! ```sh
//! cargo run --example gradient_descent
//! ```

use anyhow::{Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::chart::SeriesLabelPosition;
use plotters::style::{BLACK, RGBColor};
use std::path::PathBuf;
use tch::Tensor;
use tch_function::{Var, grad};

#[path = "common/contour.rs"]
mod contour;
#[path = "common/plot.rs"]
mod plot;
use plot::{Curve, Frame, Style};

/// Maximum distance between a descent's end and the known minimum.
const TOLERANCE: f64 = 1e-6;

/// A descent ends when the gradient is shorter. Near the minimum the distance to
/// it is at most this length over the smallest curvature of F, which is 0.4 for
/// Rosenbrock's function and 0.2 for the line.
const SHORT: f64 = 1e-7;

const MAX_STEPS: usize = 100_000;

type Point = [f64; 2];
type Function = Box<dyn Fn(&Var, &Var) -> Result<Var>>;

/// A function of two numbers to minimise.
struct Problem {
    name: &'static str,
    title: &'static str,
    f: Function,
    start: Point,
    minimum: Point,
    steps: [Step; 2],
    frame: Frame<'static>,
    /// The values of F whose contour lines are drawn.
    levels: Vec<f64>,
}

/// The rule that gives gamma_n.
enum Step {
    Constant(f64),
    /// first / sqrt(1 + n / pace): ever smaller, but with an infinite sum, so
    /// that the descent never runs out of way.
    Decaying {
        first: f64,
        pace: f64,
    },
}

impl Step {
    fn at(&self, n: usize) -> f64 {
        match self {
            Step::Constant(gamma) => *gamma,
            Step::Decaying { first, pace } => first / (1.0 + n as f64 / pace).sqrt(),
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Constant(gamma) => write!(f, "constant {gamma}"),
            Step::Decaying { first, pace } => write!(f, "{first} / sqrt(1 + n / {pace})"),
        }
    }
}

/// The points x_0, x_1, ... with F at each.
struct Descent {
    points: Vec<Point>,
    values: Vec<f64>,
}

impl Descent {
    fn end(&self) -> Point {
        self.points[self.points.len() - 1]
    }
}

fn main() -> Result<()> {
    ensure!(std::env::args().len() == 1, "usage: gradient_descent    (it takes no arguments)");
    solve(&rosenbrock())?;
    let line = solve(&hubble())?;
    println!("  Line: {}", draw_line(line)?.display());
    Ok(())
}

/// Descends by both step rules, checks and prints and draws what they find, and
/// returns it.
fn solve(problem: &Problem) -> Result<Point> {
    let minimum = problem.minimum;
    println!("{}\n", problem.title);
    println!("  {:<28} {:>6} {:>25} {:>9}", "step", "steps", "x_n", "distance");
    println!("  {:<28} {:>6} {:>12.7} {:>12.7}", "known minimum", "", minimum[0], minimum[1]);
    let mut descents = Vec::new();
    for step in &problem.steps {
        let descent = descend(problem, step)?;
        let ([x, y], steps) = (descent.end(), descent.points.len() - 1);
        let distance = (x - minimum[0]).hypot(y - minimum[1]);
        println!("  {:<28} {steps:>6} {x:>12.7} {y:>12.7} {distance:>9.1e}", step.to_string());
        ensure!(distance < TOLERANCE, "{step}: ended further than {TOLERANCE:e} from the minimum");
        descents.push(descent);
    }
    println!("\n  Both ended within {TOLERANCE:e} of the minimum.");
    println!("  Path: {}", draw_paths(problem, &descents)?.display());
    println!("  Convergence: {}\n", draw_convergence(problem, &descents)?.display());
    Ok(descents[0].end())
}

/// The method itself.
fn descend(problem: &Problem, step: &Step) -> Result<Descent> {
    let [x, y] = problem.start.map(|start| Var::leaf(Tensor::from(start)));
    let mut descent = Descent { points: Vec::new(), values: Vec::new() };
    let progress = progress(problem.name, step)?;
    for n in 0..=MAX_STEPS {
        let f = (problem.f)(&x, &y)?;
        let gradient = grad(&f, [&x, &y])?;
        let [dx, dy] = [number(&gradient[0])?, number(&gradient[1])?];
        descent.points.push([number(&x)?, number(&y)?]);
        descent.values.push(number(&f)?);

        let length = dx.hypot(dy);
        if n % 100 == 0 {
            progress.set_position(n as u64);
            progress.set_message(format!("F = {:.3e}, |grad F| = {length:.1e}", number(&f)?));
        }
        if length < SHORT {
            progress.finish_and_clear();
            return Ok(descent);
        }
        ensure!(length.is_finite(), "{step}: diverged at step {n}; take a smaller step");

        let gamma = step.at(n);
        x.update(|x| *x -= gamma * dx)?;
        y.update(|y| *y -= gamma * dy)?;
    }
    bail!("{step}: no minimum after {MAX_STEPS} steps")
}

/// Shown while a descent runs, on a terminal.
fn progress(name: &str, step: &Step) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{spinner} {prefix}: step {pos}, {msg}")?;
    Ok(ProgressBar::new_spinner().with_style(style).with_prefix(format!("{name}, {step}")))
}

fn number(x: &Var) -> Result<f64> {
    Ok(f64::try_from(x.value())?)
}

/// A narrow curved valley, by H. H. Rosenbrock (The Computer Journal 3, 1960):
/// F(x, y) = (1 - x)^2 + 100 (y - x^2)^2, with its minimum 0 at (1, 1).
///
/// There the curvature of F is 1001.6 across the valley and 0.4 along it. With a
/// constant step above 2 / 1001.6 no descent settles there; a decaying one may
/// start with a larger step.
fn rosenbrock() -> Problem {
    let f = |x: &Var, y: &Var| {
        let (a, b) = (1.0 - x, y - x * x);
        Ok(a.pow_scalar(2.0)? + 100.0 * b.pow_scalar(2.0)?)
    };
    Problem {
        name: "rosenbrock",
        title: "Rosenbrock's valley, F = (1 - x)^2 + 100 (y - x^2)^2",
        f: Box::new(f),
        start: [-1.2, 1.0],
        minimum: [1.0, 1.0],
        steps: [Step::Constant(0.00125), Step::Decaying { first: 0.0025, pace: 5000.0 }],
        frame: Frame {
            title: "Gradient descent in Rosenbrock's valley",
            axes: ["x", "y"],
            x: -1.6..1.6,
            y: -0.6..1.8,
            legend: SeriesLabelPosition::LowerLeft,
        },
        levels: (-1..=6).map(|k| 10_f64.powf(f64::from(k) / 2.0)).collect(),
    }
}

/// Table 1 of E. Hubble, "A relation between distance and radial velocity among
/// extra-galactic nebulae", Proceedings of the National Academy of Sciences 15
/// (1929) 168-173: distance in megaparsecs, velocity in km/s.
#[rustfmt::skip]
const NEBULAE: [(f64, f64); 24] = [
    (0.032, 170.), (0.034, 290.), (0.214, -130.), (0.263, -70.), (0.275, -185.), (0.275, -220.),
    (0.45, 200.), (0.5, 290.), (0.5, 270.), (0.63, 200.), (0.8, 300.), (0.9, -30.),
    (0.9, 650.), (0.9, 150.), (0.9, 500.), (1.0, 920.), (1.1, 450.), (1.1, 500.),
    (1.4, 500.), (1.7, 960.), (2.0, 500.), (2.0, 850.), (2.0, 800.), (2.0, 1090.),
];

/// The line v = a r + b of least squared error through Hubble's nebulae:
/// F(a, b) = mean of (v - (a r + b))^2 / 2, with v in 1000 km/s, which keeps
/// the numbers near 1.
///
/// Hubble, who solved for the motion of the sun too, found a = 0.465.
fn hubble() -> Problem {
    let (r, v): (Vec<f64>, Vec<f64>) = NEBULAE.iter().map(|&(r, v)| (r, v / 1000.0)).unzip();
    let minimum = closed_form(&r, &v);
    let (r, v) = (Tensor::from_slice(&r), Tensor::from_slice(&v));
    let (r, v) = (Var::constant(r), Var::constant(v));
    let f = move |a: &Var, b: &Var| {
        let line = a * &r + b;
        Ok(line.squared_error(&v)? / NEBULAE.len() as f64)
    };
    Problem {
        name: "hubble",
        title: "A line through Hubble's nebulae, F = mean of (v - (a r + b))^2 / 2",
        f: Box::new(f),
        start: [-0.4, 0.8],
        minimum,
        steps: [Step::Constant(0.5), Step::Decaying { first: 1.0, pace: 20.0 }],
        frame: Frame {
            title: "Gradient descent to Hubble's line",
            axes: ["a, 1000 km/s per megaparsec", "b, 1000 km/s"],
            x: -0.8..1.2,
            y: -0.6..1.0,
            legend: SeriesLabelPosition::LowerLeft,
        },
        levels: (1..=12).map(|k| 0.017 + 0.004 * f64::from(k * k)).collect(),
    }
}

/// The line of least squares from its formula: a = cov(r, v) / var(r), and the
/// line goes through the means.
fn closed_form(r: &[f64], v: &[f64]) -> Point {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_r, mean_v) = (mean(r), mean(v));
    let cov: f64 = r.iter().zip(v).map(|(r, v)| (r - mean_r) * (v - mean_v)).sum();
    let var: f64 = r.iter().map(|r| (r - mean_r).powi(2)).sum();
    let a = cov / var;
    [a, mean_v - a * mean_r]
}

const GREY: RGBColor = RGBColor(150, 150, 150);
const COLORS: [RGBColor; 2] = [plot::BLUE, plot::ORANGE];

/// Draws the descents over the contour lines of F.
fn draw_paths(problem: &Problem, descents: &[Descent]) -> Result<PathBuf> {
    let frame = &problem.frame;
    let f = |x, y| value(problem, [x, y]);
    let mut curves = Vec::new();
    for line in contour::lines(f, &frame.x, &frame.y, &problem.levels)? {
        curves.push(Curve::new("", GREY, Style::Segments, line));
    }
    for ((descent, step), color) in descents.iter().zip(&problem.steps).zip(COLORS) {
        let path = thinned(&descent.points);
        curves.push(Curve::new(&format!("step {step}"), color, Style::Line, path));
    }
    let minimum = vec![problem.minimum.into()];
    curves.push(Curve::new("known minimum", BLACK, Style::Dots, minimum));
    plot::draw(&format!("{}_path.svg", problem.name), frame, &curves)
}

/// Draws F on its way down to the minimum, on a logarithmic scale.
fn draw_convergence(problem: &Problem, descents: &[Descent]) -> Result<PathBuf> {
    let least = value(problem, problem.minimum)?;
    let mut curves = Vec::new();
    for ((descent, step), color) in descents.iter().zip(&problem.steps).zip(COLORS) {
        let every = descent.values.len().div_ceil(1000);
        let above = descent.values.iter().map(|f| (f - least).max(1e-16).log10());
        let points = above.enumerate().step_by(every).map(|(n, f)| (n as f64, f)).collect();
        curves.push(Curve::new(&format!("step {step}"), color, Style::Line, points));
    }
    let longest = descents.iter().map(|descent| descent.values.len()).max().unwrap_or(0);
    let title = format!("{}: convergence", problem.frame.title);
    let axes = ["n", "log10 (F(x_n) - least F)"];
    let (x, y) = (0.0..longest as f64, -16.0..2.0);
    let frame = Frame { title: &title, axes, x, y, legend: SeriesLabelPosition::UpperRight };
    plot::draw(&format!("{}_convergence.svg", problem.name), &frame, &curves)
}

/// The nebulae, and the line v = a r + b that was found, in km/s.
fn draw_line([a, b]: Point) -> Result<PathBuf> {
    let line = [0.0, 2.2].map(|r| (r, 1000.0 * (a * r + b))).to_vec();
    let sign = if b < 0.0 { '-' } else { '+' };
    let label = format!("v = {:.1} r {sign} {:.1}", 1000.0 * a, 1000.0 * b.abs());
    let curves = [
        Curve::new("nebulae, Hubble 1929", plot::BLUE, Style::Dots, NEBULAE.to_vec()),
        Curve::new(&label, plot::ORANGE, Style::Line, line),
    ];
    let frame = Frame {
        title: "Hubble's law, by gradient descent",
        axes: ["distance r, megaparsecs", "velocity v, km/s"],
        x: 0.0..2.2,
        y: -300.0..1200.0,
        legend: SeriesLabelPosition::UpperLeft,
    };
    plot::draw("hubble_line.svg", &frame, &curves)
}

/// F at a point.
fn value(problem: &Problem, point: Point) -> Result<f64> {
    let [x, y] = point.map(|x| Var::constant(Tensor::from(x)));
    number(&(problem.f)(&x, &y)?)
}

/// Points too near to the last one to be seen apart are left out.
fn thinned(points: &[Point]) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for &[x, y] in points {
        if kept.last().is_none_or(|last| (x - last.0).hypot(y - last.1) > 0.004) {
            kept.push((x, y));
        }
    }
    kept
}
