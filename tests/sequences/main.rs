//! Random sequences of calls over the whole safe interface, each run on Vars, with
//! Functions inside libtorch's autograd, and in plain tch: every number is plain
//! tch's, or the call returns an `Err`.

mod call;
mod compare;
mod draw;
mod engine;
mod functions;
mod measure;
mod op;
mod plain;
mod shrink;
mod supervise;
mod tally;
mod world;

use call::Program;
use std::hash::{BuildHasher, Hasher, RandomState};
use tally::Tally;

/// How many sequences to draw, others than those of each `cargo test`.
const COUNT: &str = "TCH_FUNCTION_SEQUENCES";
/// The seed of the first sequence, printed where the test fails.
const SEED: &str = "TCH_FUNCTION_SEQUENCES_SEED";
/// `alone` runs all in this process, for valgrind or a debugger.
const PROCESS: &str = "TCH_FUNCTION_SEQUENCES_PROCESS";
/// The calls to keep of each sequence, as `1,5,8`.
const CALLS: &str = "TCH_FUNCTION_SEQUENCES_CALLS";
/// The failures that are printed.
const ENOUGH: usize = 20;

#[test]
fn sequences() {
    let count = setting(COUNT);
    let drawn = || count.map_or(0, |_| RandomState::new().build_hasher().finish() >> 16);
    let first = setting(SEED).unwrap_or_else(drawn);
    let count = count.unwrap_or(10_000);
    println!("{count} sequences from seed {first}");
    let good = match std::env::var_os(PROCESS) {
        None => supervise::run(first, count, program),
        Some(how) => run(first, count, how == "watched"),
    };
    assert!(good, "sequences from {SEED}={first} failed");
}

fn run(first: u64, count: u64, watched: bool) -> bool {
    tch::set_num_threads(1); // the tensors are small
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut tally = Tally::default();
    let mut failures = 0;
    for seed in first..first + count {
        if watched {
            supervise::say_next(seed);
        }
        if let Err(e) = program(seed).check(&mut tally) {
            let fails = |program: &Program| program.check(&mut Tally::default()).is_err();
            let short = program(seed).shrunk(fails);
            let e = short.check(&mut Tally::default()).err().unwrap_or(e);
            println!("{e}\n{short}{SEED}={seed} {COUNT}=1 repeats it\n");
            failures += 1;
        }
        if failures == ENOUGH {
            break;
        }
    }
    std::panic::set_hook(loud);
    println!("{tally}");
    if failures == 0 && count >= 1000 {
        tally.assert_enough(count as usize);
    }
    failures == 0
}

/// The program of a seed, of which a part may be asked for.
fn program(seed: u64) -> Program {
    let mut program = draw::program(seed);
    if let Ok(calls) = std::env::var(CALLS) {
        let keep: Vec<&str> = calls.split(',').collect();
        program.calls.retain(|(i, _)| keep.contains(&i.to_string().as_str()));
    }
    program
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
}
