use super::*;
use crate::check::Random;
use crate::check::compare::{greatest, numbers, worst};
use crate::check::failure::Difference;
use crate::{Error, Var};
use tch::Tensor;

/// Each coarse dtype, half of its distance from 1 to the next number, and the
/// greatest number.
const COARSE: [(Kind, f64, f64); 3] = [
    (Kind::Float, 5.96e-8, f32::MAX as f64),
    (Kind::BFloat16, 3.91e-3, f32::MAX as f64),
    (Kind::Half, 4.88e-4, 65504.0),
];

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    if !point.floating().contains(&true) {
        return Err(Stop::Nothing("it has no floating-point input".to_owned()));
    }
    let mut tally = Tally { compared: is_f64(kit, point)?, kinks: 0 };
    for (kind, rounding, greatest) in COARSE {
        // Half precision is for numbers of moderate size.
        if kind == Kind::Float || point.greatest() <= 32.0 {
            tally.compared += coarse(kit, point, kind, rounding, greatest)?;
        }
    }
    Ok(tally)
}

/// Compares a run in `kind` with one in f64 on the same numbers. What rounding
/// may do on the way is judged by what small changes of the inputs do.
fn coarse(
    kit: &Kit<'_>,
    point: &Point,
    kind: Kind,
    rounding: f64,
    limit: f64,
) -> Result<usize, Stop> {
    let seeds = converted(&point.seeds(&mut kit.random(Property::Dtypes)), kind);
    let rounded = converted(&point.x, kind);
    let found = match run(kit, point, &rounded, &seeds) {
        Ok(found) => found,
        Err(Stop::Error(e)) if is_clear(&e) => return Ok(0),
        Err(Stop::Error(e)) => return Err(Stop::failed(format!("on {kind:?} inputs: {e}"))),
        Err(stop) => return Err(stop),
    };
    let (x, seeds) = (converted(&rounded, Kind::Double), converted(&seeds, Kind::Double));
    let expected = run(kit, point, &x, &seeds)?;
    let random = &mut kit.random(Property::Dtypes);
    let mut moved = Vec::new();
    for _ in 0..2 {
        let mut near = |x: &Flat| nearby(x, 4.0 * rounding, random);
        // Small changes at the edge of a domain may leave it.
        let Ok(results) = run(kit, point, &near(&x), &near(&seeds)) else { return Ok(0) };
        moved.push(results);
    }
    // Seeds and inputs that cancel out leave their rounding behind; f32 has
    // digits enough to allow for factors on the way.
    let cancelled = if kind == Kind::Float { 8.0 } else { 1.0 } * point.greatest().max(1.0);
    let units = kit.tolerance(Property::Dtypes);
    let mut compared = 0;
    for are in [Are::Outputs, Are::Gradients] {
        for i in 0..expected.list(are).len() {
            let (Some(e), Some(f)) = (&expected.list(are)[i], &found.list(are)[i]) else {
                continue;
            };
            let e = numbers(e);
            let moved = moved.iter().filter_map(|m| m.list(are)[i].as_ref().map(numbers));
            let change = moved.map(|m| greatest(&difference(&e, &m))).fold(0.0, f64::max);
            let size = greatest(&e) + cancelled;
            let allowed = units * (rounding * size + smallest(kind)) + 4.0 * change;
            compared += e.len();
            if let Some((element, e, f)) = beyond(&e, f, allowed, limit) {
                let difference =
                    Difference::at(are.name(i), element, &f_size(&found, are, i), e, f);
                let message = format!("{kind:?} gives other numbers than f64, beyond rounding");
                return Err(Stop::differs(message)(Box::new(difference)));
            }
        }
    }
    Ok(compared)
}

fn f_size(results: &Results, are: Are, i: usize) -> Vec<i64> {
    results.list(are)[i].as_ref().map(Tensor::size).unwrap_or_default()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The element of `found` that is furthest from what it may be, if one is, with
/// both numbers. `limit` is the greatest number of the dtype.
fn beyond(expected: &[f64], found: &Tensor, allowed: f64, limit: f64) -> Option<(usize, f64, f64)> {
    let held = |(f, e): (f64, &f64)| {
        // Beyond what the dtype can hold, or not a number in f64 either.
        let overflows = !f.is_finite() && (e.is_nan() || e.abs() >= limit / 64.0);
        if overflows || e.is_nan() { *e } else { f }
    };
    let mut found: Vec<f64> = numbers(found).into_iter().zip(expected).map(held).collect();
    // A gradient of another shape is wrong everywhere.
    found.resize(expected.len(), f64::NAN);
    let element = worst(expected, &found, allowed, 0.0)?;
    Some((element, expected[element], found[element]))
}

fn converted(x: &Flat, kind: Kind) -> Flat {
    let to = |t: &Tensor| if t.is_floating_point() { t.to_kind(kind) } else { t.copy() };
    x.iter().map(|t| t.as_ref().map(to)).collect()
}

/// Each number changed by up to `relative` of its own.
fn nearby(x: &Flat, relative: f64, random: &mut Random) -> Flat {
    let mut near = |t: &Tensor| match t.is_floating_point() {
        true => t * (1.0 + random.fill(&t.size(), |r| relative * r.signed())),
        false => t.copy(),
    };
    x.iter().map(|t| t.as_ref().map(&mut near)).collect()
}

/// The distance between the smallest numbers.
fn smallest(kind: Kind) -> f64 {
    match kind {
        Kind::Half => 6e-8,
        _ => 1e-38,
    }
}

fn run(kit: &Kit<'_>, point: &Point, x: &Flat, seeds: &Flat) -> Result<Results, Stop> {
    let needs = point.floating();
    let given = runs::Given { x, ..point.given(&needs) };
    let applied = runs::apply::<Var>(kit.subject, given)?;
    let like = |(seed, y): (&Option<Tensor>, &Option<Var>)| {
        Some(seed.as_ref()?.to_kind(y.as_ref()?.value().kind()))
    };
    let seeds = seeds.iter().zip(&applied.outputs).map(like).collect();
    Ok(Results::of(&applied, &seeds, &needs)?)
}

/// Returns whether an error is one that a Function, or libtorch, returns on purpose.
pub(super) fn is_clear(e: &Error) -> bool {
    match e {
        // The text with which tch's methods without `f_` panic.
        Error::Panic { message, .. } => message.contains("Torch(\""),
        Error::Forward { .. } | Error::Backward { .. } | Error::Torch { .. } => true,
        _ => false,
    }
}

impl Results {
    fn list(&self, are: Are) -> &Flat {
        if are == Are::Outputs { &self.outputs } else { &self.gradients }
    }
}

/// Returns whether f64 numbers have more digits than f32 has, where the inputs do.
fn is_f64(kit: &Kit<'_>, point: &Point) -> Result<usize, Stop> {
    if !point.random || point.whole || !point.is_differentiable() {
        return Ok(0);
    }
    let seeds = point.seeds(&mut kit.random(Property::Dtypes));
    let results = run(kit, point, &point.x, &seeds)?;
    for (list, what) in [(&results.outputs, "output"), (&results.gradients, "gradient of input")] {
        for (i, t) in list.iter().enumerate() {
            let Some(t) = t.as_ref().filter(|t| t.kind() == Kind::Double) else { continue };
            if is_cut(&numbers(t)) {
                let message = format!(
                    "every number of {what} {i} is one that f32 can hold, though the inputs are \
                     f64: something is computed in less precision (Kind::Float?)"
                );
                return Err(Stop::failed(message));
            }
        }
    }
    Ok(1)
}

/// Numbers that are not short by nature, and all fit into f32.
fn is_cut(numbers: &[f64]) -> bool {
    let fits = |x: &f64| !x.is_finite() || f64::from(*x as f32) == *x;
    numbers.iter().all(fits) && numbers.iter().filter(|x| is_long(**x)).count() >= 2
}

/// Returns whether a number has five binary digits or more, and is not a whole one.
fn is_long(x: f64) -> bool {
    let leading = 0.5f64.powi(x.abs().log2().floor() as i32);
    x.is_finite() && x.fract() != 0.0 && (x * leading * 16.0).fract() != 0.0
}
