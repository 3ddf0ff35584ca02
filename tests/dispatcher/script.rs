//! TorchScript modules that call ops: values, gradients, every kind of argument.

use crate::{assert_close, leaf, ops, script};
use anyhow::{Result, ensure};
use tch::{CModule, IValue, Kind, Tensor};
use tch_function::{GradOptions, grad};
use test_support::archive::Script;
use test_support::vector;

/// libtorch's executor looks on in the first runs, and optimises for later ones.
const RUNS: usize = 4;

const ONE: &str = "x: Tensor -> Tensor";

#[test]
fn an_op_runs_and_has_a_gradient() -> Result<()> {
    let module = script(ONE, "torch.mul(ops.tf_test.leaky(x, 0.2), 3)");
    for _ in 0..RUNS {
        let x = leaf(&[-1.0, 2.0]);
        let y = module.forward_ts(&[&x])?;
        assert_close(&y, &[-0.6, 6.0]);
        assert_close(&grad(&y.sum(Kind::Double), &x)?, &[0.6, 3.0]);
        let y = tch::no_grad(|| module.forward_ts(&[&x]))?;
        ensure!(!y.requires_grad());
    }
    Ok(())
}

#[test]
fn arguments_have_defaults_and_names() -> Result<()> {
    let x = vector(&[-1.0, 2.0]);
    let run = |result| script(ONE, result).forward_ts(&[&x]);
    assert_close(&run("ops.tf_test.leaky(x)")?, &[-0.01, 2.0]);
    assert_close(&run("ops.tf_test.leaky(x, slope=0.5)")?, &[-0.5, 2.0]);
    assert_close(&run("ops.tf_test.affine(x, scale=4.)")?, &[-4.0, 8.0]);
    let x = x.to_kind(Kind::Float);
    let run = |result| script(ONE, result).forward_ts(&[&x]);
    assert_close(&run("ops.tf_test.cube(x)")?, &[-1.0, 8.0]);
    assert_close(&run("ops.tf_test.cube(x, fake=False)")?, &[-1.0, 8.0]);
    Ok(())
}

#[test]
fn texts_lists_and_booleans() -> Result<()> {
    let x = leaf(&[1.0, 2.0, 3.0, 6.0]);
    for (arguments, size, y, dx) in [
        (r#""sum", [0]"#, vec![2], vec![4.0, 8.0], 1.0),
        (r#""sum", [1], True"#, vec![2, 1], vec![3.0, 9.0], 1.0),
        (r#""mean", [0, -1]"#, vec![], vec![3.0], 0.25),
    ] {
        let module = script(ONE, &format!("ops.tf_test.reduce(x, {arguments})"));
        for _ in 0..RUNS {
            let found = module.forward_ts(&[&x.reshape([2, 2])])?;
            assert_eq!(found.size(), size);
            assert_close(&found, &y);
            assert_close(&grad(&found.sum(Kind::Double), &x)?, &[dx; 4]);
        }
    }
    Ok(())
}

#[test]
fn an_int_and_a_bool_that_the_caller_gives() -> Result<()> {
    let module = script(
        "x: Tensor, dim: int, keep: bool, how: str -> Tensor",
        "ops.tf_test.reduce(x, how, [dim], keep)",
    );
    let x = vector(&[1.0, 2.0, 3.0, 6.0]).reshape([2, 2]);
    for (dim, keep, size, expected) in
        [(0, false, vec![2], [4.0, 8.0]), (1, true, vec![2, 1], [3.0, 9.0])]
    {
        let arguments = [value(&x), dim.into(), keep.into(), "sum".into()];
        let y = tensor(module.forward_is(&arguments)?)?;
        assert_eq!(y.size(), size);
        assert_close(&y, &expected);
    }
    Ok(())
}

fn value(t: &Tensor) -> IValue {
    t.shallow_clone().into()
}

fn tensor(value: IValue) -> Result<Tensor> {
    Ok(Tensor::try_from(value)?)
}

#[test]
fn an_optional_tensor_is_there_or_not() -> Result<()> {
    let module =
        script("x: Tensor, bias: Optional[Tensor] -> Tensor", "ops.tf_test.affine(x, bias, 2.)");
    for _ in 0..RUNS {
        let (x, bias) = (leaf(&[1.0, 2.0]), leaf(&[10.0]));
        let given = |bias| [value(&x), bias];
        let y = tensor(module.forward_is(&given(IValue::None))?)?;
        assert_close(&y, &[2.0, 4.0]);
        assert_close(&grad(&y.sum(Kind::Double), &x)?, &[2.0, 2.0]);
        let y = tensor(module.forward_is(&given(value(&bias)))?)?;
        assert_close(&y, &[12.0, 14.0]);
        let [dx, dbias] = grad(&y.sum(Kind::Double), [&x, &bias])?;
        assert_close(&dx, &[2.0, 2.0]);
        assert_close(&dbias, &[2.0]);
    }
    Ok(())
}

#[test]
fn lists_of_tensors_go_in_and_out() -> Result<()> {
    let module = script(
        "a: Tensor, b: Tensor -> Tuple[List[Tensor], Tensor]",
        "ops.tf_test.weigh([a, b], [0.5, 2.])",
    );
    for _ in 0..RUNS {
        let [a, b] = [leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0])];
        let y = module.forward_is(&[&a, &b].map(value))?;
        let (y, sum) = <(Vec<Tensor>, Tensor)>::try_from(y)?;
        assert_close(&y[0], &[0.5, 1.0]);
        assert_close(&y[1], &[6.0, 8.0]);
        assert_close(&sum, &[6.5, 9.0]);
        let loss = &y[0].sum(Kind::Double) * 10.0 + sum.sum(Kind::Double);
        let [da, db] = grad(&loss, [&a, &b])?;
        assert_close(&da, &[5.5, 5.5]);
        assert_close(&db, &[2.0, 2.0]);
    }
    Ok(())
}

#[test]
fn several_outputs_one_of_them_without_a_gradient() -> Result<()> {
    let module =
        script("a: Tensor, b: Tensor -> Tuple[Tensor, Tensor, Tensor]", "ops.tf_test.pair(a, b)");
    for _ in 0..RUNS {
        let [a, b] = [leaf(&[3.0, 5.0]), leaf(&[7.0, 2.0])];
        let y = module.forward_is(&[&a, &b].map(value))?;
        let (product, sum, index) = <(Tensor, Tensor, Tensor)>::try_from(y)?;
        assert_close(&product, &[21.0, 10.0]);
        assert_close(&sum, &[10.0, 7.0]);
        ensure!(i64::try_from(&index)? == 1 && !index.requires_grad());
        let loss = product.sum(Kind::Double) + sum.sum(Kind::Double) * 100.0;
        let [da, db] = grad(&loss, [&a, &b])?;
        assert_close(&da, &[107.0, 102.0]);
        assert_close(&db, &[103.0, 105.0]);
    }
    Ok(())
}

/// Runs lines of TorchScript on `x`.
fn lines(lines: &[&str]) -> CModule {
    ops::register().expect("the namespace tf_test is free");
    let body: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    let forward = format!("(x: Tensor) -> Tensor:\n{body}");
    Script { forward, parameters: Vec::new() }.module()
}

#[test]
fn an_op_in_place_changes_its_argument() -> Result<()> {
    let returned =
        ["y = torch.mul(x, 2)", "z = ops.tf_test.increment_(y)", "return torch.mul(y, z)"];
    let quiet =
        ["y = torch.mul(x, 2)", "ops.tf_test.increment_quietly_(y)", "return torch.mul(y, y)"];
    for module in [lines(&returned), lines(&quiet)] {
        for _ in 0..RUNS {
            let x = leaf(&[1.0, 3.0]);
            let y = module.forward_ts(&[&x])?; // (2 x + 1)^2
            assert_close(&y, &[9.0, 49.0]);
            assert_close(&grad(&y.sum(Kind::Double), &x)?, &[12.0, 28.0]);
            assert_close(&x, &[1.0, 3.0]);
        }
    }
    Ok(())
}

#[test]
fn the_same_op_out_of_place_leaves_it() -> Result<()> {
    let module = lines(&["y = ops.tf_test.increment(torch.mul(x, 2))", "return torch.mul(x, y)"]);
    let x = vector(&[1.0, 3.0]);
    // The Function is one that works in place, and the schema does not say so.
    let error = module.forward_ts(&[&x]).unwrap_err().to_string();
    assert!(error.contains("(a!)"), "{error}");
    Ok(())
}

#[test]
fn second_derivatives() -> Result<()> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let at = [-1.5, 0.0, 2.0];
    for op in ["log1pexp", "recomputed"] {
        let module = script(ONE, &format!("ops.tf_test.{op}(x)"));
        for _ in 0..RUNS {
            let x = leaf(&at);
            let y = module.forward_ts(&[&x])?.sum(Kind::Double);
            let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.expect("x was used");
            assert_close(&dx, &at.map(sigmoid));
            let ddx = grad(&dx.sum(Kind::Double), &x)?;
            assert_close(&ddx, &at.map(|x| sigmoid(x) * (1.0 - sigmoid(x))));
        }
    }
    Ok(())
}

#[test]
fn one_module_on_several_threads() -> Result<()> {
    let module = script(ONE, "ops.tf_test.leaky(x, 0.2)");
    let run = || {
        let x = leaf(&[-1.0, 2.0]);
        let y = module.forward_ts(&[&x])?.sum(Kind::Double);
        anyhow::Ok(grad(&y, &x)?)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (0..50).map(|_| run()).collect::<Vec<_>>())).collect();
        for thread in threads {
            for dx in thread.join().expect("no panic") {
                assert_close(&dx?, &[0.2, 1.0]);
            }
        }
        Ok(())
    })
}
