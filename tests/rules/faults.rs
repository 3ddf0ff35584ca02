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

/// The name of a Function that does not choose one is its type's, without the path and
/// the parameters.
#[test]
fn names_are_short() {
    struct Scale<T>(std::marker::PhantomData<fn() -> T>);
    impl<T: 'static> tch_function::Function for Scale<T> {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut tch_function::Ctx, x: &Tensor) -> anyhow::Result<Tensor> {
            Ok(x.copy())
        }
        fn backward(&self, _: &tch_function::Ctx, _: &Tensor) -> anyhow::Result<Option<Tensor>> {
            Ok(None)
        }
    }
    fn name<T: 'static>() -> &'static str {
        use tch_function::Function;
        Scale::<T>(std::marker::PhantomData).name()
    }
    trait Inside {
        fn name(&self) -> &'static str;
    }
    impl Inside for f64 {
        fn name(&self) -> &'static str {
            #[derive(Clone, Copy)]
            struct Local;
            impl tch_function::Function for Local {
                type Inputs = Tensor;
                type Outputs = Tensor;
                fn forward(&self, _: &mut tch_function::Ctx, x: &Tensor) -> anyhow::Result<Tensor> {
                    Ok(x.copy())
                }
                fn backward(
                    &self,
                    _: &tch_function::Ctx,
                    _: &Tensor,
                ) -> anyhow::Result<Option<Tensor>> {
                    Ok(None)
                }
            }
            tch_function::Function::name(&Local)
        }
    }
    assert_eq!([name::<f32>(), name::<Vec<Vec<f32>>>(), name::<fn(f32) -> f32>()], ["Scale"; 3]);
    assert_eq!(0f64.name(), "Local");
}
