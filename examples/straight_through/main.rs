//! Backward passes that are not the derivative of their forward, which is what
//! custom ones are mostly written for, each at work on handwritten digits:
//!
//! - a quantiser with a straight-through gradient: a network whose weights take
//!   three values learns, and with the gradient that rounding has it does not;
//! - gradient reversal: features that say which digit an image shows, and hide
//!   from which of two scanners it comes.
//!
//! ```sh
//! cargo run --example straight_through
//! ```

use anyhow::{Result, ensure};

#[path = "../common/digits.rs"]
mod digits;
mod quantiser;
mod reversal;
#[path = "../common/task.rs"]
mod task;

const PIXELS: i64 = 64;
const HIDDEN: i64 = 64;
const DIGITS: i64 = 10;

/// The seed of every network and every shuffling: each run is the same.
const SEED: i64 = 2013;

fn main() -> Result<()> {
    ensure!(std::env::args().len() == 1, "usage: straight_through    (it takes no arguments)");
    // More than one are slower on layers this small.
    tch::set_num_threads(1);
    tch::manual_seed(SEED);
    let [training, test] = task::read()?;
    quantiser::run(&training, &test)?;
    println!();
    reversal::run(&training, &test)
}
