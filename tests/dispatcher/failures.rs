//! What goes wrong inside an op that TorchScript calls comes out as an error with
//! the op's name, and the next call works.

use crate::{assert_close, leaf, script};
use anyhow::Result;
use tch::{IValue, Kind, Tensor};
use tch_function::{Error, GradOptions, grad};
use test_support::assert_error;

fn run(how: &str, x: &Tensor) -> Result<Tensor> {
    let module = script("x: Tensor, how: str -> Tensor", "ops.tf_test.fails(x, how)");
    let y = module.forward_is(&[IValue::from(x.shallow_clone()), how.into()])?;
    Ok(Tensor::try_from(y)?)
}

fn assert_works(x: &Tensor) -> Result<()> {
    let y = run("not", x)?;
    assert_close(&y, &[1.0, 2.0]);
    assert_close(&grad(&y.sum(Kind::Double), x)?, &[1.0, 1.0]);
    Ok(())
}

#[test]
fn a_forward_that_fails() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    for (how, name, says) in [
        ("forward err", "Fails: forward failed", "no forward today"),
        ("forward panic", "Fails: forward panicked", "a forward that panics"),
    ] {
        for x in [&x, &x.detach()] {
            let text = run(how, x).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(says), "{text}");
            assert!(text.contains("ops.tf_test.fails"), "{text}");
        }
        assert_works(&x)?;
    }
    Ok(())
}

#[test]
fn a_backward_that_fails() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    for how in ["backward err", "backward panic", "shape"] {
        let y = run(how, &x)?.sum(Kind::Double);
        match how {
            "backward err" => assert_error!(
                grad(&y, &x),
                Error::Backward { op: "Fails", .. },
                "Fails: backward failed: no backward today"
            ),
            "backward panic" => assert_error!(
                grad(&y, &x),
                Error::Panic { op: "Fails", .. },
                "Fails: backward panicked: a backward that panics"
            ),
            _ => assert_error!(
                grad(&y, &x),
                Error::GradientShape { op: "Fails", input: 0, .. },
                "shape [1, 2]",
                "shape [2]"
            ),
        }
        assert_works(&x)?;
    }
    Ok(())
}

#[test]
fn tchs_own_backward_fails_with_the_same_text() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = run("backward err", &x)?.sum(Kind::Double);
    let text = y.f_backward().unwrap_err().to_string();
    assert!(text.contains("Fails: backward failed: no backward today"), "{text}");
    assert_works(&x)
}

#[test]
fn no_gradient_where_none_flows() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let y = run("none", &x)?.sum(Kind::Double);
    assert_error!(grad(&y, &x), Error::Unused { input: 0 }, "no gradient flows");
    Ok(())
}

#[test]
fn a_constructor_that_fails() -> Result<()> {
    let module = script("x: Tensor, slope: float -> Tensor", "ops.tf_test.leaky(x, slope)");
    let call = |slope: f64| module.forward_is(&[IValue::from(leaf(&[-1.0])), slope.into()]);
    let text = call(-0.5).unwrap_err().to_string();
    assert!(text.contains("tf_test::leaky"), "{text}");
    assert!(text.contains("slope -0.5 is negative; use one of 0 or more"), "{text}");
    assert_close(&Tensor::try_from(call(0.5)?)?, &[-0.5]);
    Ok(())
}

#[test]
fn a_leaf_is_not_changed_in_place() -> Result<()> {
    let module = script("x: Tensor -> Tensor", "ops.tf_test.increment_(x)");
    let x = leaf(&[1.0, 2.0]);
    let text = module.forward_ts(&[&x]).unwrap_err().to_string();
    assert!(text.contains("Increment: input 0 is a leaf"), "{text}");
    assert_close(&x, &[1.0, 2.0]);
    let x = x.detach();
    assert_close(&module.forward_ts(&[&x])?, &[2.0, 3.0]);
    assert_close(&x, &[2.0, 3.0]);
    Ok(())
}

#[test]
fn second_derivatives_that_are_not_known() -> Result<()> {
    for op in ["intermediate", "once"] {
        let module = script("x: Tensor -> Tensor", &format!("ops.tf_test.{op}(x)"));
        let x = leaf(&[1.0, 2.0]);
        let y = module.forward_ts(&[&x])?.sum(Kind::Double);
        let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.expect("x was used");
        let second = grad(&dx.sum(Kind::Double), &x);
        match op {
            "once" => assert_error!(second, Error::OnceDifferentiable { .. }, "SavesIntermediate"),
            _ => assert_error!(second, Error::SavedIntermediate { .. }, "SavesIntermediate"),
        }
    }
    Ok(())
}

#[test]
fn a_call_that_does_not_fit_the_schema() {
    let forward = "(x: Tensor) -> Tensor:\n    return ops.tf_test.leaky(x, \"much\")\n".to_owned();
    crate::ops::register().expect("the namespace tf_test is free");
    let bytes = test_support::archive::Script { forward, parameters: Vec::new() }.bytes();
    let text = tch::CModule::load_data(&mut &*bytes).map(drop).unwrap_err().to_string();
    assert!(text.contains("tf_test::leaky(Tensor x, float slope=0.01"), "{text}");
}
