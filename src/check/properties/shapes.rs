use super::dtypes::is_clear;
use super::*;
use crate::check::Random;
use crate::{Error, Var};
use tch::Tensor;

/// Each size that a dimension has made 0, 1 and 19, longer than any vector
/// register and no multiple of one, in all inputs; and all floating-point
/// inputs scalars.
pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let mut tally = Tally::default();
    // Derivatives that are wrong in every shape are for Gradcheck to tell.
    let derivatives = super::gradients::first(kit, point).is_ok();
    for (x, what) in forms(kit, &point.x) {
        tally.compared += one(kit, point, x, derivatives).map_err(|stop| in_form(&what, stop))?;
    }
    Ok(tally)
}

const LONG: i64 = 19;

fn forms(kit: &Kit<'_>, x: &Flat) -> Vec<(Flat, String)> {
    let mut forms = Vec::new();
    let random = &mut kit.random(Property::Shapes);
    for size in sizes(x) {
        for to in [0, 1] {
            if size > to {
                forms.push((resized(x, size, to), format!("dimensions of {size} made {to}")));
            }
        }
        if (1..LONG).contains(&size) {
            forms.push((grown(x, size, random), format!("dimensions of {size} made {LONG}")));
        }
    }
    let scalar = |t: &Tensor| match t.is_floating_point() && t.numel() > 0 {
        true => t.reshape(-1).get(0),
        false => t.shallow_clone(),
    };
    let scalars = x.iter().map(|t| t.as_ref().map(scalar)).collect();
    forms.push((scalars, "scalars as inputs".to_owned()));
    forms
}

/// The sizes of dimensions, each once.
pub(in crate::check) fn sizes(x: &Flat) -> Vec<i64> {
    let mut sizes: Vec<i64> = x.iter().flatten().flat_map(Tensor::size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Every dimension of one size cut to another.
pub(in crate::check) fn resized(x: &Flat, from: i64, to: i64) -> Flat {
    let cut = |t: &Tensor| {
        let dims = t.size().into_iter().enumerate().filter(|(_, size)| *size == from);
        dims.fold(t.shallow_clone(), |t, (dim, _)| t.narrow(dim as i64, 0, to)).copy()
    };
    x.iter().map(|t| t.as_ref().map(cut)).collect()
}

/// Every dimension of one size made longer, with numbers a bit smaller than
/// those that it has.
fn grown(x: &Flat, from: i64, random: &mut Random) -> Flat {
    let index = Tensor::from_slice(&(0..LONG).map(|i| i % from).collect::<Vec<_>>());
    let mut grown = |t: &Tensor| {
        let dims = t.size().into_iter().enumerate().filter(|(_, size)| *size == from);
        let t = dims.fold(t.copy(), |t, (dim, _)| t.index_select(dim as i64, &index));
        if t.is_floating_point() { &t * random.tensor(&t.size(), 0.5, 1.0) } else { t }
    };
    x.iter().map(|t| t.as_ref().map(&mut grown)).collect()
}

fn one(kit: &Kit<'_>, point: &Point, x: Flat, derivatives: bool) -> Result<usize, Stop> {
    let point = match Point::new(kit.subject, point.layout, x, point.origin.clone()) {
        Ok(point) => point,
        Err(e) if is_clear(&e) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    let seeds = point.seeds(&mut kit.random(Property::Shapes));
    let first = match Results::at::<Var>(kit, &point, &seeds) {
        Ok(first) => first,
        // libtorch takes many a scalar for a vector, and its backward does not.
        Err(e) if is_edge(&point.x) && is_refusal(&e) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    let second = Results::at::<Var>(kit, &point, &seeds)?;
    let allowed = allowed(kit, Property::Shapes, &point);
    let again = "two equal calls give different numbers";
    let mut compared = first.compare(&second, allowed, again)?.compared;
    let reference = kit.reference.map(|f| tch::no_grad(|| f(point.layout, &copies(&point.x))));
    if let Some(Ok(expected)) = reference {
        let message = "forward and the reference differ";
        let allowed = super::allowed(kit, Property::Value, &point);
        compared += same(Are::Outputs, &expected, &first.outputs, allowed)
            .map_err(Stop::differs(message))?;
    }
    if !derivatives || !point.is_differentiable() {
        return Ok(compared);
    }
    match super::gradients::first(kit, &point) {
        Ok(tally) => Ok(compared + tally.compared),
        // libtorch may differentiate there what it cannot in other shapes.
        Err(Stop::Error(Error::Argument { .. })) => Ok(compared),
        Err(stop) => Err(stop),
    }
}

/// Empty inputs and scalars, for which an error will do.
fn is_edge(x: &Flat) -> bool {
    let floats = || x.iter().flatten().filter(|t| t.is_floating_point());
    floats().any(|t| t.numel() == 0) || floats().all(|t| t.dim() == 0)
}

fn is_refusal(e: &Error) -> bool {
    is_clear(e) || matches!(e, Error::GradientShape { .. })
}

fn in_form(what: &str, stop: Stop) -> Stop {
    let told = |message: String| format!("with {what}: {message}");
    match stop {
        Stop::Error(e) => Stop::failed(told(e.to_string())),
        Stop::Fails(mut finding) => {
            finding.message = told(finding.message);
            Stop::Fails(finding)
        }
        Stop::Nothing(why) => Stop::Nothing(why),
    }
}
