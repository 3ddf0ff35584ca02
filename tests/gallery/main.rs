//! The gallery: Functions with one fault each, and the property of the check
//! that is meant for it. Each is caught by that property, and passes every
//! check once the fault is taken away.
//!
//! `make gallery-pytorch` runs PyTorch's own checkers on the same faults.

#[macro_use]
mod fault;
mod accuracy;
mod gradient;
mod inputs;
mod memory;
mod second;
mod seeds;
mod state;

use fault::Fault;
use tch_function::check::Property;

const MODULES: [&[Fault]; 7] = [
    gradient::FAULTS,
    inputs::FAULTS,
    seeds::FAULTS,
    second::FAULTS,
    accuracy::FAULTS,
    memory::FAULTS,
    state::FAULTS,
];

#[test]
fn every_property_has_a_fault() {
    let faults: Vec<&Fault> = MODULES.into_iter().flatten().collect();
    println!("{} faults", faults.len());
    for property in Property::ALL {
        assert!(faults.iter().any(|fault| fault.meant == *property), "{property}");
    }
}
