//! Random graphs of operators and Functions: the same values as libtorch's, the
//! same gradient at every leaf and at every value in between, and the same
//! second derivatives, both in the own engine and inside libtorch's.
//!
//! A graph is drawn as raw choices, from which `Builder` makes a program that
//! every op accepts. proptest shrinks the raw choices, and what it prints is
//! the program.

mod builder;
mod choices;
mod compare;
mod engines;
mod functions;
mod op;
mod program;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

#[test]
fn operators() {
    like_libtorch("operators", None);
}

#[test]
fn several_outputs() {
    like_libtorch("several_outputs", Some(builder::SEVERAL_OUTPUTS));
}

#[test]
fn in_place() {
    like_libtorch("in_place", Some(builder::IN_PLACE));
}

#[test]
fn everything() {
    like_libtorch("everything", Some(builder::FUNCTIONS));
}

/// How many graphs the four tests draw together.
const GRAPHS: &str = "TCH_FUNCTION_GRAPHS";
/// What the graphs are drawn from, printed where a test fails.
const SEED: &str = "TCH_FUNCTION_GRAPHS_SEED";

fn like_libtorch(test: &str, functions: Option<Range<usize>>) {
    tch::set_num_threads(1); // the tensors are small
    let count = setting(GRAPHS);
    // The same graphs in every `cargo test`, others whenever a number is asked for.
    let drawn = || count.map_or(0, |_| RandomState::new().build_hasher().finish());
    let seed = setting(SEED).unwrap_or_else(drawn);
    let cases = count.unwrap_or(10_000).div_ceil(4);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(u32::try_from(cases).expect("not that many"))
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let result = TestRunner::new_with_rng(config, rng).run(&choices::choices(functions), |graph| {
        graph.program().check().map_err(|e| TestCaseError::fail(format!("{e:#}")))
    });
    if let Err(e) = result {
        panic!("{e}\n{SEED}={seed} cargo test --test random_graphs {test} repeats it");
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
}
