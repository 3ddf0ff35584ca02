//! Equality of what the engines make of a program.

use super::engines::{Engine, Outcome};
use super::program::Program;
use anyhow::{Context, Result, ensure};
use tch::Tensor;
use tch_function::Var;
use test_support::compare::assert_close;

impl Program {
    pub fn check(&self) -> Result<()> {
        if self.outputs.is_empty() {
            return Ok(()); // constants only
        }
        self.compare::<Var>().context("the own engine")?;
        self.compare::<Tensor>().context("inside libtorch")
    }

    fn compare<V: Engine>(&self) -> Result<()> {
        self.same(&self.ours::<V>()?, &self.theirs::<V>())
    }

    fn same(&self, ours: &Outcome, theirs: &Outcome) -> Result<()> {
        // What is changed in place holds another value, which is compared too.
        for i in (0..theirs.values.len()).filter(|i| !self.is_changed(*i)) {
            assert_close(&ours.values[i], &theirs.values[i], ROUNDING)
                .with_context(|| format!("value of x{i}"))?;
            let size = size(theirs.first[i].iter());
            same(ours.first[i].as_ref(), theirs.first[i].as_ref(), size)
                .with_context(|| format!("gradient of x{i}"))?;
        }
        for (what, ours, theirs) in [
            ("recorded gradient of leaf", &ours.recorded, &theirs.recorded),
            ("second derivative of leaf or seed", &ours.second, &theirs.second),
        ] {
            let size = size(theirs.iter().flatten());
            for (i, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                same(ours.as_ref(), theirs.as_ref(), size)
                    .with_context(|| format!("{what} {i}"))?;
            }
        }
        Ok(())
    }
}

/// By how much values may differ: ops that are kernels here are within 2 ulp, as libtorch's
/// are, and the order of a sum depends on strides, which kernels choose by themselves.
const ROUNDING: f64 = 1e-13;

/// The order of sums differs, so that terms which cancel leave an error of
/// their own size.
fn size<'a>(grads: impl Iterator<Item = &'a Tensor>) -> f64 {
    let largest = grads.filter(|g| g.numel() > 0).map(|g| f64::try_from(g.abs().max()));
    1.0 + largest.map(|largest| largest.expect("one number")).fold(0.0, f64::max)
}

/// A Function of several outputs sends zeros where libtorch's separate
/// operators send nothing.
fn same(found: Option<&Tensor>, expected: Option<&Tensor>, size: f64) -> Result<()> {
    match (found, expected) {
        (Some(found), Some(expected)) => assert_close(&(found / size), &(expected / size), 1e-11),
        (Some(only), None) | (None, Some(only)) => {
            ensure!(bool::try_from(only.eq(0.0).all())?, "{found:?} for {expected:?}: {only}");
            Ok(())
        }
        (None, None) => Ok(()),
    }
}
