//! The four hosts that every rule holds in, and what a rule asks of them.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::{IValue, Tensor};
use tch_function::dispatcher::Library;
use tch_function::{Differentiable, Error, Function, Of, Refs, Result, Tensors, Value, Var};
use test_support::archive::Script;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// This crate's engine.
    Vars,
    /// libtorch's autograd.
    Tensors,
    /// A registered op, called by TorchScript on plain tensors.
    Registered,
    /// The same op on a lazily negated tensor, so that modes below autograd see it.
    Watched,
}

pub trait Host {
    type V: Differentiable;
    const KIND: Kind;

    fn leaf(t: &Tensor) -> Self::V;
    fn constant(t: &Tensor) -> Self::V;
    /// Applies an op to values, one per position.
    fn apply<F: Case>(f: F, x: &[&Self::V]) -> Result<Vec<Self::V>>;
    /// The value that an op gets in the place of `x`.
    fn given(x: &Self::V) -> Self::V;
    /// Applies an op to what `given` returned.
    fn apply_to_given<F: Case>(f: F, x: &Self::V) -> Result<Vec<Self::V>> {
        Self::apply(f, &[x])
    }
    fn is_registered() -> bool {
        matches!(Self::KIND, Kind::Registered | Kind::Watched)
    }
    fn requires_grad(v: &Self::V) -> bool;
}

pub struct Vars;
pub struct OnTensors;
pub struct Registered;
pub struct Watched;

impl Host for Vars {
    type V = Var;
    const KIND: Kind = Kind::Vars;

    fn leaf(t: &Tensor) -> Var {
        Var::leaf(t)
    }
    fn constant(t: &Tensor) -> Var {
        Var::constant(t)
    }
    fn apply<F: Case>(f: F, x: &[&Var]) -> Result<Vec<Var>> {
        let x: Vec<Var> = x.iter().map(|x| (*x).clone()).collect();
        Ok(F::Outputs::list(f.apply(F::Inputs::refs(&x))?))
    }
    fn given(x: &Var) -> Var {
        x.clone()
    }
    fn requires_grad(v: &Var) -> bool {
        v.requires_grad()
    }
}

impl Host for OnTensors {
    type V = Tensor;
    const KIND: Kind = Kind::Tensors;

    fn leaf(t: &Tensor) -> Tensor {
        leaf(t)
    }
    fn constant(t: &Tensor) -> Tensor {
        t.shallow_clone()
    }
    fn apply<F: Case>(f: F, x: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x: Vec<Tensor> = x.iter().map(|x| x.shallow_clone()).collect();
        Ok(F::Outputs::list(f.apply(F::Inputs::refs(&x))?))
    }
    fn given(x: &Tensor) -> Tensor {
        x.shallow_clone()
    }
    fn requires_grad(v: &Tensor) -> bool {
        v.requires_grad()
    }
}

impl Host for Registered {
    type V = Tensor;
    const KIND: Kind = Kind::Registered;

    fn leaf(t: &Tensor) -> Tensor {
        leaf(t)
    }
    fn constant(t: &Tensor) -> Tensor {
        t.shallow_clone()
    }
    fn apply<F: Case>(f: F, x: &[&Tensor]) -> Result<Vec<Tensor>> {
        call(f, x)
    }
    fn given(x: &Tensor) -> Tensor {
        x.shallow_clone()
    }
    fn requires_grad(v: &Tensor) -> bool {
        v.requires_grad()
    }
}

impl Host for Watched {
    type V = Tensor;
    const KIND: Kind = Kind::Watched;

    fn leaf(t: &Tensor) -> Tensor {
        leaf(t)
    }
    fn constant(t: &Tensor) -> Tensor {
        t.shallow_clone()
    }
    fn apply<F: Case>(f: F, x: &[&Tensor]) -> Result<Vec<Tensor>> {
        let x: Vec<Tensor> = x.iter().map(|x| negated(x)).collect();
        call(f, &x.iter().collect::<Vec<_>>())
    }
    fn given(x: &Tensor) -> Tensor {
        negated(x)
    }
    fn apply_to_given<F: Case>(f: F, x: &Tensor) -> Result<Vec<Tensor>> {
        call(f, &[x])
    }
    fn requires_grad(v: &Tensor) -> bool {
        v.requires_grad()
    }
}

/// A copy of the same values that is negated when it is read.
fn negated(x: &Tensor) -> Tensor {
    if x.is_floating_point() { (-x).internal_neg_view() } else { x.shallow_clone() }
}

fn leaf(t: &Tensor) -> Tensor {
    t.detach().set_requires_grad(true)
}

/// Registers the op under a namespace of its own and calls it through TorchScript.
fn call<F: Case>(f: F, x: &[&Tensor]) -> Result<Vec<Tensor>> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let namespace = format!("tf_rule_{}", NEXT.fetch_add(1, SeqCst)).leak();
    let schema = format!("op({}) -> {}", F::Inputs::ARGUMENTS, F::Outputs::RETURNS);
    Library::new(namespace).register(|ops| ops.define(&schema, move || f))?;
    let signature = format!("{} -> {}", F::Inputs::PARAMETERS, F::Outputs::PYTHON);
    let result = format!("ops.{namespace}.op({})", F::Inputs::NAMES);
    let module = Script::returning(&signature, &result).module();
    let done = module.forward_is(&F::Inputs::values(x));
    // TorchScript tells of Rust's error by its text alone.
    let y = done.map_err(|e| Error::Torch { op: SCRIPT, message: e.to_string() })?;
    Ok(F::Outputs::tensors(y))
}

/// The op of errors that TorchScript hands over as text.
pub const SCRIPT: &str = "TorchScript";

/// A Function that the hosts can apply.
pub trait Case: Function<Inputs: Form, Outputs: Form> + Copy {}
impl<F: Function<Inputs: Form, Outputs: Form> + Copy> Case for F {}

/// A form of inputs or outputs that the rules use.
pub trait Form: Tensors {
    const ARGUMENTS: &'static str;
    const RETURNS: &'static str;
    const PARAMETERS: &'static str;
    const NAMES: &'static str;
    const PYTHON: &'static str;
    fn refs<V: Value>(x: &[V]) -> Refs<'_, Self, V>;
    fn list<V: Value>(y: Of<Self, V>) -> Vec<V>;
    fn values(x: &[&Tensor]) -> Vec<IValue> {
        x.iter().map(|x| IValue::Tensor(x.shallow_clone())).collect()
    }
    fn tensors(y: IValue) -> Vec<Tensor> {
        match y {
            IValue::Tensor(t) => Vec::from_iter(t.defined().then_some(t)),
            IValue::None => vec![],
            IValue::Tuple(list) => list.into_iter().flat_map(Self::tensors).collect(),
            other => panic!("{other:?}"),
        }
    }
}

impl Form for Tensor {
    const ARGUMENTS: &'static str = "Tensor x";
    const RETURNS: &'static str = "Tensor";
    const PARAMETERS: &'static str = "x: Tensor";
    const NAMES: &'static str = "x";
    const PYTHON: &'static str = "Tensor";
    fn refs<V: Value>(x: &[V]) -> &V {
        &x[0]
    }
    fn list<V: Value>(y: V) -> Vec<V> {
        vec![y]
    }
}

impl Form for (Tensor, Tensor) {
    const ARGUMENTS: &'static str = "Tensor a, Tensor b";
    const RETURNS: &'static str = "(Tensor, Tensor)";
    const PARAMETERS: &'static str = "a: Tensor, b: Tensor";
    const NAMES: &'static str = "a, b";
    const PYTHON: &'static str = "Tuple[Tensor, Tensor]";
    fn refs<V: Value>(x: &[V]) -> (&V, &V) {
        (&x[0], &x[1])
    }
    fn list<V: Value>((a, b): (V, V)) -> Vec<V> {
        vec![a, b]
    }
}

impl Form for Vec<Tensor> {
    const ARGUMENTS: &'static str = "Tensor[] x";
    const RETURNS: &'static str = "Tensor[]";
    const PARAMETERS: &'static str = "x: List[Tensor]";
    const NAMES: &'static str = "x";
    const PYTHON: &'static str = "List[Tensor]";
    fn refs<V: Value>(x: &[V]) -> &[V] {
        x
    }
    fn list<V: Value>(y: Vec<V>) -> Vec<V> {
        y
    }
    fn values(x: &[&Tensor]) -> Vec<IValue> {
        vec![IValue::TensorList(x.iter().map(|x| x.shallow_clone()).collect())]
    }
}

/// Outputs alone.
impl Form for (Option<Tensor>, Tensor) {
    const ARGUMENTS: &'static str = "Tensor? a, Tensor b";
    const RETURNS: &'static str = "(Tensor?, Tensor)";
    const PARAMETERS: &'static str = "a: Optional[Tensor], b: Tensor";
    const NAMES: &'static str = "a, b";
    const PYTHON: &'static str = "Tuple[Optional[Tensor], Tensor]";
    fn refs<V: Value>(x: &[V]) -> (Option<&V>, &V) {
        (Some(&x[0]), &x[1])
    }
    fn list<V: Value>((a, b): (Option<V>, V)) -> Vec<V> {
        a.into_iter().chain([b]).collect()
    }
}
