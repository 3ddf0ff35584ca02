//! What each engine makes of a program: Vars, Functions inside libtorch's
//! autograd, and libtorch's own operators.

use super::op::{Product, detached_matmul};
use super::program::Program;
use anyhow::{Context, Result};
use tch::Tensor;
use tch_function::{Differentiable, GradOptions, Var};

/// Gradients are where there are any.
pub struct Outcome {
    pub values: Vec<Tensor>,
    /// At every value.
    pub first: Vec<Option<Tensor>>,
    /// At every leaf, from a pass that is itself recorded.
    pub recorded: Vec<Option<Tensor>>,
    /// Of the sum of `recorded * directions`, at every leaf and every seed.
    pub second: Vec<Option<Tensor>>,
}

/// One of the places where a Function runs.
pub trait Engine: Differentiable {
    /// Gives the same bits as `ops::Matmul` there.
    const MATMUL: Product;
    fn start(x: &Tensor, requires_grad: bool) -> Self;
    fn requires_grad(&self) -> bool;
    /// The gradients at every value.
    fn gradients(
        outputs: &[&Self],
        seeds: &[Self],
        values: &[&Self],
    ) -> tch_function::Result<Vec<Option<Tensor>>>;
}

impl Engine for Var {
    const MATMUL: Product = detached_matmul;
    fn start(x: &Tensor, requires_grad: bool) -> Var {
        if requires_grad { Var::leaf(x) } else { Var::constant(x) }
    }
    fn requires_grad(&self) -> bool {
        Var::requires_grad(self)
    }
    fn gradients(
        outputs: &[&Var],
        seeds: &[Var],
        values: &[&Var],
    ) -> tch_function::Result<Vec<Option<Tensor>>> {
        let gradients = GradOptions::new().seeds(seeds).gradients(outputs)?;
        Ok(values.iter().map(|v| gradients.get(v).map(Tensor::shallow_clone)).collect())
    }
}

impl Engine for Tensor {
    const MATMUL: Product = Tensor::matmul;
    fn start(x: &Tensor, requires_grad: bool) -> Tensor {
        x.detach().set_requires_grad(requires_grad)
    }
    fn requires_grad(&self) -> bool {
        Tensor::requires_grad(self)
    }
    fn gradients(
        outputs: &[&Tensor],
        seeds: &[Tensor],
        values: &[&Tensor],
    ) -> tch_function::Result<Vec<Option<Tensor>>> {
        let options = GradOptions::new().seeds(seeds).allow_unused(true);
        at(values, |wanted| options.grad(outputs, wanted))
    }
}

/// What `grad` gives where a gradient can be asked for.
fn at<V: Engine, T>(
    values: &[&V],
    grad: impl FnOnce(&[&V]) -> tch_function::Result<Vec<Option<T>>>,
) -> tch_function::Result<Vec<Option<T>>> {
    let wanted: Vec<&V> = values.iter().copied().filter(|v| v.requires_grad()).collect();
    let mut found = grad(&wanted)?.into_iter();
    Ok(values.iter().map(|v| v.requires_grad().then(|| found.next().flatten()).flatten()).collect())
}

impl Program {
    /// The Functions, in one of the engines.
    pub fn ours<V: Engine>(&self) -> Result<Outcome> {
        let mut values = self.start::<V>();
        for step in &self.steps {
            let args: Vec<&V> = step.args.iter().map(|i| &values[*i]).collect();
            let results = step.op.ours(&args, |x| V::start(x, false));
            values.extend(results.with_context(|| format!("{:?}", step.op))?);
        }
        let values: Vec<&V> = values.iter().collect();
        let leaves = &values[..self.leaves.len()];
        let outputs: Vec<&V> = self.outputs.iter().map(|(i, _)| values[*i]).collect();
        let seeds: Vec<V> = self.outputs.iter().map(|(_, seed)| V::start(seed, true)).collect();

        let pass = GradOptions::new().seeds(&seeds).create_graph(true).allow_unused(true);
        let recorded = at(leaves, |wanted| pass.grad(&outputs[..], wanted)).context("recorded")?;
        let starts: Vec<&V> = leaves.iter().copied().chain(&seeds).collect();
        let second = self.again(&recorded, &starts).context("second")?;
        let first = V::gradients(&outputs, &seeds, &values).context("first")?;
        let tensor = |grad: &Option<V>| Some(grad.as_ref()?.tensor().detach());
        Ok(Outcome {
            values: values.iter().map(|v| v.tensor().detach()).collect(),
            first,
            recorded: recorded.iter().map(tensor).collect(),
            second: second.iter().map(tensor).collect(),
        })
    }

    /// The second pass, from the gradients of the first.
    fn again<V: Engine>(
        &self,
        recorded: &[Option<V>],
        starts: &[&V],
    ) -> tch_function::Result<Vec<Option<V>>> {
        let terms = recorded.iter().zip(&self.directions);
        let terms = terms.filter_map(|(g, d)| Some((g.as_ref().filter(|g| g.requires_grad())?, d)));
        let (terms, directions): (Vec<&V>, Vec<V>) =
            terms.map(|(gradient, d)| (gradient, V::start(d, false))).unzip();
        if terms.is_empty() {
            return Ok(starts.iter().map(|_| None).collect());
        }
        let pass = GradOptions::new().seeds(&directions).allow_unused(true);
        let retained = pass.retain_graph(true);
        at(starts, |wanted| retained.grad(&terms[..], wanted))
    }

    /// libtorch's own operators and autograd, to compare with an engine.
    pub fn theirs<V: Engine>(&self) -> Outcome {
        let mut values = self.start::<Tensor>();
        for step in &self.steps {
            let args: Vec<&Tensor> = step.args.iter().map(|i| &values[*i]).collect();
            values.extend(step.op.theirs(&args, V::MATMUL));
        }
        let seeds = self.outputs.iter().map(|(_, seed)| seed.detach().set_requires_grad(true));
        let seeds: Vec<Tensor> = seeds.collect();
        let terms = self.outputs.iter().zip(&seeds).map(|((i, _), seed)| &values[*i] * seed);
        let first = derivative(terms, &values.iter().collect::<Vec<_>>());
        let recorded = &first[..self.leaves.len()];
        let terms = recorded.iter().zip(&self.directions);
        let terms = terms.filter_map(|(g, d)| Some(g.as_ref().filter(|g| g.requires_grad())? * d));
        let starts: Vec<&Tensor> = values[..self.leaves.len()].iter().chain(&seeds).collect();
        let second = derivative(terms, &starts);
        let detached = |grads: &[Option<Tensor>]| {
            grads.iter().map(|g| g.as_ref().map(Tensor::detach)).collect::<Vec<_>>()
        };
        Outcome {
            values: values.iter().map(Tensor::detach).collect(),
            recorded: detached(recorded),
            first: detached(&first),
            second: detached(&second),
        }
    }

    fn start<V: Engine>(&self) -> Vec<V> {
        self.leaves.iter().map(|(leaf, x)| V::start(x, leaf.requires_grad)).collect()
    }
}

/// That of the sum of all terms, recorded, where there is one.
fn derivative(terms: impl Iterator<Item = Tensor>, inputs: &[&Tensor]) -> Vec<Option<Tensor>> {
    let Some(loss) = terms.map(|term| term.sum(None)).reduce(|a, b| a + b) else {
        return inputs.iter().map(|_| None).collect();
    };
    let found = at(inputs, |wanted| {
        let grads = Tensor::run_backward(&[&loss], wanted, true, true).into_iter();
        Ok(grads.map(|grad| Some(grad).filter(Tensor::defined)).collect())
    });
    found.expect("libtorch differentiates its own operators")
}
