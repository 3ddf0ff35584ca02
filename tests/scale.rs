//! Scale: a million nodes on a small stack, and how much memory things take.
//! Memory is measured in processes of their own, which these tests start.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::process::Command;
use tch::{Kind, Tensor, kind::FLOAT_CPU};
use tch_function::{
    Ctx, Differentiable, DoubleBackward, Function, GradOptions, Var, backward, grad, kernel, ops,
};

const MIB: f64 = 1048576.0;
const SCENARIO: &str = "TCH_FUNCTION_TEST_SCENARIO";

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

fn on_a_small_stack(f: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().stack_size(256 * 1024);
    thread.spawn(f)?.join().expect("no panic")
}

fn chain(x: &Var, n: usize) -> Result<Var> {
    (0..n).try_fold(x.clone(), |y, _| Ok(Identity.apply(&y)?))
}

#[test]
fn a_chain_of_a_million_nodes_on_a_small_stack() -> Result<()> {
    on_a_small_stack(|| {
        let x = Var::leaf(Tensor::from(2f32));
        let y = chain(&x, 1_000_000)?;
        // Both ways to walk the graph: to chosen inputs, and to all leaves.
        let dx = GradOptions::new().retain_graph(true).grad(&y, &x)?.context("used")?;
        assert_eq!(f64::try_from(dx.value())?, 1.0);
        backward(&y)?;
        assert_eq!(f64::try_from(x.grad().context("a gradient")?)?, 1.0);
        drop(chain(&y, 1_000_000)?); // dropped without a pass
        Ok(())
    })
}

#[test]
fn a_chain_of_a_million_nodes_inside_libtorch_on_a_small_stack() -> Result<()> {
    on_a_small_stack(|| {
        let x = Tensor::from(2f32).set_requires_grad(true);
        let chain = |n| (0..n).try_fold(x.shallow_clone(), |y, _| Identity.apply(&y));
        let y = chain(1_000_000)?;
        assert_eq!(f64::try_from(grad(&y, &x)?)?, 1.0);
        drop(y);
        drop(chain(1_000_000)?); // dropped without a pass
        Ok(())
    })
}

#[test]
fn a_value_with_a_hundred_thousand_consumers_on_a_small_stack() -> Result<()> {
    on_a_small_stack(|| {
        let x = Var::leaf(Tensor::from(2f32));
        let y = (0..100_000).map(|_| Ok(Identity.apply(&x)?)).collect::<Result<Vec<_>>>()?;
        backward(&y)?;
        assert_eq!(f64::try_from(x.grad().context("a gradient")?)?, 100_000.0);
        Ok(())
    })
}

/// A field of /proc/self/status, in bytes.
fn status(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024.0
}

/// Runs a scenario in a process of its own; gives the bytes that it prints.
fn measure(scenario: &str) -> Result<f64> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--exact", "scenario", "--nocapture", "--test-threads=1"])
        .env(SCENARIO, scenario)
        .output()?;
    let text = String::from_utf8_lossy(&child.stdout);
    let bytes = text.lines().find_map(|line| line.strip_prefix("bytes: "));
    let failure = || format!("{scenario}: {text}{}", String::from_utf8_lossy(&child.stderr));
    let bytes = bytes.with_context(failure)?.parse()?;
    println!("{scenario}: {:.1} MiB", bytes / MIB);
    Ok(bytes)
}

/// Not a test of its own: what `measure` runs.
#[test]
fn scenario() -> Result<()> {
    let Ok(name) = std::env::var(SCENARIO) else { return Ok(()) };
    tch::set_num_threads(1);
    let bytes = match name.as_str() {
        "own nodes" => resident_growth_of_a_million_nodes()?,
        "libtorch nodes" => resident_growth_of_a_million_libtorch_nodes(),
        "own sigmoids" => own_peak_of_a_backward_pass()?,
        "libtorch sigmoids" => libtorch_peak_of_a_backward_pass(),
        "kept memory" => memory_that_is_kept()?,
        "own steps" => growth_of_training_steps(|w| Ok(step(&Var::leaf(w))?.backward()?))?,
        "libtorch steps" => growth_of_training_steps(|w| Ok(step(w)?.f_backward()?))?,
        "step" => peak_of_a_step_with_200_million_parameters()?,
        other => anyhow::bail!("no scenario {other}"),
    };
    println!("\nbytes: {bytes}");
    Ok(())
}

fn resident_growth_of_a_million_nodes() -> Result<f64> {
    let x = Var::leaf(Tensor::from(2f32));
    drop(chain(&x, 1000)?);
    let before = status("VmRSS");
    let y = chain(&x, 1_000_000)?;
    let after = status("VmRSS");
    drop(y);
    Ok(after - before)
}

fn resident_growth_of_a_million_libtorch_nodes() -> f64 {
    let x = Tensor::from(2f32).set_requires_grad(true);
    let chain = |n| (0..n).fold(x.shallow_clone(), |y, _| y.alias());
    drop(chain(1000));
    let before = status("VmRSS");
    let y = chain(1_000_000);
    let after = status("VmRSS");
    drop(y);
    after - before
}

/// Number of training steps: a million with TCH_FUNCTION_STEPS=1000000.
fn steps() -> usize {
    std::env::var("TCH_FUNCTION_STEPS").map_or(20_000, |n| n.parse().expect("a number"))
}

/// A loss of w, through an op of each kind of node.
fn step<V: Differentiable>(w: &V) -> Result<V> {
    let y = ops::Log1pExp.apply(&ops::Mul.apply((w, w))?)?;
    let y = Recomputed.apply(&y)?;
    Ok(ops::Sum { dims: vec![], keepdim: false }.apply(&y)?)
}

/// y = x^2, with random numbers that it draws for nothing.
struct Recomputed;

impl Function for Recomputed {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let noise = x.rand_like();
        ctx.save_for_backward([x, &noise])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x, _] = ctx.saved_tensors()?;
        Ok(Some(dy * x * 2.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// What `n` steps leave behind, the first ones apart. A pass that fails is among them.
fn growth_of_training_steps(backward: impl Fn(&Tensor) -> Result<()>) -> Result<f64> {
    let mut w = Tensor::from_slice(&[0.1f32, 0.2, 0.3]).set_requires_grad(true);
    let mut train = |n: usize| -> Result<()> {
        for i in 0..n {
            backward(&w)?;
            let grad = w.grad();
            tch::no_grad(|| w -= grad * 1e-3);
            w.zero_grad();
            if i % 10 == 0 {
                anyhow::ensure!(grad_of_two_elements_fails(&w), "a seed is missing");
            }
        }
        Ok(())
    };
    train(2000)?;
    let before = status("VmRSS");
    train(steps())?;
    Ok(status("VmRSS") - before)
}

fn grad_of_two_elements_fails(w: &Tensor) -> bool {
    grad(&(w * 2.0), w).is_err()
}

const SIGMOIDS: usize = 40;

fn large_input() -> Tensor {
    Tensor::rand([4 << 20], FLOAT_CPU) // 16 MiB
}

fn own_peak_of_a_backward_pass() -> Result<f64> {
    let x = Var::leaf(large_input());
    let y = (0..SIGMOIDS).try_fold(x.clone(), |y, _| y.sigmoid())?.sum()?;
    backward(&y)?;
    Ok(status("VmHWM"))
}

fn libtorch_peak_of_a_backward_pass() -> f64 {
    let x = large_input().set_requires_grad(true);
    let y = (0..SIGMOIDS).fold(x.shallow_clone(), |y, _| y.sigmoid()).sum(Kind::Float);
    y.backward();
    status("VmHWM")
}

fn peak_of_a_step_with_200_million_parameters() -> Result<f64> {
    let (n, rate) = (14_143, 0.1);
    let w = Var::leaf(Tensor::full([n, n], 0.5, FLOAT_CPU));
    assert!(w.value().numel() >= 200_000_000);
    let x = Var::constant(Tensor::ones([1, n], FLOAT_CPU) / n as f64);
    let target = Var::constant(Tensor::zeros([1, n], FLOAT_CPU));
    let loss = x.matmul(&w)?.squared_error(&target)?;
    backward(&loss)?;
    let gradient = w.grad().context("a gradient")?;
    w.update(|w| drop(w.g_sub_(&(gradient * rate))))?;
    // E = sum (x w - 0)^2 / 2, x w = 0.5 everywhere, so dE/dw = 0.5 / n.
    let expected = 0.5 - rate * 0.5 / n as f64;
    assert!((w.value().double_value(&[0, 0]) - expected).abs() < 1e-6);
    Ok(status("VmHWM"))
}

/// Of what is freed, the latest 256 MiB are used again and the rest goes back at
/// once; gives the growth when all has been given back.
fn memory_that_is_kept() -> Result<f64> {
    let n = 16 << 20; // f32 elements, so 64 MiB
    let x = Tensor::zeros([n], FLOAT_CPU);
    let make = |n| kernel::map(&x.narrow(0, 0, n), |x: f32| x + 1.0);
    let places = |made: &[Tensor]| made.iter().map(Tensor::data_ptr).collect::<BTreeSet<_>>();
    // Without the pages of libtorch's code.
    let before = status("RssAnon");
    let grown = || (status("RssAnon") - before) / MIB;

    let made = (0..6).map(|_| make(n)).collect::<Result<Vec<_>, _>>()?;
    let first = places(&made);
    drop(made);
    ensure!((190.0..264.0).contains(&grown()), "{} MiB are kept", grown());
    let other = make(n / 2)?; // takes none of them
    let again = (0..3).map(|_| make(n)).collect::<Result<Vec<_>, _>>()?;
    ensure!(places(&again).is_subset(&first), "new memory");
    ensure!(again.iter().all(|y| y.min() == Tensor::from(1f32)), "what was there before");
    drop((again, other));

    kernel::set_cache_limit(64 << 20);
    drop(make(n / 2)?);
    ensure!(grown() < 72.0, "{} of 64 MiB are kept", grown());
    kernel::empty_cache();
    ensure!(grown() < 8.0, "{} MiB are kept", grown());
    kernel::set_cache_limit(0);
    drop(make(n)?);
    Ok(grown() * MIB)
}

#[test]
fn freed_memory_is_kept_up_to_a_limit() -> Result<()> {
    let bytes = measure("kept memory")?;
    assert!(bytes < 8.0 * MIB, "{bytes} bytes");
    Ok(())
}

#[test]
fn a_node_takes_at_most_400_bytes() -> Result<()> {
    let (own, libtorch) = (measure("own nodes")? / 1e6, measure("libtorch nodes")? / 1e6);
    println!("bytes a node: own {own:.0}, libtorch's alias {libtorch:.0}");
    assert!(own <= 400.0 && own < libtorch, "{own} bytes a node, libtorch {libtorch}");
    Ok(())
}

#[test]
fn a_backward_pass_peaks_no_higher_than_libtorchs() -> Result<()> {
    let (own, libtorch) = (measure("own sigmoids")?, measure("libtorch sigmoids")?);
    // Half a tensor of tolerance: a tensor kept too long would be a whole one.
    assert!(own <= libtorch + 8.0 * MIB, "{} against {} MiB", own / MIB, libtorch / MIB);
    Ok(())
}

#[test]
fn a_step_with_200_million_parameters_takes_less_than_4_gb() -> Result<()> {
    let bytes = measure("step")?;
    assert!(bytes < 4e9, "{bytes} bytes");
    Ok(())
}

#[test]
fn training_steps_leave_nothing_behind() -> Result<()> {
    for scenario in ["own steps", "libtorch steps"] {
        let growth = measure(scenario)?;
        assert!(growth < 2.0 * MIB, "{scenario}: {growth} bytes");
    }
    Ok(())
}
