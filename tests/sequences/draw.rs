//! From a seed to a program.

use super::call::*;
use super::op::Op;
use test_support::compare::Random;

struct Draw {
    random: Random,
    /// The results of the calls so far.
    made: Vec<Place>,
    /// Those of ops with one output.
    single: Vec<Place>,
    /// Those that likely have a gradient, and whose graph is likely not freed.
    live: Vec<Place>,
    /// The calls that set a hook.
    hooks: Vec<usize>,
}

/// The program of a seed.
pub fn program(seed: u64) -> Program {
    let random = Random::new(&seed.to_string());
    let mut draw =
        Draw { random, made: Vec::new(), single: Vec::new(), live: Vec::new(), hooks: Vec::new() };
    // The first numbers of seeds that are close to each other are close too.
    for _ in 0..8 {
        draw.random.unit();
    }
    let size = 1 + draw.below(6) as i64;
    let count = 5 + draw.below(21);
    let mut calls = Vec::new();
    for i in 0..count {
        let call = draw.call(i, count, size);
        draw.made.extend((0..call.results()).map(|result| Place::Made(i, result)));
        draw.note(i, &call);
        if matches!(call, Call::Hook { .. }) {
            draw.hooks.push(i);
        }
        calls.push((i, call));
    }
    Program { seed, size, calls }
}

fn one_of<T: Copy>(random: &mut Random, list: &[T]) -> T {
    list[(random.unit() * list.len() as f64) as usize]
}

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        (self.random.unit() * n as f64) as usize
    }

    fn chance(&mut self, p: f64) -> bool {
        self.random.unit() < p
    }

    /// A factor that is exact in binary, and easy to read.
    fn factor(&mut self) -> f64 {
        [0.5, 2.0, -1.5, 0.75, -0.25][self.below(5)]
    }

    /// Mostly something that a call has made, and mostly a young one.
    fn place(&mut self) -> Place {
        let n = self.made.len();
        if n == 0 || self.chance(0.3) {
            return Place::Leaf(self.below(LEAVES.len()));
        }
        if self.chance(0.5) {
            one_of(&mut self.random, &self.made[n - n.min(3)..])
        } else {
            self.one_made()
        }
    }

    fn one_made(&mut self) -> Place {
        match self.made.len() {
            0 => Place::Leaf(self.below(LEAVES.len())),
            _ => one_of(&mut self.random, &self.made),
        }
    }

    /// A leaf with the first chance, else what a call has made.
    fn leaf_or_made(&mut self, leaf: f64) -> Place {
        if self.chance(leaf) { Place::Leaf(self.below(LEAVES.len())) } else { self.one_made() }
    }

    fn note(&mut self, i: usize, call: &Call) {
        match call {
            Call::Apply { op, x, scope } => {
                let has_grad = |x: &Place| match x {
                    Place::Leaf(leaf) => *leaf < WITH_GRAD,
                    made => self.live.contains(made),
                };
                if *scope == Scope::Plain && x.iter().any(has_grad) {
                    self.live.push(Place::Made(i, 0));
                }
                if op.is_in_place() {
                    self.live.retain(|live| live != &x[0]);
                }
                if op.results() == 1 {
                    self.single.push(Place::Made(i, 0));
                }
            }
            Call::Scale { x, .. } | Call::DetachInPlace(x) | Call::Drop { x, .. } => {
                self.live.retain(|live| live != x);
            }
            Call::Grad { create: true, .. } => self.live.push(Place::Made(i, 0)),
            Call::Backward { retain: false, .. } | Call::Grad { retain: false, .. } => {
                self.live.clear();
            }
            _ => {}
        }
    }

    fn scope(&mut self) -> Scope {
        match self.below(24) {
            0 => Scope::NoGrad,
            1 => Scope::Inference,
            _ => Scope::Plain,
        }
    }

    fn sizes(&mut self, size: i64) -> i64 {
        if self.chance(0.7) { size } else { 1 + self.below(6) as i64 }
    }

    fn op(&mut self) -> Op {
        let c = self.factor();
        let ops = [
            Op::Add,
            Op::Mul,
            Op::MulScalar(c),
            Op::Exp,
            Op::Relu,
            Op::Log1pExp,
            Op::Sum,
            Op::Reshape,
            Op::SinCos,
            Op::Gate,
            Op::Silu,
            Op::SiluRecomputed,
            Op::Same,
            Op::ScaleInPlace(c),
            Op::FailInPlace(c),
            Op::TanhInPlace,
            Op::AddInPlace,
            Op::ShiftAndSum(c),
            Op::Errs,
            Op::Panics,
            Op::NestedVars,
            Op::NestedTensors,
            Op::TimesCaptured,
            // Once more those that make deep graphs.
            Op::Add,
            Op::Mul,
            Op::Mul,
            Op::Relu,
            Op::Log1pExp,
        ];
        ops[self.below(ops.len())]
    }

    fn apply(&mut self) -> Call {
        let op = self.op();
        let mut x: Vec<Place> = (0..op.arity()).map(|_| self.place()).collect();
        if op.is_in_place() && self.chance(0.8) {
            x[0] = self.one_made();
        }
        Call::Apply { op, x, scope: self.scope() }
    }

    /// One or two values to differentiate.
    fn outputs(&mut self) -> Vec<Place> {
        let mut y = vec![self.output()];
        if self.chance(0.2) {
            y.push(self.output());
        }
        y
    }

    fn output(&mut self) -> Place {
        match self.live.len() {
            n if n > 0 && self.chance(0.9) => one_of(&mut self.random, &self.live[n - n.min(4)..]),
            _ => self.place(),
        }
    }

    fn backward(&mut self) -> Call {
        let (retain, elsewhere) = (self.chance(0.7), self.chance(0.2));
        Call::Backward { y: self.outputs(), retain, elsewhere, scope: self.scope() }
    }

    fn grad(&mut self) -> Call {
        let y = self.outputs();
        let mut x = vec![self.leaf_or_made(0.7)];
        if self.chance(0.4) {
            x.push(self.leaf_or_made(0.7));
        }
        let (retain, create, all) = (self.chance(0.7), self.chance(0.4), self.chance(0.2));
        Call::Grad { y, x, retain, create, all: all && !create }
    }

    fn call(&mut self, i: usize, count: usize, size: i64) -> Call {
        // A graph first, and a pass at the end.
        if i < 2 {
            return self.apply();
        }
        if i + 1 == count {
            return self.backward();
        }
        match self.below(100) {
            0..45 => self.apply(),
            45..47 => Call::Detach(self.place()),
            47..49 => Call::DetachInPlace(self.leaf_or_made(0.2)),
            49..52 => {
                let (c, recorded) = (self.factor(), self.chance(0.6));
                Call::Scale { x: self.leaf_or_made(0.3), c, recorded }
            }
            52..55 => Call::Update { leaf: self.below(WITH_GRAD), c: self.factor() },
            55..56 => Call::Resize { x: self.leaf_or_made(0.6), size: self.sizes(size) },
            56..58 => Call::SetData { x: self.leaf_or_made(0.7), size: self.sizes(size) },
            58..61 => Call::RequiresGrad(self.leaf_or_made(0.7), self.chance(0.5)),
            61..64 => Call::Step,
            64..66 => {
                let how = [Zero::Var, Zero::Tch, Zero::Optimizer][self.below(3)];
                Call::Zero { leaf: self.below(WITH_GRAD), how }
            }
            66..69 => Call::LeafAgain(self.below(WITH_GRAD)),
            69..73 => {
                let on = [HookOn::Tensor, HookOn::Before, HookOn::After][self.below(3)];
                let x = match (on, self.single.len()) {
                    (HookOn::Tensor, _) | (_, 0) => self.place(),
                    // The nodes of others differ from those of plain tch.
                    _ => one_of(&mut self.random, &self.single),
                };
                Call::Hook { x, on, factor: self.factor() }
            }
            73..75 => match self.hooks.len() {
                0 => self.apply(),
                _ => Call::Unhook(one_of(&mut self.random, &self.hooks)),
            },
            75..77 => Call::Clone(self.place()),
            77..79 => Call::Drop { x: self.one_made(), elsewhere: self.chance(0.5) },
            79..89 => self.backward(),
            89..99 => self.grad(),
            _ => Call::Twice(self.output()),
        }
    }
}
