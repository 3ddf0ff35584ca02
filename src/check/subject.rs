//! [`Subject`]: the Function that is checked, its types forgotten.

use super::watch::{Log, Watched};
use crate::application::run_user;
use crate::function::{Of, Refs, Shape};
use crate::{Differentiable, Error, Function, Result, Var};
use std::sync::Arc;
use tch::Tensor;

/// Values, one per position, `None` for an absent optional one.
pub(super) type Flat<V = Tensor> = Vec<Option<V>>;

/// A computation of plain tensors: inputs to outputs.
pub(super) type Plain = dyn Fn(usize, &Flat) -> Result<Flat>;

/// A Function applied to flat lists. `layout` is the sample whose lists and
/// optional values they have.
pub(super) trait Subject: Sync {
    fn on_vars(&self, layout: usize, x: &Flat<Var>) -> Result<Flat<Var>>;
    fn on_tensors(&self, layout: usize, x: &Flat) -> Result<Flat>;
    /// Does what `on_vars` does; saved tensors, and changes of them, go to `log`.
    fn watched(&self, layout: usize, x: &Flat<Var>, log: Arc<Log>) -> Result<Flat<Var>>;
    /// Returns the number of share the Function.
    fn owners(&self) -> usize;
}

type Layouts<F> = Vec<<<F as Function>::Inputs as Shape>::Layout>;

pub(super) struct Typed<F: Function> {
    pub f: Arc<F>,
    pub layouts: Arc<Layouts<F>>,
}

impl<F: Function> Typed<F> {
    fn call<V: Differentiable>(
        &self,
        f: impl Function<Inputs = F::Inputs, Outputs = F::Outputs>,
        layout: usize,
        x: &Flat<V>,
        handle: impl Fn(&V) -> V,
    ) -> Result<Flat<V>> {
        let mut x = x.iter().map(|x| x.as_ref().map(&handle));
        let x = F::Inputs::build(&self.layouts[layout], &mut || x.next().flatten());
        let y = f.apply(F::Inputs::borrow(&x))?;
        let mut flat = Vec::new();
        F::Outputs::take(y, &mut |y| flat.push(y));
        Ok(flat)
    }
}

impl<F: Function> Subject for Typed<F> {
    fn on_vars(&self, layout: usize, x: &Flat<Var>) -> Result<Flat<Var>> {
        self.call(self.f.clone(), layout, x, Var::clone)
    }

    fn on_tensors(&self, layout: usize, x: &Flat) -> Result<Flat> {
        self.call(self.f.clone(), layout, x, Tensor::shallow_clone)
    }

    fn watched(&self, layout: usize, x: &Flat<Var>, log: Arc<Log>) -> Result<Flat<Var>> {
        self.call(Watched { f: self.f.clone(), log }, layout, x, Var::clone)
    }

    fn owners(&self) -> usize {
        Arc::strong_count(&self.f)
    }
}

/// A closure over the Function's own types, as one over flat lists.
pub(super) fn plain<F: Function>(
    op: &'static str,
    what: &'static str,
    layouts: Arc<Layouts<F>>,
    f: Arc<PlainFn<F>>,
) -> Box<Plain> {
    Box::new(move |layout, x| {
        let mut x = x.iter().map(|x| x.as_ref().map(Tensor::shallow_clone));
        let x = F::Inputs::build(&layouts[layout], &mut || x.next().flatten());
        let y = run_user(op, what, Error::forward, || Ok(f(F::Inputs::borrow(&x))))?;
        let mut flat = Vec::new();
        F::Outputs::take(y, &mut |y| flat.push(y));
        Ok(flat)
    })
}

pub(super) type PlainFn<F> =
    dyn for<'a> Fn(Refs<'a, <F as Function>::Inputs>) -> Of<<F as Function>::Outputs, Tensor>;
