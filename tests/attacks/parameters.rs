//! A Var that was made from a parameter is the parameter, whatever tch does to it: the
//! numbers are right, or one clear error comes.

use crate::leaf;
use anyhow::Result;
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_function::{Error, GradOptions, Var, grad, lift, register_hook};
use test_support::{assert_error, number, numbers, vector};

pub fn store() -> (nn::VarStore, Tensor) {
    let vs = nn::VarStore::new(Device::Cpu);
    let w = vs.root().var("w", &[1], nn::Init::Const(2.0));
    (vs, w)
}

type Make = fn(&Var, &Tensor) -> Var;
/// A value that is 3 w, through the Var, through what `lift` is given, and through what its
/// closure captures.
const WAYS: [Make; 3] = [
    |v, _| (v * 3.0).sum().unwrap(),
    |v, _| lift(v, |x| Ok((&x[0] * 3.0).sum(Kind::Float))).unwrap(),
    |_, w| {
        let one = Var::constant(vector(&[1.0]).to_kind(Kind::Float));
        lift(&one, |x| Ok((w * &x[0] * 3.0).sum(Kind::Float))).unwrap()
    },
];

#[test]
fn a_parameter_that_is_frozen_gets_no_gradient() -> Result<()> {
    for way in WAYS {
        let (mut vs, w) = store();
        let v = Var::leaf(&w);
        let before = way(&v, &w);
        vs.freeze();
        // Recorded before: no gradient arrives, as in libtorch.
        before.backward()?;
        assert!(!w.grad().defined() && v.grad().is_none() && !v.requires_grad());
        // Recorded since: a constant.
        let y = way(&v, &w);
        assert_error!(y.backward(), Error::NoGraph { .. }, "does not require a gradient");
        vs.unfreeze();
        way(&v, &w).backward()?;
        assert_eq!(number(&w.grad()), 3.0);
    }
    Ok(())
}

#[test]
fn an_optimizer_leaves_a_frozen_parameter_alone() -> Result<()> {
    let (mut vs, w) = store();
    let mut sgd = nn::Sgd::default().build(&vs, 0.1)?;
    let y = &Var::leaf(&w) * 3.0;
    vs.freeze();
    y.backward()?;
    sgd.step();
    assert_eq!(number(&w), 2.0);
    Ok(())
}

type Change = fn(&mut nn::VarStore, &mut Tensor);
const REPLACED: [Change; 3] = [
    |vs, _| vs.double(),
    |_, w| w.set_data(&vector(&[5.0]).to_kind(Kind::Float)),
    |_, w| w.set_data(&Tensor::ones([3], (Kind::Float, Device::Cpu))),
];

#[test]
fn a_parameter_with_other_data_asks_for_a_new_var() -> Result<()> {
    for change in REPLACED {
        let (mut vs, mut w) = store();
        let v = Var::leaf(&w);
        let before = (&v * 3.0).sum()?;
        change(&mut vs, &mut w);
        let text = "make the Var anew with Var::leaf";
        assert_error!(v.exp(), Error::Argument { op: "Exp", .. }, text);
        assert_error!(lift(&v, |x| Ok(&x[0] * 1.0)), Error::Argument { op: "lift", .. }, text);
        // The gradient of what was recorded before goes where it still fits, and nowhere else.
        match before.backward() {
            Ok(()) => assert_eq!(w.grad().size(), w.size()),
            Err(e) => assert!(e.to_string().contains("resized or converted"), "{e}"),
        }
        let old = w.grad();
        assert!(!old.defined() || (old.size(), old.kind()) == (w.size(), w.kind()));
        w.zero_grad();
        let v = Var::leaf(&w);
        (&v * 3.0).sum()?.backward()?;
        assert_eq!(numbers(&w.grad().to_kind(Kind::Double)), vec![3.0; w.numel()]);
        assert_eq!(w.grad().kind(), w.kind());
    }
    Ok(())
}

#[test]
fn a_parameter_that_is_changed_in_place_is_followed() -> Result<()> {
    let (mut vs, mut w) = store();
    let v = Var::leaf(&w);
    tch::no_grad(|| drop(w.fill_(7.0)));
    assert_eq!(number((&v * 1.0).value()), 7.0);
    vs.copy(&vs_with(9.0))?;
    assert_eq!(number((&v * 1.0).value()), 9.0);
    (&v * &v).backward()?;
    assert_eq!(number(&w.grad()), 18.0);
    Ok(())
}

fn vs_with(value: f64) -> nn::VarStore {
    let vs = nn::VarStore::new(Device::Cpu);
    let _ = vs.root().var("w", &[1], nn::Init::Const(value));
    vs
}

/// A hook sees the whole gradient once, wherever its parts come from.
#[test]
fn a_hook_on_a_parameter_sees_the_sum_once() -> Result<()> {
    for (i, way) in WAYS.into_iter().enumerate() {
        let (_vs, w) = store();
        let v = Var::leaf(&w);
        // Not linear: applied to a part, or twice, it gives another number.
        let hook = register_hook(&w, |dw| Ok(Some(dw * dw)))?;
        let y = &(&way(&v, &w) + &WAYS[(i + 1) % 3](&v, &w)) + &(&v * 1.0);
        y.sum()?.backward()?;
        assert_eq!(number(&w.grad()), 49.0);
        assert_eq!(number(grad(&way(&v, &w), &v)?.value()), 9.0);
        assert_eq!(number(&way(&v, &w).gradients()?[&v]), 9.0);
        hook.remove();
        assert_eq!(number(grad(&way(&v, &w), &v)?.value()), 3.0);
    }
    Ok(())
}

/// The graph that a closure of `lift` recorded still works in libtorch.
#[test]
fn a_hook_that_was_removed_does_not_count() -> Result<()> {
    for way in WAYS {
        let (_vs, w) = store();
        let v = Var::leaf(&w);
        let (one, two) = (register_hook(&w, |_| Ok(None))?, register_hook(&w, |_| Ok(None))?);
        let second = || {
            let y = way(&v, &w);
            GradOptions::new().create_graph(true).grad(&(&y * &y), &v)
        };
        one.remove();
        assert!(second().is_err(), "one hook is left");
        two.remove();
        let dw = second()?.expect("w was used");
        assert_eq!((number(dw.value()), number(grad(&dw, &v)?.value())), (36.0, 18.0));
    }
    Ok(())
}

#[test]
fn a_parameter_that_reads_its_memory_otherwise_is_other_data() {
    for (kind, other) in [
        (Kind::Double, (|t: &Tensor| t.internal_neg_view()) as fn(&Tensor) -> Tensor),
        (Kind::ComplexDouble, |t: &Tensor| t.conj()),
    ] {
        let mut w = vector(&[1.0, 2.0]).to_kind(kind).set_requires_grad(true);
        let v = Var::leaf(&w);
        let data = other(&w.detach());
        w.set_data(&data);
        let message = "make the Var anew with Var::leaf";
        assert_error!(v.exp(), Error::Argument { op: "Exp", .. }, message);
    }
}

#[test]
fn a_frozen_parameter_that_becomes_part_of_a_graph_is_refused() -> Result<()> {
    let (_vs, mut w) = store();
    let y = &Var::leaf(&w) * 3.0;
    let z = leaf(&[2.0]).to_kind(Kind::Float).detach().set_requires_grad(true);
    let _ = w.requires_grad_(false);
    let _ = w.g_mul_(&z);
    assert_error!(y.backward(), Error::Argument { .. }, "make the Var anew with Var::leaf");
    assert!(!z.grad().defined());
    Ok(())
}

#[test]
fn a_detached_var_has_the_data_of_its_parameter() -> Result<()> {
    let (mut vs, mut w) = store();
    let v = Var::leaf(&w);
    vs.double();
    assert_eq!(v.detach().value().kind(), Kind::Double);
    w.set_data(&vector(&[5.0]));
    assert_eq!(numbers(v.detach().value()), [5.0]);
    Ok(())
}

#[test]
fn a_lifted_graph_still_works_in_libtorch() -> Result<()> {
    let w = leaf(&[2.0]);
    let mut inside = None;
    let y = lift(&Var::constant(vector(&[5.0])), |x| {
        let y = (&w * &w * &x[0]).sum(Kind::Double);
        inside = Some(y.shallow_clone());
        Ok(y)
    })?;
    y.backward()?;
    assert_eq!(number(&w.grad()), 20.0);
    inside.expect("it ran").f_backward()?;
    assert_eq!(number(&w.grad()), 40.0);
    Ok(())
}

/// Second derivatives through parameters that closures capture, in several nodes.
#[test]
fn second_derivatives_through_captured_parameters() -> Result<()> {
    let w = leaf(&[2.0]);
    let v = Var::leaf(&w);
    let cube = |x: &Var| lift(x, |x| Ok(&w * &x[0] * &w * &w)).unwrap();
    let one = Var::constant(vector(&[1.0]));
    let y = &cube(&one) + &lift(&v, |x| Ok(x[0].pow_tensor_scalar(2)))?; // w^3 + w^2
    let dw = GradOptions::new().create_graph(true).grad(&y, &v)?.expect("used");
    assert_eq!(number(dw.value()), 16.0); // 3 w^2 + 2 w
    let ddw = GradOptions::new().create_graph(true).grad(&dw, &v)?.expect("used");
    assert_eq!(number(ddw.value()), 14.0); // 6 w + 2
    assert_eq!(number(grad(&ddw, &v)?.value()), 6.0);
    Ok(())
}

#[test]
fn a_module_trains_as_in_libtorch() -> Result<()> {
    let run = |own: bool| -> Result<Vec<f64>> {
        tch::manual_seed(1);
        let vs = nn::VarStore::new(Device::Cpu);
        let net = nn::linear(vs.root(), 2, 1, Default::default());
        let mut adam = nn::Adam::default().build(&vs, 0.1)?;
        let x = Tensor::from_slice(&[1.0f32, 2.0, -1.0, 0.5]).reshape([2, 2]);
        for _ in 0..20 {
            let loss = |x: &Tensor| net.forward(x).square().sum(Kind::Float);
            adam.zero_grad();
            match own {
                true => lift(&Var::constant(&x), |x| Ok(loss(&x[0])))?.backward()?,
                false => loss(&x).f_backward()?,
            }
            adam.step();
        }
        Ok(numbers(&net.ws.to_kind(Kind::Double)))
    };
    assert_eq!(run(true)?, run(false)?);
    Ok(())
}

/// A closure that uses what was computed outside, from the same parameter.
#[test]
fn a_value_from_outside_the_closure_keeps_its_graph() -> Result<()> {
    let w = leaf(&[2.0]);
    let outside = &w * 5.0;
    let v = Var::leaf(&w);
    let hook = register_hook(&outside, |dy| Ok(Some(dy * 1.0)))?;
    let y = lift(&v, |x| Ok(&x[0] * &outside + &w * 3.0))?; // 5 w^2 + 3 w
    assert_eq!(number(grad(&y, &v)?.value()), 23.0);
    // Its own graph is as it was.
    let y = lift(&v, |x| Ok(&x[0] * &outside))?;
    y.backward()?;
    assert_eq!(number(&w.grad()), 20.0);
    outside.f_backward()?;
    assert_eq!(number(&w.grad()), 25.0);
    hook.remove();
    let hook = register_hook(&w, |dw| Ok(Some(dw * dw)))?;
    let failed = lift(&v, |x| Ok(&x[0] * (&w * 1.0) + &outside))?.backward();
    assert_error!(failed, Error::Backward { op: "lift", .. }, "computed outside");
    hook.remove();
    Ok(())
}

/// Other threads run the graph that a closure uses.
#[test]
fn threads_lift_over_one_graph_of_libtorchs() {
    let w = leaf(&[2.0]);
    let outside = (0..50).fold(w.shallow_clone(), |y, _| y * 1.0);
    std::thread::scope(|scope| {
        for i in 0..4 {
            let outside = outside.shallow_clone();
            scope.spawn(move || {
                for _ in 0..300 {
                    let x = Var::leaf(vector(&[3.0]));
                    let y = lift(&x, |x| Ok(&x[0] * &outside)).unwrap();
                    assert_eq!(
                        number(
                            tch_function::GradOptions::new()
                                .retain_graph(true)
                                .grad(&y, &x)
                                .unwrap()
                                .unwrap()
                                .value()
                        ),
                        2.0
                    );
                    if i % 2 == 0 {
                        y.backward().unwrap_or(());
                    }
                }
            });
        }
    });
}
