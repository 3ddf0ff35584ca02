//! Is a Function right? [`check`] tries everything that is known to go wrong;
//! [`gradcheck()`] compares derivatives alone.
//!
//! ```
//! use tch::Tensor;
//! use tch_function::{check::Check, ops::Log1pExp};
//!
//! let samples = [Tensor::from_slice(&[-3.0, 0.5, 4.5])];
//! Check::new(Log1pExp, samples).reference(|x| x.softplus()).assert();
//! ```
//!
//! [`check_tests!`](crate::check_tests) makes each [`Property`] a test of its
//! own.

mod builder;
mod cause;
mod compare;
mod derivatives;
mod differences;
mod failure;
mod findings;
mod gradcheck;
mod jacobian;
mod kit;
mod layout;
mod macros;
mod points;
mod progress;
mod properties;
mod property;
mod quiet;

mod random;
mod report;
mod runs;
mod shrink;
mod subject;
mod watch;

pub use builder::{Check, check};
pub use failure::{Difference, Failure};
pub use findings::{CheckReport, Outcome};
pub use gradcheck::{Gradcheck, gradcheck, gradcheck_fn};
pub use points::Domain;
pub use property::Property;
pub use random::Random;
pub use report::{Mismatch, Report};

use kit::{Kit, Tally};
