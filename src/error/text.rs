//! The texts of errors, and errors made of others.

use super::Error;
use tch::TchError;

impl Error {
    /// The op that the error is about, where there is one.
    #[rustfmt::skip] // one variant a line would be 45 lines
    pub fn op(&self) -> Option<&'static str> {
        use Error::*;
        match self {
            Forward { op, .. } | Backward { op, .. } | Panic { op, .. }
            | GradientCount { op, .. } | GradientShape { op, .. } | GradientDtype { op, .. }
            | GradientDevice { op, .. } | Seed { op, .. } | SeedChanged { op, .. }
            | SeedMissing { op, .. } | NotDifferentiable { op, .. } | GraphFreed { op, .. }
            | SavedTwice { op, .. } | SavedCount { op, .. } | SavedChanged { op, .. }
            | SavedIntermediate { op, .. } | OnceDifferentiable { op, .. }
            | NoBackward { op, .. } | StateTwice { op, .. } | State { op, .. }
            | NoInput { op, .. } | DirtyNotInput { op, .. } | DirtyLeaf { op, .. }
            | DirtyNotReturned { op, .. } | InputChanged { op, .. } | NotAnOutput { op, .. }
            | Superseded { op, .. } | ValueChanged { op, .. } | Undefined { op, .. }
            | NotFloating { op, .. } | NoForwardMode { op, .. } | Argument { op, .. }
            | NoKernel { op, .. } | Torch { op, .. } => Some(op),
            SeedCount { .. } | NoGraph { .. } | InputNoGrad { .. } | Unused { .. } | Hook { .. }
            | Registration { .. } | UnknownOp { .. } | NotYet { .. } => None,
        }
    }

    /// Wraps what user code of `op` returned, to add the op's name. A broken rule of the
    /// same op keeps its own variant.
    pub(crate) fn from_user(
        op: &'static str,
        source: anyhow::Error,
        wrap: fn(&'static str, anyhow::Error) -> Error,
    ) -> Error {
        // The source itself, without context that the user put around it.
        let own = source.chain().next().and_then(|e| e.downcast_ref::<Error>());
        if own.is_none_or(|own| own.op() != Some(op)) {
            return wrap(op, source);
        }
        source.downcast().unwrap_or_else(|source| wrap(op, source))
    }

    /// Returns whether it, or one of its causes, says that a kernel cannot run.
    pub(crate) fn is_about_kernels(&self) -> bool {
        match self {
            Error::NoKernel { .. } => true,
            Error::Forward { source, .. }
            | Error::Backward { source, .. }
            | Error::Hook { source, .. } => {
                let mut causes = source.chain().filter_map(|cause| cause.downcast_ref());
                causes.any(Error::is_about_kernels)
            }
            _ => false,
        }
    }

    pub(crate) fn forward(op: &'static str, source: anyhow::Error) -> Error {
        Error::Forward { op, source }
    }

    pub(crate) fn backward(op: &'static str, source: anyhow::Error) -> Error {
        Error::Backward { op, source }
    }
}

/// Returns the texts of an error and of its causes, up to one of this crate's, whose text
/// contains its causes. A cause that the text before it ends with is left out.
pub(super) fn in_one_line(source: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in source.chain() {
        let next = format!(": {}", without_cpp_stack(&cause.to_string()));
        if !text.ends_with(&next) {
            text += &next;
        }
        if cause.is::<Error>() {
            break;
        }
    }
    text.split_off(2)
}

/// Returns the text without libtorch's C++ frames. The second form is how the first one
/// looks in the `Debug` text of a panic's message.
pub(crate) fn without_cpp_stack(text: &str) -> &str {
    const STACK: [&str; 2] = ["\nException raised from ", "\\nException raised from "];
    STACK.iter().fold(text, |text, stack| text.split(stack).next().unwrap_or(text))
}

/// Makes an error of tch's one of this crate's, with the name of what was called.
pub(crate) fn torch(op: &'static str) -> impl FnOnce(TchError) -> Error {
    move |e| Error::Torch { op, message: without_cpp_stack(&e.to_string()).to_owned() }
}

#[test]
fn each_cause_is_told_once() {
    let inner = Error::forward("Inner", anyhow::anyhow!("deep down").context("a table"));
    let outer = Error::backward("Outer", anyhow::Error::from(inner).context("inside"));
    let text = "Outer: backward failed: inside: Inner: forward failed: a table: deep down";
    assert_eq!(outer.to_string(), text);
    assert_eq!(format!("{:#}", anyhow::Error::from(outer)), text);
}
