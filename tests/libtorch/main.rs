//! Functions inside libtorch's autograd, on ordinary tensors.

mod both_engines;
mod hooks;
mod models;
mod modes;
mod outputs;
mod second_order;
mod threads;
