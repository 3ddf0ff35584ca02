//! Gradcheck and Gradgradcheck: every derivative against differences, or, of
//! large inputs, those along random directions.

use super::compare::{Allowed, apart, numbers};
use super::differences::{self, Estimate};
use super::failure::{Difference, Finding, Stop};
use super::gradcheck::Evaluate;
use super::jacobian::{self, Analytic};
use super::subject::Flat;
use super::{Kit, Tally, cause, random::Random};
use crate::Result;
use tch::Tensor;

/// Outputs from inputs, for differences.
pub(super) type Values<'a> = dyn Fn(&Flat) -> Result<Flat> + 'a;

/// A computation, as it is differentiated and as it is evaluated.
pub(super) struct Computation<'a> {
    pub on_vars: &'a Evaluate<'a>,
    pub values: &'a Values<'a>,
    /// The name of the differentiated values, in words.
    pub what: &'static str,
    pub inputs: &'a dyn Fn(usize) -> String,
    pub outputs: &'a dyn Fn(usize) -> String,
}

/// One derivative, from `backward` and from differences.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub input: usize,
    pub input_element: usize,
    pub output: usize,
    pub output_element: usize,
    pub numeric: f64,
    pub analytic: f64,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict {
    Equal,
    Differs,
    /// A derivative at a kink, or one about which differences say too little.
    Unknown,
}

/// Every derivative.
pub(super) fn check_all(
    kit: &Kit<'_>,
    x: &Flat,
    computation: &Computation<'_>,
    allowed: Allowed,
) -> Result<Tally, Stop> {
    let borrowed: Vec<Option<&Tensor>> = x.iter().map(Option::as_ref).collect();
    let analytic = jacobian::analytic(kit.op, &borrowed, computation.on_vars)?;
    let shapes: Vec<Vec<i64>> = analytic.outputs.iter().map(|y| y.shape.clone()).collect();
    let allowed = Allowed {
        rtol: allowed.rtol,
        atol: allowed.atol + 0.1 * allowed.rtol * analytic.greatest(),
    };
    let mut entries = Vec::new();
    for (input, tensor) in x.iter().enumerate() {
        let Some(tensor) = tensor.as_ref().filter(|t| t.is_floating_point()) else { continue };
        for (element, at) in numbers(tensor).into_iter().enumerate() {
            let analytic = &analytic;
            let column = Column { computation, analytic, x, input, element, at, allowed };
            column.check(&mut entries)?;
        }
    }
    report(x, &shapes, &entries, computation)
}

/// The derivatives of everything by one element of one input.
struct Column<'a> {
    computation: &'a Computation<'a>,
    analytic: &'a Analytic,
    x: &'a Flat,
    input: usize,
    element: usize,
    at: f64,
    /// The absolute part is in proportion to the greatest of all derivatives.
    allowed: Allowed,
}

impl Column<'_> {
    fn check(&self, entries: &mut Vec<Entry>) -> Result<(), Stop> {
        let mut column = self.entries();
        let analytic: Vec<f64> = column.iter().map(|e| e.analytic).collect();
        let mut f = |t: f64| self.moved(t);
        let estimates = settle(self.at, &analytic, self.allowed, &mut f)?;
        for (entry, (estimate, verdict)) in column.iter_mut().zip(estimates) {
            entry.numeric = estimate.value;
            entry.verdict = verdict;
        }
        // A derivative that does not exist may be NaN, and 0 times NaN is NaN.
        if column.iter().any(|e| e.verdict == Verdict::Unknown && !e.analytic.is_finite()) {
            let not_numbers = column.iter_mut().filter(|e| e.analytic.is_nan());
            not_numbers.for_each(|e| e.verdict = Verdict::Unknown);
        }
        entries.append(&mut column);
        Ok(())
    }

    fn entries(&self) -> Vec<Entry> {
        let (input, input_element) = (self.input, self.element);
        let mut entries = Vec::new();
        for (output, y) in self.analytic.outputs.iter().enumerate().filter(|y| y.1.differentiable) {
            for output_element in 0..y.shape.iter().product::<i64>() as usize {
                let slope =
                    jacobian::Slope { input, input_element, output, output_element, value: 0.0 };
                let analytic = self.analytic.at(&slope);
                let (numeric, verdict) = (f64::NAN, Verdict::Unknown);
                entries.push(Entry {
                    input,
                    input_element,
                    output,
                    output_element,
                    numeric,
                    analytic,
                    verdict,
                });
            }
        }
        entries
    }

    /// The outputs after the element has moved by `t`.
    fn moved(&self, t: f64) -> Result<Vec<f64>, Stop> {
        let x = self.x.iter().enumerate().map(|(i, x)| {
            let x = x.as_ref()?;
            if i != self.input {
                return Some(x.shallow_clone());
            }
            let moved = x.contiguous().copy();
            let _ = moved.view(-1).get(self.element as i64).fill_(self.at + t);
            Some(moved)
        });
        flatten(&(self.computation.values)(&x.collect())?, self.analytic)
    }
}

/// The numbers of the differentiable outputs.
fn flatten(y: &Flat, analytic: &Analytic) -> Result<Vec<f64>, Stop> {
    let mut flat = Vec::new();
    for (j, (y, expected)) in y.iter().zip(&analytic.outputs).enumerate() {
        let Some(y) = y.as_ref().filter(|_| expected.differentiable) else { continue };
        if y.size() != expected.shape {
            let (found, expected) = (y.size(), &expected.shape);
            return Err(Stop::failed(format!(
                "output {j} has shape {expected:?} and, after an input element moved, {found:?}"
            )));
        }
        flat.extend(numbers(y));
    }
    Ok(flat)
}

/// Compares derivatives at 0 of what `f` gives with `analytic`; tries narrower
/// steps until they agree or are sure not to.
fn settle(
    at: f64,
    analytic: &[f64],
    allowed: Allowed,
    f: &mut dyn FnMut(f64) -> Result<Vec<f64>, Stop>,
) -> Result<Vec<(Estimate, Verdict)>, Stop> {
    let allowed = |a: f64, e: Estimate| allowed.rtol * a.abs().max(e.value.abs()) + allowed.atol;
    let agrees = |a: f64, e: Estimate| {
        (a - e.value).abs() <= allowed(a, e) + 10.0 * e.error.min(allowed(a, e))
    };
    let mut tried: Vec<Vec<Estimate>> = Vec::new();
    for h in differences::steps(at) {
        let estimates = differences::derivatives(h, f)?;
        if analytic.len() != estimates.len() {
            return Err(Stop::failed("the number of outputs changes with the inputs"));
        }
        tried.push(estimates);
        let equal = |i: usize| tried.iter().any(|t| agrees(analytic[i], t[i]));
        if (0..analytic.len()).all(equal) {
            break;
        }
    }
    let mut jumps = None;
    let mut settled = Vec::new();
    for (i, &a) in analytic.iter().enumerate() {
        let all = tried.iter().map(|t| t[i]);
        if let Some(estimate) = all.clone().find(|e| agrees(a, *e)) {
            settled.push((estimate, Verdict::Equal));
            continue;
        }
        let best = all.min_by(|a, b| a.error.total_cmp(&b.error)).expect("one step was tried");
        // Well outside what the differences themselves may be wrong by.
        let sure = apart(a, best.value, 100.0 * best.error) && best.error.is_finite();
        if jumps.is_none() {
            jumps = Some(differences::jumps(1e-4 * at.abs().max(1.0), f)?);
        }
        // One jump is enough: of three equal numbers, sorted, the middle one
        // stays when the second moves, and yet it is the second.
        let kink = jumps.as_ref().is_some_and(|jumps| jumps.contains(&true));
        let verdict = if sure && !kink { Verdict::Differs } else { Verdict::Unknown };
        settled.push((best, verdict));
    }
    Ok(settled)
}

fn report(
    x: &Flat,
    shapes: &[Vec<i64>],
    entries: &[Entry],
    computation: &Computation<'_>,
) -> Result<Tally, Stop> {
    let of = |verdict| entries.iter().filter(move |e| e.verdict == verdict);
    let unknown = of(Verdict::Unknown).count();
    let excess = |e: &&Entry| (e.analytic - e.numeric).abs();
    let Some(worst) = of(Verdict::Differs).max_by(|a, b| excess(a).total_cmp(&excess(b))) else {
        return Ok(Tally { compared: entries.len() - unknown, kinks: unknown });
    };
    let input_shape = x[worst.input].as_ref().map(Tensor::size).unwrap_or_default();
    let element = super::failure::index(worst.input_element, &input_shape);
    let (y, x) = ((computation.outputs)(worst.output), (computation.inputs)(worst.input));
    let output_element = super::failure::index(worst.output_element, &shapes[worst.output]);
    let difference = Difference {
        what: format!("derivative of {y} {output_element:?} by {x}"),
        element,
        expected: worst.numeric,
        found: worst.analytic,
        form: None,
    };
    let message = format!(
        "{} of {} derivatives of {} differ from differences",
        of(Verdict::Differs).count(),
        entries.len(),
        computation.what,
    );
    let cause = cause::of(entries);
    Err(Stop::Fails(Box::new(Finding { message, difference: Some(difference), cause })))
}

/// Derivatives along `directions` random directions of all inputs at once:
/// `v . (J u)` from differences against `(J^T v) . u` from `backward`.
pub(super) fn check_along(
    x: &Flat,
    values: &Values<'_>,
    gradients: &dyn Fn(&Flat) -> Result<Flat>,
    random: &mut Random,
    allowed: Allowed,
) -> Result<Tally, Stop> {
    const DIRECTIONS: usize = 3;
    let mut tally = Tally::default();
    for _ in 0..DIRECTIONS {
        let u: Flat = x
            .iter()
            .map(|x| {
                let x = x.as_ref().filter(|x| x.is_floating_point())?;
                // Steps in proportion to the element, so that none leaves its domain.
                Some(random.fill(&x.size(), Random::signed) * (x.abs() + 0.1 * x.abs().mean(None)))
            })
            .collect();
        let along = |t: f64| -> Flat {
            let moved = |(x, u): (&Option<Tensor>, &Option<Tensor>)| match (x, u) {
                (Some(x), Some(u)) => Some(x + u * t),
                (x, _) => x.as_ref().map(Tensor::shallow_clone),
            };
            x.iter().zip(&u).map(moved).collect()
        };
        let here = values(&along(0.0))?;
        let mut f = |t: f64| -> Result<Vec<f64>, Stop> {
            Ok(values(&along(t))?.iter().flatten().flat_map(numbers).collect())
        };
        let estimates = best_of(&[1e-2, 1e-4, 1e-6], &mut f)?;
        let known = known(&estimates);
        tally.kinks += known.iter().filter(|k| !**k).count();
        let (seeds, numeric, size) = project(&here, &estimates, &known, random);
        let found: f64 = dot(&gradients(&seeds)?, &u);
        tally.compared += 1;
        if apart(found, numeric, allowed.rtol * size + allowed.atol) {
            let what = "derivative along a random direction".to_owned();
            let difference = Difference::at(what, 0, &[], numeric, found);
            return Err(Stop::differs("backward differs from differences of forward")(Box::new(
                difference,
            )));
        }
    }
    Ok(tally)
}

fn best_of(
    steps: &[f64],
    f: &mut dyn FnMut(f64) -> Result<Vec<f64>, Stop>,
) -> Result<Vec<Estimate>, Stop> {
    let mut best: Vec<Estimate> = Vec::new();
    for &h in steps {
        let estimates = differences::derivatives(h, f)?;
        match best.is_empty() {
            true => best = estimates,
            false => best.iter_mut().zip(estimates).for_each(|(best, e)| {
                if e.error < best.error {
                    *best = e;
                }
            }),
        }
    }
    Ok(best)
}

/// Selects the estimates that say enough; the others get no weight.
fn known(estimates: &[Estimate]) -> Vec<bool> {
    let values: Vec<f64> = estimates.iter().map(|e| e.value).collect();
    let scale = super::compare::greatest(&values);
    estimates.iter().map(|e| e.error <= 1e-8 * (e.value.abs() + scale)).collect()
}

/// Random weights `v` in the outputs' shapes, `v . (J u)`, and the greatest
/// that it could be.
fn project(
    outputs: &Flat,
    estimates: &[Estimate],
    known: &[bool],
    random: &mut Random,
) -> (Flat, f64, f64) {
    let mut i = 0;
    let (mut sum, mut size) = (0.0, 0.0);
    let mut weight = |y: &Tensor| {
        let mut weights = Vec::new();
        for _ in 0..y.numel() {
            let weight = if known[i] { random.signed() } else { 0.0 };
            if known[i] {
                sum += weight * estimates[i].value;
                size += (weight * estimates[i].value).abs();
            }
            weights.push(weight);
            i += 1;
        }
        Tensor::from_slice(&weights).reshape(y.size()).to_kind(y.kind())
    };
    let weights = outputs.iter().map(|y| y.as_ref().map(&mut weight)).collect();
    (weights, sum, size)
}

fn dot(a: &Flat, b: &Flat) -> f64 {
    let pairs = a.iter().zip(b).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
    pairs.map(|(a, b)| numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum::<f64>()).sum()
}
