//! The kernels: loops over tensor memory, at their edges too, and the functions on
//! vectors.

mod edges;
mod folds;
mod map;
mod math;
mod refused;
mod sums;
