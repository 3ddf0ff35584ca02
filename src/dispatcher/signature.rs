//! [`Signature`]: a schema beside the Function that it is to fit.

use super::reasons;
use crate::ffi::dispatcher::{self, Part, Value};
use crate::function::{Shape, Slot};
use crate::{Error, Function, Result};
use smallvec::SmallVec;
use tch::Tensor;

pub(super) struct Signature {
    /// `ns::name`.
    pub name: &'static str,
    /// Tells for each argument that holds tensors whether it is written; `None` if
    /// it is a parameter.
    args: Vec<Option<bool>>,
    /// The slots of the arguments that hold tensors.
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// An op that changes its arguments may return nothing.
    pub returns: bool,
}

impl Signature {
    /// Checks that the schema fits a Function whose constructor takes the
    /// parameters given.
    pub fn new<F: Function>(
        namespace: &str,
        schema: &str,
        parameters: &[Vec<String>],
    ) -> Result<Signature> {
        let name = schema.split('(').next().unwrap_or_default().trim();
        let what = format!("{namespace}::{name}");
        let fail = |message: String| Error::Registration { what: what.clone(), message };
        if name.contains("::") {
            return Err(fail("write its name without a namespace".to_owned()));
        }
        let parts = dispatcher::read_schema(schema).map_err(|e| fail(reasons::unreadable(&e)))?;
        let (returns, args): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|p| p.is_return);
        let (tensors, others): (Vec<&Part>, Vec<&Part>) =
            args.iter().partition(|p| slot(&p.dtype).is_some());

        let f = std::any::type_name::<F>();
        let inputs = slots::<F::Inputs>().ok_or_else(|| fail(unwritable(f, "inputs")))?;
        let outputs = slots::<F::Outputs>().ok_or_else(|| fail(unwritable(f, "outputs")))?;
        fit("tensor argument", &tensors, &inputs).map_err(fail)?;
        let returns_nothing = returns.is_empty() && args.iter().any(|p| p.is_written);
        if !returns_nothing {
            fit("return", &returns.iter().collect::<Vec<_>>(), &outputs).map_err(fail)?;
            fit_written(&args, &returns).map_err(fail)?;
        }
        fit_parameters(&others, parameters).map_err(fail)?;
        Ok(Signature {
            args: args.iter().map(|p| slot(&p.dtype).map(|_| p.is_written)).collect(),
            inputs,
            outputs,
            returns: !returns_nothing,
            name: String::leak(what),
        })
    }

    /// The arguments that are not tensors.
    pub fn parameters<'a>(&self, args: &[Value<'a>]) -> impl Iterator<Item = Value<'a>> {
        let is_parameter =
            |(arg, kind): (&Value<'a>, &Option<bool>)| kind.is_none().then_some(*arg);
        args.iter().zip(&self.args).filter_map(is_parameter)
    }

    /// The arguments that hold tensors.
    pub fn tensors<'a>(&self, args: &[Value<'a>]) -> impl Iterator<Item = Value<'a>> {
        let holds = |(arg, kind): (&Value<'a>, &Option<bool>)| kind.map(|_| *arg);
        args.iter().zip(&self.args).filter_map(holds)
    }

    /// Returns whether the op writes to none of its arguments.
    pub fn is_pure(&self) -> bool {
        !self.args.contains(&Some(true))
    }

    /// Returns for each position of an input tensor whether it is in a list.
    pub fn list_positions<T: Shape>(&self, layout: &T::Layout) -> Vec<bool> {
        let mut slots = self.inputs.iter();
        let mut out = Vec::new();
        T::lengths(layout, &mut |n| {
            let is_list = matches!(slots.next(), Some(Slot::List | Slot::OptionalList));
            out.extend(std::iter::repeat_n(is_list, n));
        });
        out
    }

    /// Returns for each position of an input tensor whether the op writes to it.
    pub fn written<T: Shape>(&self, layout: &T::Layout) -> Vec<bool> {
        let mut written = self.args.iter().flatten();
        let mut out = Vec::new();
        T::lengths(layout, &mut |n| {
            let is_written = written.next() == Some(&true);
            out.extend(std::iter::repeat_n(is_written, n));
        });
        out
    }
}

/// Returns how a schema writes a type; `None` if it cannot.
fn slots<T: Shape>() -> Option<Vec<Slot>> {
    let mut slots = Vec::new();
    T::slots(&mut slots);
    slots.into_iter().collect()
}

fn unwritable(f: &str, what: &str) -> String {
    format!(
        "the {what} of {f} have a form that no schema can write; use Tensor, Option<Tensor>, \
         Vec<Tensor>, Vec<Option<Tensor>>, and tuples and arrays of these"
    )
}

const TYPES: [(Slot, &str); 4] = [
    (Slot::Tensor, "Tensor"),
    (Slot::Optional, "Tensor?"),
    (Slot::List, "Tensor[]"),
    (Slot::OptionalList, "Tensor?[]"),
];

fn slot(dtype: &str) -> Option<Slot> {
    TYPES.iter().find(|(_, name)| *name == dtype).map(|(slot, _)| *slot)
}

/// Compares what the schema says with what the Function is.
fn fit(what: &str, found: &[&Part], expected: &[Slot]) -> Result<(), String> {
    let wanted = |slot: &Slot| TYPES.iter().find(|(s, _)| s == slot).map_or("", |(_, name)| name);
    let list = expected.iter().map(wanted).collect::<Vec<_>>().join(", ");
    if found.len() != expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return Err(format!(
            "the schema has {found} {what}(s) and the Function has {expected}: write ({list})"
        ));
    }
    match found.iter().zip(expected).position(|(part, slot)| part.dtype != wanted(slot)) {
        Some(i) => Err(format!(
            "{what} {i} is {} in the schema and {} in the Function: write ({list})",
            found[i].dtype,
            wanted(&expected[i])
        )),
        None => Ok(()),
    }
}

/// An argument that is written is returned as such, if anything is.
fn fit_written(args: &[Part], returns: &[Part]) -> Result<(), String> {
    let written = |parts: &[Part]| parts.iter().filter(|p| p.is_written).count();
    match (written(args), written(returns)) {
        (args, returns) if args == returns => Ok(()),
        (args, returns) => Err(format!(
            "the schema has {args} written argument(s) and {returns} written return(s): write each \
             in both places, as in f_(Tensor(a!) x) -> Tensor(a!), or return nothing: -> ()"
        )),
    }
}

fn fit_parameters(found: &[&Part], expected: &[Vec<String>]) -> Result<(), String> {
    let types: Vec<_> = expected.iter().map(|types| types.join(" or ")).collect();
    let wrong = |(part, types): (&&Part, &Vec<String>)| !types.contains(&part.dtype);
    if found.len() != expected.len() {
        let names: Vec<_> = found.iter().map(|p| format!("{} {}", p.dtype, p.name)).collect();
        let (names, types) = (names.join(", "), types.join(", "));
        return Err(format!(
            "the arguments of the schema that are not tensors are ({names}), and the parameters of \
             the constructor are ({types}): let them be the same"
        ));
    }
    match found.iter().zip(expected).position(wrong) {
        Some(i) => Err(format!(
            "argument {} is {} in the schema, and parameter {i} of the constructor is {}: change \
             one of them (dispatcher::Argument has the types)",
            found[i].name, found[i].dtype, types[i]
        )),
        None => Ok(()),
    }
}

/// The tensors of values, position by position, and their layout.
pub(super) fn arranged<'a, T: Shape>(
    values: impl Iterator<Item = Value<'a>>,
) -> (Vec<Option<Tensor>>, T::Layout) {
    let mut flat = Vec::new();
    let mut values = values.into_iter();
    let layout = T::arrange(&mut || {
        let mut is_there = SmallVec::<[bool; 1]>::new();
        let mut push = |t: Option<Tensor>| {
            is_there.push(t.is_some());
            flat.push(t);
        };
        match values.next() {
            Some(Value::Tensor(t)) => push(t.handle()),
            Some(Value::Tensors(list)) => list.iter().for_each(|t| push(t.handle())),
            _ => push(None),
        }
        is_there
    });
    (flat, layout)
}
