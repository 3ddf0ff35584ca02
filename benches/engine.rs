//! The own engine beside libtorch's autograd, one thread, 4-element f32,
//! forward plus backward plus dropping the graph.
//!
//! `cargo bench --bench engine` prints criterion's times, then the ratios of
//! pairs that were run in turn (A B A B ...), which hold when the machine's
//! speed drifts.

#![allow(missing_docs)]

use anyhow::Result;
use criterion::{BenchmarkId, Criterion, Throughput};
use tch::{Tensor, kind::FLOAT_CPU};
use tch_function::{Ctx, Function, GradOptions, Var};

mod common;
use common::Times;

/// `y = x`: what is left is the engine, and tch's handles.
struct Identity;

impl Function for Identity {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

fn ones() -> Tensor {
    Tensor::ones([4], FLOAT_CPU)
}

fn own_backward(y: &Var) {
    let seed = Var::constant(ones());
    GradOptions::new().seeds(&seed).backward(y).expect("a gradient");
}

fn own_grad(y: &Var, x: &Var) {
    let seed = Var::constant(ones());
    let _ = GradOptions::new().seeds(&seed).grad(y, x).expect("a gradient");
}

fn libtorch_backward(y: &Tensor) {
    GradOptions::new().seeds(&ones()).backward(y).expect("a gradient");
}

fn libtorch_grad(y: &Tensor, x: &Tensor) {
    // tch starts from ones.
    let _ = Tensor::run_backward(&[y], &[x], false, false);
}

fn libtorch_leaf() -> Tensor {
    Tensor::ones([4], FLOAT_CPU).set_requires_grad(true)
}

fn own_chain(n: usize) -> (Var, Var) {
    let x = Var::leaf(ones());
    let mut y = x.clone();
    for _ in 0..n {
        y = Identity.apply(&y).expect("identity");
    }
    (x, y)
}

fn libtorch_chain(n: usize) -> (Tensor, Tensor) {
    let x = libtorch_leaf();
    let mut y = x.shallow_clone();
    for _ in 0..n {
        y = y.alias();
    }
    (x, y)
}

fn own_chain_backward(n: usize) {
    own_backward(&own_chain(n).1);
}

fn own_chain_grad(n: usize) {
    let (x, y) = own_chain(n);
    own_grad(&y, &x);
}

fn libtorch_chain_backward(n: usize) {
    libtorch_backward(&libtorch_chain(n).1);
}

fn libtorch_chain_grad(n: usize) {
    let (x, y) = libtorch_chain(n);
    libtorch_grad(&y, &x);
}

/// Sums neighbours until one is left.
fn sum_pairwise<T>(mut terms: Vec<T>, add: impl Fn(&T, &T) -> T) -> T {
    while terms.len() > 1 {
        let pairs = terms.chunks(2).map(|pair| match pair {
            [a, b] => add(a, b),
            _ => add(&pair[0], &pair[0]),
        });
        terms = pairs.collect();
    }
    terms.remove(0)
}

fn own_fan_out(n: usize) {
    let x = Var::leaf(Tensor::ones([4], FLOAT_CPU));
    let consumers = (0..n).map(|_| Identity.apply(&x).expect("identity")).collect();
    own_backward(&sum_pairwise(consumers, |a, b| a + b));
}

fn libtorch_fan_out(n: usize) {
    let x = libtorch_leaf();
    let consumers = (0..n).map(|_| x.alias()).collect();
    libtorch_backward(&sum_pairwise(consumers, |a: &Tensor, b| a + b));
}

/// A value with `n` consumers, each an output of its own.
fn own_consumers(n: usize) {
    let x = Var::leaf(Tensor::ones([4], FLOAT_CPU));
    let consumers: Vec<Var> = (0..n).map(|_| Identity.apply(&x).expect("identity")).collect();
    let seed = Var::constant(Tensor::ones([4], FLOAT_CPU));
    let seeds: Vec<&Var> = consumers.iter().map(|_| &seed).collect();
    GradOptions::new().seeds(&seeds[..]).backward(&consumers).expect("a gradient");
}

fn libtorch_consumers(n: usize) {
    let x = libtorch_leaf();
    let consumers: Vec<Tensor> = (0..n).map(|_| x.alias()).collect();
    let seeds: Vec<Tensor> = consumers.iter().map(|_| ones()).collect();
    GradOptions::new().seeds(&seeds).backward(&consumers).expect("a gradient");
}

type Program = fn(usize);
struct Pair {
    name: &'static str,
    own: Program,
    libtorch: Program,
    sizes: &'static [usize],
}

const PAIRS: [Pair; 4] = [
    Pair {
        name: "chain, backward",
        own: own_chain_backward,
        libtorch: libtorch_chain_backward,
        sizes: &[1_000, 10_000, 100_000, 1_000_000],
    },
    Pair {
        name: "chain, grad",
        own: own_chain_grad,
        libtorch: libtorch_chain_grad,
        sizes: &[1_000, 10_000, 100_000, 1_000_000],
    },
    Pair {
        name: "fan-out summed pairwise",
        own: own_fan_out,
        libtorch: libtorch_fan_out,
        sizes: &[1_000],
    },
    Pair { name: "consumers", own: own_consumers, libtorch: libtorch_consumers, sizes: &[100_000] },
];

fn with_criterion(c: &mut Criterion) {
    for pair in &PAIRS {
        let mut group = c.benchmark_group(pair.name);
        for &n in pair.sizes {
            group.throughput(Throughput::Elements(n as u64));
            if n >= 100_000 {
                group.sample_size(10);
            }
            for (name, program) in [("own", pair.own), ("libtorch", pair.libtorch)] {
                group.bench_function(BenchmarkId::new(name, n), |b| b.iter(|| program(n)));
            }
        }
        group.finish();
    }
}

fn print_ratios() {
    println!("\n{:<24} {:>9} {:>12} {:>14} {:>8}", "", "n", "own ns/op", "libtorch ns/op", "ratio");
    for Pair { name, own, libtorch, sizes } in &PAIRS {
        for &n in *sizes {
            let (rounds, repeats) = if n >= 100_000 { (7, 1) } else { (41, 10_000.max(n) / n) };
            let times = Times::of(rounds, repeats, || own(n), || libtorch(n));
            let [own, libtorch] = [times.ours(), times.libtorch()].map(|ns| ns / n as f64);
            println!("{name:<24} {n:>9} {own:>12.0} {libtorch:>14.0} {:>8.3}", times.ratio());
        }
    }
}

fn main() {
    tch::set_num_threads(1);
    common::main(with_criterion, print_ratios);
}
