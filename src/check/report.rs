//! [`Report`]: what a check found, for people to read.

use super::gradcheck::Tolerances;
use super::{failure::index, jacobian::Slope};
use std::fmt;

/// The result of [`gradcheck`](super::gradcheck()). Printed, it is a table of the
/// derivatives that differ, and a summary.
#[derive(Clone, Debug)]
pub struct Report {
    op: &'static str,
    tolerances: Tolerances,
    compared: usize,
    max_difference: f64,
    mismatches: Vec<Mismatch>,
}

/// A derivative that `backward` and differences of `forward` disagree on.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mismatch {
    /// Position among the input tensors.
    pub input: usize,
    /// Index of the element in that input.
    pub input_element: Vec<i64>,
    /// Position among the output tensors.
    pub output: usize,
    /// Index of the element in that output.
    pub output_element: Vec<i64>,
    /// The derivative from finite differences.
    pub numeric: f64,
    /// The derivative from `backward`.
    pub analytic: f64,
}

impl Report {
    pub(super) fn new(op: &'static str, tolerances: Tolerances) -> Report {
        Report { op, tolerances, compared: 0, max_difference: 0.0, mismatches: Vec::new() }
    }

    /// Takes in a derivative; `shapes` gives those of the input and the output.
    pub(super) fn compare(
        &mut self,
        slope: &Slope,
        analytic: f64,
        shapes: impl FnOnce() -> [Vec<i64>; 2],
    ) {
        self.compared += 1;
        let numeric = slope.value;
        if analytic == numeric {
            return; // infinities too
        }
        let difference = (analytic - numeric).abs();
        // A NaN stays, and agrees with nothing.
        if difference.is_nan() || difference > self.max_difference {
            self.max_difference = difference;
        }
        if difference <= self.tolerances.atol + self.tolerances.rtol * numeric.abs() {
            return;
        }
        let [input_shape, output_shape] = shapes();
        self.mismatches.push(Mismatch {
            input: slope.input,
            input_element: index(slope.input_element, &input_shape),
            output: slope.output,
            output_element: index(slope.output_element, &output_shape),
            numeric,
            analytic,
        });
    }

    /// Returns whether every derivative agrees.
    pub fn is_ok(&self) -> bool {
        self.mismatches.is_empty()
    }

    /// The derivatives that differ.
    pub fn mismatches(&self) -> &[Mismatch] {
        &self.mismatches
    }

    /// Returns the number of derivatives were compared.
    pub fn compared(&self) -> usize {
        self.compared
    }

    /// The largest `|analytic - numeric|`; NaN if one of them is.
    pub fn max_difference(&self) -> f64 {
        self.max_difference
    }

    /// The report itself as an error where a derivative differs.
    ///
    /// # Errors
    /// The report.
    pub fn into_result(self) -> Result<(), Report> {
        if self.is_ok() { Ok(()) } else { Err(self) }
    }

    /// Panics with the report, for tests.
    ///
    /// # Panics
    /// With the table where a derivative differs.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.is_ok(), "{self}");
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        if !self.is_ok() {
            let titles = ["output element", "input element", "numeric", "analytic", "difference"];
            let [y, x, numeric, analytic, difference] = titles;
            writeln!(f, "{y:<24} {x:<24} {numeric:>14} {analytic:>14} {difference:>11}")?;
        }
        for m in self.mismatches.iter().take(SHOWN) {
            writeln!(f, "{m}")?;
        }
        if let Some(more) = self.mismatches.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(f, "and {more} more")?;
        }
        write!(
            f,
            "{}: {} of {} derivatives differ (largest difference {:.3e}; eps {:e}, atol {:e}, rtol {:e})",
            self.op,
            self.mismatches.len(),
            self.compared,
            self.max_difference,
            self.tolerances.eps,
            self.tolerances.atol,
            self.tolerances.rtol,
        )
    }
}

impl Mismatch {
    fn difference(&self) -> f64 {
        (self.analytic - self.numeric).abs()
    }
}

/// A line of the table.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let y = format!("output {} {:?}", self.output, self.output_element);
        let x = format!("input {} {:?}", self.input, self.input_element);
        let (numeric, analytic) = (self.numeric, self.analytic);
        write!(f, "{y:<24} {x:<24} {numeric:>14.6e} {analytic:>14.6e} {:>11.3e}", self.difference())
    }
}
