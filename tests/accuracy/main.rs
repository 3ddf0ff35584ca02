//! How close results are to the exact values. `make accuracy` measures it at many numbers, and
//! makes the sample that this compares.

mod casts;
mod elementwise;
mod extremes;
mod measure;
mod reductions;
