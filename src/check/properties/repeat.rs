use super::*;
use crate::{Error, Var};
use tch::Tensor;

/// Twice, and with another call between `forward` and `backward`.
pub(super) fn deterministic(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let random = &mut kit.random(Property::Determinism);
    let seeds = point.seeds(random);
    let needs = point.floating();
    let rtol = kit.tolerance(Property::Determinism);
    let allowed = Allowed { rtol, atol: 0.0 };
    let first = Results::at::<Var>(kit, point, &seeds)?;
    let second = Results::at::<Var>(kit, point, &seeds)?;
    let mut tally = first.compare(&second, allowed, "two equal calls give different numbers")?;

    let applied = runs::apply::<Var>(kit.subject, point.given(&needs))?;
    let other = shrunk(&point.x);
    let other = runs::Given { x: &other, ..point.given(&needs) };
    // It may be outside the domain: what counts is that it ran.
    let between = runs::apply::<Var>(kit.subject, other);
    let between = between.and_then(|other| other.gradients(&seeds, &needs, false));
    let third = Results::of(&applied, &seeds, &needs)?;
    drop(between);
    let message = "another call, between forward and backward, changes the numbers: something \
                   is kept outside the context";
    tally.compared += first.compare(&third, allowed, message)?.compared;
    Ok(tally)
}

/// Other numbers, likely to be in the domain too.
pub(super) fn shrunk(x: &Flat) -> Flat {
    let shrunk = |x: &Tensor| if x.is_floating_point() { x * 0.75 } else { x.copy() };
    x.iter().map(|x| x.as_ref().map(shrunk)).collect()
}

pub(super) fn second_pass(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    let mut tally = passes::<Var>(kit, point)?;
    tally.compared += passes::<Tensor>(kit, point)?.compared;
    Ok(tally)
}

fn passes<V: Side>(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let seeds = point.seeds(&mut kit.random(Property::SecondPass));
    let needs = point.floating();
    let applied = runs::apply::<V>(kit.subject, point.given(&needs))?;
    let first = copies(&applied.gradients(&seeds, &needs, true)?);
    let mut tally = Tally::default();
    for (retain, which) in [(true, "second"), (false, "last")] {
        let again = applied
            .gradients(&seeds, &needs, retain)
            .map_err(|e| Stop::failed(format!("the {which} pass over a retained graph: {e}")))?;
        let message =
            format!("the {which} pass over a retained graph gives other numbers ({})", V::NAME);
        let allowed = allowed(kit, Property::SecondPass, point);
        tally.compared +=
            same(Are::Gradients, &first, &again, allowed).map_err(Stop::differs(message))?;
    }
    if first.iter().all(Option::is_none) {
        return Ok(tally);
    }
    match applied.gradients(&seeds, &needs, false) {
        Err(Error::GraphFreed { .. } | Error::Torch { .. }) => Ok(tally),
        Err(e) => Err(Stop::failed(format!("a pass over a freed graph fails with: {e}"))),
        Ok(_) => Err(Stop::failed(format!("a pass over a freed graph is no error ({})", V::NAME))),
    }
}
