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
            best = best.shortened(&fails);
            let simpler = best.calls.iter().enumerate().flat_map(|(i, (name, call))| {
                let best = &best;
                call.simpler().into_iter().map(move |call| {
                    let mut calls = best.calls.clone();
                    calls[i] = (*name, call);
                    best.with(calls)
                })
            });
            match simpler.into_iter().find(&fails) {
                Some(found) => best = found,
                None => return best,
            }
        }
    }

    /// The same by leaving out calls alone, which their numbers say to another process.
    pub fn shortened(self, fails: impl Fn(&Program) -> bool) -> Program {
        let mut best = self;
        let mut i = best.calls.len();
        while i > 0 {
            i -= 1;
            let mut calls = best.calls.clone();
            calls.remove(i);
            let shorter = best.with(calls);
            if fails(&shorter) {
                best = shorter;
            }
        }
        best
    }
}
