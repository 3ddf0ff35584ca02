//! Random sequences of calls over the whole safe interface, each run on Vars, with
//! Functions inside libtorch's autograd, and in plain tch: every number is plain
//! tch's, or the call returns an `Err`.

mod call;
mod compare;
mod draw;
mod engine;
mod functions;
mod known;
mod op;
mod plain;
mod shrink;
mod world;

use call::Program;
use compare::Tally;
use std::hash::{BuildHasher, Hasher, RandomState};

/// How many sequences to draw, others than those of each `cargo test`.
const COUNT: &str = "TCH_FUNCTION_SEQUENCES";
/// The seed of the first sequence, printed where the test fails.
const SEED: &str = "TCH_FUNCTION_SEQUENCES_SEED";

#[test]
fn sequences() {
    tch::set_num_threads(1); // the tensors are small
    let count = setting(COUNT);
    let drawn = || count.map_or(0, |_| RandomState::new().build_hasher().finish() >> 16);
    let first = setting(SEED).unwrap_or_else(drawn);
    let count = count.unwrap_or(10_000);
    let mut tally = Tally::default();
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut failures = Vec::new();
    for seed in first..first + count {
        if let Err(e) = draw::program(seed).check(&mut tally) {
            failures.push((seed, e));
            if failures.len() > 20 {
                break;
            }
        }
    }
    for (seed, e) in &failures {
        let fails = |program: &Program| program.check(&mut Tally::default()).is_err();
        let short = draw::program(*seed).shrunk(fails);
        let e = short.check(&mut Tally::default()).err().unwrap_or_else(|| e.clone());
        println!("{e}\n{short}{SEED}={seed} {COUNT}=1 repeats it\n");
    }
    std::panic::set_hook(loud);
    for (what, counts) in &tally.calls {
        println!("{what:?} {counts:?}");
    }
    println!("clean {:?} whole {:?}", tally.clean, tally.whole);
    assert!(failures.is_empty(), "{} failures", failures.len());
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
}
