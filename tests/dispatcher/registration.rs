//! What cannot be registered, and what is said about it.

use crate::support::{Op, number, vector};
use crate::{Script, ops};
use anyhow::Result;
use tch::Tensor;
use tch_function::{
    Error, Function, Tensors,
    dispatcher::{Constructor, Library, forward_only},
};

fn same() -> impl Function<Inputs = Tensor, Outputs = Tensor> {
    forward_only::<Tensor, Tensor>("same", |x| Ok(x.shallow_clone()))
}

fn never<I: Tensors, O: Tensors>() -> Op<I, O> {
    Op {
        forward: |_, _| anyhow::bail!("not called"),
        backward: |_, _| anyhow::bail!("not called"),
    }
}

/// What is said about a definition, in a namespace that nobody else uses.
fn refusal<A: 'static>(schema: &str, constructor: impl Constructor<A>) -> (String, String) {
    let library = Library::new("tf_refused");
    match library.register(|ops| ops.define(schema, constructor)) {
        Err(Error::Registration { what, message }) => (what, message),
        other => panic!("{other:?} for {schema:?}"),
    }
}

fn p(x: (String, String)) { println!("{} cannot be registered: {}\n", x.0, x.1); }

#[test]
fn print() {
    ops::register().unwrap();
    p(refusal("not a schema", same));
    p(refusal("", same));
    p(refusal("f(Tensor x -> Tensor", same));
    p(refusal("f(Tensr x) -> Tensor", same));
    p(refusal("ns::f(Tensor x) -> Tensor", same));
    p(refusal("f.out(Tensor x, Tensor y) -> Tensor", same));
    p(refusal("f(Tensor x, Tensor y) -> Tensor", same));
    p(refusal("f() -> Tensor", same));
    p(refusal("f(Tensor[] x) -> Tensor", same));
    p(refusal("f(Tensor? x) -> Tensor", same));
    p(refusal("f(Tensor x) -> (Tensor, Tensor)", same));
    p(refusal("f(Tensor x) -> ()", same));
    p(refusal("f(Tensor x) -> int", same));
    p(refusal("f(Tensor x) -> Tensor?", same));
    p(refusal("f(Tensor x, int n) -> Tensor", same));
    p(refusal("f(Tensor x) -> Tensor", |_: f64| same()));
    p(refusal("f(Tensor x, int n) -> Tensor", |_: f64| same()));
    p(refusal("f(Tensor x, int n, int[] m) -> Tensor", |_: i64, _: Vec<f64>| same()));
    p(refusal("f(Tensor x, Scalar n) -> Tensor", |_: f64| same()));
    p(refusal("f(Tensor? a, Tensor? b) -> Tensor", || never::<Option<(Tensor, Tensor)>, Tensor>()));
    p(refusal("f(Tensor x) -> Tensor[]", || never::<Tensor, Vec<(Tensor, Tensor)>>()));
    p(refusal("f(Tensor(a!) x) -> Tensor", same));
    p(refusal("f(Tensor(a) x) -> Tensor(a)", same));
    p(refusal("f(Tensor x, *, Tensor(a!) out) -> Tensor(a!)", || never::<(Tensor, Tensor), Tensor>()));
    p(refusal("f\0(Tensor x) -> Tensor", same));
}
