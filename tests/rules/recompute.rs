//! `DoubleBackward::Recompute`: the second run of `forward` is as the first one was.

use crate::host::Host;
use crate::rules;
use anyhow::Result;
use tch::{Device, Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Function, GradOptions, autocast};
use test_support::{numbers, vector};

rules! {
    forward_runs_again_under_its_own_autocast,
    a_state_that_panics_when_it_is_dropped_is_lost_quietly,
}

/// Returns the dtype in which libtorch multiplies matrices of f32 here, as a number.
fn dtype_of_products() -> Result<Tensor> {
    let a = Tensor::f_ones([1, 1], (Kind::Float, Device::Cpu))?;
    let dtype = a.f_matmul(&a)?.kind();
    Ok(vector(&[f64::from(dtype as i32)]))
}

/// y = x^2. Its `backward` says in which dtype `forward` multiplied matrices.
#[derive(Clone, Copy)]
struct Told;

impl Function for Told {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let dtype = dtype_of_products()?;
        ctx.save_for_backward([&dtype])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [dtype] = ctx.saved_tensors()?;
        Ok(Some(dy * dtype))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// Runs `f` under autocast to `kind`, or without autocast.
fn under<T>(kind: Option<Kind>, f: impl FnOnce() -> T) -> T {
    match kind {
        Some(kind) => autocast(Device::Cpu, kind, f).unwrap(),
        None => f(),
    }
}

fn forward_runs_again_under_its_own_autocast<H: Host>() {
    let ways = [None, Some(Kind::BFloat16), Some(Kind::Half)];
    for (first, second) in ways.iter().flat_map(|&a| ways.map(|b| (a, b))) {
        let x = H::leaf(&vector(&[3.0]));
        let y = under(first, || H::apply(Told, &[&x])).unwrap().remove(0);
        let expected = first.unwrap_or(Kind::Float) as i32;
        let options = GradOptions::new().create_graph(true).retain_graph(true);
        let told = under(second, || {
            let dx = options.grad(&y, &x).unwrap().unwrap();
            // What autocast is here is as it was.
            let here = numbers(&dtype_of_products().unwrap());
            assert_eq!(here, [f64::from(second.unwrap_or(Kind::Float) as i32)]);
            dx
        });
        let told = numbers(&tch_function::Value::tensor(&told).detach());
        assert_eq!(told, [f64::from(expected)], "{first:?}, then {second:?}");
    }
}

/// Panics when it is dropped.
struct Bomb;
impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a state that panics when it is dropped");
    }
}

/// y = x^2, with such a state.
#[derive(Clone, Copy)]
struct Armed(DoubleBackward);

impl Function for Armed {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save(Bomb)?;
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * x * 2.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        self.0
    }
}

fn a_state_that_panics_when_it_is_dropped_is_lost_quietly<H: Host>() {
    for x in [H::leaf(&vector(&[3.0])), H::constant(&vector(&[3.0]))] {
        for create_graph in [false, true] {
            let y = H::apply(Armed(DoubleBackward::Recompute), &[&x]).unwrap().remove(0);
            if H::requires_grad(&x) {
                let options = GradOptions::new().create_graph(create_graph);
                let dx = options.grad(&y, &x).unwrap().unwrap();
                assert_eq!(numbers(&tch_function::Value::tensor(&dx).detach()), [6.0]);
            }
        }
    }
}
