//! Log1pExp and other ops that are kernels, beside libtorch's own.
//!
//! `cargo bench --bench kernel` prints criterion's times, then the ratios of
//! pairs that were run in turn (A B A B ...), which hold when the machine's
//! speed drifts, and the growth of peak memory.

#![allow(missing_docs)]

use criterion::{BenchmarkId, Criterion, Throughput};
use std::f64::consts::{FRAC_1_PI, FRAC_1_SQRT_2};
use std::hint::black_box;
use std::time::Instant;
use tch::{Kind, Reduction, Tensor, kind::FLOAT_CPU};
use tch_function::ops::{CrossEntropy, Gelu, GeluTanh, HuberLoss, Log1pExp, RmsNorm, Silu};
use tch_function::{Function, Var, backward, kernel};

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

struct Pair {
    name: &'static str,
    elements: i64,
    threads: i32,
    ours: Program,
    libtorch: Program,
    target: f64,
    /// How many pairs of so many runs.
    runs: (usize, usize),
}

const LARGE: i64 = 16_777_216;

fn pairs() -> Vec<Pair> {
    let pair = |name, elements, threads, ours, libtorch, target, runs| Pair {
        name,
        elements,
        threads,
        ours,
        libtorch,
        target,
        runs,
    };
    let forward_ours: Program = |x| forward(ours, x);
    let both_ours: Program = |x| both(ours, x);
    let both_softplus: Program = |x| both(softplus, x);
    let chain_softplus: Program = |x| chain(softplus, x);
    vec![
        pair("forward / softplus", LARGE, 2, forward_ours, |x| forward(softplus, x), 0.5, (15, 1)),
        pair("forward / clone", LARGE, 2, forward_ours, |x| forward(Tensor::copy, x), 1.0, (15, 1)),
        pair("both / softplus", LARGE, 2, both_ours, both_softplus, 0.65, (15, 1)),
        pair(
            "gelu, both",
            LARGE,
            2,
            |x| both(gelu, x),
            |x| both(|x| x.gelu("none"), x),
            1.0,
            (9, 1),
        ),
        pair(
            "gelu tanh, both",
            LARGE,
            2,
            |x| both(gelu_tanh, x),
            |x| both(|x| x.gelu("tanh"), x),
            1.0,
            (9, 1),
        ),
        pair("silu, both", LARGE, 2, |x| both(silu, x), |x| both(Tensor::silu, x), 1.0, (9, 1)),
        pair(
            "gelu / composed",
            LARGE,
            2,
            |x| both(gelu, x),
            |x| both(|x| x * (((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5), x),
            0.6,
            (9, 1),
        ),
        pair(
            "gelu tanh / composed",
            LARGE,
            2,
            |x| both(gelu_tanh, x),
            |x| both(composed_gelu_tanh, x),
            0.6,
            (9, 1),
        ),
        pair(
            "silu / composed",
            LARGE,
            2,
            |x| both(silu, x),
            |x| both(|x| x * x.sigmoid(), x),
            0.6,
            (9, 1),
        ),
        pair(
            "huber, both",
            LARGE,
            2,
            |x| huber(x, our_huber),
            |x| huber(x, |x, t| x.huber_loss(t, Reduction::Mean, 1.0)),
            1.0,
            (9, 1),
        ),
        pair(
            "huber / composed",
            LARGE,
            2,
            |x| huber(x, our_huber),
            |x| huber(x, composed_huber),
            0.6,
            (9, 1),
        ),
        pair(
            "cross entropy, both",
            LARGE,
            2,
            |x| cross_entropy(x, our_cross_entropy),
            |x| {
                cross_entropy(x, |x, t| {
                    x.cross_entropy_loss::<Tensor>(t, None, Reduction::Mean, -100, SMOOTHING)
                })
            },
            1.0,
            (9, 1),
        ),
        pair(
            "cross en. / composed",
            LARGE,
            2,
            |x| cross_entropy(x, our_cross_entropy),
            |x| cross_entropy(x, composed_cross_entropy),
            0.6,
            (9, 1),
        ),
        pair(
            "rms norm, both",
            LARGE,
            2,
            |x| rms_norm(x, our_rms_norm),
            |x| rms_norm(x, |x, w| x.internal_fused_rms_norm([LARGE / ROWS], Some(w), 1e-5).0),
            1.0,
            (9, 1),
        ),
        pair(
            "rms norm / composed",
            LARGE,
            2,
            |x| rms_norm(x, our_rms_norm),
            |x| rms_norm(x, composed_rms_norm),
            0.6,
            (9, 1),
        ),
        pair("both / softplus", 100_000, 2, both_ours, both_softplus, 0.9, (41, 50)),
        pair("both / softplus", 100_000, 1, both_ours, both_softplus, 0.9, (41, 50)),
        pair("both / softplus", 1_000, 1, both_ours, both_softplus, 0.9, (41, 500)),
        pair("chain in libtorch", 4, 1, |x| chain(ours, x), chain_softplus, 0.85, (41, 5)),
        pair("chain of Vars", 4, 1, chain_of_vars, chain_softplus, 0.19, (41, 5)),
    ]
}

fn with_criterion(c: &mut Criterion) {
    for Pair { name, elements, threads, ours, libtorch, .. } in &pairs() {
        tch::set_num_threads(*threads);
        let x = input(*elements);
        let mut group = c.benchmark_group(*name);
        group.sample_size(10).throughput(Throughput::Elements(*elements as u64));
        for (side, program) in [("ours", ours), ("libtorch", libtorch)] {
            let id = BenchmarkId::new(format!("{side} threads={threads}"), elements);
            group.bench_function(id, |b| b.iter(|| program(&x)));
        }
        group.finish();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs both sides in turn and prints the medians, of the ratio too.
fn print_ratios() {
    let head = ["elements", "threads", "ours us", "theirs us", "ratio", "target"];
    println!(
        "\n{:<21} {:>10} {:>8} {:>11} {:>11} {:>8} {:>8}",
        "", head[0], head[1], head[2], head[3], head[4], head[5]
    );
    for Pair { name, elements, threads, ours, libtorch, target, runs } in pairs() {
        tch::set_num_threads(threads);
        let x = input(elements);
        let time = |program: Program| {
            let start = Instant::now();
            (0..runs.1).for_each(|_| program(&x));
            start.elapsed().as_nanos() as f64 / (1000 * runs.1) as f64
        };
        let times: Vec<_> = (0..runs.0).map(|_| (time(ours), time(libtorch))).collect();
        let of = |f: fn(&(f64, f64)) -> f64| median(times.iter().map(f).collect());
        let (ours, libtorch, ratio) = (of(|t| t.0), of(|t| t.1), of(|t| t.0 / t.1));
        println!(
            "{name:<21} {elements:>10} {threads:>8} {ours:>11.1} {libtorch:>11.1} {ratio:>8.3} \
             {target:>8.2}"
        );
    }
}

/// By how much `program` grows the peak of the process's memory, if it has none
/// of what others have freed.
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
    in_status("VmHWM").saturating_sub(before) / 1024
}

fn print_memory() {
    tch::set_num_threads(2);
    let x = input(LARGE);
    println!("\npeak memory growth of forward and backward, {LARGE} elements, MiB");
    for (name, program) in
        [("softplus", (|x| both(softplus, x)) as Program), ("Log1pExp", |x| both(ours, x))]
    {
        println!("{name:<20} {:>6}", peak_growth(program, &x));
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    with_criterion(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|arg| arg == "--bench") {
        print_ratios();
        print_memory();
    }
}
