//! A fault, and small Functions made of closures to put faults into.

use anyhow::Result;
use tch::Tensor;
use tch_function::check::{CheckReport, Property};
use tch_function::{Ctx, Function};

/// What is checked of one: with the fault, or without.
pub type Checked = fn(wrong: bool) -> tch_function::Result<CheckReport>;

pub struct Fault {
    pub meant: Property,
}

/// `name: Property, |wrong| check;` makes a test, and a row of `FAULTS`.
macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident: $property:ident, $check:expr;)+) => {
        pub const FAULTS: &[crate::fault::Fault] = &[$(crate::fault::Fault {
            meant: tch_function::check::Property::$property,
        }),+];
        $(
            $(#[$doc])*
            #[test]
            fn $name() {
                let meant = tch_function::check::Property::$property;
                crate::fault::is_caught(stringify!($name), meant, $check);
            }
        )+
    };
}

#[track_caller]
pub fn is_caught(name: &str, meant: Property, check: Checked) {
    let report = check(true).expect("the check runs");
    println!("{name}: {report}\n");
    let by: Vec<String> = report.failures().map(|f| f.property.to_string()).collect();
    println!("{name}: meant for {meant}, caught by {}\n", by.join(" "));
    assert!(report.failure(meant).is_some(), "{name} is not caught by {meant}:\n{report}");
    let right = check(false).expect("the check runs");
    assert!(right.is_ok(), "{name}, without the fault:\n{right}");
}

/// What stands in the faulty Function, and what should.
pub fn pick<T>(wrong: bool, bad: T, good: T) -> T {
    if wrong { bad } else { good }
}

pub fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7]).reshape([2, 3])
}

/// Square, so that a transposed matrix has the same shape.
pub fn square_matrix() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7, 1.5, -0.25, 0.75]).reshape([3, 3])
}

pub fn other_matrix() -> Tensor {
    Tensor::from_slice(&[1.5, 0.25, -0.5, 0.75, 2.0, 1.25, -1.0, 0.3, 0.9]).reshape([3, 3])
}

type Forward = dyn Fn(&mut Ctx, &Tensor) -> Result<Tensor> + Send + Sync;
type Backward = dyn Fn(&Ctx, &Tensor) -> Result<Option<Tensor>> + Send + Sync;
type Forward2 = dyn Fn(&Tensor, &Tensor) -> Tensor + Send + Sync;
type Backward2 = dyn Fn(&Ctx, &Tensor, &Tensor, &Tensor) -> Pair + Send + Sync;
type BackwardOfFork = dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor + Send + Sync;
type Pair = (Option<Tensor>, Option<Tensor>);

/// One input, one output.
pub struct One {
    forward: Box<Forward>,
    backward: Box<Backward>,
}

impl One {
    pub fn new(
        forward: impl Fn(&mut Ctx, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
        backward: impl Fn(&Ctx, &Tensor) -> Result<Option<Tensor>> + Send + Sync + 'static,
    ) -> One {
        One { forward: Box::new(forward), backward: Box::new(backward) }
    }

    /// `y` from `x`, and `dx` from `dy` and `x`.
    pub fn of_input(
        forward: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
        backward: impl Fn(&Tensor, &Tensor) -> Tensor + Send + Sync + 'static,
    ) -> One {
        One::new(
            move |ctx, x| {
                ctx.save_for_backward([x])?;
                Ok(forward(x))
            },
            move |ctx, dy| {
                let [x] = ctx.saved_tensors()?;
                Ok(Some(backward(dy, x)))
            },
        )
    }
}

/// `y = x^2`, and `dx` from `dy` and `x`.
pub fn square(backward: impl Fn(&Tensor, &Tensor) -> Tensor + Send + Sync + 'static) -> One {
    One::of_input(|x| x * x, backward)
}

impl Function for One {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        (self.forward)(ctx, x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(ctx, dy)
    }
}

/// Two inputs, saved, and one output.
pub struct Two {
    forward: Box<Forward2>,
    backward: Box<Backward2>,
}

impl Two {
    /// `y` from `a` and `b`; `da` and `db` from `dy`, `a` and `b`.
    pub fn of_inputs(
        forward: impl Fn(&Tensor, &Tensor) -> Tensor + Send + Sync + 'static,
        backward: impl Fn(&Tensor, &Tensor, &Tensor) -> (Tensor, Tensor) + Send + Sync + 'static,
    ) -> Two {
        Two::new(forward, move |_, dy, a, b| {
            let (da, db) = backward(dy, a, b);
            (Some(da), Some(db))
        })
    }

    pub fn new(
        forward: impl Fn(&Tensor, &Tensor) -> Tensor + Send + Sync + 'static,
        backward: impl Fn(&Ctx, &Tensor, &Tensor, &Tensor) -> Pair + Send + Sync + 'static,
    ) -> Two {
        Two { forward: Box::new(forward), backward: Box::new(backward) }
    }
}

impl Function for Two {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok((self.forward)(a, b))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Pair> {
        let [a, b] = ctx.saved_tensors()?;
        Ok((self.backward)(ctx, dy, a, b))
    }
}

/// `y = sin x` and `z = x^2`, with `dx` from `dy`, `dz` and `x`.
pub struct Fork {
    backward: Box<BackwardOfFork>,
    materialize: bool,
}

impl Fork {
    pub fn new(
        backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Tensor + Send + Sync + 'static,
    ) -> Fork {
        Fork { backward: Box::new(backward), materialize: true }
    }

    pub fn unmaterialized(self) -> Fork {
        Fork { materialize: false, ..self }
    }
}

impl Function for Fork {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.save_for_backward([x])?;
        ctx.set_materialize_grads(self.materialize);
        Ok((x.sin(), x * x))
    }
    fn backward(&self, ctx: &Ctx, (dy, dz): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some((self.backward)(dy, dz, x)))
    }
}
