use super::*;
use crate::Var;
use crate::check::Random;
use crate::check::compare::{greatest, numbers};
use crate::check::layout::Layout;
use tch::Tensor;

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let mut tally = in_engine::<Var>(kit, point)?;
    // A view made under no_grad cannot be changed in place inside libtorch.
    if !point.dirty.contains(&true) {
        tally.compared += in_engine::<Tensor>(kit, point)?.compared;
    }
    Ok(tally)
}

fn in_engine<V: Side>(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let mut tally = Tally::default();
    for lies in [Layout::Transposed, Layout::Sliced, Layout::Expanded] {
        // Memory of which elements share cells cannot be changed in place.
        if lies == Layout::Expanded && point.dirty.contains(&true) {
            continue;
        }
        tally.compared += one::<V>(kit, point, lies)?;
    }
    Ok(tally)
}

fn one<V: Side>(kit: &Kit<'_>, point: &Point, lies: Layout) -> Result<usize, Stop> {
    let numbers_of = |x: &Tensor| if x.is_floating_point() { lies.numbers(x) } else { x.copy() };
    let x: Flat = point.x.iter().map(|x| x.as_ref().map(numbers_of)).collect();
    let origin = point.origin.clone();
    // The Function may not be defined if all rows are the same.
    let Ok(plain) = Point::new(kit.subject, point.layout, x, origin) else { return Ok(0) };
    let seeds = plain.seeds(&mut kit.random(Property::Layouts));
    let seeds: Flat = seeds.iter().map(|s| s.as_ref().map(|s| lies.numbers(s))).collect();
    let strided: Flat = seeds.iter().map(|s| s.as_ref().map(|s| lies.arrange(s))).collect();
    let needs = plain.floating();
    let run = |inputs_lie: Layout, seeds: &Flat| {
        let given = runs::Given { lies: inputs_lie, ..plain.given(&needs) };
        Results::of(&runs::apply::<V>(kit.subject, given)?, seeds, &needs)
    };
    let Some(expected) = run(Layout::Contiguous, &seeds).ok().filter(is_tame) else {
        return Ok(0);
    };
    let nudged = nudged(&seeds, &mut kit.random(Property::Layouts));
    if !run(Layout::Contiguous, &nudged).is_ok_and(|nudged| is_steady(&expected, &nudged)) {
        return Ok(0);
    }
    let allowed = allowed(kit, Property::Layouts, point);
    let mut compared = 0;
    for (inputs_lie, seeds, which) in [
        (lies, &seeds, "inputs"),
        (Layout::Contiguous, &strided, "seeds"),
        (lies, &strided, "inputs and seeds"),
    ] {
        let message = format!("{lies:?} {which} give other numbers than contiguous ones");
        let found = run(inputs_lie, seeds)
            .map_err(|e| Stop::failed(format!("{lies:?} {which} give an error: {e}")))?;
        compared += expected.compare(&found, allowed, &message)?.compared;
    }
    Ok(compared)
}

/// Finite, and not so large that it must come from a division by nearly 0.
fn is_tame(results: &Results) -> bool {
    let all = results.outputs.iter().chain(&results.gradients).flatten();
    all.into_iter().all(|t| {
        let numbers = numbers(t);
        numbers.iter().all(|x| x.is_finite()) && greatest(&numbers) < 1e12
    })
}

/// Returns whether nearly equal seeds gave nearly equal gradients. Where all rows are
/// the same a matrix is singular, and what is divided by nearly 0 may be nearly
/// 0 too: rounding noise of an inconspicuous size.
fn is_steady(expected: &Results, nudged: &Results) -> bool {
    let allowed = Allowed { rtol: 1e-5, atol: 1e-8 };
    same(Are::Gradients, &expected.gradients, &nudged.gradients, allowed).is_ok()
}

fn nudged(seeds: &Flat, random: &mut Random) -> Flat {
    let mut nudge = |s: &Tensor| {
        let factors = random.fill(&s.size(), |random| 1.0 + 1e-10 * random.signed());
        (s * factors).to_kind(s.kind())
    };
    seeds.iter().map(|s| s.as_ref().map(&mut nudge)).collect()
}
