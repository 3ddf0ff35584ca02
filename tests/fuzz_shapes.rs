//! A fuzzer over shapes, strides, offsets and dtypes: ops and Functions of one
//! to three inputs, in both engines, against plain tch.
//!
//! Every input and seed is cut out of a longer tensor with strides and an offset
//! of its own: stride 0, elements that overlap, gaps, dimensions in any order, no
//! elements at all. PROPTEST_CASES=100000 runs longer.

#[path = "random_graphs/functions.rs"]
#[allow(dead_code)]
mod functions;

use anyhow::{Context, Result};
use functions::{Fma, SinCos, SumProduct};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use tch::{Kind, Tensor};
use tch_function::{Differentiable, DoubleBackward, Function, GradOptions, Value, Var, ops};
use test_support::compare::{Outcome, Random, assert_same, tolerance};
use test_support::functions::Silu;

struct Case {
    name: &'static str,
    inputs: usize,
    own: fn(&[&Var]) -> tch_function::Result<Var>,
    inside: fn(&[&Tensor]) -> tch_function::Result<Tensor>,
    theirs: fn(&[&Tensor]) -> Tensor,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The same Functions in both engines, and what they are in plain tch.
macro_rules! cases {
    ($($name:ident($inputs:literal) $x:ident: $ours:expr, $theirs:expr;)+) => {
        [$(Case {
            name: stringify!($name),
            inputs: $inputs,
            own: |$x| $ours,
            inside: |$x| $ours,
            theirs: |$x| $theirs,
        }),+]
    };
}

static CASES: [Case; 18] = cases! {
    Add(2) x: ops::Add.apply((x[0], x[1])), x[0] + x[1];
    Sub(2) x: ops::Sub.apply((x[0], x[1])), x[0] - x[1];
    Mul(2) x: ops::Mul.apply((x[0], x[1])), x[0] * x[1];
    Div(2) x: ops::Div.apply((x[0], x[1])), x[0] / x[1];
    Pow(2) x: ops::Pow.apply((x[0], x[1])), x[0].pow(x[1]);
    Maximum(2) x: ops::Maximum.apply((x[0], x[1])), x[0].maximum(x[1]);
    Exp(1) x: ops::Exp.apply(x[0]), x[0].exp();
    Log(1) x: ops::Log.apply(x[0]), x[0].log();
    Log1pExp(1) x: ops::Log1pExp.apply(x[0]), x[0].softplus();
    Sum(1) x: ops::Sum { dims: vec![], keepdim: false }.apply(x[0]), x[0].sum(None);
    Mean(1) x: ops::Mean { dims: vec![-1], keepdim: true }.apply(x[0]), x[0].mean_dim(-1, true, None);
    Softmax(1) x: ops::Softmax { dim: -1 }.apply(x[0]), x[0].softmax(-1, None);
    Transpose(1) x: ops::Transpose { dim0: 0, dim1: -1 }.apply(x[0]), x[0].transpose(0, -1);
    Reshape(1) x: ops::Reshape { shape: vec![numel(x[0])] }.apply(x[0]), x[0].reshape(numel(x[0]));
    Silu(1) x: Silu { double_backward: DoubleBackward::Recompute }.apply(x[0]), x[0].silu();
    SinCos(1) x: { let (sin, cos) = SinCos.apply(x[0])?; ops::Mul.apply((&sin, &cos)) }, x[0].sin() * x[0].cos();
    SumProduct(2) x: { let [s, p] = SumProduct.apply((x[0], x[1]))?; ops::Mul.apply((&s, &p)) }, (x[0] + x[1]) * (x[0] * x[1]);
    Fma(3) x: Fma.apply((x[0], x[1], Some(x[2]))), x[0] * x[1] + x[2];
};

fn numel(x: &impl Value) -> i64 {
    x.tensor().numel() as i64
}

/// How a tensor lies in the longer one.
#[derive(Clone)]
struct Layout {
    strides: [i64; 4],
    offset: i64,
}

#[derive(Clone)]
struct Input {
    layout: Layout,
    kind: Kind,
    requires_grad: bool,
    /// How many leading dimensions it lacks, and which it has with size 1: what
    /// broadcasting fills in.
    lacks: usize,
    ones: u8,
}

// In one line each, also where proptest asks for one field a line.
impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} + {}", self.strides, self.offset)
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Input { layout, kind, requires_grad, lacks, ones } = self;
        write!(f, "{kind:?} {layout:?} lacks {lacks} ones {ones:#b} grad {requires_grad}")
    }
}

const KINDS: [Kind; 4] = [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16];

fn layout() -> impl Strategy<Value = Layout> {
    let strides = [0..5i64, 0..5i64, 0..5i64, 0..5i64];
    (strides, 0..5i64).prop_map(|(strides, offset)| Layout { strides, offset })
}

fn input() -> impl Strategy<Value = Input> {
    let kind = prop::sample::select(&KINDS[..]);
    (layout(), kind, prop::bool::weighted(0.8), 0..3usize, any::<u8>()).prop_map(
        |(layout, kind, requires_grad, lacks, ones)| Input {
            layout,
            kind,
            requires_grad,
            lacks,
            ones,
        },
    )
}

impl Layout {
    /// How long a tensor must be for this to be cut out of it.
    fn reach(&self, shape: &[i64]) -> i64 {
        let steps = |(n, stride): (&i64, &i64)| (n - 1).max(0) * stride;
        self.offset + 1 + shape.iter().zip(&self.strides).map(steps).sum::<i64>()
    }

    fn cut(&self, random: &mut Random, shape: &[i64], kind: Kind) -> Tensor {
        // Far from poles, and small in half precision too.
        let longer = random.tensor(&[self.reach(shape)], |u| 0.5 + 1.5 * u).to_kind(kind);
        longer.as_strided(shape, &self.strides[..shape.len()], self.offset)
    }
}

impl Input {
    fn shape(&self, full: &[i64]) -> Vec<i64> {
        let lacks = self.lacks.min(full.len());
        let size = |(i, n): (usize, &i64)| if self.ones >> i & 1 == 1 { 1 } else { *n };
        full.iter().enumerate().skip(lacks).map(size).collect()
    }
}

/// Value and gradients of the Functions.
fn ours<V: Differentiable>(
    f: fn(&[&V]) -> tch_function::Result<V>,
    x: &[V],
    wanted: &[bool],
    seed: impl Fn(&Tensor) -> V,
) -> Result<Outcome> {
    let x: Vec<&V> = x.iter().collect();
    let y = f(&x)?;
    let leaves: Vec<&V> = x.iter().zip(wanted).filter(|(_, w)| **w).map(|(x, _)| *x).collect();
    let mut grads = Vec::new().into_iter();
    if !leaves.is_empty() {
        let seed = seed(y.tensor());
        grads = GradOptions::new().seeds(&seed).grad(&y, &leaves[..])?.into_iter();
    }
    let mut grad = |wanted: &bool| wanted.then(|| grads.next().flatten()).flatten();
    let grads = wanted.iter().map(|w| grad(w).map(|g| g.tensor().detach())).collect();
    Ok(Outcome { y: y.tensor().detach(), grads })
}

fn theirs(case: &Case, x: &[Tensor], seed: impl Fn(&Tensor) -> Tensor) -> Outcome {
    let y = (case.theirs)(&x.iter().collect::<Vec<_>>());
    let wanted: Vec<&Tensor> = x.iter().filter(|x| x.requires_grad()).collect();
    let mut grads = Vec::new().into_iter();
    if !wanted.is_empty() {
        // In f64, where the sum of the products loses nothing.
        let loss = (y.to_kind(Kind::Double) * seed(&y).to_kind(Kind::Double)).sum(None);
        grads = Tensor::run_backward(&[&loss], &wanted, false, false).into_iter();
    }
    let mut grad = |x: &Tensor| x.requires_grad().then(|| grads.next()).flatten();
    let grads = x.iter().map(&mut grad).collect();
    Outcome { y: y.detach(), grads }
}

fn check(case: &Case, shape: &[i64], inputs: &[Input], seed: &Layout) -> Result<()> {
    let mut random = Random::new("fuzz");
    let inputs = &inputs[..case.inputs];
    let cut = |input: &Input| input.layout.cut(&mut random, &input.shape(shape), input.kind);
    let x: Vec<Tensor> = inputs.iter().map(cut).collect();
    let wanted: Vec<bool> = inputs.iter().map(|input| input.requires_grad).collect();
    let seed = |y: &Tensor| seed.cut(&mut Random::new("seed"), &y.size(), y.kind());

    let leaf = |(x, w): (&Tensor, &bool)| x.detach().set_requires_grad(*w);
    let tensors = || x.iter().zip(&wanted).map(leaf).collect::<Vec<_>>();
    let expected = theirs(case, &tensors(), seed);
    let leaf = |(x, w): (&Tensor, &bool)| if *w { Var::leaf(x) } else { Var::constant(x) };
    let vars: Vec<Var> = x.iter().zip(&wanted).map(leaf).collect();
    let own = ours(case.own, &vars, &wanted, |y| Var::constant(seed(y)))?;
    let inside = ours(case.inside, &tensors(), &wanted, seed)?;

    let rounding = inputs.iter().map(|input| tolerance(input.kind)).fold(0.0, f64::max);
    assert_same(&own, &expected, 4.0 * rounding).context("the own engine")?;
    assert_same(&inside, &expected, 4.0 * rounding).context("inside libtorch")
}

/// [`check`], with a panic as an `Err`, and without the C++ stack behind libtorch's
/// messages: the case itself is what repeats a failure.
fn check_quietly(
    case: &Case,
    shape: &[i64],
    inputs: &[Input],
    seed: &Layout,
) -> Result<(), String> {
    let hook = take_hook();
    set_hook(Box::new(|_| ()));
    let result = catch_unwind(AssertUnwindSafe(|| check(case, shape, inputs, seed)));
    set_hook(hook);
    let text = match result {
        Ok(result) => result.map_err(|e| format!("{e:#}")),
        Err(panic) => Err(match panic.downcast::<String>() {
            Ok(text) => format!("it panicked: {text}"),
            Err(_) => "it panicked".to_owned(),
        }),
    };
    let stack = ["\nException raised from ", "\\nException raised from "];
    text.map_err(|e| stack.iter().fold(&*e, |e, mark| e.split(mark).next().unwrap_or(e)).to_owned())
}

/// The same cases in every `cargo test`, others whenever a number is asked for.
fn config() -> ProptestConfig {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => ProptestConfig::default(),
        None => ProptestConfig { rng_seed: RngSeed::Fixed(0), ..ProptestConfig::with_cases(2000) },
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..config()
    })]

    #[test]
    fn like_tch(
        case in prop::sample::select(CASES.iter().collect::<Vec<_>>()),
        shape in prop::collection::vec(0..4i64, 0..5),
        inputs in [input(), input(), input()],
        seed in layout(),
    ) {
        tch::set_num_threads(1); // the tensors are small
        let done = check_quietly(case, &shape, &inputs, &seed);
        done.map_err(|e| TestCaseError::fail(format!("{case:?}: {e}")))?;
    }
}
