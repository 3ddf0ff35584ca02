//! Functions inside libtorch's autograd beside its own ops, one thread,
//! 4-element f32, forward plus backward plus dropping the graph; and what
//! `apply` adds to a direct call of `forward` where nothing is recorded.
//!
//! `cargo bench --bench libtorch` prints criterion's times, then the ratios of
//! pairs that were run in turn (A B A B ...), which hold when the machine's
//! speed drifts.

#![allow(missing_docs)]

use anyhow::Result;
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use tch::{Tensor, kind::FLOAT_CPU};
use tch_function::{Ctx, Function, ops::Log1pExp};

mod common;
use common::Times;

/// `y = x` by the way that `forward` takes: what is left is the engine, and
/// tch's handles.
struct Identity(fn(&Tensor) -> Tensor);

impl Function for Identity {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok((self.0)(x))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

fn identity(forward: fn(&Tensor) -> Tensor, x: &Tensor) -> Tensor {
    Identity(forward).apply(x).expect("identity")
}

/// The length of a chain, or how many calls.
const N: usize = 1_000;

fn leaf() -> Tensor {
    Tensor::ones([4], FLOAT_CPU).set_requires_grad(true)
}

/// `N` times `op`, one after the other, and back.
fn chain(op: fn(&Tensor) -> Tensor) {
    let x = leaf();
    let y = (0..N).fold(x.shallow_clone(), |y, _| op(&y));
    let _ = Tensor::run_backward(&[y], &[x], false, false);
}

/// `N` times `op` on one tensor, with nothing recorded.
fn unrecorded(op: fn(&Tensor) -> Tensor) {
    let x = leaf();
    tch::no_grad(|| (0..N).for_each(|_| drop(black_box(op(&x)))));
}

type Op = fn(&Tensor) -> Tensor;
struct Pair {
    name: &'static str,
    program: fn(Op),
    ours: Op,
    libtorch: Op,
}

const PAIRS: [Pair; 6] = [
    Pair {
        name: "x itself / alias",
        program: chain,
        ours: |x| identity(Tensor::shallow_clone, x),
        libtorch: Tensor::alias,
    },
    Pair {
        name: "x.detach() / alias",
        program: chain,
        ours: |x| identity(Tensor::detach, x),
        libtorch: Tensor::alias,
    },
    Pair {
        name: "x.alias() / alias",
        program: chain,
        ours: |x| identity(Tensor::alias, x),
        libtorch: Tensor::alias,
    },
    Pair {
        name: "Log1pExp / softplus",
        program: chain,
        ours: |x| Log1pExp.apply(x).expect("finite"),
        libtorch: Tensor::softplus,
    },
    Pair {
        name: "no_grad: x.detach()",
        program: unrecorded,
        ours: |x| identity(Tensor::detach, x),
        libtorch: Tensor::detach,
    },
    Pair {
        name: "no_grad: x.exp()",
        program: unrecorded,
        ours: |x| identity(Tensor::exp, x),
        libtorch: Tensor::exp,
    },
];

fn with_criterion(c: &mut Criterion) {
    for Pair { name, program, ours, libtorch } in &PAIRS {
        let mut group = c.benchmark_group(*name);
        group.throughput(Throughput::Elements(N as u64));
        for (side, op) in [("ours", ours), ("libtorch", libtorch)] {
            group.bench_function(BenchmarkId::new(side, N), |b| b.iter(|| program(*op)));
        }
        group.finish();
    }
}

fn print_ratios() {
    let [ours, libtorch] = ["ours ns/op", "libtorch ns/op"];
    println!("\n{:<24} {ours:>11} {libtorch:>15} {:>8} {:>8}", "", "added ns", "ratio");
    for &Pair { name, program, ours, libtorch } in &PAIRS {
        let times = Times::of(41, 10, || program(ours), || program(libtorch));
        let added = times.median(|ours, libtorch| ours - libtorch);
        let [ours, libtorch, added] =
            [times.ours(), times.libtorch(), added].map(|ns| ns / N as f64);
        println!("{name:<24} {ours:>11.0} {libtorch:>15.0} {added:>8.0} {:>8.3}", times.ratio());
    }
}

fn main() {
    tch::set_num_threads(1);
    common::main(with_criterion, print_ratios);
}
