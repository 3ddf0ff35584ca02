//! One application of the Function in either engine, and its gradients.

use super::layout::{Arrange, Layout};
use super::subject::{Flat, Subject};
use crate::function::Differentiable;
use crate::{Function, GradOptions, Result, Var, ffi};
use tch::Tensor;

/// The operations that the two engines have in common.
pub(super) trait Side: Differentiable {
    const NAME: &'static str;
    fn leaf(x: Tensor) -> Result<Self>;
    fn constant(x: Tensor) -> Self;
    fn needs_grad(&self) -> bool;
    fn call(subject: &dyn Subject, layout: usize, x: &Flat<Self>) -> Result<Flat<Self>>;
}

impl Side for Var {
    const NAME: &'static str = "this crate's engine";
    fn leaf(x: Tensor) -> Result<Var> {
        Var::try_leaf(x)
    }
    fn constant(x: Tensor) -> Var {
        Var::constant(x)
    }
    fn needs_grad(&self) -> bool {
        self.requires_grad()
    }
    fn call(subject: &dyn Subject, layout: usize, x: &Flat<Var>) -> Result<Flat<Var>> {
        subject.on_vars(layout, x)
    }
}

impl Side for Tensor {
    const NAME: &'static str = "libtorch's engine";
    fn leaf(x: Tensor) -> Result<Tensor> {
        Ok(x.set_requires_grad(true))
    }
    fn constant(x: Tensor) -> Tensor {
        x
    }
    fn needs_grad(&self) -> bool {
        self.requires_grad()
    }
    fn call(subject: &dyn Subject, layout: usize, x: &Flat) -> Result<Flat> {
        subject.on_tensors(layout, x)
    }
}

/// One application: its leaves, its inputs, and its outputs.
pub(super) struct Applied<V> {
    pub leaves: Flat<V>,
    pub inputs: Flat<V>,
    /// The in-place counters of the inputs before it ran.
    pub versions: Vec<u32>,
    pub outputs: Flat<V>,
}

/// The form of inputs: which of them require a gradient, and their strides.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub layout: usize,
    pub x: &'a Flat,
    pub needs: &'a [bool],
    pub lies: Layout,
}

/// Makes leaves, and applies `f` to copies of them.
pub(super) fn apply_with<V: Side>(
    given: Given<'_>,
    f: impl FnOnce(&Flat<V>) -> Result<Flat<V>>,
) -> Result<Applied<V>> {
    tch::with_grad(|| {
        let leaf = |(x, &needs): (&Option<Tensor>, &bool)| {
            let x = x.as_ref().map(|x| x.detach().copy());
            x.map(|x| if needs { V::leaf(x) } else { Ok(V::constant(x)) }).transpose()
        };
        let leaves = given.x.iter().zip(given.needs).map(leaf).collect::<Result<Flat<V>>>()?;
        let arranged = |x: &V| {
            // An index is not what it was if its elements share one cell.
            let whole = given.lies == Layout::Expanded && !x.tensor().is_floating_point();
            Arrange(if whole { Layout::Contiguous } else { given.lies }).apply::<V>(x)
        };
        let inputs = leaves.iter().map(|x| x.as_ref().map(arranged).transpose());
        let inputs = inputs.collect::<Result<Flat<V>>>()?;
        let version = |x: &Option<V>| x.as_ref().map_or(0, |x| ffi::version(x.tensor()));
        let versions = inputs.iter().map(version).collect();
        let outputs = f(&inputs)?;
        Ok(Applied { leaves, inputs, versions, outputs })
    })
}

pub(super) fn apply<V: Side>(subject: &dyn Subject, given: Given<'_>) -> Result<Applied<V>> {
    apply_with(given, |x| V::call(subject, given.layout, x))
}

impl<V: Side> Applied<V> {
    pub fn values(&self) -> Flat {
        self.outputs.iter().map(|y| y.as_ref().map(|y| y.tensor().detach())).collect()
    }

    /// Returns the inputs that were changed in place.
    pub fn dirty(&self) -> Vec<bool> {
        let now = |x: &Option<V>| x.as_ref().map_or(0, |x| ffi::version(x.tensor()));
        self.inputs.iter().zip(&self.versions).map(|(x, before)| now(x) != *before).collect()
    }

    /// The gradients that `asked` names, of the outputs that have a seed.
    pub fn gradients(&self, seeds: &Flat, asked: &[bool], retain: bool) -> Result<Flat> {
        let found = self.recorded(seeds, asked, |options| options.retain_graph(retain))?;
        Ok(found.into_iter().map(|g| g.map(|g| g.tensor().detach())).collect())
    }

    pub fn recorded(
        &self,
        seeds: &Flat,
        asked: &[bool],
        options: impl FnOnce(GradOptions<'_, V>) -> GradOptions<'_, V>,
    ) -> Result<Flat<V>> {
        let seeds: Flat<V> =
            seeds.iter().map(|s| s.as_ref().map(|s| V::constant(s.shallow_clone()))).collect();
        self.from(&seeds, asked, options)
    }

    pub fn from(
        &self,
        seeds: &Flat<V>,
        asked: &[bool],
        options: impl FnOnce(GradOptions<'_, V>) -> GradOptions<'_, V>,
    ) -> Result<Flat<V>> {
        let pairs = self.outputs.iter().zip(seeds);
        let (outputs, seeds): (Vec<&V>, Vec<&V>) = pairs
            .filter_map(|(y, seed)| Some((y.as_ref().filter(|y| y.needs_grad())?, seed.as_ref()?)))
            .unzip();
        let is_asked = |x: &Option<V>, asked: bool| asked && x.as_ref().is_some_and(V::needs_grad);
        let leaves = self.leaves.iter().zip(asked);
        let positions: Vec<bool> = leaves.map(|(x, &a)| is_asked(x, a)).collect();
        let chosen = self.leaves.iter().zip(&positions).filter(|(_, asked)| **asked);
        let inputs: Vec<&V> = chosen.filter_map(|(x, _)| x.as_ref()).collect();
        if outputs.is_empty() || inputs.is_empty() {
            return Ok(self.leaves.iter().map(|_| None).collect());
        }
        let all = GradOptions::new().seeds(&seeds[..]).allow_unused(true);
        let mut found = options(all).grad(&outputs[..], &inputs[..])?.into_iter();
        Ok(positions
            .iter()
            .map(|asked| if *asked { found.next().flatten() } else { None })
            .collect())
    }
}
