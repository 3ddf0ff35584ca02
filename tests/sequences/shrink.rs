//! A failing program made short.

use super::call::{Call, Program};

impl Program {
    fn with(&self, calls: Vec<(usize, Call)>) -> Program {
        Program { calls, ..*self }
    }

    /// The shortest program that still fails, by leaving out and simplifying one call
    /// after the other.
    pub fn shrunk(self, fails: impl Fn(&Program) -> bool) -> Program {
        let mut best = self;
        loop {
            let shorter = (0..best.calls.len()).rev().map(|i| {
                let mut calls = best.calls.clone();
                calls.remove(i);
                best.with(calls)
            });
            let simpler = best.calls.iter().enumerate().flat_map(|(i, (name, call))| {
                let best = &best;
                call.simpler().into_iter().map(move |call| {
                    let mut calls = best.calls.clone();
                    calls[i] = (*name, call);
                    best.with(calls)
                })
            });
            match shorter.chain(simpler).find(&fails) {
                Some(found) => best = found,
                None => return best,
            }
        }
    }
}
