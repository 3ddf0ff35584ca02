//! Random graphs of the operators: the same values as libtorch's, and the same
//! gradient at every leaf and at every value in between.
//!
//! A graph is drawn as raw choices, from which `Builder` makes a program that
//! every op accepts: it reduces what does not broadcast, and keeps numbers away
//! from poles and overflow. proptest shrinks the raw choices, and what it
//! prints is the program.

mod common;

use anyhow::{Context, Result, ensure};
use common::{ANY, LAYOUTS, Layout, Random, assert_close};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fmt;
use tch::{Reduction, Tensor};
use tch_function::{GradOptions, Var};

/// An op with its parameters; the last few are small compositions.
#[derive(Clone, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Neg,
    AddScalar(f64),
    ScalarSub(f64),
    MulScalar(f64),
    DivScalar(f64),
    ScalarDiv(f64),
    PowScalar(f64),
    Exp,
    Log,
    Sqrt,
    Tanh,
    Sigmoid,
    Log1pExp,
    Relu,
    Abs,
    Maximum,
    Minimum,
    /// The first where it is less than the second.
    WhereLess,
    Sum(Vec<i64>, bool),
    Mean(Vec<i64>, bool),
    Amax(Vec<i64>, bool),
    Amin(Vec<i64>, bool),
    MaxDim(i64, bool),
    MinDim(i64, bool),
    Matmul,
    Transpose(i64, i64),
    Reshape(Vec<i64>),
    IndexSelect(i64, Vec<i64>),
    /// With indices `0, 3, 6, ..` modulo the size, so many along the dimension.
    Gather(i64, i64),
    Softmax(i64),
    LogSoftmax(i64),
    CrossEntropy,
    SquaredError,
}

impl Op {
    fn ours(&self, x: &[&Var]) -> tch_function::Result<Var> {
        let constant = |t: Tensor| Var::constant(t);
        let a = x[0];
        match self {
            Op::Add => Ok(a + x[1]),
            Op::Sub => Ok(a - x[1]),
            Op::Mul => Ok(a * x[1]),
            Op::Div => Ok(a / x[1]),
            Op::Pow => a.pow(x[1]),
            Op::Neg => Ok(-a),
            Op::AddScalar(c) => Ok(a + *c),
            Op::ScalarSub(c) => Ok(*c - a),
            Op::MulScalar(c) => Ok(a * *c),
            Op::DivScalar(c) => Ok(a / *c),
            Op::ScalarDiv(c) => Ok(*c / a),
            Op::PowScalar(e) => a.pow_scalar(*e),
            Op::Exp => a.exp(),
            Op::Log => a.log(),
            Op::Sqrt => a.sqrt(),
            Op::Tanh => a.tanh(),
            Op::Sigmoid => a.sigmoid(),
            Op::Log1pExp => a.log1p_exp(),
            Op::Relu => a.relu(),
            Op::Abs => a.abs(),
            Op::Maximum => a.maximum(x[1]),
            Op::Minimum => a.minimum(x[1]),
            Op::WhereLess => a.where_self(&a.lt(x[1])?, x[1]),
            Op::Sum(dims, keepdim) => a.sum_dim(dims, *keepdim),
            Op::Mean(dims, keepdim) => a.mean_dim(dims, *keepdim),
            Op::Amax(dims, keepdim) => a.amax(dims, *keepdim),
            Op::Amin(dims, keepdim) => a.amin(dims, *keepdim),
            Op::MaxDim(dim, keepdim) => Ok(a.max_dim(*dim, *keepdim)?.0),
            Op::MinDim(dim, keepdim) => Ok(a.min_dim(*dim, *keepdim)?.0),
            Op::Matmul => a.matmul(x[1]),
            Op::Transpose(dim0, dim1) => a.transpose(*dim0, *dim1),
            Op::Reshape(shape) => a.reshape(shape),
            Op::IndexSelect(dim, index) => {
                a.index_select(*dim, &constant(Tensor::from_slice(index)))
            }
            Op::Gather(dim, count) => a.gather(*dim, &constant(places(a.value(), *dim, *count))),
            Op::Softmax(dim) => a.softmax(*dim),
            Op::LogSoftmax(dim) => a.log_softmax(*dim),
            Op::CrossEntropy => a.cross_entropy(&constant(classes(a.value()))),
            Op::SquaredError => a.squared_error(x[1]),
        }
    }

    fn theirs(&self, x: &[&Tensor]) -> Tensor {
        let a = x[0];
        match self {
            Op::Add => a + x[1],
            Op::Sub => a - x[1],
            Op::Mul => a * x[1],
            Op::Div => a / x[1],
            Op::Pow => a.pow(x[1]),
            Op::Neg => -a,
            Op::AddScalar(c) => a + *c,
            Op::ScalarSub(c) => *c - a,
            Op::MulScalar(c) => a * *c,
            Op::DivScalar(c) => a / *c,
            Op::ScalarDiv(c) => a.reciprocal() * *c,
            Op::PowScalar(e) => a.pow_tensor_scalar(*e),
            Op::Exp => a.exp(),
            Op::Log => a.log(),
            Op::Sqrt => a.sqrt(),
            Op::Tanh => a.tanh(),
            Op::Sigmoid => a.sigmoid(),
            Op::Log1pExp => softplus(a),
            Op::Relu => a.relu(),
            Op::Abs => a.abs(),
            Op::Maximum => a.maximum(x[1]),
            Op::Minimum => a.minimum(x[1]),
            Op::WhereLess => a.where_self(&a.lt_tensor(x[1]), x[1]),
            Op::Sum(dims, keepdim) => a.sum_dim_intlist(&dims[..], *keepdim, None),
            Op::Mean(dims, keepdim) => a.mean_dim(&dims[..], *keepdim, None),
            Op::Amax(dims, keepdim) => a.amax(&dims[..], *keepdim),
            Op::Amin(dims, keepdim) => a.amin(&dims[..], *keepdim),
            Op::MaxDim(dim, keepdim) => a.max_dim(*dim, *keepdim).0,
            Op::MinDim(dim, keepdim) => a.min_dim(*dim, *keepdim).0,
            Op::Matmul => matmul(a, x[1]),
            Op::Transpose(dim0, dim1) => a.transpose(*dim0, *dim1),
            Op::Reshape(shape) => a.reshape(shape),
            Op::IndexSelect(dim, index) => a.index_select(*dim, &Tensor::from_slice(index)),
            Op::Gather(dim, count) => a.gather(*dim, &places(a, *dim, *count), false),
            Op::Softmax(dim) => a.softmax(*dim, None),
            Op::LogSoftmax(dim) => a.log_softmax(*dim, None),
            Op::CrossEntropy => {
                a.cross_entropy_loss::<Tensor>(&classes(a), None, Reduction::Mean, -100, 0.0)
            }
            Op::SquaredError => (x[1] - a).square().sum(None) / 2.0,
        }
    }
}

/// `y`, which `value` equals but for rounding, with that value: what comes
/// after may have a kink just there.
fn with_value(y: Tensor, value: &Tensor) -> Tensor {
    &y - y.detach() + value
}

/// libtorch's softplus differs from ours in the last place.
fn softplus(x: &Tensor) -> Tensor {
    let ours = Var::constant(x).log1p_exp().expect("a float tensor");
    with_value(x.softplus(), ours.value())
}

/// libtorch takes another path through its kernels where a gradient is wanted.
fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    with_value(a.matmul(b), &a.detach().matmul(&b.detach()))
}

fn places(x: &Tensor, dim: i64, count: i64) -> Tensor {
    let mut shape = x.size();
    let size = match shape.get_mut(dim as usize) {
        Some(size) => std::mem::replace(size, count),
        None => 1,
    };
    let places = (0..shape.iter().product()).map(|i: i64| i * 3 % size);
    Tensor::from_slice(&places.collect::<Vec<_>>()).reshape(shape)
}

fn classes(scores: &Tensor) -> Tensor {
    let mut shape = scores.size();
    let count = shape.remove(usize::from(shape.len() > 1));
    let classes = (0..shape.iter().product()).map(|i: i64| i * 2 % count);
    Tensor::from_slice(&classes.collect::<Vec<_>>()).reshape(shape)
}

/// A graph as raw choices.
#[derive(Clone)]
struct Choices {
    /// For the numbers in leaves and seeds.
    seed: u16,
    leaves: Vec<Leaf>,
    steps: Vec<Step>,
    outputs: Vec<Index>,
}

#[derive(Clone, Debug)]
struct Leaf {
    shape: &'static [i64],
    layout: Layout,
    requires_grad: bool,
}

/// Which op, of which earlier values, and a choice of its parameters.
#[derive(Clone, Debug)]
struct Step {
    op: usize,
    /// The youngest value as `a`: a deeper graph.
    youngest: bool,
    a: Index,
    b: Index,
    parameter: u8,
}

const SHAPES: [&[i64]; 8] = [&[], &[1], &[3], &[2, 3], &[2, 1], &[3, 3], &[2, 1, 3], &[2, 3, 2]];
const OPS: usize = 38;

fn choices() -> impl Strategy<Value = Choices> {
    let leaf = (0..SHAPES.len(), 0..LAYOUTS.len(), prop::bool::weighted(0.8));
    let leaf = leaf.prop_map(|(shape, layout, requires_grad)| Leaf {
        shape: SHAPES[shape],
        layout: LAYOUTS[layout],
        requires_grad,
    });
    let step = (0..OPS, any::<bool>(), any::<Index>(), any::<Index>(), any::<u8>());
    let step =
        step.prop_map(|(op, youngest, a, b, parameter)| Step { op, youngest, a, b, parameter });
    let outputs = prop::collection::vec(any::<Index>(), 1..4);
    let leaves = prop::collection::vec(leaf, 1..5);
    (any::<u16>(), leaves, prop::collection::vec(step, 1..30), outputs)
        .prop_map(|(seed, leaves, steps, outputs)| Choices { seed, leaves, steps, outputs })
}

/// A graph that every op accepts. Values are numbered: the leaves, then the
/// result of each step.
struct Program {
    leaves: Vec<(Leaf, Tensor)>,
    steps: Vec<(Op, Vec<usize>)>,
    /// Values with what flows back into them.
    outputs: Vec<(usize, Tensor)>,
}

struct Builder {
    values: Vec<Tensor>,
    requires_grad: Vec<bool>,
    steps: Vec<(Op, Vec<usize>)>,
}

impl Choices {
    fn program(&self) -> Program {
        let mut random = Random::new(&self.seed.to_string());
        let leaf = |leaf: &Leaf| (leaf.clone(), leaf.layout.of(&random.tensor(leaf.shape, ANY)));
        let leaves: Vec<_> = self.leaves.iter().map(leaf).collect();
        let mut builder = Builder {
            values: leaves.iter().map(|(_, x)| x.shallow_clone()).collect(),
            requires_grad: leaves.iter().map(|(leaf, _)| leaf.requires_grad).collect(),
            steps: Vec::new(),
        };
        self.steps.iter().for_each(|step| builder.add(step));
        let able: Vec<usize> =
            (0..builder.values.len()).filter(|i| builder.requires_grad[*i]).collect();
        // The youngest value, and some others.
        let others = self.outputs.iter().skip(1).filter(|_| !able.is_empty()).map(|o| o.get(&able));
        let outputs = able.last().into_iter().chain(others);
        let outputs = outputs.map(|i| (*i, random.tensor(&builder.values[*i].size(), ANY)));
        Program { leaves, outputs: outputs.collect(), steps: builder.steps }
    }
}

impl Builder {
    /// Adds a step, and what keeps its result small.
    fn push(&mut self, op: Op, args: &[usize]) -> usize {
        let x: Vec<&Tensor> = args.iter().map(|i| &self.values[*i]).collect();
        let y = op.theirs(&x);
        let bound = f64::try_from(y.abs().max()).expect("one number");
        self.requires_grad.push(args.iter().any(|i| self.requires_grad[*i]));
        self.steps.push((op, args.to_vec()));
        self.values.push(y);
        let new = self.values.len() - 1;
        assert!(bound.is_finite(), "a step left the safe domain: {:?}", self.steps);
        if bound > 100.0 {
            return self.push(Op::Tanh, &[new]);
        }
        if self.is_large(new) {
            return self.push(Op::Mean(vec![-1], false), &[new]);
        }
        new
    }

    /// Too large to compute with, except for its mean.
    fn is_large(&self, i: usize) -> bool {
        self.values[i].numel() > 64
    }

    fn rank(&self, i: usize) -> usize {
        self.values[i].dim()
    }

    /// Positive, and away from 0.
    fn positive(&mut self, x: usize, how: u8) -> usize {
        let (x, away) = match how % 4 {
            0 => (self.push(Op::Sigmoid, &[x]), 0.2),
            1 => (self.push(Op::Mul, &[x, x]), 0.3),
            2 => (self.push(Op::Abs, &[x]), 0.5),
            _ => {
                let x = self.small(x);
                (self.push(Op::Log1pExp, &[x]), 0.1)
            }
        };
        self.push(Op::AddScalar(away), &[x])
    }

    /// Between -4 and 4.
    fn small(&mut self, x: usize) -> usize {
        let bound = f64::try_from(self.values[x].abs().max()).expect("one number");
        if bound > 4.0 { self.push(Op::Tanh, &[x]) } else { x }
    }

    /// `b`, or its mean if it does not broadcast with `a`.
    fn broadcastable(&mut self, a: usize, b: usize) -> usize {
        let (size_a, size_b) = (self.values[a].size(), self.values[b].size());
        let mut pairs = size_a.iter().rev().zip(size_b.iter().rev());
        if pairs.all(|(m, n)| m == n || *m == 1 || *n == 1) {
            b
        } else {
            self.push(Op::Mean(Vec::new(), false), &[b])
        }
    }

    /// Two values whose product is defined, made from `a` if `b` does not fit.
    fn factors(&mut self, a: usize, b: usize) -> [usize; 2] {
        let (size_a, size_b) = (self.values[a].size(), self.values[b].size());
        match (&size_a[..], &size_b[..]) {
            ([.., n], [m]) if n == m => [a, b],
            ([.., n], [m, _]) if n == m => [a, b],
            ([batch, _, n], [other, m, _]) if n == m && batch == other => [a, b],
            ([_] | [_, _], [_, m, _]) if size_a.last() == Some(m) => [a, b],
            ([_, .., _], _) => [a, self.push(Op::Transpose(-1, -2), &[a])],
            _ => {
                let a = self.push(Op::Reshape(vec![-1]), &[a]);
                [a, a]
            }
        }
    }

    fn add(&mut self, step: &Step) {
        let p = step.parameter;
        let pool: Vec<usize> = (0..self.values.len()).filter(|i| !self.is_large(*i)).collect();
        let a = if step.youngest { pool[pool.len() - 1] } else { *step.a.get(&pool) };
        let b = *step.b.get(&pool);
        let dim = |rank: usize| (i64::from(p) >> 1) % rank.max(1) as i64;
        let keepdim = p % 2 == 1;
        // Any set of dimensions, all if it is empty.
        let dims =
            |rank: usize| (0..rank as i64).filter(|d| p >> (d + 1) & 1 == 1).collect::<Vec<_>>();
        let number = f64::from(p) / 64.0 - 2.0;
        match step.op {
            0..=6 => {
                let b = self.broadcastable(a, b);
                let ops = [
                    Op::Add,
                    Op::Sub,
                    Op::Mul,
                    Op::Maximum,
                    Op::Minimum,
                    Op::WhereLess,
                    Op::SquaredError,
                ];
                self.push(ops[step.op].clone(), &[a, b]);
            }
            7 => {
                let b = self.broadcastable(a, b);
                let b = self.positive(b, p);
                self.push(Op::Div, &[a, b]);
            }
            8 => {
                let b = self.broadcastable(a, b);
                let (a, b) = (self.positive(a, p), self.push(Op::Tanh, &[b]));
                self.push(Op::Pow, &[a, b]);
            }
            9..=16 => {
                let ops = [
                    Op::Neg,
                    Op::AddScalar(number),
                    Op::ScalarSub(number),
                    Op::MulScalar(number),
                    Op::Tanh,
                    Op::Sigmoid,
                    Op::Relu,
                    Op::Abs,
                ];
                self.push(ops[step.op - 9].clone(), &[a]);
            }
            17 => drop(self.push(Op::DivScalar(number.abs() + 0.5), &[a])),
            18..=21 => {
                let a = self.positive(a, p);
                let ops = [Op::ScalarDiv(number), Op::PowScalar(number), Op::Log, Op::Sqrt];
                self.push(ops[step.op - 18].clone(), &[a]);
            }
            22..=24 => {
                let a = self.small(a);
                let ops = [Op::Exp, Op::Log1pExp, Op::PowScalar(f64::from(p % 4))];
                self.push(ops[step.op - 22].clone(), &[a]);
            }
            25..=28 => {
                let dims = dims(self.rank(a));
                let op = [Op::Sum, Op::Mean, Op::Amax, Op::Amin][step.op - 25];
                self.push(op(dims, keepdim), &[a]);
            }
            29 => drop(self.push(Op::MaxDim(dim(self.rank(a)), keepdim), &[a])),
            30 => drop(self.push(Op::MinDim(dim(self.rank(a)), keepdim), &[a])),
            31 => {
                let factors = self.factors(a, b);
                self.push(Op::Matmul, &factors);
            }
            32 => drop(self.push(Op::Transpose(dim(self.rank(a)), -1), &[a])),
            33 => {
                let count = self.values[a].numel() as i64;
                let shapes = [vec![-1], vec![1, -1], vec![-1, 1], vec![count], vec![1, -1, 1]];
                self.push(Op::Reshape(shapes[usize::from(p) % shapes.len()].clone()), &[a]);
            }
            34 => {
                let dim = dim(self.rank(a));
                let size = self.values[a].size().get(dim as usize).copied().unwrap_or(1);
                // A scalar has one place only.
                let count = if self.rank(a) == 0 { 1 } else { 1 + i64::from(p % 3) };
                let index = (0..count).map(|i| (i64::from(p) + 2 * i) % size).collect();
                self.push(Op::IndexSelect(dim, index), &[a]);
            }
            35 => {
                let dim = dim(self.rank(a));
                self.push(Op::Gather(dim, 1 + i64::from(p % 3)), &[a]);
            }
            36 => {
                let (dim, log) = (dim(self.rank(a)), keepdim);
                self.push(if log { Op::LogSoftmax(dim) } else { Op::Softmax(dim) }, &[a]);
            }
            _ if self.rank(a) == 0 => {
                let a = self.push(Op::Reshape(vec![1]), &[a]);
                self.push(Op::CrossEntropy, &[a]);
            }
            _ => drop(self.push(Op::CrossEntropy, &[a])),
        }
    }
}

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}numbers from seed {}", self.program(), self.seed)
    }
}

/// Without what the outputs do not need: proptest leaves some of it.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |values: &[usize]| {
            let names: Vec<String> = values.iter().map(|i| format!("x{i}")).collect();
            names.join(", ")
        };
        let outputs: Vec<usize> = self.outputs.iter().map(|(i, _)| *i).collect();
        let mut needed = outputs.clone();
        for (i, (_, args)) in self.steps.iter().enumerate().rev() {
            if needed.contains(&(self.leaves.len() + i)) {
                needed.extend(args);
            }
        }
        writeln!(f)?;
        for (i, (leaf, _)) in self.leaves.iter().enumerate().filter(|(i, _)| needed.contains(i)) {
            let role = if leaf.requires_grad { "leaf" } else { "constant" };
            writeln!(f, "x{i} = {role} {:?} {:?}", leaf.shape, leaf.layout)?;
        }
        for ((op, args), i) in self.steps.iter().zip(self.leaves.len()..) {
            if needed.contains(&i) {
                writeln!(f, "x{i} = {op:?}: {}", names(args))?;
            }
        }
        writeln!(f, "gradients of {}", names(&outputs))
    }
}

impl Program {
    /// The values, and their gradients where there are any.
    fn ours(&self) -> Result<Vec<(Tensor, Option<Tensor>)>> {
        let leaf = |(leaf, x): &(Leaf, Tensor)| {
            if leaf.requires_grad { Var::leaf(x) } else { Var::constant(x) }
        };
        let mut values: Vec<Var> = self.leaves.iter().map(leaf).collect();
        for (op, args) in &self.steps {
            let args: Vec<&Var> = args.iter().map(|i| &values[*i]).collect();
            values.push(op.ours(&args).with_context(|| format!("{op:?}"))?);
        }
        let outputs: Vec<&Var> = self.outputs.iter().map(|(i, _)| &values[*i]).collect();
        let seeds: Vec<Var> = self.outputs.iter().map(|(_, seed)| Var::constant(seed)).collect();
        let gradients = GradOptions::new().seeds(&seeds).gradients(&outputs[..])?;
        let with_gradient =
            |v: &Var| (v.value().shallow_clone(), gradients.get(v).map(Tensor::shallow_clone));
        Ok(values.iter().map(with_gradient).collect())
    }

    fn theirs(&self) -> Vec<(Tensor, Option<Tensor>)> {
        let leaf = |(leaf, x): &(Leaf, Tensor)| x.detach().set_requires_grad(leaf.requires_grad);
        let mut values: Vec<Tensor> = self.leaves.iter().map(leaf).collect();
        for (op, args) in &self.steps {
            let args: Vec<&Tensor> = args.iter().map(|i| &values[*i]).collect();
            values.push(op.theirs(&args));
        }
        let terms = self.outputs.iter().map(|(i, seed)| (&values[*i] * seed).sum(None));
        let loss = terms.reduce(|a, b| a + b).expect("an output");
        let wanted: Vec<&Tensor> = values.iter().filter(|v| v.requires_grad()).collect();
        let mut grads = Tensor::run_backward(&[&loss], &wanted, false, false).into_iter();
        let mut gradient =
            |v: &Tensor| v.requires_grad().then(|| grads.next()).flatten().filter(Tensor::defined);
        values.iter().map(|v| (v.detach(), gradient(v))).collect()
    }

    fn check(&self) -> Result<()> {
        if self.outputs.is_empty() {
            return Ok(()); // constants only
        }
        for (i, (found, expected)) in self.ours()?.into_iter().zip(self.theirs()).enumerate() {
            assert_close(&found.0, &expected.0, 0.0).with_context(|| format!("value of x{i}"))?;
            match (&found.1, &expected.1) {
                (Some(found), Some(expected)) => {
                    // The order of sums differs, so that terms which cancel
                    // leave an error of their own size.
                    let size = f64::try_from(expected.abs().max())? + 1.0;
                    assert_close(&(found / size), &(expected / size), 1e-11)
                        .with_context(|| format!("gradient of x{i}"))?;
                }
                (None, None) => {}
                _ => ensure!(false, "gradient of x{i}: {:?} for {:?}", found.1, expected.1),
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(ProptestConfig::default().cases.max(2500))
    })]

    #[test]
    fn like_libtorch(choices in choices()) {
        tch::set_num_threads(1); // the tensors are small
        if let Err(e) = choices.program().check() {
            return Err(TestCaseError::fail(format!("{e:#}")));
        }
    }
}
