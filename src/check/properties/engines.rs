use super::*;
use crate::Var;
use crate::check::subject::Plain;
use tch::Tensor;

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let seeds = point.seeds(&mut kit.random(Property::Engines));
    let own = Results::at::<Var>(kit, point, &seeds)?;
    let torch = Results::at::<Tensor>(kit, point, &seeds)?;
    let allowed = allowed(kit, Property::Engines, point);
    let mut tally = own.compare(
        &torch,
        Allowed { rtol: allowed.rtol.min(1e-12), ..allowed },
        "the two engines differ",
    )?;
    // The reference may have chosen another slope at a kink.
    let Some(reference) = kit.claim.or(kit.reference).filter(|_| !point.whole) else {
        return Ok(tally);
    };
    let Ok(expected) = of_reference(point, &point.x, reference, &seeds) else { return Ok(tally) };
    match same(Are::Gradients, &expected, &own.gradients, allowed) {
        Ok(compared) => tally.compared += compared,
        Err(_) if is_at_kink(kit, point, reference, &seeds, &expected) => tally.kinks += 1,
        Err(difference) => {
            let message = "backward and libtorch's gradient of the reference differ";
            return Err(Stop::differs(message)(difference));
        }
    }
    Ok(tally)
}

/// libtorch's gradients of the reference.
fn of_reference(point: &Point, x: &Flat, reference: &Plain, seeds: &Flat) -> Result<Flat> {
    let needs = point.floating();
    let given = runs::Given { x, ..point.given(&needs) };
    let applied = runs::apply_with::<Tensor>(given, |x| reference(point.layout, x))?;
    let found = applied.gradients(seeds, &needs, false)?;
    // Zeros if no gradient flows.
    let zeros = |(g, x): (Option<Tensor>, &Option<Tensor>)| {
        g.or_else(|| x.as_ref().filter(|x| x.is_floating_point()).map(Tensor::zeros_like))
    };
    Ok(found.into_iter().zip(x).map(zeros).collect())
}

/// Returns whether the gradients jump between points that are next to each other.
fn is_at_kink(kit: &Kit<'_>, point: &Point, reference: &Plain, seeds: &Flat, here: &Flat) -> bool {
    let random = &mut kit.random(Property::Engines);
    (0..4).any(|_| {
        let mut near = |x: &Tensor| match x.is_floating_point() {
            true => x + random.fill(&x.size(), |r| 1e-9 * r.signed()) * (x.abs() + 1.0),
            false => x.shallow_clone(),
        };
        let x = point.x.iter().map(|x| x.as_ref().map(&mut near)).collect();
        let there = of_reference(point, &x, reference, seeds);
        !there.is_ok_and(|there| {
            same(Are::Gradients, here, &there, Allowed { rtol: 1e-4, atol: 0.0 }).is_ok()
        })
    })
}
