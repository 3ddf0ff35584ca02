//! The shipped ops: values, accuracy, gradients, dtypes and checks.

mod autocast;
mod edges;
mod every_check;
mod gelu;
mod kernels;
mod log1p_exp;
mod long;
mod losses;
mod recurrences;
mod rules;
mod table;
