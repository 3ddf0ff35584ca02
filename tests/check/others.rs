//! The check kit at kinks, on large inputs, on several inputs and outputs, and its
//! seed.

use super::properties::{Faulty, caught, report, w, x};
use anyhow::Result;
use std::sync::Mutex;
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::check::{Check, CheckReport, Outcome, Property};
use tch_function::{Ctx, Function, ops};

/// `y = max(x, 0)`, with the gradient of the identity.
struct StraightThrough;

impl Function for StraightThrough {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.relu())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}

#[test]
fn a_straight_through_gradient_is_checked_as_what_it_claims() -> Result<()> {
    let report = Check::new(StraightThrough, [x()]).run()?;
    caught(&report, Property::Gradcheck, "derivatives of forward differ");
    Check::new(StraightThrough, [x()])
        .reference(|x| x.relu())
        .claims_gradient_of(|x| x.shallow_clone())
        .assert();
    let report = Check::new(StraightThrough, [x()]).claims_gradient_of(|x| -x).run()?;
    caught(&report, Property::Gradcheck, "likely cause: a wrong sign");
    Ok(())
}

#[test]
fn kinks_are_counted_and_not_failed() -> Result<()> {
    let report = Check::new(ops::Relu, [Tensor::from_slice(&[0.0, 1.0, -1.0])]).run()?;
    report.assert();
    let Some(Outcome::Passed { kinks, .. }) = report.outcome(Property::Gradcheck) else {
        panic!("{report}")
    };
    assert!(*kinks >= 1, "{report}");
    Ok(())
}

#[test]
fn large_inputs_are_checked_along_directions() -> Result<()> {
    let large = Tensor::linspace(-3.0, 3.0, 3000, DOUBLE_CPU).reshape([30, 100]);
    let started = std::time::Instant::now();
    Check::new(ops::Log1pExp, [large.copy()]).reference(|x| x.softplus()).assert();
    println!("{:?}", started.elapsed());
    // One element of 3000 that is wrong.
    let faulty = Faulty {
        name: "One",
        wrong: |dy, x| {
            let dx = dy * x * 2.0;
            let _ = dx.view(-1).get(0).g_mul_scalar_(1.01);
            dx
        },
    };
    let report = Check::new(faulty, [large]).run()?;
    caught(&report, Property::Gradcheck, "differ");
    Ok(())
}

/// `y = a b` and `z = a + b`, with the faults that `wrong` names.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    Swapped,
    Value,
    Mask,
    Undefined,
    Broadcast,
    Tangent,
    Alias,
    Shape,
}

struct Two(Wrong);

static BUFFER: Mutex<Option<Tensor>> = Mutex::new(None);

impl Function for Two {
    type Inputs = (Tensor, Tensor);
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<(Tensor, Tensor)> {
        ctx.save_for_backward([a, b])?;
        ctx.set_materialize_grads(self.0 != Wrong::Undefined);
        let sum = match self.0 {
            Wrong::Value => a + b + 1e-6,
            // What a loop makes of a shape that it does not expect.
            Wrong::Shape if a.dim() == 0 => (a + b).unsqueeze(0),
            Wrong::Shape if a.numel() == 0 => panic!("index out of bounds"),
            _ => a + b,
        };
        let mut buffer = BUFFER.lock().unwrap();
        if self.0 == Wrong::Alias && buffer.as_ref().is_some_and(|t| t.size() == sum.size()) {
            let mut kept = buffer.as_ref().expect("it is there").shallow_clone();
            kept.copy_(&sum);
            return Ok((a * b, kept));
        }
        *buffer = Some(sum.shallow_clone());
        Ok((a * b, sum))
    }
    fn backward(
        &self,
        ctx: &Ctx,
        (dy, dz): (&Tensor, &Tensor),
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        let (dy, dz) = if self.0 == Wrong::Swapped { (dz, dy) } else { (dy, dz) };
        if self.0 == Wrong::Undefined && !dz.defined() {
            return Ok((Some(dy * b), None));
        }
        let da = (dy * b + dz).sum_to_size(a.size());
        let db = match self.0 {
            Wrong::Mask if !ctx.needs_input_grad(0) => return Ok((None, None)),
            Wrong::Broadcast => (dy * a + dz).mean_dim(0, false, None).expand_as(b) * 1.0,
            _ => (dy * a + dz).sum_to_size(b.size()),
        };
        Ok((Some(da), Some(db)))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (a, b): (&Tensor, &Tensor),
        (da, db): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor)> {
        let factor = if self.0 == Wrong::Tangent { 2.0 } else { 1.0 };
        Ok((da * b + db * a * factor, da + db))
    }
}

fn two(wrong: Wrong) -> Result<CheckReport> {
    let check = Check::new(Two(wrong), [(x(), w())]).reference(|(a, b)| (a * b, a + b));
    Ok(check.run()?)
}

#[test]
fn faults_of_two_inputs_and_outputs() -> Result<()> {
    for (wrong, by, says) in [
        (Wrong::Swapped, Property::Gradcheck, "gradients of the outputs are swapped"),
        (Wrong::Value, Property::Value, "forward and the reference differ"),
        (Wrong::Mask, Property::NeedsInputGrad, "only inputs [1]"),
        (Wrong::Undefined, Property::UndefinedSeeds, "only output 0 is differentiated"),
        (Wrong::Broadcast, Property::Gradcheck, "a factor of 2 is missing"),
        (Wrong::Tangent, Property::ForwardMode, "jvp and backward differ"),
        (Wrong::Alias, Property::Aliasing, "lies in the memory of output 1 of the next"),
        (Wrong::Shape, Property::Shapes, "index out of bounds"),
    ] {
        *BUFFER.lock().unwrap() = None;
        caught(&two(wrong)?, by, says);
    }
    // The buffer above is of no consequence where it is not given out.
    let right = Check::new(Two(Wrong::Nothing), [(x(), w())])
        .skip(Property::Leaks, "the test keeps a buffer");
    right.assert();
    Ok(())
}

#[test]
fn a_loop_that_forgets_what_is_left_after_whole_vectors() -> Result<()> {
    let report = report("Tail", |dy, x| {
        let dx = dy * x * 2.0;
        let flat = dx.contiguous().view(-1);
        let (whole, n) = (flat.numel() as i64 / 8 * 8, flat.numel() as i64);
        if n > 8 {
            let _ = flat.narrow(0, whole, n - whole).zero_();
        }
        flat.view_as(x)
    })?;
    caught(&report, Property::Shapes, "made 19");
    Ok(())
}

#[test]
fn the_seed_is_told_and_repeats() -> Result<()> {
    let at = |seed| Check::new(ops::Mul, [(x(), w())]).seed(seed).run();
    assert!(at(7)?.to_string().contains("seed 7"));
    let of = |seed| -> Result<String> {
        let faulty = Faulty { name: "Imprecise", wrong: |dy, x| dy * x * 2.01 };
        let report = Check::new(faulty, [x()]).seed(seed).run()?;
        Ok(report.failure(Property::Gradcheck).expect("it is wrong").to_string())
    };
    assert_eq!(of(7)?, of(7)?);
    Ok(())
}

#[test]
fn what_cannot_be_checked_is_an_error() {
    let none: [Tensor; 0] = [];
    let e = Check::new(ops::Exp, none).run().expect_err("no samples").to_string();
    assert!(e.starts_with("Exp: check: there are no samples"), "{e}");
    let e = Check::new(ops::Exp, [x().to_kind(Kind::ComplexDouble)]).run();
    assert!(e.expect_err("complex").to_string().contains("only real numbers"));
}
