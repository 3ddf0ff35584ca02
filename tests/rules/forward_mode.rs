//! Forward mode, which libtorch's engine has and that of Vars has not. A process has
//! one level of it, so these tests wait for each other.

use crate::host::{Form, Host, OnTensors, Registered, Watched};
use anyhow::Result;
use std::sync::{Mutex, PoisonError};
use tch::{Kind, Tensor};
use tch_function::formula::Derived;
use tch_function::{Ctx, DoubleBackward, DualLevel, Error, Function, GradOptions, formula, kernel};
use test_support::{numbers, vector};

static LEVEL: Mutex<()> = Mutex::new(());

formula! {
    struct Cube;
    |_, [x]| [x * x * x]
}

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

/// y = x^3, and the place from which jvp takes the slope.
#[derive(Clone, Copy)]
struct Third {
    from: From,
}
#[derive(Clone, Copy, Debug, PartialEq)]
enum From {
    Input,
    SavedInput,
    Output,
    Intermediate,
    Constant,
    Kernel,
    Once,
    /// The tangent has other strides than y.
    Spread,
    SpreadKernel,
    Detached,
}

impl Function for Third {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let (y, slope) = (x * x * x, x * x * 3.0);
        ctx.save_for_backward([x, &y, &slope])?;
        if self.from == From::Constant {
            ctx.mark_constant(&slope);
        }
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x, _, _] = ctx.saved_tensors()?;
        Ok(Some(dy * x * x * 3.0))
    }
    fn jvp(&self, ctx: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        let [saved, y, slope] = ctx.saved_tensors()?;
        Ok(match self.from {
            From::Input | From::Once => dx * x * x * 3.0,
            From::SavedInput => dx * saved * saved * 3.0,
            From::Output => dx * y / x * 3.0,
            From::Intermediate | From::Constant => dx * slope,
            From::Kernel => by_kernel(x, dx)?,
            From::Spread => spread(&(dx * x * x * 3.0)),
            From::SpreadKernel => spread(&by_kernel(x, dx)?),
            From::Detached => dx.detach() * x.detach().square() * 3.0,
        })
    }
    fn double_backward(&self) -> DoubleBackward {
        match self.from {
            From::Once => DoubleBackward::Once,
            _ => DoubleBackward::ThroughSaved,
        }
    }
}

fn by_kernel(x: &Tensor, dx: &Tensor) -> Result<Tensor> {
    let [x, dx] = [x, dx].map(Tensor::resolve_neg);
    Ok(kernel::map([&x, &dx], |[x, dx]: [f64; 2]| dx * 3.0 * x * x)?)
}

/// The numbers with a gap after each.
fn spread(x: &Tensor) -> Tensor {
    Tensor::stack(&[x, x], 1).select(1, 0)
}

/// The gradients in x and in its tangent of the output's tangent, at x = 3, 5 in direction 1, 2.
fn mixed<H: Host<V = Tensor>, F>(f: F) -> [tch_function::Result<Vec<f64>>; 2]
where
    F: Function<Inputs: Form, Outputs: Form> + Copy,
{
    let _lock = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let leaf = |numbers: &[f64]| vector(numbers).set_requires_grad(true);
    let (x, dx) = (leaf(&[3.0, 5.0]), leaf(&[1.0, 2.0]));
    let level = DualLevel::enter().unwrap();
    let y = H::apply(f, &[&level.dual(&x, &dx).unwrap()]).unwrap().remove(0);
    let dy = level.tangent(&y).expect("a tangent").sum(Kind::Double);
    let keep = GradOptions::new().retain_graph(true);
    [&x, &dx].map(|t| keep.grad(&dy, t).map(|t| numbers(&t.expect("used"))))
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
on_tensors! {
    an_integer_input_has_no_tangent,
    a_missing_jvp_is_an_error,
    a_tangent_must_fit,
    a_tangent_is_differentiated_or_refuses,
}

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

    /// Reverse mode over forward mode: a right number or an error, never one that lacks a part.
    /// A registered op under a tracer knows the history of its outputs.
    pub fn a_tangent_is_differentiated_or_refuses<H: Host<V = Tensor>>() {
        let refused = |found: tch_function::Result<Vec<f64>>| {
            crate::assert_rule!(found, Error::UnrecordedTangent { op: "Third" }, "reverse mode");
        };
        for from in [From::Input, From::Once, From::SavedInput, From::Output, From::Intermediate] {
            let [along_x, along_dx] = mixed::<H, _>(Third { from });
            match along_x {
                Ok(along_x) if from != From::Intermediate => assert_eq!(along_x, [18.0, 60.0]),
                found if matches!(from, From::Output | From::Intermediate) => match found {
                    Err(Error::SavedIntermediate { op: "Third", position: 2 }) => {}
                    found => refused(found),
                },
                found => panic!("{from:?}: {found:?}"),
            }
            assert_eq!(along_dx.unwrap(), [27.0, 75.0], "{from:?}");
        }
        let [along_x, along_dx] = mixed::<H, _>(Derived(Cube));
        assert_eq!(along_x.unwrap(), [18.0, 60.0]);
        assert_eq!(along_dx.unwrap(), [27.0, 75.0]);
        let [_, along_dx] = mixed::<H, _>(Third { from: From::Constant });
        assert_eq!(along_dx.unwrap(), [27.0, 75.0]);
        let [along_x, along_dx] = mixed::<H, _>(Third { from: From::Spread });
        assert_eq!(along_x.unwrap(), [18.0, 60.0]);
        assert_eq!(along_dx.unwrap(), [27.0, 75.0]);
        for from in [From::Kernel, From::SpreadKernel, From::Detached] {
            mixed::<H, _>(Third { from }).into_iter().for_each(refused);
        }
    }
}
