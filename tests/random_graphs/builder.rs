//! From raw choices to a program that every op accepts: what does not broadcast
//! is reduced, numbers keep away from poles and overflow, and nothing is changed
//! in place that another op has saved.

use super::choices::{Choice, Leaf};
use super::op::Op;
use super::program::Step;
use std::ops::Range;
use tch::Tensor;

/// The choices of `Choice::op`.
pub const SHIPPED: Range<usize> = 0..38;
pub const SEVERAL_OUTPUTS: Range<usize> = 38..45;
pub const IN_PLACE: Range<usize> = 45..49;
pub const FUNCTIONS: Range<usize> = 38..49;

pub struct Builder {
    values: Vec<Made>,
    pub steps: Vec<Step>,
}

/// A value so far.
struct Made {
    value: Tensor,
    /// The largest magnitude.
    bound: f64,
    requires_grad: bool,
    /// No op has saved it, nothing else lies in its memory, and it is no leaf.
    free: bool,
    /// An op has changed it in place.
    changed: bool,
}

impl Made {
    fn new(value: Tensor, requires_grad: bool, free: bool) -> Made {
        let bound = f64::try_from(value.abs().max()).expect("one number");
        let requires_grad = requires_grad && value.is_floating_point();
        Made { value, bound, requires_grad, free, changed: false }
    }

    /// Too large to compute with, except for its mean.
    fn is_large(&self) -> bool {
        self.value.numel() > 64
    }

    fn is_usable(&self) -> bool {
        let number = self.value.is_floating_point() && self.bound <= LARGEST;
        number && !self.changed && !self.is_large()
    }
}

/// Larger numbers are made small before they are used.
const LARGEST: f64 = 100.0;

impl Builder {
    pub fn new(leaves: &[(Leaf, Tensor)]) -> Builder {
        let made =
            |(leaf, x): &(Leaf, Tensor)| Made::new(x.shallow_clone(), leaf.requires_grad, false);
        Builder { values: leaves.iter().map(made).collect(), steps: Vec::new() }
    }

    pub fn size(&self, i: usize) -> Vec<i64> {
        self.values[i].value.size()
    }

    /// The values that a gradient can be asked of.
    pub fn differentiable(&self) -> Vec<usize> {
        let able = |i: &usize| self.values[*i].requires_grad && !self.values[*i].changed;
        (0..self.values.len()).filter(able).collect()
    }

    /// Adds a step, and what keeps its result small.
    fn push(&mut self, op: Op, args: &[usize]) -> usize {
        let x: Vec<&Tensor> = args.iter().map(|i| &self.values[*i].value).collect();
        let results = op.theirs(&x, Tensor::matmul);
        let requires_grad = args.iter().any(|i| self.values[*i].requires_grad);
        let differentiable = |k: usize| requires_grad && !(matches!(op, Op::Gate) && k == 1);
        let first = self.values.len();
        let count = results.len();
        for (k, y) in results.into_iter().enumerate() {
            let free = k == 0 && op.result_is_free();
            self.values.push(Made::new(y, differentiable(k), free));
        }
        for i in args {
            self.values[*i].free &= op.leaves_inputs_free();
        }
        if op.is_in_place() {
            self.values[args[0]].changed = true;
        }
        self.steps.push(Step { op, args: args.to_vec(), first, results: count });
        let new = &self.values[first];
        assert!(new.bound.is_finite(), "a step left the safe domain: {:?}", self.steps);
        if new.bound > LARGEST {
            return self.push(Op::Tanh, &[first]);
        }
        if new.is_large() {
            return self.push(Op::Mean(vec![-1], false), &[first]);
        }
        first
    }

    fn rank(&self, i: usize) -> usize {
        self.values[i].value.dim()
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
        if self.values[x].bound > 4.0 { self.push(Op::Tanh, &[x]) } else { x }
    }

    /// `b`, or its mean if it does not broadcast with `a`.
    fn broadcastable(&mut self, a: usize, b: usize) -> usize {
        let (size_a, size_b) = (self.size(a), self.size(b));
        let mut pairs = size_a.iter().rev().zip(size_b.iter().rev());
        if pairs.all(|(m, n)| m == n || *m == 1 || *n == 1) {
            b
        } else {
            self.push(Op::Mean(Vec::new(), false), &[b])
        }
    }

    /// Two values whose product is defined, made from `a` if `b` does not fit.
    fn factors(&mut self, a: usize, b: usize) -> [usize; 2] {
        let (size_a, size_b) = (self.size(a), self.size(b));
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

    /// `a`, or a shifted copy if it cannot be changed in place.
    fn free(&mut self, a: usize, by: f64) -> usize {
        if self.values[a].free {
            return a;
        }
        let shifted = self.push(Op::AddScalar(by), &[a]);
        self.free(shifted, by)
    }

    /// What can be added to `a` in place: `b`, or its mean.
    fn addend(&mut self, a: usize, b: usize) -> usize {
        let (size_a, size_b) = (self.size(a), self.size(b));
        let mut pairs = size_a.iter().rev().zip(size_b.iter().rev());
        let fits = size_b.len() <= size_a.len() && pairs.all(|(m, n)| m == n || *n == 1);
        match fits && a != b {
            true => b,
            false => self.push(Op::Mean(Vec::new(), false), &[b]),
        }
    }

    fn at_least_a_vector(&mut self, a: usize) -> usize {
        if self.rank(a) == 0 { self.push(Op::Reshape(vec![1]), &[a]) } else { a }
    }

    pub fn add(&mut self, choice: &Choice) {
        let p = choice.parameter;
        let pool: Vec<usize> =
            (0..self.values.len()).filter(|i| self.values[*i].is_usable()).collect();
        let a = if choice.youngest { pool[pool.len() - 1] } else { *choice.a.get(&pool) };
        let b = *choice.b.get(&pool);
        let dim = |rank: usize| (i64::from(p) >> 1) % rank.max(1) as i64;
        let keepdim = p % 2 == 1;
        // Any set of dimensions, all if it is empty.
        let dims =
            |rank: usize| (0..rank as i64).filter(|d| p >> (d + 1) & 1 == 1).collect::<Vec<_>>();
        let number = f64::from(p) / 64.0 - 2.0;
        match choice.op {
            0..=5 => {
                let b = self.broadcastable(a, b);
                let ops = [Op::Add, Op::Sub, Op::Mul, Op::Maximum, Op::Minimum, Op::WhereLess];
                self.push(ops[choice.op].clone(), &[a, b]);
            }
            6 => {
                let b = self.broadcastable(a, b);
                self.push(Op::SquaredError, &[a, b]);
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
                self.push(ops[choice.op - 9].clone(), &[a]);
            }
            17 => drop(self.push(Op::DivScalar(number.abs() + 0.5), &[a])),
            18..=21 => {
                let a = self.positive(a, p);
                let ops = [Op::ScalarDiv(number), Op::PowScalar(number), Op::Log, Op::Sqrt];
                self.push(ops[choice.op - 18].clone(), &[a]);
            }
            22..=24 => {
                let a = self.small(a);
                let ops = [Op::Exp, Op::Log1pExp, Op::PowScalar(f64::from(p % 4))];
                self.push(ops[choice.op - 22].clone(), &[a]);
            }
            25..=28 => {
                let dims = dims(self.rank(a));
                let op = [Op::Sum, Op::Mean, Op::Amax, Op::Amin][choice.op - 25];
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
                let count = self.values[a].value.numel() as i64;
                let shapes = [vec![-1], vec![1, -1], vec![-1, 1], vec![count], vec![1, -1, 1]];
                self.push(Op::Reshape(shapes[usize::from(p) % shapes.len()].clone()), &[a]);
            }
            34 => {
                let dim = dim(self.rank(a));
                let size = self.size(a).get(dim as usize).copied().unwrap_or(1);
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
            37 => {
                let a = self.at_least_a_vector(a);
                self.push(Op::CrossEntropy, &[a]);
            }
            38..=41 => {
                let ops = [Op::SinCos, Op::Gate, Op::Silu, Op::Same];
                self.push(ops[choice.op - 38].clone(), &[a]);
            }
            42 => {
                let b = self.broadcastable(a, b);
                self.push(Op::SumProduct, &[a, b]);
            }
            43 => {
                let b = self.broadcastable(a, b);
                // The mean of `b` broadcasts with everything.
                let c = self.push(Op::Mean(Vec::new(), false), &[b]);
                self.push(Op::Fma, &[a, b, c][..if keepdim { 3 } else { 2 }]);
            }
            44 => {
                let a = self.at_least_a_vector(a);
                self.push(Op::Rows, &[a]);
            }
            45..=47 => {
                let a = self.free(a, number);
                let ops = [Op::ScaleInPlace(number), Op::TanhInPlace, Op::ShiftAndSum(number)];
                self.push(ops[choice.op - 45].clone(), &[a]);
            }
            _ => {
                let a = self.free(a, number);
                let b = self.addend(a, b);
                self.push(Op::AddInPlace, &[a, b]);
            }
        }
    }
}
