//! Smaller inputs that fail as well.

use super::Property;
use super::failure::Stop;
use super::kit::Kit;
use super::points::{CloneFlat, Point};
use super::properties::{self, shapes};
use super::subject::Flat;
use std::time::{Duration, Instant};
use tch::Tensor;

/// No more than this is spent on one failure.
const TIME: Duration = Duration::from_millis(500);

/// The smallest point found that still fails, and how; nothing if none is
/// smaller.
pub(super) fn shrink(
    kit: &Kit<'_>,
    property: Property,
    point: &Point,
) -> (Option<Point>, Option<Stop>) {
    let started = Instant::now();
    let test = properties::test(property);
    let (mut best, mut how): (Option<Point>, Option<Stop>) = (None, None);
    let mut steps = 0;
    loop {
        let now = best.as_ref().unwrap_or(point);
        let smaller = candidates(&now.x).into_iter().find_map(|x| {
            if started.elapsed() > TIME {
                return None;
            }
            let origin = format!("{}, made smaller in {} steps", point.origin, steps + 1);
            let candidate = Point::new(kit.subject, point.layout, x, origin).ok()?;
            let candidate = Point { random: point.random, ..candidate };
            match test(kit, &candidate) {
                Err(stop @ Stop::Fails(_)) => Some((candidate, stop)),
                _ => None,
            }
        });
        let Some((candidate, stop)) = smaller else { return (best, how) };
        (best, how) = (Some(candidate), Some(stop));
        steps += 1;
    }
}

/// Returns points of fewer elements, then of rounder numbers.
fn candidates(x: &Flat) -> Vec<Flat> {
    let mut candidates = Vec::new();
    for size in shapes::sizes(x).into_iter().rev().filter(|size| *size > 1) {
        candidates.extend([1, size / 2, size - 1].map(|to| shapes::resized(x, size, to)));
    }
    for i in 0..x.len() {
        let Some(t) = x[i].as_ref().filter(|t| t.is_floating_point()) else { continue };
        for rounder in
            [t.ones_like(), t.round(), (t * 2.0).round() / 2.0, (t * 16.0).round() / 16.0]
        {
            if distinct(&rounder) < distinct(t) || digits(&rounder) < digits(t) {
                let mut rounded = x.clone_flat();
                rounded[i] = Some(rounder);
                candidates.push(rounded);
            }
        }
    }
    candidates
}

fn distinct(t: &Tensor) -> usize {
    let mut bits: Vec<u64> = super::compare::numbers(t).iter().map(|x| x.to_bits()).collect();
    bits.sort_unstable();
    bits.dedup();
    bits.len()
}

/// Returns the length of the numbers as text.
fn digits(t: &Tensor) -> usize {
    super::compare::numbers(t).iter().map(|x| format!("{x:?}").len()).sum()
}
