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
            | SavedIntermediate { op, .. } | SavedInference { op, .. } | UnrecordedTangent { op }
            | UnrecordedBackward { op, .. } | OnceDifferentiable { op, .. }
            | NoBackward { op, .. } | StateTwice { op, .. } | State { op, .. }
            | NoInput { op, .. } | DirtyNotInput { op, .. } | DirtyLeaf { op, .. }
            | DirtyNotReturned { op, .. } | InputChanged { op, .. } | NotAnOutput { op, .. }
            | Superseded { op, .. } | ValueChanged { op, .. } | Undefined { op, .. }
            | NotFloating { op, .. } | NoForwardMode { op, .. } | Argument { op, .. }
            | NoKernel { op, .. } | KernelDtype { op, .. } | Torch { op, .. } => Some(op),
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
        Error::Forward { op, source: shortened(source) }
    }

    pub(crate) fn backward(op: &'static str, source: anyhow::Error) -> Error {
        Error::Backward { op, source: shortened(source) }
    }

    pub(crate) fn hook(on: &str, source: anyhow::Error) -> Error {
        Error::Hook { on: on.to_owned(), source: shortened(source) }
    }

    fn source_mut(&mut self) -> Option<&mut anyhow::Error> {
        match self {
            Error::Forward { source, .. }
            | Error::Backward { source, .. }
            | Error::Hook { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Maximum number of this crate's errors inside each other. A nest of passes that fails
/// has one a pass, and each pass reads the whole text.
const DEEPEST: usize = 16;

/// Returns the source of a new error, without the outermost error in it if there are too
/// many.
fn shortened(mut source: anyhow::Error) -> anyhow::Error {
    if depth(&source) < DEEPEST {
        return source;
    }
    let Some(inner) = source.downcast_mut::<Error>().and_then(Error::source_mut) else {
        return source;
    };
    let inner = std::mem::replace(inner, anyhow::Error::msg(""));
    match inner.downcast::<Error>() {
        Ok(inner) => anyhow::Error::new(inner).context("(passes in between left out)"),
        Err(inner) => inner,
    }
}

/// Returns the number of this crate's errors inside each other, `source` among them.
fn depth(source: &anyhow::Error) -> usize {
    let mut found = 0;
    let mut next = source.downcast_ref::<Error>();
    while let Some(error) = next {
        found += 1;
        next = match error {
            Error::Forward { source, .. }
            | Error::Backward { source, .. }
            | Error::Hook { source, .. } => source.downcast_ref(),
            _ => None,
        };
    }
    found
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

/// Returns the text without libtorch's C++ frames and lists of backends, and without
/// Python's frames, which pybind11 adds. The later forms are how the first ones look in the `Debug` text of a panic's
/// message.
pub(crate) fn without_cpp_stack(text: &str) -> &str {
    const STACK: [&str; 5] = [
        " is only available for these backends:",
        "\nException raised from ",
        "\n\nAt:\n  ",
        "\\nException raised from ",
        "\\n\\nAt:\\n  ",
    ];
    STACK.iter().fold(text, |text, stack| text.split(stack).next().unwrap_or(text))
}

/// Makes an error of tch's one of this crate's, with the name of what was called.
pub(crate) fn torch(op: &'static str) -> impl FnOnce(TchError) -> Error {
    move |e| Error::Torch { op, message: without_cpp_stack(&e.to_string()).to_owned() }
}

#[test]
fn a_deep_nest_keeps_its_ends() {
    let mut error = Error::forward("First", anyhow::anyhow!("deep down"));
    for op in ["Inside"].into_iter().cycle().take(100_000).chain(["Last"]) {
        error = Error::backward(op, error.into());
    }
    let text = error.to_string();
    assert!(text.starts_with("Last: backward failed: (passes in between left out): "), "{text}");
    assert!(text.ends_with("First: forward failed: deep down"), "{text}");
    assert_eq!(text.matches("left out").count(), 1, "{text}");
    assert!(text.len() < 1000, "{text}");
}

#[test]
fn each_cause_is_told_once() {
    let inner = Error::forward("Inner", anyhow::anyhow!("deep down").context("a table"));
    let outer = Error::backward("Outer", anyhow::Error::from(inner).context("inside"));
    let text = "Outer: backward failed: inside: Inner: forward failed: a table: deep down";
    assert_eq!(outer.to_string(), text);
    assert_eq!(format!("{:#}", anyhow::Error::from(outer)), text);
}
