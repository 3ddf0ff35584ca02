//! The likely cause of wrong derivatives, where their pattern tells.

use super::derivatives::{Entry, Verdict};
use std::collections::HashMap;

type Place = (usize, usize, usize, usize);

/// The facts that all derivatives of a point have in common.
pub(super) fn of(entries: &[Entry]) -> Option<String> {
    let sure: Vec<&Entry> = entries.iter().filter(|e| e.verdict != Verdict::Unknown).collect();
    let wrong: Vec<&&Entry> = sure.iter().filter(|e| e.verdict == Verdict::Differs).collect();
    let inputs = listed(wrong.iter().map(|e| e.input));
    if wrong.iter().all(|e| e.analytic.is_nan()) {
        return Some(format!("the gradient of {inputs} is not a number"));
    }
    if wrong.iter().all(|e| e.analytic == 0.0) {
        return Some(format!("the gradient of {inputs} is 0: a missing term, or None returned"));
    }
    if let Some(ratio) = common_ratio(&wrong) {
        return Some(factor(ratio));
    }
    let numeric: HashMap<Place, f64> = sure.iter().map(|e| (place(e), e.numeric)).collect();
    let moved = |to: fn(Place) -> Place| {
        wrong.iter().all(|e| numeric.get(&to(place(e))).is_some_and(|n| close(*n, e.analytic)))
    };
    if moved(|(y, j, x, i)| (y, i, x, j)) {
        return Some(format!("the gradient of {inputs} is transposed"));
    }
    if moved(|(y, j, x, i)| (1 - y.min(1), j, x, i)) {
        return Some("the gradients of the outputs are swapped".to_owned());
    }
    if moved(|(y, j, x, i)| (y, j, 1 - x.min(1), i)) {
        return Some("the gradients of the inputs are swapped".to_owned());
    }
    if wrong.iter().all(|e| e.analytic == e.numeric.trunc() || e.analytic == e.numeric.round()) {
        return Some("the gradient is cut to whole numbers".to_owned());
    }
    if wrong.iter().all(|e| (e.analytic - e.numeric).abs() <= 2e-3 * e.numeric.abs()) {
        return Some("an approximation, or a computation in less precision than f64".to_owned());
    }
    (wrong.len() < sure.len()).then(|| {
        format!(
            "{} of {} derivatives are right: one term or one case is wrong",
            sure.len() - wrong.len(),
            sure.len()
        )
    })
}

fn place(e: &Entry) -> Place {
    (e.output, e.output_element, e.input, e.input_element)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

/// The ratio that all of them have.
fn common_ratio(wrong: &[&&Entry]) -> Option<f64> {
    let ratio = |e: &Entry| e.analytic / e.numeric;
    let first = ratio(wrong.first()?);
    let same = wrong.iter().all(|e| close(ratio(e), first));
    (first.is_finite() && first != 0.0 && same).then_some(first)
}

fn factor(ratio: f64) -> String {
    if close(ratio, -1.0) {
        return "a wrong sign".to_owned();
    }
    let (times, of) = (ratio.abs() >= 1.0, if ratio.abs() >= 1.0 { ratio } else { 1.0 / ratio });
    let shown = if close(of, of.round()) { format!("{}", of.round()) } else { format!("{of:.6}") };
    match times {
        true => format!("a factor of {shown} too much"),
        false => format!("a factor of {shown} is missing (the number of elements, for a mean?)"),
    }
}

fn listed(inputs: impl Iterator<Item = usize>) -> String {
    let mut inputs: Vec<usize> = inputs.collect();
    inputs.dedup();
    inputs.sort_unstable();
    inputs.dedup();
    let names: Vec<String> = inputs.iter().map(|i| format!("input {i}")).collect();
    names.join(" and ")
}
