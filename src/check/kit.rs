//! [`Kit`]: all that a property needs, and the loop over points.

use super::failure::{Failure, Finding, Stop};
use super::findings::Outcome;
use super::points::Point;
use super::progress::Progress;
use super::subject::{Plain, Subject};
use super::{Property, Random, properties, shrink};
use std::collections::BTreeMap;

pub(super) struct Kit<'a> {
    pub op: &'static str,
    pub subject: &'a dyn Subject,
    pub reference: Option<&'a Plain>,
    /// The function whose gradients `backward` claims to return, if it is not `forward`.
    pub claim: Option<&'a Plain>,
    pub tolerances: &'a BTreeMap<Property, f64>,
    pub seed: u64,
    /// Derivatives along random directions alone.
    pub fast: bool,
}

/// The extent of a comparison.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub compared: usize,
    /// Numbers at kinks, where nothing can be said.
    pub kinks: usize,
}

impl Kit<'_> {
    pub fn tolerance(&self, property: Property) -> f64 {
        self.tolerances.get(&property).copied().unwrap_or(property.default_tolerance())
    }

    /// The same for every run of a property, so that a failure stays one while
    /// its inputs become smaller.
    pub fn random(&self, property: Property) -> Random {
        Random::new(self.seed, 1 << 20 | property as u64)
    }

    /// Checks a property at every point that it is worth.
    pub fn run(&self, property: Property, points: &[Point], progress: &mut Progress) -> Outcome {
        let test = properties::test(property);
        let (mut sum, mut visited, mut nothing) = (Tally::default(), 0, None);
        for (i, point) in self.chosen(property, points).into_iter().enumerate() {
            progress.at(property, i);
            match test(self, point) {
                Ok(tally) => {
                    visited += 1;
                    sum.compared += tally.compared;
                    sum.kinks += tally.kinks;
                }
                Err(Stop::Nothing(why)) => nothing = Some(why),
                Err(stop) => return Outcome::Failed(Box::new(self.failure(property, point, stop))),
            }
        }
        match nothing {
            Some(why) if visited == 0 => Outcome::NotApplicable(why),
            _ => Outcome::Passed { points: visited, compared: sum.compared, kinks: sum.kinks },
        }
    }

    /// All of them, or three samples and a random point.
    fn chosen<'p>(&self, property: Property, points: &'p [Point]) -> Vec<&'p Point> {
        if properties::everywhere(property) {
            return points.iter().collect();
        }
        let samples = points.iter().filter(|p| !p.random).take(3);
        samples.chain(points.iter().filter(|p| p.random).take(1)).collect()
    }

    fn failure(&self, property: Property, point: &Point, stop: Stop) -> Failure {
        let first = finding(stop);
        let (smaller, stop) = shrink::shrink(self, property, point);
        let mut finding = stop.map_or(Finding::default(), finding);
        if finding.message.is_empty() {
            finding = Finding { cause: None, ..Finding::clone(&first) };
        }
        // The whole point says more of the cause than what is left of it.
        let cause = first.cause.or(finding.cause);
        let point = smaller.as_ref().unwrap_or(point);
        let named = format!("{}: ", self.op);
        let message = finding.message.strip_prefix(&named).unwrap_or(&finding.message);
        Failure {
            op: self.op,
            property,
            message: message.to_owned(),
            difference: finding.difference,
            cause,
            inputs: point.describe(),
            origin: point.origin.clone(),
            seed: self.seed,
        }
    }
}

fn finding(stop: Stop) -> Finding {
    match stop {
        Stop::Fails(finding) => *finding,
        Stop::Error(e) => Finding { message: e.to_string(), ..Finding::default() },
        Stop::Nothing(why) => Finding { message: why, ..Finding::default() },
    }
}
