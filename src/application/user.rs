//! Runs user code: an `Err`, a panic or a C++ exception in it becomes an [`Error`].

use crate::error::Error;
use crate::ffi::{self, panic_message};
use tch::TchError;

/// A failure of user code.
enum Fault {
    Returned(anyhow::Error),
    /// A C++ exception, as text.
    Threw(String),
    Panicked(String),
}

#[inline]
fn caught<T>(op: &'static str, body: impl FnOnce() -> anyhow::Result<T>) -> Result<T, Fault> {
    let body = std::panic::AssertUnwindSafe(|| ffi::catch_cpp(body));
    match std::panic::catch_unwind(body) {
        Ok(Some(done)) => done.map_err(|source| Fault::Returned(told(source))),
        Ok(None) => Err(thrown(op)),
        Err(payload) => Err(Fault::Panicked(told_panic(panic_message(payload)))),
    }
}

/// Adds what Python says to an error of tch's: an exception of Python's has no text there,
/// and is pending.
#[cold]
fn told(source: anyhow::Error) -> anyhow::Error {
    match ffi::take_python_error() {
        Some(text) if source.chain().any(|cause| cause.is::<TchError>()) => source.context(text),
        _ => source,
    }
}

/// The same for a panic on such an error.
#[cold]
fn told_panic(message: String) -> String {
    match ffi::take_python_error() {
        Some(text) if !message.contains(&text) => format!("{message} ({text})"),
        _ => message,
    }
}

#[cold]
fn thrown(op: &'static str) -> Fault {
    match ffi::last_error(op) {
        Error::Torch { message, .. } => Fault::Threw(message),
        error => Fault::Returned(error.into()),
    }
}

/// Runs user code of an op; a panic in it becomes [`Error::Panic`], an `Err` or a
/// C++ exception what `wrap` makes of it.
#[inline]
pub(crate) fn run_user<T>(
    op: &'static str,
    stage: &'static str,
    wrap: fn(&'static str, anyhow::Error) -> Error,
    body: impl FnOnce() -> anyhow::Result<T>,
) -> Result<T, Error> {
    caught(op, body).map_err(|fault| match fault {
        Fault::Returned(source) => Error::from_user(op, source, wrap),
        Fault::Threw(message) => wrap(op, anyhow::Error::msg(message)),
        Fault::Panicked(message) => Error::Panic { op, stage, message },
    })
}

/// Runs user code that belongs to no op.
pub(crate) fn run_hook<T>(body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    caught("a hook", body).map_err(|fault| match fault {
        Fault::Returned(source) => source,
        Fault::Threw(message) => anyhow::Error::msg(message),
        Fault::Panicked(message) => anyhow::anyhow!("it panicked: {message}"),
    })
}
