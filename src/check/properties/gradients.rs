use super::*;
use crate::check::derivatives::{self, Computation};
use crate::check::gradcheck::Evaluate;
use crate::check::points::CloneFlat;
use crate::{Error, Var};

/// More elements than these are checked along random directions.
const INPUT_ELEMENTS: usize = 64;
const OUTPUT_ELEMENTS: usize = 256;

fn is_large(kit: &Kit<'_>, point: &Point) -> bool {
    kit.fast || point.elements() > INPUT_ELEMENTS || point.output_elements() > OUTPUT_ELEMENTS
}

pub(super) fn first(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    let kept = |y: Flat| only_differentiable(point, y);
    let values = |x: &Flat| {
        tch::no_grad(|| match kit.claim {
            Some(claim) => claim(point.layout, &copies(x)).map(kept),
            None => kit.subject.on_tensors(point.layout, &copies(x)).map(kept),
        })
    };
    let allowed = allowed(kit, Property::Gradcheck, point);
    if is_large(kit, point) {
        let needs = point.floating();
        let applied = runs::apply::<Var>(kit.subject, point.given(&needs))?;
        let gradients = |seeds: &Flat| applied.gradients(seeds, &needs, true);
        let random = &mut kit.random(Property::Gradcheck);
        return derivatives::check_along(&point.x, &values, &gradients, random, allowed);
    }
    let on_vars = |x: &[Option<Var>]| kit.subject.on_vars(point.layout, &x.to_vec());
    let computation = Computation {
        on_vars: &on_vars,
        values: &values,
        what: if kit.claim.is_some() { "the claimed function" } else { "forward" },
        inputs: &|i| format!("input {i}"),
        outputs: &|j| format!("output {j}"),
    };
    derivatives::check_all(kit, &point.x, &computation, allowed)
}

fn only_differentiable(point: &Point, y: Flat) -> Flat {
    let kept = |(y, output): (Option<_>, &Option<_>)| {
        let output: &Option<crate::check::points::Output> = output;
        y.filter(|_| output.as_ref().is_some_and(|o| o.differentiable))
    };
    y.into_iter().zip(&point.outputs).map(kept).collect()
}

/// Gradients as outputs, of inputs and seeds.
pub(super) fn second(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    let n = point.x.len();
    let mut x = point.x.clone_flat();
    x.extend(point.seeds(&mut kit.random(Property::Gradgradcheck)));
    let needs = point.floating();
    let values = |x: &Flat| {
        let (x, seeds) = (x[..n].to_vec_flat(), x[n..].to_vec_flat());
        let given = runs::Given { x: &x, ..point.given(&needs) };
        runs::apply::<Var>(kit.subject, given)?.gradients(&seeds, &needs, false)
    };
    let on_vars = |x: &[Option<Var>]| {
        let leaves: Flat<Var> = x[..n].to_vec();
        // An op in place gets a copy, since no gradient can be asked for what it changed.
        let given = |(x, dirty): (&Option<Var>, &bool)| {
            x.as_ref().map(|x| if *dirty { x * 1.0 } else { x.clone() })
        };
        let given: Flat<Var> = leaves.iter().zip(&point.dirty).map(given).collect();
        let outputs = kit.subject.on_vars(point.layout, &given)?;
        let (inputs, versions) = (Vec::new(), Vec::new());
        let applied = Applied { leaves, inputs, versions, outputs };
        applied.from(&x[n..].to_vec(), &needs, |options| options.create_graph(true))
    };
    let allowed = allowed(kit, Property::Gradgradcheck, point);
    let checked = if is_large(kit, point) {
        let random = &mut kit.random(Property::Gradgradcheck);
        derivatives::check_along(&x, &values, &|seeds| along(&x, &on_vars, seeds), random, allowed)
    } else {
        let computation = Computation {
            on_vars: &on_vars,
            values: &values,
            what: "backward",
            inputs: &|i| if i < n { format!("input {i}") } else { format!("seed {}", i - n) },
            outputs: &|j| format!("gradient of input {j}"),
        };
        derivatives::check_all(kit, &x, &computation, allowed)
    };
    checked.or_else(without_second)
}

/// `seeds . d(gradients) / d(x)`
fn along(x: &Flat, on_vars: &Evaluate<'_>, seeds: &Flat) -> Result<Flat> {
    let needs: Vec<bool> = crate::check::points::floating(x);
    let lies = crate::check::layout::Layout::Contiguous;
    let given = runs::Given { layout: 0, x, needs: &needs, lies };
    runs::apply_with::<Var>(given, |x| on_vars(x))?.gradients(seeds, &needs, false)
}

/// An error that says that there is no second derivative is no wrong number.
fn without_second(stop: Stop) -> Result<Tally, Stop> {
    let Stop::Error(e) = stop else { return Err(stop) };
    match &e {
        Error::SavedIntermediate { .. } | Error::OnceDifferentiable { .. } => {
            Err(Stop::Nothing(e.to_string()))
        }
        Error::Argument { message, .. } if message.contains("no output depends") => {
            Err(Stop::Nothing("the gradients depend on nothing".to_owned()))
        }
        _ => Err(Stop::Error(e)),
    }
}

trait ToFlat {
    fn to_vec_flat(&self) -> Flat;
}

impl ToFlat for [Option<tch::Tensor>] {
    fn to_vec_flat(&self) -> Flat {
        self.iter().map(|x| x.as_ref().map(tch::Tensor::shallow_clone)).collect()
    }
}
