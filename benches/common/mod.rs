//! What the benchmarks share: two programs run in turn, and their `main`.

#![allow(dead_code, reason = "each bench compiles it, and not every one uses all of it")]

use criterion::Criterion;
use std::time::{Duration, Instant};

/// Nanoseconds of ours and of libtorch's program. They are run in turn (A B A B
/// ...), so that ratios hold when the machine's speed drifts.
pub struct Times(Vec<(f64, f64)>);

impl Times {
    /// Times `rounds` rounds of `repeats` runs each.
    pub fn of(rounds: usize, repeats: usize, ours: impl Fn(), libtorch: impl Fn()) -> Times {
        let time = |program: &dyn Fn()| {
            let start = Instant::now();
            (0..repeats).for_each(|_| program());
            start.elapsed().as_nanos() as f64 / repeats as f64
        };
        Times((0..rounds).map(|_| (time(&ours), time(&libtorch))).collect())
    }

    /// Times single runs, or `repeats`, for a while, with other work in between, as a training
    /// step has it.
    pub fn in_a_step(
        repeats: usize,
        other: &dyn Fn(),
        ours: &dyn Fn(),
        libtorch: &dyn Fn(),
    ) -> Times {
        let time = |program: &dyn Fn()| {
            other();
            let start = Instant::now();
            (0..repeats).for_each(|_| program());
            start.elapsed().as_nanos() as f64 / repeats as f64
        };
        let (begin, mut found) = (Instant::now(), Vec::new());
        while found.len() < 5 || begin.elapsed() < Duration::from_millis(150) {
            found.push((time(ours), time(libtorch)));
        }
        Times(found)
    }

    /// The median over the rounds.
    pub fn median(&self, f: impl Fn(f64, f64) -> f64) -> f64 {
        let mut values: Vec<f64> =
            self.0.iter().map(|&(ours, libtorch)| f(ours, libtorch)).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    pub fn ours(&self) -> f64 {
        self.median(|ours, _| ours)
    }

    pub fn libtorch(&self) -> f64 {
        self.median(|_, libtorch| libtorch)
    }

    pub fn ratio(&self) -> f64 {
        self.median(|ours, libtorch| ours / libtorch)
    }
}

/// Criterion's part; then, under `cargo bench`, the tables.
pub fn main(with_criterion: fn(&mut Criterion), print: fn()) {
    let mut criterion = Criterion::default().configure_from_args();
    with_criterion(&mut criterion);
    criterion.final_summary();
    if std::env::args().any(|arg| arg == "--bench") {
        print();
    }
}
