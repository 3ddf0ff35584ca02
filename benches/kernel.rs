//! Log1pExp and other ops that are kernels, beside libtorch's own.
//!
//! `cargo bench --bench kernel` prints criterion's times, then the ratios of
//! pairs that were run in turn (A B A B ...), which hold when the machine's
//! speed drifts, and the growth of peak memory.

#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput};
use std::f64::consts::{FRAC_1_PI, FRAC_1_SQRT_2};
use std::hint::black_box;
use tch::{Kind, Reduction, Tensor, kind::FLOAT_CPU};
use tch_function::ops::{CrossEntropy, Gelu, GeluTanh, HuberLoss, Log1pExp, RmsNorm, Silu};
use tch_function::{Function, Var, backward, kernel};

mod common;
use common::Times;

/// The length of a chain of small tensors.
const CHAIN: usize = 1_000;

fn input(n: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([n], FLOAT_CPU) * 5.0
}

fn softplus(x: &Tensor) -> Tensor {
    x.softplus()
}

fn ours(x: &Tensor) -> Tensor {
    Log1pExp.apply(x).expect("a plain tensor")
}

fn gelu(x: &Tensor) -> Tensor {
    Gelu.apply(x).expect("a plain tensor")
}

fn gelu_tanh(x: &Tensor) -> Tensor {
    GeluTanh.apply(x).expect("a plain tensor")
}

fn composed_gelu_tanh(x: &Tensor) -> Tensor {
    let u = (x + x * x * x * 0.044715) * (2.0 * FRAC_1_PI).sqrt();
    x * (u.tanh() + 1.0) * 0.5
}

fn silu(x: &Tensor) -> Tensor {
    Silu.apply(x).expect("a plain tensor")
}

/// What the losses and the norm take beside `x`.
struct Others {
    target: Tensor,
    classes: Tensor,
    weight: Tensor,
}

const ROWS: i64 = 16_384;
const SMOOTHING: f64 = 0.1;

thread_local! {
    static OTHERS: Others = Others {
        target: Tensor::randn([LARGE], FLOAT_CPU) * 5.0,
        classes: Tensor::randint(LARGE / ROWS, [ROWS], (Kind::Int64, tch::Device::Cpu)),
        weight: Tensor::randn([LARGE / ROWS], FLOAT_CPU).set_requires_grad(true),
    };
}

fn huber(x: &Tensor, op: fn(&Tensor, &Tensor) -> Tensor) {
    OTHERS.with(|o| gradients(x, &[], |x| op(x, &o.target)));
}

fn cross_entropy(x: &Tensor, op: fn(&Tensor, &Tensor) -> Tensor) {
    OTHERS.with(|o| gradients(x, &[], |x| op(&x.view([ROWS, -1]), &o.classes)));
}

fn rms_norm(x: &Tensor, op: fn(&Tensor, &Tensor) -> Tensor) {
    OTHERS.with(|o| gradients(x, &[&o.weight], |x| op(&x.view([ROWS, -1]), &o.weight)));
}

/// Forward, and backward through `sum` to `x` and others.
fn gradients(x: &Tensor, others: &[&Tensor], op: impl Fn(&Tensor) -> Tensor) {
    let leaf = x.detach().set_requires_grad(true);
    let y = op(&leaf).sum(Kind::Float);
    let mut to = vec![&leaf];
    to.extend(others);
    drop(black_box(Tensor::run_backward(&[&y], &to, false, false)));
}

fn our_huber(x: &Tensor, t: &Tensor) -> Tensor {
    HuberLoss::default().apply((x, t)).expect("plain tensors")
}

fn composed_huber(x: &Tensor, t: &Tensor) -> Tensor {
    let d = x - t;
    let a = d.abs();
    (&d * &d * 0.5).where_self(&a.lt(1.0), &(&a - 0.5)).mean(Kind::Float)
}

fn our_cross_entropy(x: &Tensor, t: &Tensor) -> Tensor {
    CrossEntropy { label_smoothing: SMOOTHING }.apply((x, t)).expect("plain tensors")
}

fn libtorch_cross_entropy(x: &Tensor, t: &Tensor) -> Tensor {
    x.cross_entropy_loss::<Tensor>(t, None, Reduction::Mean, -100, SMOOTHING)
}

fn composed_cross_entropy(x: &Tensor, t: &Tensor) -> Tensor {
    let log_p = x.log_softmax(-1, Kind::Float);
    let hard = log_p.gather(1, &t.unsqueeze(1), false).mean(Kind::Float);
    -(hard * (1.0 - SMOOTHING) + log_p.mean(Kind::Float) * SMOOTHING)
}

fn our_rms_norm(x: &Tensor, w: &Tensor) -> Tensor {
    RmsNorm { eps: 1e-5 }.apply((x, w)).expect("plain tensors")
}

fn composed_rms_norm(x: &Tensor, w: &Tensor) -> Tensor {
    x * (x.square().mean_dim(-1, true, Kind::Float) + 1e-5).rsqrt() * w
}

/// One program on a tensor.
type Program = fn(&Tensor);

fn forward(op: fn(&Tensor) -> Tensor, x: &Tensor) {
    tch::no_grad(|| drop(black_box(op(x))));
}

/// Forward, and backward through `sum`.
fn both(op: fn(&Tensor) -> Tensor, x: &Tensor) {
    let leaf = x.detach().set_requires_grad(true);
    let y = op(&leaf).sum(Kind::Float);
    drop(black_box(Tensor::run_backward(&[y], &[leaf], false, false)));
}

/// `CHAIN` times, one after the other, and back.
fn chain(op: fn(&Tensor) -> Tensor, x: &Tensor) {
    let leaf = x.detach().set_requires_grad(true);
    let y = (0..CHAIN).fold(leaf.shallow_clone(), |y, _| op(&y)).sum(Kind::Float);
    drop(black_box(Tensor::run_backward(&[y], &[leaf], false, false)));
}

/// The same in the own engine.
fn chain_of_vars(x: &Tensor) {
    let leaf = Var::leaf(x.shallow_clone());
    let last = (0..CHAIN).fold(leaf.clone(), |y, _| Log1pExp.apply(&y).expect("plain"));
    backward(&last.sum().expect("a number")).expect("differentiable");
    leaf.zero_grad();
}

/// A shipped op, libtorch's own, and what people compose of tch's operators.
struct Op {
    name: &'static str,
    ours: Program,
    libtorch: Program,
    composed: Program,
}

const OPS: [Op; 6] = [
    Op {
        name: "gelu",
        ours: |x| both(gelu, x),
        libtorch: |x| both(|x| x.gelu("none"), x),
        composed: |x| both(|x| x * (((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5), x),
    },
    Op {
        name: "gelu tanh",
        ours: |x| both(gelu_tanh, x),
        libtorch: |x| both(|x| x.gelu("tanh"), x),
        composed: |x| both(composed_gelu_tanh, x),
    },
    Op {
        name: "silu",
        ours: |x| both(silu, x),
        libtorch: |x| both(Tensor::silu, x),
        composed: |x| both(|x| x * x.sigmoid(), x),
    },
    Op {
        name: "huber",
        ours: |x| huber(x, our_huber),
        libtorch: |x| huber(x, |x, t| x.huber_loss(t, Reduction::Mean, 1.0)),
        composed: |x| huber(x, composed_huber),
    },
    Op {
        name: "cross entropy",
        ours: |x| cross_entropy(x, our_cross_entropy),
        libtorch: |x| cross_entropy(x, libtorch_cross_entropy),
        composed: |x| cross_entropy(x, composed_cross_entropy),
    },
    Op {
        name: "rms norm",
        ours: |x| rms_norm(x, our_rms_norm),
        libtorch: |x| {
            rms_norm(x, |x, w| x.internal_fused_rms_norm([LARGE / ROWS], Some(w), 1e-5).0)
        },
        composed: |x| rms_norm(x, composed_rms_norm),
    },
];

struct Pair {
    name: String,
    elements: i64,
    threads: i32,
    ours: Program,
    libtorch: Program,
    target: f64,
    rounds: usize,
    repeats: usize,
}

const LARGE: i64 = 16_777_216;

fn pairs() -> Vec<Pair> {
    let large = |name: String, ours, libtorch, target| Pair {
        name,
        elements: LARGE,
        threads: 2,
        ours,
        libtorch,
        target,
        rounds: 9,
        repeats: 1,
    };
    let small = |elements, threads, repeats| Pair {
        name: "both / softplus".to_owned(),
        elements,
        threads,
        ours: |x| both(ours, x),
        libtorch: |x| both(softplus, x),
        target: 0.9,
        rounds: 41,
        repeats,
    };
    let chain = |name: &str, ours, target| Pair {
        name: name.to_owned(),
        ours,
        libtorch: |x| chain(softplus, x),
        target,
        ..small(4, 1, 5)
    };
    let forward_ours: Program = |x| forward(ours, x);
    let copy: Program = |x| forward(Tensor::copy, x);
    let mut pairs = vec![
        large("forward / softplus".to_owned(), forward_ours, |x| forward(softplus, x), 0.5),
        large("forward / clone".to_owned(), forward_ours, copy, 1.0),
        large("both / softplus".to_owned(), |x| both(ours, x), |x| both(softplus, x), 0.65),
    ];
    for Op { name, ours, libtorch, composed } in OPS {
        pairs.push(large(format!("{name} / libtorch's"), ours, libtorch, 1.0));
        pairs.push(large(format!("{name} / composed"), ours, composed, 0.6));
    }
    pairs.extend([
        small(100_000, 2, 50),
        small(100_000, 1, 50),
        small(1_000, 1, 500),
        chain("chain in libtorch", |x| self::chain(ours, x), 0.85),
        chain("chain of Vars", chain_of_vars, 0.19),
    ]);
    pairs
}

fn with_criterion(c: &mut Criterion) {
    for Pair { name, elements, threads, ours, libtorch, .. } in &pairs() {
        tch::set_num_threads(*threads);
        let x = input(*elements);
        let mut group = c.benchmark_group(name);
        group.sample_size(10).throughput(Throughput::Elements(*elements as u64));
        for (side, program) in [("ours", ours), ("libtorch", libtorch)] {
            let id = BenchmarkId::new(format!("{side} threads={threads}"), elements);
            group.bench_function(id, |b| b.iter(|| program(&x)));
        }
        group.finish();
    }
}

fn print_ratios() {
    let head = ["elements", "threads", "ours us", "theirs us", "ratio", "target"];
    println!(
        "\n{:<26} {:>10} {:>8} {:>11} {:>11} {:>8} {:>8}",
        "", head[0], head[1], head[2], head[3], head[4], head[5]
    );
    for Pair { name, elements, threads, ours, libtorch, target, rounds, repeats } in pairs() {
        tch::set_num_threads(threads);
        let x = input(elements);
        let times = Times::of(rounds, repeats, || ours(&x), || libtorch(&x));
        let [ours, libtorch] = [times.ours(), times.libtorch()].map(|ns| ns / 1e3);
        println!(
            "{name:<26} {elements:>10} {threads:>8} {ours:>11.1} {libtorch:>11.1} {:>8.3} \
             {target:>8.2}",
            times.ratio()
        );
    }
}

/// Returns by how many KiB `program` grows the peak of the process's memory, if it has
/// none of what others have freed.
fn peak_growth(program: Program, x: &Tensor) -> u64 {
    let in_status = |key: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    kernel::empty_cache();
    // Sets the peak to what is in use.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = in_status("VmRSS");
    program(x);
    in_status("VmHWM").saturating_sub(before)
}

fn print_memory() {
    tch::set_num_threads(2);
    let x = input(LARGE);
    println!("\npeak memory growth of forward and backward, {LARGE} elements, MiB");
    for (name, program) in
        [("softplus", (|x| both(softplus, x)) as Program), ("Log1pExp", |x| both(ours, x))]
    {
        println!("{name:<20} {:>6.1}", peak_growth(program, &x) as f64 / 1024.0);
    }
}

fn main() {
    common::main(with_criterion, || {
        print_ratios();
        print_memory();
    });
}
