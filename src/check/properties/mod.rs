//! The properties, each a function of one point.

mod dtypes;
mod engines;
mod forward_mode;
mod gradients;
mod layouts;
mod leaks;
mod memory;
mod needs;
mod repeat;
mod seeds;
pub(super) mod shapes;
mod threads;
mod value;

use super::compare::{Allowed, Are, same};
use super::failure::Stop;
use super::points::Point;
use super::runs::{self, Applied, Side};
use super::subject::Flat;
use super::{Kit, Property, Tally};
use crate::Result;
use tch::Kind;

pub(super) type Test = fn(&Kit<'_>, &Point) -> Result<Tally, Stop>;

/// The function that checks a property.
pub(super) fn test(property: Property) -> Test {
    match property {
        Property::Value => value::check,
        Property::Gradcheck => gradients::first,
        Property::Gradgradcheck => gradients::second,
        Property::ForwardMode => forward_mode::check,
        Property::Linearity => seeds::linear,
        Property::ZeroSeed => seeds::zero,
        Property::UndefinedSeeds => seeds::undefined,
        Property::Layouts => layouts::check,
        Property::NeedsInputGrad => needs::check,
        Property::Dtypes => dtypes::check,
        Property::Shapes => shapes::check,
        Property::Determinism => repeat::deterministic,
        Property::Unchanged => memory::unchanged,
        Property::Aliasing => memory::aliasing,
        Property::SecondPass => repeat::second_pass,
        Property::Threads => threads::check,
        Property::Leaks => leaks::check,
        Property::Engines => engines::check,
    }
}

/// Returns whether it is worth the time at every point, and not only at a few.
pub(super) fn everywhere(property: Property) -> bool {
    use Property::*;
    matches!(property, Value | Gradcheck | Gradgradcheck | Linearity | ZeroSeed | Engines)
}

/// The results of one application: outputs, then gradients.
struct Results {
    outputs: Flat,
    gradients: Flat,
}

impl Results {
    fn of<V: Side>(applied: &Applied<V>, seeds: &Flat, asked: &[bool]) -> Result<Results> {
        let outputs = copies(&applied.values());
        Ok(Results { outputs, gradients: copies(&applied.gradients(seeds, asked, true)?) })
    }

    /// Applied as usual.
    fn at<V: Side>(kit: &Kit<'_>, point: &Point, seeds: &Flat) -> Result<Results> {
        let needs = point.floating();
        let applied = runs::apply::<V>(kit.subject, point.given(&needs))?;
        Results::of(&applied, seeds, &needs)
    }

    fn compare(&self, found: &Results, allowed: Allowed, message: &str) -> Result<Tally, Stop> {
        let outputs = same(Are::Outputs, &self.outputs, &found.outputs, allowed);
        let gradients = same(Are::Gradients, &self.gradients, &found.gradients, allowed);
        let compared =
            outputs.map_err(Stop::differs(message))? + gradients.map_err(Stop::differs(message))?;
        Ok(Tally { compared, kinks: 0 })
    }
}

fn copies(tensors: &Flat) -> Flat {
    tensors.iter().map(|t| t.as_ref().map(|t| t.detach().copy())).collect()
}

fn differentiable(point: &Point) -> Result<(), Stop> {
    match point.is_differentiable() {
        true => Ok(()),
        false => Err(Stop::Nothing("no output is differentiable".to_owned())),
    }
}

/// The tolerance, wider where an output is of less precision than f64; and
/// what rounding may leave of seeds and inputs that cancel out.
fn allowed(kit: &Kit<'_>, property: Property, point: &Point) -> Allowed {
    let of = |kind| match kind {
        Kind::Float => 1e-5,
        Kind::Half => 1e-2,
        Kind::BFloat16 => 1e-1,
        _ => 0.0,
    };
    let outputs = point.outputs.iter().flatten();
    let inputs = point.x.iter().flatten().map(|x| of(x.kind()));
    let coarsest = outputs.map(|y| of(y.kind)).chain(inputs).fold(0.0, f64::max);
    let rtol = kit.tolerance(property).max(coarsest);
    // Functions saturate at large inputs, and steep ones leave larger errors.
    let size = point.greatest().max(1.0);
    let left = (1e-13 * size.powi(3)).min(1e-8).max(1e-13 * size);
    Allowed { rtol, atol: left.max(coarsest * size) }
}
