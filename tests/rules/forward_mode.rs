//! Forward mode, which libtorch's engine has and that of Vars has not. A process has
//! one level of it, so these tests wait for each other.

use crate::host::{Form, Host, OnTensors, Registered, Watched};
use anyhow::Result;
use std::sync::{Mutex, PoisonError};
use tch::{Kind, Tensor};
use tch_function::{Ctx, DualLevel, Error, Function};
use test_support::{numbers, vector};

static LEVEL: Mutex<()> = Mutex::new(());

/// y = x * n for integers n, whose tangent must be undefined.
#[derive(Clone, Copy)]
struct Times;

impl Function for Times {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, (x, n): (&Tensor, &Tensor)) -> Result<Tensor> {
        Ok(x * n)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(dy.copy()), None))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (_, n): (&Tensor, &Tensor),
        (dx, dn): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        anyhow::ensure!(!dn.defined(), "an integer input has a tangent: {dn}");
        Ok(dx * n)
    }
}

/// y = x, without a jvp, or with one that is wrong.
#[derive(Clone, Copy)]
struct Same {
    tangent: Option<fn(&Tensor) -> Tensor>,
}

impl Function for Same {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 1.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.copy()))
    }
    fn jvp(&self, _: &Ctx, _: &Tensor, dx: &Tensor) -> Result<Tensor> {
        match self.tangent {
            Some(tangent) => Ok(tangent(dx)),
            None => Err(Error::NoForwardMode { op: "Same" }.into()),
        }
    }
}

/// Applies to x with a tangent of 1, 2; returns the output's tangent.
fn tangent_of<H: Host<V = Tensor>, F>(f: F, others: &[&Tensor]) -> tch_function::Result<Vec<f64>>
where
    F: Function<Inputs: Form, Outputs: Form> + Copy,
{
    let _lock = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let level = DualLevel::enter()?;
    let x = level.dual(&vector(&[3.0, 5.0]), &vector(&[1.0, 2.0]))?;
    let inputs: Vec<&Tensor> = [&x].into_iter().chain(others.iter().copied()).collect();
    let y = H::apply(f, &inputs)?.remove(0);
    Ok(numbers(&level.tangent(&y).expect("a tangent")))
}

/// Every host that has forward mode: Vars have none.
macro_rules! on_tensors {
    ($($rule:ident),+ $(,)?) => {$(
        #[test]
        fn $rule() {
            rules::$rule::<OnTensors>();
            rules::$rule::<Registered>();
            rules::$rule::<Watched>();
        }
    )+};
}
on_tensors! { an_integer_input_has_no_tangent, a_missing_jvp_is_an_error, a_tangent_must_fit }

mod rules {
    use super::*;

    pub fn an_integer_input_has_no_tangent<H: Host<V = Tensor>>() {
        let n = Tensor::from_slice(&[10i64, 100]);
        assert_eq!(tangent_of::<H, _>(Times, &[&n]).unwrap(), [10.0, 200.0]);
    }

    pub fn a_missing_jvp_is_an_error<H: Host<V = Tensor>>() {
        let found = tangent_of::<H, _>(Same { tangent: None }, &[]);
        crate::assert_rule!(found, Error::NoForwardMode { op: "Same" }, "Same has no jvp");
    }

    pub fn a_tangent_must_fit<H: Host<V = Tensor>>() {
        let float = |dx: &Tensor| dx.to_kind(Kind::Float);
        let found = tangent_of::<H, _>(Same { tangent: Some(float) }, &[]);
        crate::assert_rule!(found, Error::Argument { op: "Same", .. }, "dtype Float", "output 0");
        let sum = |dx: &Tensor| dx.sum(Kind::Double);
        let found = tangent_of::<H, _>(Same { tangent: Some(sum) }, &[]);
        crate::assert_rule!(found, Error::Argument { op: "Same", .. }, "shape []", "shape [2]");
    }
}
