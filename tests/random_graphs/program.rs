//! A graph that every op accepts.

use super::choices::Leaf;
use super::op::Op;
use std::fmt;
use tch::Tensor;

/// Values are numbered: the leaves, then the results of each step.
pub struct Program {
    pub leaves: Vec<(Leaf, Tensor)>,
    pub steps: Vec<Step>,
    /// Values with what flows back into them, the seeds.
    pub outputs: Vec<(usize, Tensor)>,
    /// For each leaf what flows back into its gradient in a second pass.
    pub directions: Vec<Tensor>,
}

#[derive(Debug)]
pub struct Step {
    pub op: Op,
    pub args: Vec<usize>,
    /// The number of its first result, and how many it has.
    pub first: usize,
    pub results: usize,
}

impl Program {
    /// Whether a step changes value `i` in place.
    pub fn is_changed(&self, i: usize) -> bool {
        self.steps.iter().any(|step| step.op.is_in_place() && step.args[0] == i)
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
        let is_needed =
            |step: &Step, needed: &[usize]| step.range().any(|result| needed.contains(&result));
        for step in self.steps.iter().rev() {
            if is_needed(step, &needed) || step.op.is_in_place() {
                needed.extend(&step.args);
            }
        }
        writeln!(f)?;
        for (i, (leaf, _)) in self.leaves.iter().enumerate().filter(|(i, _)| needed.contains(i)) {
            let role = if leaf.requires_grad { "leaf" } else { "constant" };
            writeln!(f, "x{i} = {role} {:?} {:?}", leaf.shape, leaf.layout)?;
        }
        for step in &self.steps {
            if is_needed(step, &needed) || step.op.is_in_place() {
                let results = names(&step.range().collect::<Vec<_>>());
                writeln!(f, "{results} = {:?}: {}", step.op, names(&step.args))?;
            }
        }
        writeln!(f, "gradients of {}", names(&outputs))
    }
}

impl Step {
    fn range(&self) -> std::ops::Range<usize> {
        self.first..self.first + self.results
    }
}
