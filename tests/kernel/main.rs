//! The kernels: loops over tensor memory, at their edges too, and the functions on
//! vectors.

mod choice;
mod edges;
mod examples;
mod folds;
mod map;
mod math;
mod refused;
mod rows_along;
mod scans;
mod sums;
