//! [`Error`]: one variant per cause, each with the op, the position, what was
//! expected, what was found and what to do.

use tch::{Device, Kind, TchError};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Convertible to [`anyhow::Error`] with `?`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// User code in `forward` returned an error.
    #[error("{op}: forward failed: {}", in_one_line(source))]
    Forward {
        /// The op whose `forward` failed.
        op: &'static str,
        /// What it returned.
        source: anyhow::Error,
    },
    /// User code in `backward` returned an error.
    #[error("{op}: backward failed: {}", in_one_line(source))]
    Backward {
        /// The op whose `backward` failed.
        op: &'static str,
        /// What it returned.
        source: anyhow::Error,
    },
    /// User code panicked; the panic was caught at the call.
    #[error("{op}: {stage} panicked: {message}")]
    Panic {
        /// The op that panicked.
        op: &'static str,
        /// `forward` or `backward`.
        stage: &'static str,
        /// The panic's payload.
        message: String,
    },

    /// A list or optional input got a different number of gradients.
    #[error(
        "{op}: backward returned {found} gradients for {expected} inputs; \
         return one Option<Tensor> per input tensor, None where no gradient flows"
    )]
    GradientCount {
        /// The op whose `backward` returned them.
        op: &'static str,
        /// How many input tensors the op had.
        expected: usize,
        /// How many gradients came back.
        found: usize,
    },
    /// A gradient's shape is not its input's.
    #[error(
        "{op}: backward returned shape {found:?} for input {input} of shape {expected:?}; \
         return a gradient of the input's shape (ctx.reduce_to_input or sum_to_size \
         helps after broadcasting)"
    )]
    GradientShape {
        /// The op whose `backward` returned it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
        /// The input's shape.
        expected: Vec<i64>,
        /// The gradient's shape.
        found: Vec<i64>,
    },
    /// A gradient's dtype is not its input's.
    #[error(
        "{op}: backward returned dtype {found:?} for input {input} of dtype {expected:?}; \
         convert it with to_kind({expected:?})"
    )]
    GradientDtype {
        /// The op whose `backward` returned it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
        /// The input's dtype.
        expected: Kind,
        /// The gradient's dtype.
        found: Kind,
    },
    /// A gradient is not on its input's device.
    #[error(
        "{op}: backward returned a gradient on {found:?} for input {input} on {expected:?}; \
         convert it with to_device({expected:?})"
    )]
    GradientDevice {
        /// The op whose `backward` returned it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
        /// The input's device.
        expected: Device,
        /// The gradient's device.
        found: Device,
    },

    /// `backward` changed the gradient that it was given.
    #[error(
        "{op}: backward changed the gradient of output {output} in place, which others may hold \
         too; compute a new tensor"
    )]
    SeedChanged {
        /// The op whose `backward` did it.
        op: &'static str,
        /// Position among the op's output tensors.
        output: usize,
    },

    /// A seed does not fit its output.
    #[error(
        "{op}: the seed for output {output} has {found}, the output has {expected}; \
         a seed is shaped, typed and placed like its output"
    )]
    Seed {
        /// The op that made the output.
        op: &'static str,
        /// Position in the list of outputs.
        output: usize,
        /// Shape, dtype and device of the output.
        expected: String,
        /// Shape, dtype and device of the seed.
        found: String,
    },
    /// The number of seeds is not the number of outputs.
    #[error("{found} seeds were given for {expected} outputs; give one per output")]
    SeedCount {
        /// The number of outputs.
        expected: usize,
        /// The number of seeds.
        found: usize,
    },
    /// An output that is not one real number has no seed.
    #[error(
        "{op}: output {output} has shape {shape:?}, and a gradient starts from one by itself only \
         where the output is one real number; give a seed (GradOptions::seeds), or reduce it with \
         sum or mean"
    )]
    SeedMissing {
        /// The op that made the output.
        op: &'static str,
        /// Position in the list of outputs.
        output: usize,
        /// The output's shape.
        shape: Vec<i64>,
    },
    /// An output does not depend on anything that requires a gradient.
    #[error(
        "output {output} does not require a gradient: nothing that it was computed from does (a \
         Var::leaf, a tensor with set_requires_grad(true)), or it was computed under no_grad or \
         detached"
    )]
    NoGraph {
        /// Position in the list of outputs.
        output: usize,
    },
    /// A gradient was asked for through an op that has none.
    #[error(
        "{op} has no gradient: its output is not differentiable (an integer or boolean tensor, or \
         marked so); differentiate another output, or detach() this one where a constant is meant"
    )]
    NotDifferentiable {
        /// The op without a gradient.
        op: &'static str,
    },
    /// An input of `grad` does not require a gradient.
    #[error(
        "input {input} does not require a gradient; make it with Var::leaf or, as a tensor, with \
         set_requires_grad(true), or compute it from such a one"
    )]
    InputNoGrad {
        /// Position in the list of inputs.
        input: usize,
    },
    /// An input of `grad` is not in the graph of the outputs.
    #[error(
        "input {input} was not used to compute the outputs, or no gradient flows to it; \
         GradOptions::allow_unused(true) gives None for it"
    )]
    Unused {
        /// Position in the list of inputs.
        input: usize,
    },
    /// User code in a hook returned an error or panicked.
    #[error("a hook on {on} failed: {}", in_one_line(source))]
    Hook {
        /// The node or tensor that the hook was registered on.
        on: String,
        /// What it returned.
        source: anyhow::Error,
    },
    /// A second backward pass over a graph that was not retained.
    #[error(
        "{op}: this part of the graph was already differentiated and its saved tensors are freed; \
         pass retain_graph(true) to every pass but the last"
    )]
    GraphFreed {
        /// The op that was reached a second time.
        op: &'static str,
    },

    /// `save_for_backward` was called a second time.
    #[error("{op}: save_for_backward was called twice; save all tensors in one call")]
    SavedTwice {
        /// The op that saved.
        op: &'static str,
    },
    /// `saved_tensors` asked for another number than was saved.
    #[error("{op}: saved_tensors asked for {expected} tensors, {found} were saved")]
    SavedCount {
        /// The op that asked.
        op: &'static str,
        /// How many were asked for.
        expected: usize,
        /// How many were saved.
        found: usize,
    },
    /// A saved tensor was changed in place before `backward` read it.
    #[error(
        "{op}: saved tensor {position} was changed in place after it was saved (version {found}, \
         saved at {expected}); change a copy, or save what backward needs before the change"
    )]
    SavedChanged {
        /// The op that saved it.
        op: &'static str,
        /// Position in `save_for_backward`.
        position: usize,
        /// The version that was saved.
        expected: u32,
        /// The version now.
        found: u32,
    },
    /// A second derivative through a saved tensor whose history is not known.
    #[error(
        "{op}: the second derivative goes through saved tensor {position}, which is neither an \
         input nor an output, so how it depends on the inputs is not known; save inputs or outputs, \
         or let Function::double_backward return DoubleBackward::Recompute, or ctx.mark_constant \
         it if it does not depend on them"
    )]
    SavedIntermediate {
        /// The op that saved it.
        op: &'static str,
        /// Position in `save_for_backward`.
        position: usize,
    },
    /// A second derivative of an op that says it has only a first.
    #[error("{op}: its backward is once differentiable: it has no second derivative")]
    OnceDifferentiable {
        /// The op.
        op: &'static str,
    },
    /// A gradient of an op that has a forward alone.
    #[error(
        "{op}: it has no backward, and a gradient was asked for through it; give it one (impl \
         Function), or detach its inputs, or call it under no_grad"
    )]
    NoBackward {
        /// The op.
        op: &'static str,
    },
    /// `save` was called a second time.
    #[error("{op}: ctx.save was called twice; save one struct or tuple")]
    StateTwice {
        /// The op that saved.
        op: &'static str,
    },
    /// `state::<T>()` found nothing, or another type.
    #[error("{op}: no state of type {expected} was saved in forward")]
    State {
        /// The op that asked.
        op: &'static str,
        /// The type that was asked for.
        expected: &'static str,
    },
    /// A position past the op's input tensors.
    #[error("{op}: there is no input tensor {input}; the op has {count}")]
    NoInput {
        /// The op that asked.
        op: &'static str,
        /// The position asked for.
        input: usize,
        /// How many input tensors there are.
        count: usize,
    },

    /// `mark_dirty` of a tensor that is not an input.
    #[error("{op}: mark_dirty was given a tensor that is not an input of this call")]
    DirtyNotInput {
        /// The op that marked it.
        op: &'static str,
    },
    /// `mark_dirty` of a leaf that requires a gradient, or of a view of one.
    #[error(
        "{op}: input {input} is a leaf that requires a gradient, or shares the memory of one, and \
         cannot be changed in place; nothing was changed; use a copy of it"
    )]
    DirtyLeaf {
        /// The op that marked it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
    },
    /// A dirty input is not among the outputs.
    #[error("{op}: input {input} was marked dirty but not returned; return every dirty tensor")]
    DirtyNotReturned {
        /// The op that marked it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
    },
    /// `forward` changed an input without saying so.
    #[error(
        "{op}: forward changed input {input} in place without ctx.mark_dirty; \
         mark it before the change and return it, or work on a copy"
    )]
    InputChanged {
        /// The op that changed it.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
    },
    /// `mark_non_differentiable` of a tensor that was not returned.
    #[error("{op}: mark_non_differentiable was given a tensor that forward did not return")]
    NotAnOutput {
        /// The op that marked it.
        op: &'static str,
    },
    /// A Var whose value was changed in place by an op.
    #[error(
        "{op}: input {input} was changed in place by {by}; use the output of {by} in its place"
    )]
    Superseded {
        /// The op that the stale Var was given to.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
        /// The op that changed it.
        by: &'static str,
    },
    /// A Var whose tensor was changed in place behind its back.
    #[error(
        "{op}: the tensor of input {input} was changed in place after the Var was made; \
         make a new Var from it, or change a leaf with Var::update"
    )]
    ValueChanged {
        /// The op that the stale Var was given to.
        op: &'static str,
        /// Position among the op's input tensors.
        input: usize,
    },
    /// A tensor that is not there.
    #[error("{op}: {what} is an undefined tensor")]
    Undefined {
        /// The op or function that met it.
        op: &'static str,
        /// Which tensor.
        what: String,
    },
    /// A dtype that cannot have gradients.
    #[error(
        "{op}: a {found:?} tensor cannot require a gradient; use a floating-point or complex dtype"
    )]
    NotFloating {
        /// The op or function that met it.
        op: &'static str,
        /// The tensor's dtype.
        found: Kind,
    },
    /// Arguments that do not fit together.
    #[error("{op}: {message}")]
    Argument {
        /// The op or function that was called.
        op: &'static str,
        /// What was expected, what was found, what to do.
        message: String,
    },
    /// A tensor whose memory a kernel cannot use.
    #[error("{op}: {what} {found}; {instead}")]
    NoKernel {
        /// The kernel's function.
        op: &'static str,
        /// Which tensor.
        what: String,
        /// What is the matter with it.
        found: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// A forward-mode tangent on an input of a Function without a jvp.
    #[error(
        "{op}: an input carries a forward-mode tangent, and {op} has no jvp; implement \
         Function::jvp, use reverse mode, or detach the input"
    )]
    NoForwardMode {
        /// The op that was applied.
        op: &'static str,
    },
    /// An op could not be registered with libtorch's dispatcher.
    #[error("{what} cannot be registered: {message}")]
    Registration {
        /// The op, or the namespace.
        what: String,
        /// What was expected, what was found, what to do.
        message: String,
    },
    /// A TorchScript module calls an op that nobody has registered.
    #[error(
        "{file} calls {op}, which is not registered: before loading it call the function that \
         tch_function::library! makes in the crate of the namespace {namespace:?}, register() by \
         custom, and see that it returns Ok; if it does, that crate has no op of this name"
    )]
    UnknownOp {
        /// The module's file.
        file: String,
        /// The op, `namespace::name`.
        op: String,
        /// The namespace that it is in.
        namespace: String,
    },
    /// Something this version does not do yet.
    #[error("{what} is not supported yet; {instead}")]
    NotYet {
        /// What was asked for.
        what: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// libtorch reported an error.
    #[error("{op}: {message}")]
    Torch {
        /// The op or function that called libtorch.
        op: &'static str,
        /// libtorch's message.
        message: String,
    },
}

impl Error {
    /// The op that the error is about, where there is one.
    pub fn op(&self) -> Option<&'static str> {
        use Error::*;
        match self {
            Forward { op, .. }
            | Backward { op, .. }
            | Panic { op, .. }
            | GradientCount { op, .. }
            | GradientShape { op, .. }
            | GradientDtype { op, .. }
            | GradientDevice { op, .. }
            | Seed { op, .. }
            | SeedChanged { op, .. }
            | SeedMissing { op, .. }
            | NotDifferentiable { op }
            | GraphFreed { op }
            | SavedTwice { op }
            | SavedCount { op, .. }
            | SavedChanged { op, .. }
            | SavedIntermediate { op, .. }
            | OnceDifferentiable { op }
            | NoBackward { op }
            | StateTwice { op }
            | State { op, .. }
            | NoInput { op, .. }
            | DirtyNotInput { op }
            | DirtyLeaf { op, .. }
            | DirtyNotReturned { op, .. }
            | InputChanged { op, .. }
            | NotAnOutput { op }
            | Superseded { op, .. }
            | ValueChanged { op, .. }
            | Undefined { op, .. }
            | NotFloating { op, .. }
            | NoForwardMode { op }
            | Argument { op, .. }
            | NoKernel { op, .. }
            | Torch { op, .. } => Some(op),
            SeedCount { .. }
            | NoGraph { .. }
            | InputNoGrad { .. }
            | Unused { .. }
            | Hook { .. }
            | Registration { .. }
            | UnknownOp { .. }
            | NotYet { .. } => None,
        }
    }

    /// What user code of `op` returned, with the op's name. A rule of the
    /// same op that was broken inside keeps its own variant.
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

    /// Whether it says that a kernel cannot run, somewhere in its chain.
    pub(crate) fn is_about_kernels(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if matches!(error.downcast_ref(), Some(Error::NoKernel { .. })) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    pub(crate) fn forward(op: &'static str, source: anyhow::Error) -> Error {
        Error::Forward { op, source }
    }

    pub(crate) fn backward(op: &'static str, source: anyhow::Error) -> Error {
        Error::Backward { op, source }
    }
}

/// An error with what caused it, as far as each does not tell its own causes.
fn in_one_line(source: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in source.chain() {
        let separator = if text.is_empty() { "" } else { ": " };
        text += separator;
        text += without_cpp_stack(&cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    text
}

/// The second form is the first one in the `Debug` form of a panic's message.
pub(crate) fn without_cpp_stack(text: &str) -> &str {
    const STACK: [&str; 2] = ["\nException raised from ", "\\nException raised from "];
    STACK.iter().fold(text, |text, stack| text.split(stack).next().unwrap_or(text))
}

/// Turns a tch error into ours, with the name of what was called.
pub(crate) fn torch(op: &'static str) -> impl FnOnce(TchError) -> Error {
    move |e| Error::Torch { op, message: without_cpp_stack(&e.to_string()).to_owned() }
}
