//! The check kit passes what is right, and catches each fault by the property that is
//! meant for it.

use anyhow::Result;
use std::sync::Mutex;
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::check::{Check, CheckReport, Outcome, Property};
use tch_function::{Ctx, Function, ops};

pub(super) fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7]).reshape([2, 3])
}

pub(super) fn w() -> Tensor {
    Tensor::from_slice(&[1.5, -0.5, 0.25])
}

tch_function::check_tests! {
    log1p_exp => Check::new(ops::Log1pExp, [x()]).reference(|x| x.softplus());
    mul => Check::new(ops::Mul, [(x(), w())]).reference(|(a, b)| a * b);
    matmul => Check::new(ops::Matmul, [(x(), x().tr()), (x(), w())])
        .reference(|(a, b)| a.matmul(b));
}

#[test]
fn every_property_is_a_test() -> Result<()> {
    let list = std::process::Command::new(std::env::current_exe()?).arg("--list").output()?;
    let list = String::from_utf8(list.stdout)?;
    let stamped = list.lines().filter(|line| line.starts_with("properties::log1p_exp::")).count();
    assert_eq!(stamped, Property::ALL.len(), "{list}");
    Ok(())
}

#[test]
fn a_report_reads_well() -> Result<()> {
    let report = Check::new(ops::Log1pExp, [x()]).reference(|x| x.softplus()).run()?;
    println!("{report}");
    report.assert();
    Ok(())
}

/// `y = w x` with a backward that does what `wrong` says to `dy`, `x` and `w`.
pub(super) struct Faulty {
    pub(super) name: &'static str,
    pub(super) wrong: fn(&Tensor, &Tensor) -> Tensor,
}

impl Function for Faulty {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some((self.wrong)(dy, x)))
    }
    fn name(&self) -> &'static str {
        self.name
    }
}

pub(super) fn report(
    name: &'static str,
    wrong: fn(&Tensor, &Tensor) -> Tensor,
) -> Result<CheckReport> {
    Ok(Check::new(Faulty { name, wrong }, [x()]).run()?)
}

#[track_caller]
pub(super) fn caught(report: &CheckReport, by: Property, says: &str) {
    println!("{report}\n");
    let failure = report.failure(by).unwrap_or_else(|| panic!("not caught by {by}:\n{report}"));
    let text = failure.to_string();
    assert!(text.contains(says), "{says:?} is not in:\n{text}");
}

#[test]
fn the_right_one_passes() -> Result<()> {
    report("Square", |dy, x| dy * x * 2.0)?.assert();
    Ok(())
}

#[test]
fn a_factor() -> Result<()> {
    let report = report("Factor", |dy, x| dy * x * 2.0 * 12345.0)?;
    caught(&report, Property::Gradcheck, "likely cause: a factor of 12345 too much");
    Ok(())
}

#[test]
fn a_wrong_sign() -> Result<()> {
    caught(&report("Sign", |dy, x| dy * x * -2.0)?, Property::Gradcheck, "a wrong sign");
    Ok(())
}

#[test]
fn a_loop_that_ignores_the_strides_of_the_seed() -> Result<()> {
    let report = report("StrideBlind", |dy, x| {
        // What a loop over data_ptr sees of a tensor that is not contiguous.
        let blind = dy.as_strided(dy.size(), x.contiguous().stride(), None);
        blind * x * 2.0
    });
    caught(&report?, Property::Layouts, "seeds give other numbers than contiguous ones");
    Ok(())
}

#[test]
fn a_seed_changed_in_place() -> Result<()> {
    let report = report("InPlace", |dy, x| dy.shallow_clone().g_mul_(&(x * 2.0)))?;
    caught(&report, Property::Unchanged, "backward changed the gradient of output 0 in place");
    Ok(())
}

#[test]
fn the_sign_of_the_seed() -> Result<()> {
    let report = report("SignOfSeed", |dy, x| dy.sign() * x * 2.0)?;
    caught(&report, Property::Linearity, "only the sign of the seed counts");
    Ok(())
}

#[test]
fn not_multiplied_by_the_seed() -> Result<()> {
    let report = report("NoSeed", |_, x| x * 2.0)?;
    caught(&report, Property::Linearity, "the gradient is not multiplied by the seed");
    caught(&report, Property::ZeroSeed, "a seed of zeros");
    Ok(())
}

#[test]
fn cut_at_whole_numbers() -> Result<()> {
    // What `as i64` does to a number that it holds exactly, and to no other.
    let report = report("Cut", |dy, x| {
        let slope = x * 2.0 + 0.25;
        slope.trunc().where_self(&x.eq_tensor(&x.round()), &(x * 2.0)) * dy
    })?;
    caught(&report, Property::Gradcheck, "expected -2.0000000000e0, found -1.0000000000e0");
    Ok(())
}

#[test]
fn a_small_relative_error() -> Result<()> {
    let report = report("Imprecise", |dy, x| dy * x * 2.0 * 1.0005)?;
    caught(&report, Property::Gradcheck, "ratio 1.0005");
    Ok(())
}

#[test]
fn f32_inside() -> Result<()> {
    let report = report("F32", |dy, x| (dy * x * 2.0).to_kind(Kind::Float).to_kind(dy.kind()))?;
    caught(&report, Property::Dtypes, "computed in less precision");
    Ok(())
}

#[test]
fn a_tensor_that_is_kept_outside_the_context() -> Result<()> {
    static KEPT: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
    struct Keeps;
    impl Function for Keeps {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            *KEPT.lock().unwrap() = vec![x.shallow_clone()];
            Ok(x * x)
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * &KEPT.lock().unwrap()[0] * 2.0))
        }
    }
    let report = Check::new(Keeps, [x()]).run()?;
    caught(&report, Property::Determinism, "something is kept outside the context");
    caught(&report, Property::Leaks, "is still held by somebody");
    Ok(())
}

#[test]
fn noise() -> Result<()> {
    let report = report("Noise", |dy, x| dy * x * 2.0 + Tensor::randn([1], DOUBLE_CPU) * 1e-12)?;
    caught(&report, Property::Determinism, "two equal calls");
    Ok(())
}

#[test]
fn what_is_skipped_is_told() -> Result<()> {
    let faulty = Faulty { name: "Doubled", wrong: |dy, x| dy * x * 4.0 };
    let report = Check::new(faulty, [x()]).skip(Property::Gradcheck, "by design").run()?;
    assert!(matches!(report.outcome(Property::Gradcheck), Some(Outcome::Skipped(_))));
    report.assert();
    Ok(())
}
