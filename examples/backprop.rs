//! Backpropagation: a multi-layer perceptron of logistic units learns to read
//! handwritten digits by gradient descent on E = (t - y)^2 / 2.
//!
//! Before it learns, the gradient of one batch is computed by hand, in plain
//! loops over the textbook's formulas, and compared with the engine's.
//!
//! ```sh
//! cargo run --example backprop [-- FILE]    # FILE is data/digits/digits.csv unless given
//! ```

use anyhow::{Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::chart::SeriesLabelPosition;
use std::path::PathBuf;
use tch::{Kind, Tensor, no_grad};
use tch_function::{Var, grad};

#[path = "common/by_hand.rs"]
mod by_hand;
#[path = "common/digits.rs"]
mod digits;
#[path = "common/plot.rs"]
mod plot;
use by_hand::Matrix;
use digits::Digits;
use plot::{Curve, Frame, Style};

/// Units: the pixels of an image, the hidden ones, the ten digits.
const PIXELS: i64 = 64;
const HIDDEN: i64 = 40;
const DIGITS: i64 = 10;

/// The seed of the first weights and of every shuffling: each run is the same.
const SEED: i64 = 1998;
const EPOCHS: usize = 100;
const BATCH: i64 = 16;
/// The gamma of gradient descent.
const STEP: f64 = 2.0;

/// The largest difference between a gradient by hand and the engine's. Both
/// compute in f64, and sum in different orders.
const ROUNDING: f64 = 1e-13;

/// The share of the test images that must be read correctly.
const ACCURACY: f64 = 0.95;

fn main() -> Result<()> {
    let path = argument()?;
    tch::manual_seed(SEED);
    let (training, test) = split(&digits::read(&path)?)?;
    println!("{}", path.display());
    println!("{} images for training, {} for the test\n", training.len(), test.len());
    let network =
        Network { hidden: Layer::new(PIXELS, HIDDEN), output: Layer::new(HIDDEN, DIGITS) };

    compare_by_hand(&network, &training.slice(0, BATCH))?;
    let errors = train(&network, &training, &test)?;
    println!("\nLoss curve: {}", draw(&errors)?.display());

    let read = accuracy(&network, &test)?;
    println!("{:.1} % of the test images are read correctly.", 100.0 * read);
    ensure!(read > ACCURACY, "expected more than {:.1} %", 100.0 * ACCURACY);
    Ok(())
}

fn argument() -> Result<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    let path = arguments.next().map_or_else(digits::default_path, PathBuf::from);
    ensure!(
        arguments.next().is_none(),
        "usage: backprop [FILE]    FILE is data/digits/digits.csv unless given"
    );
    Ok(path)
}

/// Images, and what the output units should say of each: 1 for the digit that
/// it shows, 0 for the nine others.
struct Examples {
    images: Tensor,
    targets: Tensor,
}

impl Examples {
    fn len(&self) -> i64 {
        self.images.size()[0]
    }

    fn slice(&self, start: i64, end: i64) -> Examples {
        let slice = |t: &Tensor| t.slice(0, start, end, 1);
        Examples { images: slice(&self.images), targets: slice(&self.targets) }
    }

    fn shuffled(&self) -> Examples {
        let order = Tensor::randperm(self.len(), tch::kind::INT64_CPU);
        let pick = |t: &Tensor| t.index_select(0, &order);
        Examples { images: pick(&self.images), targets: pick(&self.targets) }
    }
}

/// Splits the images in random order, 80 % for training and the rest for the test. The same
/// writers are in both: the test asks for new digits, not for new hands.
fn split(digits: &Digits) -> Result<(Examples, Examples)> {
    let targets = digits.labels.one_hot(DIGITS).to_kind(Kind::Double);
    let all = Examples { images: digits.images.shallow_clone(), targets }.shuffled();
    let training = all.len() * 4 / 5;
    ensure!(training >= BATCH, "{} images are too few for training and test", all.len());
    Ok((all.slice(0, training), all.slice(training, all.len())))
}

/// y_j = logistic(net_j), net_j = sum over i of x_i w_ij, plus b_j.
struct Layer {
    w: Var,
    b: Var,
}

/// The values of a layer for a batch: a row for each image.
struct Activity {
    net: Var,
    y: Var,
}

impl Layer {
    /// Small weights, so that no unit starts saturated; random ones, so that
    /// units do not all learn the same.
    fn new(inputs: i64, units: i64) -> Layer {
        let bound = 1.0 / (inputs as f64).sqrt();
        let w = Tensor::zeros([inputs, units], tch::kind::DOUBLE_CPU).uniform(-bound, bound);
        Layer { w: Var::leaf(w), b: Var::leaf(Tensor::zeros([units], tch::kind::DOUBLE_CPU)) }
    }

    fn forward(&self, x: &Var) -> Result<Activity> {
        let net = x.matmul(&self.w)? + &self.b;
        let y = net.sigmoid()?;
        Ok(Activity { net, y })
    }
}

struct Network {
    hidden: Layer,
    output: Layer,
}

impl Network {
    fn forward(&self, images: &Tensor) -> Result<[Activity; 2]> {
        let hidden = self.hidden.forward(&Var::constant(images))?;
        let output = self.output.forward(&hidden.y)?;
        Ok([hidden, output])
    }

    /// E, summed over the output units, on average over the images.
    fn error(&self, examples: &Examples) -> Result<Var> {
        let [_, output] = self.forward(&examples.images)?;
        let e = output.y.squared_error(&Var::constant(&examples.targets))?;
        Ok(e / examples.len() as f64)
    }

    fn parameters(&self) -> [&Var; 4] {
        [&self.hidden.w, &self.hidden.b, &self.output.w, &self.output.b]
    }
}

/// Gradient descent: each epoch shows all training images once, a batch a step.
/// Returns E of the training and of the test images after each epoch.
fn train(network: &Network, training: &Examples, test: &Examples) -> Result<Vec<[f64; 2]>> {
    println!("{:>5} {:>12} {:>12} {:>15}", "epoch", "training E", "test E", "test accuracy");
    let style = ProgressStyle::with_template("{bar:40} epoch {pos} of {len}, {msg}, {eta} left")?;
    let progress = ProgressBar::new(EPOCHS as u64).with_style(style);
    let mut errors = Vec::new();
    for epoch in 1..=EPOCHS {
        let order = training.shuffled();
        for start in (0..training.len()).step_by(BATCH as usize) {
            step(network, &order.slice(start, start + BATCH))?;
        }
        let [e, test_e] = [error_of(network, training)?, error_of(network, test)?];
        errors.push([e, test_e]);
        progress.set_message(format!("E = {e:.4}"));
        progress.inc(1);
        if epoch == 1 || epoch % 10 == 0 {
            let read = 100.0 * accuracy(network, test)?;
            progress.suspend(|| println!("{epoch:>5} {e:>12.5} {test_e:>12.5} {read:>13.1} %"));
        }
    }
    progress.finish_and_clear();
    Ok(errors)
}

/// w := w - gamma dE/dw, for every parameter.
fn step(network: &Network, batch: &Examples) -> Result<()> {
    let parameters = network.parameters();
    let gradients = grad(&network.error(batch)?, parameters)?;
    for (parameter, gradient) in parameters.into_iter().zip(&gradients) {
        parameter.update(|w| *w -= STEP * gradient.value())?;
    }
    Ok(())
}

/// E as a number, without a graph.
fn error_of(network: &Network, examples: &Examples) -> Result<f64> {
    no_grad(|| Ok(f64::try_from(network.error(examples)?.value())?))
}

/// The share of the images whose digit is the output unit that says most.
fn accuracy(network: &Network, examples: &Examples) -> Result<f64> {
    let [_, output] = no_grad(|| network.forward(&examples.images))?;
    let digit = |y: &Tensor| y.argmax(1, false);
    let right = digit(output.y.value()).eq_tensor(&digit(&examples.targets));
    Ok(f64::try_from(right.to_kind(Kind::Double).mean(None))?)
}

/// Compares the textbook's formulas, on plain numbers, with the engine's
/// gradients of the same batch.
fn compare_by_hand(network: &Network, batch: &Examples) -> Result<()> {
    let [hidden, output] = network.forward(&batch.images)?;
    let e = output.y.squared_error(&Var::constant(&batch.targets))?;
    // The gradients of every value that E was computed from, not only of the weights.
    let gradients = e.gradients()?;
    let [by_hand_hidden, by_hand_output] = by_hand::backpropagate(
        &plain(&network.hidden)?,
        &plain(&network.output)?,
        &Matrix::try_from(&batch.images)?,
        &Matrix::try_from(&batch.targets)?,
    );
    println!("Largest difference between dE by hand and by the engine, on one batch");
    for (layer, place, activity, slopes) in [
        ("output", &network.output, &output, by_hand_output),
        ("hidden", &network.hidden, &hidden, by_hand_hidden),
    ] {
        compare(layer, "deltas", &gradients[&activity.net], slopes.deltas.concat())?;
        compare(layer, "weights", &gradients[&place.w], slopes.w.concat())?;
        compare(layer, "biases", &gradients[&place.b], slopes.b)?;
    }
    println!("  all below {ROUNDING:e}: the same but for rounding\n");
    Ok(())
}

fn compare(layer: &str, what: &str, engine: &Tensor, by_hand: Vec<f64>) -> Result<()> {
    let by_hand = Tensor::from_slice(&by_hand).view_as(engine);
    let [difference, size] =
        [engine - by_hand, engine.shallow_clone()].map(|t| t.abs().max().double_value(&[]));
    println!("  {layer} {what:<7} {difference:.1e}, of gradients up to {size:.1e}");
    ensure!(difference < ROUNDING, "{layer} {what}: no rounding explains {difference:e}");
    Ok(())
}

fn plain(layer: &Layer) -> Result<by_hand::Layer> {
    let (w, b) = (Matrix::try_from(layer.w.value())?, Vec::try_from(layer.b.value())?);
    Ok(by_hand::Layer { w, b })
}

fn draw(errors: &[[f64; 2]]) -> Result<PathBuf> {
    let curve = |label, color, part: usize| {
        let points = (1..).zip(errors).map(|(epoch, e)| (f64::from(epoch), e[part])).collect();
        Curve::new(label, color, Style::Line, points)
    };
    let curves = [curve("training images", plot::BLUE, 0), curve("test images", plot::ORANGE, 1)];
    let highest = errors.iter().flatten().copied().fold(0.0, f64::max);
    let frame = Frame {
        title: "A perceptron learns to read digits",
        axes: ["epoch", "E, mean of the images"],
        x: 0.0..errors.len() as f64,
        y: 0.0..1.1 * highest,
        legend: SeriesLabelPosition::UpperRight,
    };
    plot::draw("backprop.svg", &frame, &curves)
}
