//! [`Failure`]: what is wrong, where, and with which numbers.

use super::Property;
use crate::Error;
use std::fmt;

/// A property that does not hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// The Function.
    pub op: &'static str,
    /// The property that does not hold.
    pub property: Property,
    /// The finding, in words.
    pub message: String,
    /// The place where two numbers, or two shapes, differ.
    pub difference: Option<Difference>,
    /// The likely cause, where the numbers tell.
    pub cause: Option<String>,
    /// The inputs, one line each, as small as the failure allows.
    pub inputs: Vec<String>,
    /// The origin of the inputs.
    pub origin: String,
    /// The seed that repeats the failure.
    pub seed: u64,
}

/// Two things that should be equal.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The tensor's name.
    pub what: String,
    /// The index of the element; empty for a scalar.
    pub element: Vec<i64>,
    /// The number that is right if the rest is.
    pub expected: f64,
    /// The number that was found.
    pub found: f64,
    /// Facts other than numbers that differ: shapes, dtypes.
    pub form: Option<String>,
}

impl Difference {
    pub(super) fn of_form(what: String, form: String) -> Difference {
        let nan = f64::NAN;
        Difference { what, element: Vec::new(), expected: nan, found: nan, form: Some(form) }
    }

    /// Returns the indices of element `i` in row-major order.
    pub(super) fn at(
        what: String,
        i: usize,
        shape: &[i64],
        expected: f64,
        found: f64,
    ) -> Difference {
        Difference { what, element: index(i, shape), expected, found, form: None }
    }

    /// Returns the found number divided by the expected one.
    pub fn ratio(&self) -> f64 {
        self.found / self.expected
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(form) = &self.form {
            return write!(f, "{}: expected and found: {form}", self.what);
        }
        let (what, element) = (&self.what, &self.element);
        let (expected, found, ratio) = (self.expected, self.found, self.ratio());
        write!(f, "{what} {element:?}: expected {expected:.10e}, found {found:.10e}")?;
        if ratio.is_finite() { write!(f, ", ratio {ratio:.8}") } else { Ok(()) }
    }
}

/// The index of an element that is counted in row-major order.
pub(super) fn index(element: usize, shape: &[i64]) -> Vec<i64> {
    let mut rest = element as i64;
    let mut index: Vec<i64> = shape
        .iter()
        .rev()
        .map(|&size| {
            let i = rest % size;
            rest /= size;
            i
        })
        .collect();
    index.reverse();
    index
}

/// Why a property stops at a point.
pub(super) enum Stop {
    Fails(Box<Finding>),
    /// The Function, or an engine, returned an error.
    Error(Error),
    /// There is nothing to check, for this reason.
    Nothing(String),
}

/// A failure before it is known where it happened.
#[derive(Clone, Default)]
pub(super) struct Finding {
    pub message: String,
    pub difference: Option<Difference>,
    pub cause: Option<String>,
}

impl Stop {
    pub fn failed(message: impl Into<String>) -> Stop {
        Stop::Fails(Box::new(Finding { message: message.into(), ..Finding::default() }))
    }

    /// The two differ; `message` says what was compared.
    pub fn differs(message: impl Into<String>) -> impl FnOnce(Box<Difference>) -> Stop {
        let message = message.into();
        move |difference| {
            Stop::Fails(Box::new(Finding { message, difference: Some(*difference), cause: None }))
        }
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Error(e)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} fails {}: {}", self.op, self.property, self.message)?;
        if let Some(difference) = &self.difference {
            writeln!(f, "  {difference}")?;
        }
        if let Some(cause) = &self.cause {
            writeln!(f, "  likely cause: {cause}")?;
        }
        for input in &self.inputs {
            writeln!(f, "  {input}")?;
        }
        write!(f, "  at {}; TCH_FUNCTION_CHECK_SEED={} repeats it", self.origin, self.seed)
    }
}
