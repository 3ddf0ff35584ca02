//! What can be registered, what cannot, and what is said about it.

use crate::{assert_close, leaf, ops};
use anyhow::Result;
use std::sync::Mutex;
use tch::{CModule, Kind, Tensor};
use tch_function::{
    Error, Function, Tensors,
    dispatcher::{Constructor, Library, forward_only},
    grad,
};
use test_support::archive::Script;
use test_support::{BackwardFn, ForwardFn, Op, assert_error, number, vector};

fn same() -> impl Function<Inputs = Tensor, Outputs = Tensor> {
    forward_only::<Tensor, Tensor>("same", |x| Ok(x.shallow_clone()))
}

fn never<I: Tensors, O: Tensors>() -> Op<I, O> {
    let forward: ForwardFn<I, O> = |_, _| anyhow::bail!("not called");
    let backward: BackwardFn<I, O> = |_, _| anyhow::bail!("not called");
    Op { forward, backward }
}

const PLAIN: &str = "f(Tensor x) -> Tensor";

/// A namespace is open to one library at a time, until it has failed.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Asserts that a definition is refused, with these texts.
#[track_caller]
fn assert_refused<A: 'static>(schema: &str, constructor: impl Constructor<A>, says: &[&str]) {
    let _turn = ONE_AT_A_TIME.lock();
    let library = Library::new("tf_refused");
    let text = match library.register(|ops| ops.define(schema, constructor)) {
        Err(error @ Error::Registration { .. }) => error.to_string(),
        other => panic!("{schema:?}: {other:?}"),
    };
    for says in says.iter().copied().chain(["tf_refused::", " cannot be registered: "]) {
        assert!(text.contains(says), "{schema:?}: {text:?} does not say {says:?}");
    }
}

#[test]
fn a_text_that_is_no_schema() {
    let example = "write it as in \"f(Tensor x, float k=0.5) -> Tensor\"";
    assert_refused("", same, &[example, "'eof'"]);
    assert_refused("not a schema", same, &[example, "expected ident but found 'not'"]);
    assert_refused("f(Tensor x -> Tensor", same, &[example, "expected ) but found 'arrow'"]);
    assert_refused("f(Tensr x) -> Tensor", same, &[example, "unknown type specifier"]);
    assert_refused("f\0(Tensor x) -> Tensors", same, &[example, "unknown type specifier"]);
    assert_refused("ns::f(Tensor x) -> Tensor", same, &["write its name without a namespace"]);
}

#[test]
fn tensors_of_another_number_or_form() {
    for (schema, says) in [
        ("f(Tensor x, Tensor y) -> Tensor", "2 tensor argument(s) and the Function has 1"),
        ("f() -> Tensor", "0 tensor argument(s) and the Function has 1: write (Tensor)"),
        ("f(Tensor[] x) -> Tensor", "tensor argument 0 is Tensor[] in the schema and Tensor in"),
        ("f(Tensor? x) -> Tensor", "tensor argument 0 is Tensor? in the schema and Tensor in"),
        ("f(Tensor x) -> (Tensor, Tensor)", "2 return(s) and the Function has 1: write (Tensor)"),
        ("f(Tensor x) -> ()", "0 return(s) and the Function has 1: write (Tensor)"),
        ("f(Tensor x) -> int", "return 0 is int in the schema and Tensor in the Function"),
        ("f(Tensor x) -> Tensor?", "return 0 is Tensor? in the schema and Tensor in the Function"),
    ] {
        assert_refused(schema, same, &["tf_refused::f ", says]);
    }
    let many = never::<(Tensor, Option<Tensor>, Vec<Tensor>, Vec<Option<Tensor>>), Tensor>;
    assert_refused(PLAIN, many, &["write (Tensor, Tensor?, Tensor[], Tensor?[])"]);
}

#[test]
fn forms_that_no_schema_can_write() {
    let hint = "a form that no schema can write; use Tensor, Option<Tensor>";
    let inputs = never::<Option<(Tensor, Tensor)>, Tensor>;
    assert_refused("f(Tensor? a, Tensor? b) -> Tensor", inputs, &["the inputs of", hint]);
    let outputs = never::<Tensor, Vec<(Tensor, Tensor)>>;
    assert_refused("f(Tensor x) -> Tensor[]", outputs, &["the outputs of", hint]);
}

#[test]
fn parameters_of_another_number_or_type() {
    let with = "f(Tensor x, int n) -> Tensor";
    assert_refused(with, same, &["are (int n), and the parameters of the constructor are ()"]);
    assert_refused(PLAIN, |_: f64| same(), &["are (), and the parameters", "are (float)"]);
    assert_refused(with, |_: f64| same(), &["argument n is int", "parameter 0", "is float"]);
    assert_refused(
        "f(Tensor x, int n, int[] m) -> Tensor",
        |_: i64, _: Option<Vec<f64>>| same(),
        &["argument m is int[] in the schema", "parameter 1 of the constructor is float[]?"],
    );
    assert_refused(
        "f(Tensor x, Scalar n) -> Tensor",
        |_: i64| same(),
        &["argument n is Scalar", "is int or SymInt", "dispatcher::Argument has the types"],
    );
}

#[test]
fn written_arguments_that_are_not_returned_as_such() {
    let says = ["1 written argument(s) and 0 written return(s)", "f_(Tensor(a!) x) -> Tensor(a!)"];
    assert_refused("f(Tensor(a!) x) -> Tensor", same, &says);
}

#[test]
fn a_name_twice() {
    for second in [PLAIN, "f(Tensor other) -> Tensor", "_f_backward(Tensor x) -> Tensor"] {
        let library = Library::new("tf_twice");
        let done = library.register(|ops| {
            ops.define(PLAIN, same)?;
            ops.define(second, same)
        });
        assert_error!(done, Error::Registration { .. }, "tf_twice::", "an op of this name");
    }
    // An overload has a name of its own.
    let library = Library::new("tf_twice");
    let done = library.register(|ops| {
        ops.define(PLAIN, same)?;
        ops.define("f.scaled(Tensor x, float k) -> Tensor", |_: f64| same())
    });
    done.expect("two names");
}

#[test]
fn a_namespace_that_is_taken() -> Result<()> {
    ops::register()?;
    let open = |namespace| Library::new(namespace).register(|ops| ops.define(PLAIN, same));
    let refused = |namespace| open(namespace).expect_err(namespace).to_string();
    let text = refused("tf_test");
    assert!(text.starts_with("the namespace \"tf_test\" cannot be registered: another"), "{text}");
    for libtorchs in ["aten", "prim", "quantized"] {
        let text = refused(libtorchs);
        assert!(text.contains(libtorchs) && text.ends_with("; take another name"), "{text}");
    }
    for no_name in ["", "a b", "a::b", "1a", "ä", "a-b"] {
        let text = refused(no_name);
        assert!(text.contains("a word of letters, digits and _"), "{text}");
    }
    Ok(())
}

fn call(namespace: &str) -> Result<CModule, tch::TchError> {
    let script = Script::returning("x: Tensor -> Tensor", &format!("ops.{namespace}.f(x)"));
    CModule::load_data(&mut &*script.bytes())
}

#[test]
fn a_failure_leaves_nothing_and_is_remembered() -> Result<()> {
    let library = Library::new("tf_failed");
    for _ in 0..2 {
        let done = library.register(|ops| {
            ops.define(PLAIN, same)?;
            ops.define("g(Tensor x) -> int", same)
        });
        assert_error!(done, Error::Registration { what, .. } if what == "tf_failed::g", "return 0");
        assert!(call("tf_failed").is_err(), "f is there");
    }
    // What the caller's own code finds wrong ends it in the same way.
    let refusal = Error::Argument { op: "a plugin", message: "is too old".to_owned() };
    let done = Library::new("tf_failed").register(|ops| {
        ops.define(PLAIN, same)?;
        Err(refusal)
    });
    assert_error!(done, Error::Registration { .. }, "a plugin: is too old");

    Library::new("tf_failed").register(|ops| ops.define(PLAIN, same))?;
    assert_eq!(number(&call("tf_failed")?.forward_ts(&[vector(&[2.0])])?), 2.0);
    Ok(())
}

#[test]
fn a_second_call_registers_nothing() -> Result<()> {
    static LIBRARY: Library = Library::new("tf_once");
    LIBRARY.register(|ops| ops.define(PLAIN, same))?;
    LIBRARY.register(|_| panic!("not called"))?;
    ops::register()?;
    ops::register()?;
    Ok(())
}

/// An op of two outputs that are one tensor, `2 x`.
fn twice() -> Op<Tensor, (Tensor, Tensor)> {
    Op {
        forward: |_, x| {
            let y = x * 2.0;
            Ok((y.shallow_clone(), y))
        },
        backward: |_, (da, db)| Ok(Some((da + db) * 2.0)),
    }
}

#[test]
fn outputs_have_memory_of_their_own() -> Result<()> {
    Library::new("tf_memory")
        .register(|ops| ops.define("f(Tensor x) -> (Tensor, Tensor)", twice))?;
    let signature = "x: Tensor -> Tuple[Tensor, Tensor]";
    let module = Script::returning(signature, "ops.tf_memory.f(x)").module();
    let x = leaf(&[1.0, 3.0]);
    for x in [&x, &x.detach()] {
        let y = module.forward_is(&[tch::IValue::from(x.shallow_clone())])?;
        let (a, b) = <(Tensor, Tensor)>::try_from(y)?;
        let _ = tch::no_grad(|| a.detach().zero_());
        assert_close(&b, &[2.0, 6.0]);
    }
    let y = module.forward_is(&[tch::IValue::from(x.shallow_clone())])?;
    let (a, b) = <(Tensor, Tensor)>::try_from(y)?;
    assert_close(&grad(&(a + b * 10.0).sum(Kind::Double), &x)?, &[22.0, 22.0]);
    Ok(())
}

#[test]
fn a_schema_that_promises_a_change() -> Result<()> {
    let schema = "f(Tensor(a!) x) -> Tensor(a!)";
    Library::new("tf_promise").register(|ops| ops.define(schema, same))?;
    let text = call("tf_promise")?.forward_ts(&[vector(&[1.0])]).unwrap_err().to_string();
    assert!(text.contains("tf_promise::f: its schema says that it changes input 0"), "{text}");
    Ok(())
}
