//! An `Err` or a panic in user code.

use crate::host::{Host, Kind};
use crate::{assert_rule, rules};
use anyhow::{anyhow, bail};
use std::cell::Cell;
use tch::Tensor;
use tch_function::{Error, Value, grad, grad_fn};
use test_support::{Op, numbers, vector};

rules! {
    an_err_in_forward_names_the_op_and_its_chain,
    a_panic_in_forward_names_the_op,
    an_err_in_backward_leaves_the_graph_usable,
    a_panic_in_backward_leaves_the_graph_usable,
    a_node_has_the_name_of_its_function,
}

fn apply<H: Host>(op: Op<Tensor, Tensor>, x: &H::V) -> tch_function::Result<H::V> {
    Ok(H::apply(op, &[x])?.remove(0))
}

fn an_err_in_forward_names_the_op_and_its_chain<H: Host>() {
    let op = Op::<Tensor, Tensor> {
        forward: |_, _| Err(anyhow!("the file is missing").context("no table")),
        backward: |_, _| Ok(None),
    };
    for x in [H::leaf(&vector(&[1.0])), H::constant(&vector(&[1.0]))] {
        assert_rule!(
            apply::<H>(op, &x),
            Error::Forward { op: "Op", .. },
            "Op: forward failed",
            "no table: the file"
        );
    }
}

fn a_panic_in_forward_names_the_op<H: Host>() {
    let op = Op::<Tensor, Tensor> { forward: |_, _| panic!("at {}", 7), backward: |_, _| Ok(None) };
    let x = H::leaf(&vector(&[1.0]));
    assert_rule!(
        apply::<H>(op, &x),
        Error::Panic { op: "Op", stage: "forward", .. },
        "Op: forward panicked: at 7"
    );
    let y = apply::<H>(crate::square(), &x).unwrap();
    assert!(H::requires_grad(&y), "grad mode is on again");
}

thread_local!(static FAULTS: Cell<u32> = const { Cell::new(0) });

fn fails_once() -> bool {
    FAULTS.replace(FAULTS.get().saturating_sub(1)) > 0
}

fn leaves_the_graph_usable<H: Host>(op: Op<Tensor, Tensor>) -> Error {
    let x = H::leaf(&vector(&[3.0]));
    let y = apply::<H>(op, &x).unwrap();
    FAULTS.set(1);
    let retain = tch_function::GradOptions::new().retain_graph(true);
    let error = retain.grad(&y, &x).map(drop).expect_err("the fault");
    assert_eq!(numbers(&grad(&y, &x).unwrap().tensor().detach()), [1.0]);
    error
}

fn an_err_in_backward_leaves_the_graph_usable<H: Host>() {
    let op = crate::identity(|_, dy| if fails_once() { bail!("no") } else { Ok(Some(dy.copy())) });
    let error = Err::<(), _>(leaves_the_graph_usable::<H>(op));
    assert_rule!(error, Error::Backward { op: "Op", .. }, "Op: backward failed: no");
}

fn a_panic_in_backward_leaves_the_graph_usable<H: Host>() {
    let op = crate::identity(|_, dy| if fails_once() { panic!("no") } else { Ok(Some(dy.copy())) });
    let error = Err::<(), _>(leaves_the_graph_usable::<H>(op));
    assert_rule!(error, Error::Panic { op: "Op", .. }, "Op: backward panicked: no");
}

fn a_node_has_the_name_of_its_function<H: Host>() {
    let y = apply::<H>(crate::square(), &H::leaf(&vector(&[1.0]))).unwrap();
    if H::KIND != Kind::Vars {
        assert_eq!(grad_fn(y.tensor()).expect("a node").name(), "OpBackward");
    }
}
