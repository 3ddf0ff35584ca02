//! y = log(1 + exp(x)) in loops of one's own, and what they gain: an op each for
//! exp and log, one closure for all of it, and one op on vectors; checked, used
//! in both engines, and timed beside libtorch's own operators.
//!
//! ```sh
//! cargo run --release --example own_loops [-- ELEMENTS]    # 4194304 unless given
//! ```
//!
//! Vectors need `--release`: without it they are not kept in registers.

use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::kernel::simd::{self, Float, Lanes};
use tch_function::{Ctx, Function, Var, grad, gradcheck, kernel, ops};

const USAGE: &str = "usage: own_loops [ELEMENTS]    a number from 1 to 100000000";

/// How often each way is timed; the median counts.
const RUNS: usize = 15;

/// `y = e^x`, `dy/dx = y`. The closure's type says which dtype it takes: f64.
struct MyExp;

impl Function for MyExp {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = kernel::map(x, f64::exp)?;
        ctx.save_for_backward([&y])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(kernel::map((dy, y), |(dy, y): (f64, f64)| dy * y)?))
    }
}

/// `y = log(x)`, `dy/dx = 1 / x`.
struct MyLog;

impl Function for MyLog {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(kernel::map(x, f64::ln)?)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(kernel::map((dy, x), |(dy, x): (f64, f64)| dy / x)?))
    }
}

/// `y = max(x, 0) + log(1 + e)` with `e = e^-|x|`, which never overflows, and
/// `dy/dx = 1 / (1 + e^-x)`: two outputs of one loop, the second kept for later.
struct OneLoop;

impl Function for OneLoop {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let (y, slope) = kernel::map(x, |x: f64| {
            let e = (-x.abs()).exp();
            let slope = if x < 0.0 { e } else { 1.0 } / (1.0 + e);
            (x.max(0.0) + e.ln_1p(), slope)
        })?;
        ctx.save_for_backward([&slope])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [slope] = ctx.saved_tensors()?;
        Ok(Some(kernel::map((dy, slope), |(dy, slope): (f64, f64)| dy * slope)?))
    }
}

/// The same formulas on vectors of the widest kind that the processor has, for
/// every floating-point dtype.
struct Vectors;

struct Value;

impl Lanes<1, 1> for Value {
    #[inline(always)]
    fn call<V: Float>(&self, [x]: [V; 1]) -> [V; 1] {
        [x.max(x.of(0.0)) + (-x.abs()).exp().ln_1p()]
    }
}

struct Slope;

impl Lanes<2, 1> for Slope {
    #[inline(always)]
    fn call<V: Float>(&self, [x, dy]: [V; 2]) -> [V; 1] {
        let e = (-x.abs()).exp();
        [dy * V::select(x.lt(x.of(0.0)), e, x.of(1.0)) / (e + 1.0)]
    }
}

impl Function for Vectors {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        let [y] = simd::map(&Value, [x])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let [dx] = simd::map(&Slope, [x, dy])?;
        Ok(Some(dx))
    }
}

fn main() -> Result<()> {
    let elements = argument()?;
    let x = Tensor::from_slice(&[-0.5, 0.0, 4.5]);
    gradcheck(MyExp, &x)?.assert();
    gradcheck(MyLog, &x.exp())?.assert();
    gradcheck(OneLoop, &x)?.assert();
    gradcheck(Vectors, &x)?.assert();
    println!("All four agree with finite differences.\n");

    // On a Var, at 4.5.
    let x = Var::leaf(Tensor::from(4.5));
    let y = MyLog.apply(&(MyExp.apply(&x)? + 1.0))?;
    let dx = grad(&y, &x)?;
    println!("MyLog(1 + MyExp(4.5)) = {:?}", f64::try_from(y.value())?);
    println!("its derivative        = {:?}\n", f64::try_from(dx.value())?);

    in_libtorch(elements)
}

fn argument() -> Result<i64> {
    let text = std::env::args().nth(1).unwrap_or_else(|| (4 << 20).to_string());
    let n: i64 = text.parse().with_context(|| format!("{text:?} is no number\n{USAGE}"))?;
    ensure!((1..=100_000_000).contains(&n), "{text} is out of range\n{USAGE}");
    Ok(n)
}

/// y of x.
type Way = fn(&Tensor) -> Result<Tensor>;

fn in_libtorch(elements: i64) -> Result<()> {
    let ways: [(&str, Way); 6] = [
        ("(x.exp() + 1.0).log()", |x| Ok((x.exp() + 1.0).log())),
        ("MyLog(MyExp(x) + 1)", |x| Ok(MyLog.apply(&(MyExp.apply(x)? + 1.0))?)),
        ("OneLoop", |x| Ok(OneLoop.apply(x)?)),
        ("Vectors", |x| Ok(Vectors.apply(x)?)),
        ("ops::Log1pExp", |x| Ok(ops::Log1pExp.apply(x)?)),
        ("x.softplus()", |x| Ok(x.softplus())),
    ];
    tch::manual_seed(1);
    let x = (Tensor::randn([elements], DOUBLE_CPU) * 5.0).set_requires_grad(true);
    let expected = x.detach().sigmoid();

    println!("forward and backward of {elements} f64 elements inside libtorch");
    println!("{:<24} {:>9}   {:>26}", "", "ms", "largest error of dx");
    for (name, way) in ways {
        let dx = gradient(way, &x)?;
        let (error, place) = largest_difference(&dx, &expected)?;
        // softplus takes x itself for y from 20 on, where the slope is 1 - 2e-9.
        ensure!(error < 1e-8, "{name}: dx[{place}] is wrong by {error:e}");
        println!("{name:<24} {:>9.2}   {error:>10.1e} at {place:>12}", median_ms(way, &x)?);
    }
    Ok(())
}

/// Differentiates `sum(y)`, whose seed is one number that kernels read once.
fn gradient(way: Way, x: &Tensor) -> Result<Tensor> {
    Ok(grad(&way(x)?.sum(Kind::Double), x)?)
}

/// A reduction of one's own: the largest difference, and where it is.
fn largest_difference(a: &Tensor, b: &Tensor) -> Result<(f64, usize)> {
    let larger = |a: (f64, usize), b: (f64, usize)| if b.0 > a.0 { b } else { a };
    let step = |max, place, (a, b): (f64, f64)| larger(max, ((a - b).abs(), place));
    Ok(kernel::fold((a, b), (0.0, 0), step, larger)?)
}

fn median_ms(way: Way, x: &Tensor) -> Result<f64> {
    let mut times = Vec::<Duration>::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        drop(gradient(way, x)?);
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[RUNS / 2].as_secs_f64() * 1e3)
}
