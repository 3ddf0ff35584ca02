use super::*;
use crate::check::compare::numbers;
use crate::check::failure::{Finding, Stop};
use crate::{Var, check::points::CloneFlat};
use tch::Tensor;

fn applied(kit: &Kit<'_>, point: &Point) -> Result<Applied<Var>, Stop> {
    differentiable(point)?;
    Ok(runs::apply::<Var>(kit.subject, point.given(&point.floating()))?)
}

/// `g(a u + b v) = a g(u) + b g(v)`, for seeds of several magnitudes.
pub(super) fn linear(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let applied = applied(kit, point)?;
    let random = &mut kit.random(Property::Linearity);
    let (u, v) = (point.seeds(random), point.seeds(random));
    let g = |seeds: &Flat| applied.gradients(seeds, &point.floating(), true);
    let (gu, gv) = (g(&u)?, g(&v)?);
    let allowed = allowed(kit, Property::Linearity, point);
    let mut compared = 0;
    for (a, b) in [(2.0, -0.5), (-1.0, 0.0), (1024.0, 3.0), (1.0 / 1024.0, 0.0)] {
        let expected = finite(&gu, &combine(a, &gu, b, &gv));
        let found = finite(&gu, &g(&combine(a, &u, b, &v))?);
        compared += same(Are::Gradients, &expected, &found, allowed.times(a.abs().max(1.0))).map_err(|difference| {
            let message = format!(
                "backward is not linear in its seed: g({a} u + {b} v) is not {a} g(u) + {b} g(v)"
            );
            let cause = cause(&gu, &|times| g(&combine(times, &u, 0.0, &u)));
            Stop::Fails(Box::new(Finding { message, difference: Some(*difference), cause }))
        })?;
    }
    Ok(Tally { compared, kinks: 0 })
}

/// Compares the gradients of multiples of the seed `u` with those of `u`, `gu`.
fn cause(gu: &Flat, g: &dyn Fn(f64) -> Result<Flat>) -> Option<String> {
    let all = |f: &Flat| f.iter().flatten().flat_map(numbers).collect::<Vec<_>>();
    let (once, thrice, reverse) = (all(gu), all(&g(3.0).ok()?), all(&g(-1.0).ok()?));
    let negative: Vec<f64> = once.iter().map(|x| -x).collect();
    match thrice == once {
        true if reverse == once => Some("the gradient is not multiplied by the seed".to_owned()),
        true if reverse == negative => Some("only the sign of the seed counts".to_owned()),
        _ => None,
    }
}

fn combine(a: f64, u: &Flat, b: f64, v: &Flat) -> Flat {
    let sum = |(u, v): (&Option<Tensor>, &Option<Tensor>)| match (u, v) {
        (Some(u), Some(v)) => Some(u * a + v * b),
        (Some(u), None) => Some(u * a),
        (None, Some(v)) => Some(v * b),
        (None, None) => None,
    };
    u.iter().zip(v).map(sum).collect()
}

/// Sets numbers to zero if `like` is not finite: nothing is linear beside a pole.
fn finite(like: &Flat, t: &Flat) -> Flat {
    let masked = |(like, t): (&Option<Tensor>, &Option<Tensor>)| match (like, t) {
        (Some(like), Some(t)) => Some(t.where_scalarother(&like.isfinite(), 0.0)),
        (_, t) => t.as_ref().map(Tensor::shallow_clone),
    };
    like.iter().zip(t).map(masked).collect()
}

pub(super) fn zero(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let applied = applied(kit, point)?;
    let seeds = point.seeds(&mut kit.random(Property::ZeroSeed));
    let usual = applied.gradients(&seeds, &point.floating(), true)?;
    let zeros: Flat = seeds.iter().map(|s| s.as_ref().map(Tensor::zeros_like)).collect();
    let found = applied.gradients(&zeros, &point.floating(), true)?;
    let found = finite(&usual, &found);
    let expected = found.iter().map(|g| g.as_ref().map(Tensor::zeros_like)).collect();
    let compared = same(
        Are::Gradients,
        &expected,
        &found,
        Allowed { rtol: 0.0, atol: kit.tolerance(Property::ZeroSeed) },
    )
    .map_err(Stop::differs("a seed of zeros gives a gradient that is not zero"))?;
    Ok(Tally { compared, kinks: 0 })
}

pub(super) fn undefined(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    let count = point.outputs.iter().flatten().filter(|y| y.differentiable).count();
    if count < 2 {
        return Err(Stop::Nothing("it has one differentiable output".to_owned()));
    }
    let mut tally = one_by_one::<Var>(kit, point)?;
    tally.compared += one_by_one::<Tensor>(kit, point)?.compared;
    Ok(tally)
}

/// Each output alone, and all but it.
fn one_by_one<V: Side>(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let needs = point.floating();
    let applied = runs::apply::<V>(kit.subject, point.given(&needs))?;
    let seeds = point.seeds(&mut kit.random(Property::UndefinedSeeds));
    let mut tally = Tally::default();
    for j in (0..seeds.len()).filter(|&j| seeds[j].is_some()) {
        for alone in [true, false] {
            let mut absent = seeds.clone_flat();
            let mut zeros = seeds.clone_flat();
            for i in (0..seeds.len()).filter(|&i| (i == j) != alone) {
                zeros[i] = seeds[i].as_ref().map(Tensor::zeros_like);
                absent[i] = None;
            }
            let expected = applied.gradients(&zeros, &needs, true)?;
            let found = applied.gradients(&absent, &needs, true)?;
            let allowed = allowed(kit, Property::UndefinedSeeds, point);
            let which = if alone { "only output" } else { "every output but" };
            tally.compared += same(Are::Gradients, &expected, &found, allowed).map_err(
                Stop::differs(format!(
                    "when {which} {j} is differentiated, the gradients are not those of zero \
                     seeds for the others ({})",
                    V::NAME
                )),
            )?;
        }
    }
    Ok(tally)
}
