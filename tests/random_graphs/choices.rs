//! A graph as raw choices, which proptest draws and shrinks.

use super::{builder, program::Program};
use proptest::prelude::*;
use proptest::sample::Index;
use std::fmt;
use std::ops::Range;
use tch::Tensor;
use test_support::compare::{ANY, LAYOUTS, Layout, Random};

#[derive(Clone)]
pub struct Choices {
    /// For the numbers in leaves and seeds.
    seed: u16,
    leaves: Vec<Leaf>,
    choices: Vec<Choice>,
    outputs: Vec<Index>,
}

#[derive(Clone, Debug)]
pub struct Leaf {
    pub shape: &'static [i64],
    pub layout: Layout,
    pub requires_grad: bool,
}

/// Which op, of which earlier values, and a choice of its parameters.
#[derive(Clone, Debug)]
pub struct Choice {
    /// As `Builder::add` counts them.
    pub op: usize,
    /// The youngest value as `a`: a deeper graph.
    pub youngest: bool,
    pub a: Index,
    pub b: Index,
    pub parameter: u8,
}

const SHAPES: [&[i64]; 8] = [&[], &[1], &[3], &[2, 3], &[2, 1], &[3, 3], &[2, 1, 3], &[2, 3, 2]];

/// Graphs of the shipped operators, with `functions` in every third step.
pub fn choices(functions: Option<Range<usize>>) -> impl Strategy<Value = Choices> {
    let leaf = (0..SHAPES.len(), 0..LAYOUTS.len(), prop::bool::weighted(0.8));
    let leaf = leaf.prop_map(|(shape, layout, requires_grad)| Leaf {
        shape: SHAPES[shape],
        layout: LAYOUTS[layout],
        requires_grad,
    });
    let functions = functions.unwrap_or(builder::SHIPPED);
    let op = prop_oneof![2 => builder::SHIPPED, 1 => functions];
    let choice = (op, any::<bool>(), any::<Index>(), any::<Index>(), any::<u8>());
    let choice =
        choice.prop_map(|(op, youngest, a, b, parameter)| Choice { op, youngest, a, b, parameter });
    let outputs = prop::collection::vec(any::<Index>(), 1..4);
    let leaves = prop::collection::vec(leaf, 1..5);
    (any::<u16>(), leaves, prop::collection::vec(choice, 1..16), outputs)
        .prop_map(|(seed, leaves, choices, outputs)| Choices { seed, leaves, choices, outputs })
}

impl Choices {
    pub fn program(&self) -> Program {
        let mut random = Random::new(&self.seed.to_string());
        let leaf = |leaf: &Leaf| (leaf.clone(), leaf.layout.of(&random.tensor(leaf.shape, ANY)));
        let leaves: Vec<(Leaf, Tensor)> = self.leaves.iter().map(leaf).collect();
        let mut builder = builder::Builder::new(&leaves);
        self.choices.iter().for_each(|choice| builder.add(choice));
        let able = builder.differentiable();
        // The youngest value, and some others.
        let others = self.outputs.iter().skip(1).filter(|_| !able.is_empty()).map(|o| o.get(&able));
        let outputs = able.last().into_iter().chain(others);
        let mut numbers = |i: &usize| random.tensor(&builder.size(*i), ANY);
        let outputs = outputs.map(|i| (*i, numbers(i))).collect();
        let directions = leaves.iter().map(|(leaf, _)| random.tensor(leaf.shape, ANY)).collect();
        Program { leaves, outputs, directions, steps: builder.steps }
    }
}

impl fmt::Debug for Choices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}numbers from seed {}", self.program(), self.seed)
    }
}
