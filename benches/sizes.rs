//! Each shipped kernel beside libtorch's own op, forward and backward, at the sizes and in the
//! dtypes that models have.
//!
//! `cargo bench --bench sizes` prints a table of ratios of ours to libtorch's: medians of runs
//! in turn with other work in between, as a training step has it, so that neither finds its
//! memory in the cache. `TCH_FUNCTION_OPS=Gelu,Silu` chooses ops, and `TCH_FUNCTION_DTYPES=f32`
//! dtypes.

#![allow(missing_docs)]

use criterion::Criterion;
use std::hint::black_box;
use tch::{Device, Kind, Reduction, Tensor};
use tch_function::{Function, ops};

mod common;
use common::Times;

/// Forward, and backward to all inputs that are floats, with a gradient of 1 for each element.
type Op = fn(&[Tensor]) -> Tensor;

struct Case {
    name: &'static str,
    ours: Op,
    libtorch: Op,
    /// The inputs, of which the first has about `n` elements.
    inputs: fn(n: i64, kind: Kind) -> Vec<Tensor>,
}

fn randn(shape: &[i64], kind: Kind) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 2.0).to_kind(kind)
}

fn one(n: i64, kind: Kind) -> Vec<Tensor> {
    vec![randn(&[n], kind)]
}

fn positive(n: i64, kind: Kind) -> Vec<Tensor> {
    vec![randn(&[n], kind).abs() + 0.01]
}

fn two(n: i64, kind: Kind) -> Vec<Tensor> {
    vec![randn(&[n], kind).abs() + 0.01, randn(&[n], kind)]
}

fn classes(n: i64, kind: Kind, classes: i64) -> Vec<Tensor> {
    let rows = (n / classes).max(1);
    let targets = Tensor::randint(classes, [rows], (Kind::Int64, Device::Cpu));
    vec![randn(&[rows, classes], kind), targets]
}

fn rows(n: i64, kind: Kind) -> Vec<Tensor> {
    let length = n.min(512);
    vec![randn(&[n / length, length], kind), randn(&[length], kind)]
}

macro_rules! cross_entropy {
    ($name:literal, $classes:literal) => {
        Case {
            name: $name,
            ours: |x| ops::CrossEntropy::default().apply((&x[0], &x[1])).expect("scores"),
            libtorch: |x| {
                x[0].cross_entropy_loss::<Tensor>(&x[1], None, Reduction::Mean, -100, 0.0)
            },
            inputs: |n, kind| classes(n, kind, $classes),
        }
    };
}

macro_rules! unary {
    ($name:literal, $ours:expr, $libtorch:expr, $inputs:expr) => {
        Case {
            name: $name,
            ours: |x| $ours.apply(&x[0]).expect("a plain tensor"),
            libtorch: |x| {
                let f: fn(&Tensor) -> Tensor = $libtorch;
                f(&x[0])
            },
            inputs: $inputs,
        }
    };
}

const CASES: &[Case] = &[
    unary!("Exp", ops::Exp, |x| x.exp(), one),
    unary!("Log", ops::Log, |x| x.log(), positive),
    unary!("Sqrt", ops::Sqrt, |x| x.sqrt(), positive),
    unary!("Tanh", ops::Tanh, |x| x.tanh(), one),
    unary!("Sigmoid", ops::Sigmoid, |x| x.sigmoid(), one),
    unary!("Log1pExp", ops::Log1pExp, |x| x.softplus(), one),
    unary!("Gelu", ops::Gelu, |x| x.gelu("none"), one),
    unary!("GeluTanh", ops::GeluTanh, |x| x.gelu("tanh"), one),
    unary!("Silu", ops::Silu, |x| x.silu(), one),
    Case {
        name: "Pow",
        ours: |x| ops::Pow.apply((&x[0], &x[1])).expect("plain tensors"),
        libtorch: |x| x[0].pow(&x[1]),
        inputs: two,
    },
    Case {
        name: "HuberLoss",
        ours: |x| ops::HuberLoss::default().apply((&x[0], &x[1])).expect("plain tensors"),
        libtorch: |x| x[0].huber_loss(&x[1], Reduction::Mean, 1.0),
        inputs: two,
    },
    cross_entropy!("CrossEntropy, 10", 10),
    cross_entropy!("CrossEntropy, 40", 40),
    cross_entropy!("CrossEntropy, 256", 256),
    cross_entropy!("CrossEntropy, 4096", 4096),
    Case {
        name: "RmsNorm, 512",
        ours: |x| ops::RmsNorm { eps: 1e-5 }.apply((&x[0], &x[1])).expect("plain tensors"),
        libtorch: |x| {
            let length = *x[0].size().last().expect("rows");
            x[0].internal_fused_rms_norm([length], Some(&x[1]), 1e-5).0
        },
        inputs: rows,
    },
];

const SIZES: [(i64, &str); 6] = [
    (4, "4"),
    (4 << 10, "4 K"),
    (64 << 10, "64 K"),
    (512 << 10, "512 K"),
    (4 << 20, "4 M"),
    (16 << 20, "16 M"),
];

const KINDS: [(Kind, &str); 4] =
    [(Kind::Float, "f32"), (Kind::Double, "f64"), (Kind::BFloat16, "bf16"), (Kind::Half, "f16")];

fn step(op: Op, x: &[Tensor]) {
    let leaf = |x: &Tensor| match x.is_floating_point() {
        true => x.detach().set_requires_grad(true),
        false => x.shallow_clone(),
    };
    let leaves: Vec<Tensor> = x.iter().map(leaf).collect();
    let y = op(&leaves);
    let y = if y.dim() == 0 { y } else { y.sum(y.kind()) };
    let wanted: Vec<&Tensor> = leaves.iter().filter(|x| x.requires_grad()).collect();
    drop(black_box(Tensor::f_run_backward(&[y], &wanted, false, false).expect("a gradient")));
}

fn ratio(case: &Case, x: &[Tensor], other: &dyn Fn()) -> f64 {
    let repeats = if x[0].numel() <= 4096 { 20 } else { 1 };
    Times::in_a_step(repeats, other, &|| step(case.ours, x), &|| step(case.libtorch, x)).ratio()
}

/// The names in an environment variable, or all.
fn chosen(variable: &str) -> impl Fn(&str) -> bool {
    let names = std::env::var(variable).unwrap_or_default();
    move |name| names.is_empty() || names.split(',').any(|n| name.starts_with(n))
}

fn print_ratios() {
    let (op, dtype) = (chosen("TCH_FUNCTION_OPS"), chosen("TCH_FUNCTION_DTYPES"));
    let busy = randn(&[1 << 19], Kind::Float);
    // 2 MiB are read and as many written.
    let other = || drop(black_box(tch::no_grad(|| &busy * 1.5)));
    print!("\n| op | dtype | threads |");
    SIZES.iter().for_each(|(_, size)| print!(" {size} |"));
    println!("\n|---|---|---|---|---|---|---|---|---|");
    for case in CASES.iter().filter(|case| op(case.name)) {
        for (kind, kind_name) in KINDS.into_iter().filter(|(_, name)| dtype(name)) {
            for threads in [1, 2] {
                tch::set_num_threads(threads);
                print!("| {} | {kind_name} | {threads} |", case.name);
                for (n, _) in SIZES {
                    tch::manual_seed(1);
                    print!(" {:.2} |", ratio(case, &(case.inputs)(n, kind), &other));
                }
                println!();
            }
        }
    }
}

fn with_criterion(c: &mut Criterion) {
    tch::set_num_threads(1);
    let mut group = c.benchmark_group("forward and backward of 64 K elements");
    group.sample_size(10);
    for case in CASES {
        let x = (case.inputs)(64 << 10, Kind::Float);
        for (side, op) in [("ours", case.ours), ("libtorch", case.libtorch)] {
            group.bench_function(format!("{} {side}", case.name), |b| b.iter(|| step(op, &x)));
        }
    }
    group.finish();
}

fn main() {
    common::main(with_criterion, print_ratios);
}
