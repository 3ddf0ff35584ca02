//! Where a pass starts and what it must reach.

use super::Operand;
use crate::error::{Error, Result};
use crate::ffi::{self, Meta};
use crate::function::PassOptions;
use tch::Tensor;

/// Returns the seeds of a pass, one per output.
///
/// # Errors
/// [`Error::SeedCount`], [`Error::Seed`], [`Error::SeedMissing`], [`Error::Undefined`],
/// and those of [`Operand::check_output`].
pub(crate) fn seeds<V: Operand>(
    outputs: &[&V],
    options: &PassOptions<'_, V>,
) -> Result<Vec<Tensor>> {
    let given = &options.seeds;
    if !given.is_empty() && given.len() != outputs.len() {
        return Err(Error::SeedCount { expected: outputs.len(), found: given.len() });
    }
    let one = |(i, y): (usize, &&V)| {
        seed(y.check_output(i)?, i, y.tensor(), given.get(i).map(|given| given.tensor()))
    };
    outputs.iter().enumerate().map(one).collect()
}

/// Returns the gradients that a pass found, one per input.
///
/// # Errors
/// [`Error::Unused`] for one that is missing, unless that is allowed.
pub(crate) fn all_used<V>(
    found: Vec<Option<V>>,
    options: &PassOptions<'_, V>,
) -> Result<Vec<Option<V>>> {
    match found.iter().position(Option::is_none) {
        Some(input) if !options.allow_unused => Err(Error::Unused { input }),
        _ => Ok(found),
    }
}

/// Returns the seed of output `output` of `value`: what the user gave, if it fits, or
/// 1 for an output that is one real number.
fn seed(op: &'static str, output: usize, value: &Tensor, given: Option<&Tensor>) -> Result<Tensor> {
    let expected = ffi::describe(op, value)?;
    let Some(given) = given else {
        let single = expected.sizes().iter().product::<i64>() == 1;
        return match single && !expected.is_complex() {
            true => Ok(value.ones_like()),
            false => Err(Error::SeedMissing { op, output, shape: expected.sizes().to_vec() }),
        };
    };
    let expected = Meta::of(&expected);
    let found = ffi::describe(op, given)?;
    if expected.fits(&found) {
        return if found.zero { ffi::zeros_like(op, given) } else { Ok(given.shallow_clone()) };
    }
    let found = Meta::of(&found);
    if !found.is_defined() {
        return Err(Error::Undefined { op, what: format!("the seed of output {output}") });
    }
    Err(Error::Seed { op, output, expected: expected.to_string(), found: found.to_string() })
}
