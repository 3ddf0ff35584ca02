//! The rules of meaning. Each is written once, generic over a [`host::Host`], and holds
//! for Vars, for tensors, and for a registered op on its plain and its watched way.
//! `vars.rs` has what only Vars can do.

mod faults;
mod formula;
mod forward_mode;
mod gradients;
mod host;
mod marks;
mod passes;
mod recompute;
mod saving;
mod second_order;
mod unrecorded;
mod vars;
mod vars_faults;

use tch::Tensor;
use tch_function::{Differentiable, GradOptions, Result};
use test_support::{BackwardFn, Op};

/// Stamps each rule, a function generic over the host, for the four hosts.
macro_rules! rules {
    ($($rule:ident),+ $(,)?) => {$(
        mod $rule {
            use crate::host::{OnTensors, Registered, Vars, Watched};
            #[test]
            fn on_vars() {
                super::$rule::<Vars>();
            }
            #[test]
            fn on_tensors() {
                super::$rule::<OnTensors>();
            }
            #[test]
            fn registered() {
                super::$rule::<Registered>();
            }
            #[test]
            fn watched() {
                super::$rule::<Watched>();
            }
        }
    )+};
}
pub(crate) use rules;

/// Checks that a result is an error of a variant that says certain things. An error
/// that TorchScript hands over must have the same text.
macro_rules! assert_rule {
    ($result:expr, $pattern:pat, $($text:expr),+ $(,)?) => {{
        let error = $result.map(drop).expect_err("an error");
        let by_script =
            matches!(&error, tch_function::Error::Torch { op: crate::host::SCRIPT, .. });
        assert!(by_script || matches!(&error, $pattern), "another error: {error:?}");
        let text = error.to_string();
        $(assert!(text.contains($text), "{text:?} does not say {:?}", $text);)+
    }};
}
pub(crate) use assert_rule;

/// y = x, with the backward under test.
fn identity(backward: BackwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    Op { forward: |_, x| Ok(x * 1.0), backward }
}

/// y = x^2, which saves zeros and x.
fn square() -> Op<Tensor, Tensor> {
    Op {
        forward: |ctx, x| {
            let zeros = x.zeros_like();
            ctx.save_for_backward([&zeros, x])?;
            ctx.mark_constant(&zeros);
            Ok(x * x)
        },
        backward: |ctx, dy| {
            let [_, x] = ctx.saved_tensors()?;
            Ok(Some(dy * x * 2.0))
        },
    }
}

/// The gradient of the sum of `y`, as a tensor.
fn gradient<V: Differentiable>(y: &V, x: &V, ones: V) -> Result<Tensor> {
    let dx = GradOptions::new().seeds(&ones).grad(y, x)?.expect("x was used");
    Ok(dx.tensor().detach())
}
