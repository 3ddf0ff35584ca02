//! The arguments of a schema, of each type, as the constructor gets them.

use anyhow::{Result, bail};
use std::fmt::Debug;
use tch::{Kind, Tensor};
use tch_function::{
    Function,
    dispatcher::{Library, forward_only},
};
use test_support::archive::Script;
use test_support::vector;

/// Fails with what it was made from.
fn tell(arguments: impl Debug) -> impl Function<Inputs = Tensor, Outputs = Tensor> {
    let text = format!("made from {arguments:?}");
    forward_only::<Tensor, Tensor>("tell", move |_| bail!("{text}"))
}

type Given = (i64, f64, bool, String, Vec<i64>, Vec<f64>, Vec<bool>, Kind);

fn register() -> tch_function::Result<()> {
    static LIBRARY: Library = Library::new("tf_arguments");
    LIBRARY.register(|ops| {
        ops.define(
            "all(Tensor x, int a, float b, bool c, str d, int[] e, float[] f, bool[] g, \
             ScalarType h) -> Tensor",
            |a, b, c, d, e, f, g, h| {
                let given: Given = (a, b, c, d, e, f, g, h);
                tell(given)
            },
        )?;
        ops.define(
            "maybe(Tensor x, int? a=None, float? b=None, str? d=None, int[]? e=None, \
             ScalarType? h=None) -> Tensor",
            |a: Option<i64>,
             b: Option<f64>,
             d: Option<String>,
             e: Option<Vec<i64>>,
             h: Option<Kind>| tell((a, b, d, e, h)),
        )?;
        ops.define(
            "usual(Tensor x, SymInt n=-3, int[2] size=[1, 2], bool flip=True, *, \
             str how='as it is') -> Tensor",
            |n: i64, size: Vec<i64>, flip: bool, how: String| tell((n, size, flip, how)),
        )
    })
}

fn told(call: &str) -> Result<String> {
    register()?;
    let script = Script::returning("x: Tensor -> Tensor", &format!("ops.tf_arguments.{call}"));
    let error = script.module().forward_ts(&[vector(&[1.0])]).expect_err("it tells");
    let text = error.to_string();
    let from = text.split_once("tell: forward failed: made from ");
    Ok(from.and_then(|(_, told)| told.lines().next()).unwrap_or(&text).to_owned())
}

#[test]
fn each_type() -> Result<()> {
    let call = r#"all(x, -7, 0.5, True, "é \"q\"", [1, 2, 3], [0.5, 2.], [True, False], 7)"#;
    let expected: Given = (
        -7,
        0.5,
        true,
        "é \"q\"".to_owned(),
        vec![1, 2, 3],
        vec![0.5, 2.0],
        vec![true, false],
        Kind::Double,
    );
    assert_eq!(told(call)?, format!("{expected:?}"));
    let call = r#"all(x, 9223372036854775807, 1e308, False, "", annotate(List[int], []), annotate(List[float], []), annotate(List[bool], []), 5)"#;
    let expected: Given =
        (i64::MAX, 1e308, false, String::new(), vec![], vec![], vec![], Kind::Half);
    assert_eq!(told(call)?, format!("{expected:?}"));
    Ok(())
}

#[test]
fn there_or_not() -> Result<()> {
    assert_eq!(told("maybe(x)")?, "(None, None, None, None, None)");
    let given = r#"(Some(0), Some(2.0), Some("s"), Some([4]), Some(Int64))"#;
    assert_eq!(told(r#"maybe(x, 0, 2., "s", [4], 4)"#)?, given);
    assert_eq!(told("maybe(x, None, 2., e=[4])")?, "(None, Some(2.0), None, Some([4]), None)");
    Ok(())
}

#[test]
fn defaults() -> Result<()> {
    assert_eq!(told("usual(x)")?, r#"(-3, [1, 2], true, "as it is")"#);
    assert_eq!(told(r#"usual(x, 5, [3, 4], how="so")"#)?, r#"(5, [3, 4], true, "so")"#);
    Ok(())
}
