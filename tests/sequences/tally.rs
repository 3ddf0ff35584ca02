//! What ran, so that the test cannot pass with nothing done.

use super::call::KINDS;
use std::collections::BTreeMap;
use std::fmt;

pub const ENGINES: [&str; 2] = ["Vars", "Functions inside libtorch"];

#[derive(Default)]
pub struct Tally {
    /// By kind of call or op, and engine: how many succeeded, and how many were an `Err`.
    calls: BTreeMap<(String, &'static str), [usize; 2]>,
    /// By engine: sequences without any `Err`, and those compared to the end.
    clean: BTreeMap<&'static str, usize>,
    whole: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub fn call(&mut self, engine: &'static str, kind: &str, succeeded: bool) {
        let counts = self.calls.entry((kind.to_owned(), engine)).or_default();
        counts[usize::from(!succeeded)] += 1;
    }

    pub fn end(&mut self, engine: &'static str, clean: bool, whole: bool) {
        *self.clean.entry(engine).or_default() += usize::from(clean);
        *self.whole.entry(engine).or_default() += usize::from(whole);
    }

    fn succeeded(&self, kind: &str, engine: &'static str) -> usize {
        self.calls.get(&(kind.to_owned(), engine)).map_or(0, |counts| counts[0])
    }

    /// Checks that every kind of call ran often enough among `count` sequences, in each
    /// engine, and that enough sequences got to their end.
    pub fn assert_enough(&self, count: usize) {
        for engine in ENGINES {
            for kind in KINDS {
                // Vars take no hooks.
                let none = engine == ENGINES[0] && matches!(kind, "Hook" | "Unhook");
                let (ran, least) = (self.succeeded(kind, engine), count / 100);
                assert!(none || ran >= least, "{kind} succeeded {ran} times in {engine}");
            }
            let (whole, clean) = (self.whole[engine], self.clean[engine]);
            assert!(whole >= count * 2 / 5, "{whole} sequences compared to the end in {engine}");
            assert!(clean >= count / 20, "{clean} sequences without an Err in {engine}");
        }
        for kind in ["Backward", "Grad", "Twice"] {
            let all = |engine| self.calls[&(kind.to_owned(), engine)];
            for engine in ENGINES {
                let [succeeded, failed] = all(engine);
                assert!(succeeded * 2 > failed, "{kind}: {succeeded} and {failed} in {engine}");
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "calls that succeeded, and that were an Err:")?;
        for ((kind, engine), [succeeded, failed]) in &self.calls {
            writeln!(f, "{kind:>16} {succeeded:>8} {failed:>8}  {engine}")?;
        }
        for engine in ENGINES {
            let of = |counts: &BTreeMap<&str, usize>| counts.get(engine).copied().unwrap_or(0);
            let (clean, whole) = (of(&self.clean), of(&self.whole));
            writeln!(f, "{engine}: {clean} sequences without an Err, {whole} compared to the end")?;
        }
        Ok(())
    }
}
