//! A line on stderr for checks that take long.

use super::Property;
use std::io::Write;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Progress {
    op: &'static str,
    total: usize,
    done: usize,
    started: Instant,
    told: Instant,
}

impl Progress {
    pub fn new(op: &'static str, total: usize) -> Progress {
        let now = Instant::now();
        Progress { op, total, done: 0, started: now, told: now }
    }

    pub fn at(&mut self, property: Property, point: usize) {
        if self.told.elapsed() < PATIENCE {
            return;
        }
        self.told = Instant::now();
        let (op, done, total, seconds) = (self.op, self.done, self.total, self.started.elapsed());
        let line = format!(
            "check {op}: {done} of {total} properties, at {property} point {point}, {:.0} s",
            seconds.as_secs_f64()
        );
        // Past the test harness, which would keep it until the end.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    pub fn property_done(&mut self) {
        self.done += 1;
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
