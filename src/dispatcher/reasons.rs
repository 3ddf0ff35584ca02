//! What libtorch says about a registration, or about a run under a tracer, as what its user
//! can do.

use crate::Error;
use crate::ffi::panic_message;
use std::any::Any;

/// Returns whether libtorch can have ops of this namespace from here.
pub(super) fn check_namespace(namespace: &str) -> Result<(), Error> {
    let message = match namespace {
        "aten" | "prim" | "prims" => "libtorch has its own ops there; take another name",
        name if is_word(name) => return Ok(()),
        _ => "a namespace is a word of letters, digits and _, as in \"my_ops\"",
    };
    Err(about_namespace(namespace, message.to_owned()))
}

fn is_word(name: &str) -> bool {
    let continues = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(continues) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Makes the error for a namespace that could not be opened.
pub(super) fn taken(namespace: &str, error: &Error) -> Error {
    let text = text(error);
    let owner = between(text, "Previous registration of TORCH_LIBRARY was ", "; latest");
    let message = match owner {
        Some("tch-function") => {
            "another tch_function::library! of this process has it; put all its ops into one, or \
             take another name (one library that is loaded from two files is another, too)"
                .to_owned()
        }
        Some(owner) => format!("it is taken ({owner}); take another name"),
        None => text.to_owned(),
    };
    about_namespace(namespace, message)
}

/// Makes the error for a registration that its own constructors ask for.
pub(super) fn inside_itself(namespace: &str) -> Error {
    let message = "what defines its ops registers it again; call the function of library! from \
                   outside";
    about_namespace(namespace, message.to_owned())
}

/// Makes the error for a panic while ops are defined.
pub(super) fn panicked(namespace: &str, payload: Box<dyn Any + Send>) -> Error {
    about_namespace(namespace, format!("defining its ops panicked: {}", panic_message(payload)))
}

fn about_namespace(namespace: &str, message: String) -> Error {
    Error::Registration { what: format!("the namespace {namespace:?}"), message }
}

/// Makes the error for an op whose schema fits and that libtorch does not take.
pub(super) fn undefined(what: &str, error: &Error) -> Error {
    let text = text(error);
    let message = match text.contains("with the same name and overload name multiple times") {
        true => {
            "its library has an op of this name (an op f brings _f_forward and _f_backward with \
             it); take another name, or an overload's: f.second(Tensor x) -> Tensor"
        }
        false => text,
    };
    Error::Registration { what: what.to_owned(), message: message.to_owned() }
}

/// Makes the message for a text that is no schema.
pub(super) fn unreadable(error: &Error) -> String {
    let example = "f(Tensor x, float k=0.5) -> Tensor";
    format!("its schema cannot be read; write it as in {example:?}: {}", text(error).trim())
}

/// Returns the error of an op that ran on tensors without data, with what to do.
pub(super) fn without_data(error: Error) -> Error {
    const WHERE: &str = "it ran on tensors without data, as under torch.compile, torch.export and \
                         FakeTensorMode";
    match &error {
        error if error.is_about_kernels() => {}
        &Error::Forward { op, .. } | &Error::Panic { op, stage: "forward", .. } => {
            let advice = "implement Function::fake, which makes outputs from shapes alone";
            return Error::forward(op, in_context(error, format!("{WHERE}; {advice}")));
        }
        &Error::Backward { op, .. } | &Error::Panic { op, stage: "backward", .. } => {
            let advice = "a backward must not read data: use tensor operations, such as where, \
                          or save in forward what depends on data, as a tensor";
            return Error::backward(op, in_context(error, format!("{WHERE}; {advice}")));
        }
        _ => {}
    }
    error
}

fn in_context(error: Error, context: String) -> anyhow::Error {
    anyhow::Error::new(error).context(context)
}

fn text(error: &Error) -> &str {
    match error {
        Error::Torch { message, .. } => message,
        _ => "",
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(after)?.0)
}
