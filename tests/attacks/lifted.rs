//! Parameters inside graphs that `lift` makes nodes of.

use crate::parameters::store;
use anyhow::Result;
use tch::{Device, Kind, Tensor};
use tch_function::{Var, autocast, grad, lift};
use test_support::{number, numbers, vector};

/// The tap of a parameter may live on in a graph that is kept, after the last Var of it.
#[test]
fn a_graph_that_is_kept_still_leads_to_its_parameter() -> Result<()> {
    let (_vs, w) = store();
    let one = Var::constant(vector(&[5.0]).to_kind(Kind::Float));
    let mut kept = None;
    lift(&one, |x| {
        let t = &w * &x[0];
        kept = Some(t.shallow_clone());
        Ok(t)
    })?;
    let t = kept.expect("the closure ran");
    lift(&one, |_| Ok(&t * 2.0))?.backward()?;
    assert_eq!(number(&w.grad()), 10.0);
    let v = Var::leaf(&w);
    let y = lift(&v, |x| Ok(&t * &x[0]))?;
    assert_eq!(number(grad(&y, &v)?.value()), 20.0);
    Ok(())
}

/// Autocast keeps weights that it has converted, and their graphs.
#[test]
fn a_loop_under_autocast_trains() -> Result<()> {
    let ones = Tensor::ones([2, 2], (Kind::Float, Device::Cpu));
    let (w, x) = (ones.copy().set_requires_grad(true), Var::constant(&ones));
    let (own, by_tch) = (w.shallow_clone(), ones.copy().set_requires_grad(true));
    autocast(Device::Cpu, Kind::BFloat16, || -> Result<()> {
        for step in 1..4 {
            lift(&x, |x| Ok(x[0].matmul(&w).to_kind(Kind::Float).sum(Kind::Float)))?.backward()?;
            ones.matmul(&by_tch).to_kind(Kind::Float).sum(Kind::Float).backward();
            assert_eq!(numbers(&own.grad().to_kind(Kind::Double)), [2.0 * f64::from(step); 4]);
            assert_eq!(own.grad(), by_tch.grad());
        }
        Ok(())
    })?
}

/// An op in place on a view is a node inside a node.
#[test]
fn a_parameter_is_written_into_a_view() -> Result<()> {
    type Write = fn(&Tensor, &Tensor);
    let writes: [Write; 3] = [
        |z, w| z.narrow(0, 0, 1).copy_(w),
        |z, w| drop(z.narrow(0, 0, 1).narrow(0, 0, 1).view([1]).g_mul_(w)),
        |z, w| {
            let mut z = z.narrow(0, 0, 1);
            let _ = z.g_add_(w);
            let _ = z.narrow(0, 0, 1).g_mul_(w);
        },
    ];
    for write in writes {
        let (_vs, w) = store();
        let x = Var::constant(vector(&[3.0, 4.0]).to_kind(Kind::Float));
        let run = |x: &Tensor| {
            let z = x * 1.0;
            write(&z, &w);
            z.sum(Kind::Float)
        };
        lift(&x, |x| Ok(run(&x[0])))?.backward()?;
        let found = number(&w.grad());
        Var::leaf(&w).zero_grad();
        run(x.value()).backward();
        assert_eq!(found, number(&w.grad()));
    }
    Ok(())
}

/// A closure may run a pass of its own, which frees the graph that it returns.
#[test]
fn a_closure_that_frees_its_graph_is_an_error() -> Result<()> {
    let (_vs, w) = store();
    let x = Var::constant(vector(&[3.0, 4.0]).to_kind(Kind::Float));
    let y = lift(&x, |x| {
        let y = &x[0] * &w;
        let _ = y.narrow(0, 0, 1).g_mul_(&w);
        let sum = y.sum(Kind::Float);
        sum.backward();
        Ok(sum)
    })?;
    assert!(y.backward().is_err());
    Ok(())
}
