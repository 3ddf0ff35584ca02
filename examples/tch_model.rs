//! A network made with tch's `nn::seq` whose activation and whose loss are
//! Functions with their own backward. Adam trains it to read handwritten
//! digits; a `VarStore` saves it and loads it again. The same network, with
//! libtorch's own activation and loss and from the same seed, stands beside it.
//!
//! ```sh
//! cargo run --example tch_model
//! ```

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use tch::nn::{self, Module, OptimizerConfig, VarStore};
use tch::{Device, Kind, Reduction, Tensor, kind::DOUBLE_CPU, no_grad};
use tch_function::{Ctx, Function, gradcheck};

#[path = "common/digits.rs"]
mod digits;
#[path = "common/task.rs"]
mod task;
use task::Set;

const PIXELS: i64 = 64;
const HIDDEN: i64 = 64;
const DIGITS: i64 = 10;

const SEED: i64 = 2019;
const EPOCHS: usize = 40;
const BATCH: i64 = 32;
const LEARNING_RATE: f64 = 2e-3;
const SMOOTHING: f64 = 0.1;

/// The share of the test images that must be read correctly.
const ACCURACY: f64 = 0.95;
/// Maximum distance of the two networks' accuracies. They start equal and see
/// the same batches, but round differently.
const MARGIN: f64 = 0.01;

/// `y = x s` with `s = 1 / (1 + e^-x)`; `dy/dx = s + x s (1 - s)`.
#[derive(Clone, Copy)]
struct Swish;

impl Function for Swish {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x.sigmoid())
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let s = x.sigmoid();
        Ok(Some(dy * (&s + x * &s * (1.0 - &s))))
    }
}

/// Cross entropy with smoothed labels. With `q_j = (1 - smoothing) [j = label] +
/// smoothing / C`, on average over the n rows of the scores x:
///
/// ```text
/// y = - sum_j q_j log softmax(x)_j    dy/dx_j = (softmax(x)_j - q_j) / n
/// ```
#[derive(Clone, Copy)]
struct SmoothedCrossEntropy {
    smoothing: f64,
}

impl SmoothedCrossEntropy {
    fn wanted(&self, x: &Tensor, labels: &Tensor) -> Tensor {
        let classes = x.size()[1];
        let label = labels.one_hot(classes).to_kind(x.kind());
        label * (1.0 - self.smoothing) + self.smoothing / classes as f64
    }
}

impl Function for SmoothedCrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, (x, labels): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, labels])?;
        let log_p = x.log_softmax(1, None);
        Ok(-(self.wanted(x, labels) * log_p).sum(None) / x.size()[0] as f64)
    }

    // Labels are integers: no gradient flows to them.
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, labels] = ctx.saved_tensors()?;
        let dx = (x.softmax(1, None) - self.wanted(x, labels)) * dy / x.size()[0] as f64;
        Ok((Some(dx), None))
    }
}

/// The activation, in which the two networks differ.
struct Ops {
    name: &'static str,
    activation: fn(&Tensor) -> Tensor,
    loss: fn(&Tensor, &Tensor) -> Result<Tensor>,
}

const FUNCTIONS: Ops = Ops {
    name: "Functions",
    // A module's forward has no room for an error.
    activation: |x| Swish.apply(x).unwrap_or_else(|e| panic!("{e}")),
    loss: |x, labels| Ok(SmoothedCrossEntropy { smoothing: SMOOTHING }.apply((x, labels))?),
};

const LIBTORCH: Ops = Ops {
    name: "libtorch's own ops",
    activation: Tensor::silu,
    loss: |x, labels| {
        let mean = Reduction::Mean;
        Ok(x.f_cross_entropy_loss::<Tensor>(labels, None, mean, -100, SMOOTHING)?)
    },
};

struct Network {
    store: VarStore,
    layers: nn::Sequential,
}

impl Network {
    fn new(ops: &Ops) -> Network {
        let store = VarStore::new(Device::Cpu);
        let root = store.root();
        let layers = nn::seq()
            .add(nn::linear(&root / "hidden", PIXELS, HIDDEN, Default::default()))
            .add_fn(ops.activation)
            .add(nn::linear(&root / "output", HIDDEN, DIGITS, Default::default()));
        Network { store, layers }
    }

    fn accuracy(&self, set: &Set) -> Result<f64> {
        no_grad(|| task::accuracy(&self.layers.forward(&set.images), &set.labels))
    }
}

fn main() -> Result<()> {
    ensure!(std::env::args().len() == 1, "usage: tch_model    (it takes no arguments)");
    // More than one are slower on layers this small.
    tch::set_num_threads(1);
    tch::manual_seed(SEED);
    let [training, test] = task::read()?;
    check_gradients()?;

    println!("{:<20} {:>14} {:>15}", "activation and loss", "training loss", "test accuracy");
    let network = train(&FUNCTIONS, &training)?;
    let functions = report(&FUNCTIONS, &network, &training, &test)?;
    let libtorch = report(&LIBTORCH, &train(&LIBTORCH, &training)?, &training, &test)?;

    let path = save(&network)?;
    let loaded = load(&path)?;
    let read = loaded.accuracy(&test)?;
    println!("\nSaved and loaded again: {:.1} %, from {}", 100.0 * read, path.display());

    ensure!(read == functions, "expected {functions} of the loaded network, found {read}");
    ensure!(
        (functions - libtorch).abs() < MARGIN,
        "expected accuracies less than {:.1} % apart",
        100.0 * MARGIN
    );
    ensure!(functions > ACCURACY, "expected an accuracy above {:.1} %", 100.0 * ACCURACY);
    Ok(())
}

/// Compares both backward formulas with finite differences, in f64.
fn check_gradients() -> Result<()> {
    gradcheck(Swish, &Tensor::randn([3, 4], DOUBLE_CPU))?.assert();
    let (x, labels) = (Tensor::randn([3, 4], DOUBLE_CPU), Tensor::from_slice(&[0i64, 3, 1]));
    gradcheck(SmoothedCrossEntropy { smoothing: SMOOTHING }, (&x, &labels))?.assert();
    println!("Both Functions agree with finite differences.\n");
    Ok(())
}

fn train(ops: &Ops, training: &Set) -> Result<Network> {
    tch::manual_seed(SEED);
    let network = Network::new(ops);
    let mut adam = nn::Adam::default().build(&network.store, LEARNING_RATE)?;
    let progress = task::progress(EPOCHS, ops.name)?;
    for _ in 0..EPOCHS {
        for batch in training.batches(BATCH) {
            let scores = network.layers.forward(&batch.images);
            adam.backward_step(&(ops.loss)(&scores, &batch.labels)?);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(network)
}

/// Prints how good a network is, and returns its accuracy.
fn report(ops: &Ops, network: &Network, training: &Set, test: &Set) -> Result<f64> {
    let scores = no_grad(|| network.layers.forward(&training.images));
    let loss = f64::try_from((ops.loss)(&scores, &training.labels)?.to_kind(Kind::Double))?;
    let read = network.accuracy(test)?;
    println!("{:<20} {loss:>14.6} {:>13.1} %", ops.name, 100.0 * read);
    Ok(read)
}

fn save(network: &Network) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/examples-output");
    let path = folder.join("tch_model.safetensors");
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot write {}", folder.display()))?;
    network.store.save(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Functions have no parameters of their own here: a `VarStore` file of the same
/// layers, trained anywhere, fits.
fn load(path: &Path) -> Result<Network> {
    let mut network = Network::new(&FUNCTIONS);
    network.store.load(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(network)
}
