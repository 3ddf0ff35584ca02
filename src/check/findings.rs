//! [`CheckReport`]: what a check found, for people to read.

use super::{Failure, Property};
use std::fmt;
use std::time::Duration;

/// The result of each [`Property`]. Printed, it is a table, and every failure
/// in full.
#[derive(Clone, Debug)]
pub struct CheckReport {
    pub(super) op: &'static str,
    pub(super) outcomes: Vec<(Property, Outcome)>,
    pub(super) points: usize,
    pub(super) left_out: usize,
    pub(super) seed: u64,
    pub(super) elapsed: Duration,
}

/// The result of one property.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It holds.
    #[non_exhaustive]
    Passed {
        /// Number of points at which the property was checked.
        points: usize,
        /// Number of numbers were compared.
        compared: usize,
        /// Number of more were at kinks, where nothing can be said.
        kinks: usize,
    },
    /// It does not hold.
    Failed(Box<Failure>),
    /// There is nothing to check, for this reason.
    NotApplicable(String),
    /// The user asked to leave it out, for this reason.
    Skipped(String),
}

impl CheckReport {
    /// Returns whether no property failed.
    pub fn is_ok(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Those that failed, in the order of [`Property::ALL`].
    pub fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.outcomes.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Failed(failure) => Some(&**failure),
            _ => None,
        })
    }

    /// Returns the result of a property; `None` if it was not checked.
    pub fn outcome(&self, property: Property) -> Option<&Outcome> {
        self.outcomes.iter().find(|(p, _)| *p == property).map(|(_, outcome)| outcome)
    }

    /// The failure of a property, if it failed.
    pub fn failure(&self, property: Property) -> Option<&Failure> {
        self.failures().find(|f| f.property == property)
    }

    /// The seed that repeats the random choices, for `TCH_FUNCTION_CHECK_SEED` or
    /// [`Check::seed`](super::Check::seed).
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The report itself as an error where a property failed.
    ///
    /// # Errors
    /// The report.
    pub fn into_result(self) -> Result<(), Box<CheckReport>> {
        if self.is_ok() { Ok(()) } else { Err(Box::new(self)) }
    }

    /// Panics with the report, for tests.
    ///
    /// # Panics
    /// With the report where a property failed.
    #[track_caller]
    pub fn assert(&self) {
        assert!(self.is_ok(), "{self}");
    }
}

impl std::error::Error for CheckReport {}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckReport { op, points, left_out, seed, .. } = self;
        writeln!(f, "{op} at {points} points, seed {seed}")?;
        if *left_out > 0 {
            writeln!(f, "({left_out} random points lay outside its domain)")?;
        }
        for (property, outcome) in &self.outcomes {
            writeln!(f, "  {property:<15} {outcome}")?;
        }
        let failed = self.failures().count();
        let passed =
            self.outcomes.iter().filter(|(_, o)| matches!(o, Outcome::Passed { .. })).count();
        let seconds = self.elapsed.as_secs_f64();
        write!(f, "{op}: {passed} properties hold, {failed} do not ({seconds:.2} s)")?;
        for failures in self.grouped() {
            let (first, rest) = (failures[0], &failures[1..]);
            write!(f, "\n\n{first}")?;
            if !rest.is_empty() {
                let names: Vec<String> = rest.iter().map(|f| f.property.to_string()).collect();
                write!(f, "\n  the same stops {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl CheckReport {
    /// The failures, those with one message together: an error stops many
    /// properties.
    fn grouped(&self) -> Vec<Vec<&Failure>> {
        let mut groups: Vec<Vec<&Failure>> = Vec::new();
        for failure in self.failures() {
            let same = |group: &&mut Vec<&Failure>| {
                failure.difference.is_none() && group[0].message == failure.message
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(failure),
                None => groups.push(vec![failure]),
            }
        }
        groups
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Passed { points, compared, kinks } => {
                write!(f, "ok      {compared} comparisons at {points} points")?;
                if *kinks > 0 { write!(f, ", {kinks} left out at kinks") } else { Ok(()) }
            }
            Outcome::Failed(failure) => write!(f, "FAILED  {}", short(&failure.message)),
            Outcome::NotApplicable(why) => write!(f, "-       {}", short(why)),
            Outcome::Skipped(why) => write!(f, "skipped {why}"),
        }
    }
}

/// The beginning of a long message.
fn short(message: &str) -> String {
    const LENGTH: usize = 72;
    match message.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}..", &message[..end]),
        None => message.to_owned(),
    }
}
