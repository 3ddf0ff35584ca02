//! The engine of Vars: graphs, parameters, lifted closures, second derivatives, and the
//! course's programs.

mod graphs;
mod lift;
mod parameters;
mod programs;
mod second_order;
mod shapes;
