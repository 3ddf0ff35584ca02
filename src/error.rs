//! [`Error`]: one variant per cause, each with the op, the position, what was
//! expected, what was found and what to do.

mod text;

pub(crate) use text::{torch, without_cpp_stack};

use tch::{Device, Kind};
use text::in_one_line;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. Convertible to [`anyhow::Error`] with `?`.
///
/// In every variant `op` is the op or function that met the error; `input`, `output` and
/// `position` count from 0; `expected` and `found` are what the message compares. The
/// text of a variant with a `source` contains its causes, in one line.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields that many variants have are explained above")]
#[non_exhaustive]
pub enum Error {
    /// User code in `forward` returned an error.
    #[error("{op}: forward failed: {}", in_one_line(source))]
    Forward {
        op: &'static str,
        /// The error that it returned.
        r#source: anyhow::Error,
    },
    /// User code in `backward` returned an error.
    #[error("{op}: backward failed: {}", in_one_line(source))]
    Backward {
        op: &'static str,
        /// The error that it returned.
        r#source: anyhow::Error,
    },
    /// User code panicked; the panic was caught at the call.
    #[error("{op}: {stage} panicked: {message}")]
    Panic {
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
    GradientCount { op: &'static str, expected: usize, found: usize },
    /// A gradient's shape is not its input's.
    #[error(
        "{op}: backward returned shape {found:?} for input {input} of shape {expected:?}; \
         return a gradient of the input's shape (ctx.reduce_to_input or sum_to_size \
         helps after broadcasting)"
    )]
    GradientShape { op: &'static str, input: usize, expected: Vec<i64>, found: Vec<i64> },
    /// A gradient's dtype is not its input's.
    #[error(
        "{op}: backward returned dtype {found:?} for input {input} of dtype {expected:?}; \
         convert it with to_kind({expected:?})"
    )]
    GradientDtype { op: &'static str, input: usize, expected: Kind, found: Kind },
    /// A gradient is not on its input's device.
    #[error(
        "{op}: backward returned a gradient on {found:?} for input {input} on {expected:?}; \
         convert it with to_device({expected:?})"
    )]
    GradientDevice { op: &'static str, input: usize, expected: Device, found: Device },

    /// `backward` changed the gradient that it was given.
    #[error(
        "{op}: backward changed the gradient of output {output} in place, which others may hold \
         too; compute a new tensor"
    )]
    SeedChanged { op: &'static str, output: usize },

    /// A seed does not fit its output.
    #[error(
        "{op}: the seed for output {output} has {found}, the output has {expected}; \
         a seed needs its output's shape, dtype and device"
    )]
    Seed { op: &'static str, output: usize, expected: String, found: String },
    /// The number of seeds is not the number of outputs.
    #[error("{found} seeds were given for {expected} outputs; give one per output")]
    SeedCount { expected: usize, found: usize },
    /// An output that is not one real number has no seed.
    #[error(
        "{op}: output {output} has shape {shape:?}, and only a single real number has a default \
         seed (1); pass a seed (GradOptions::seeds), or reduce the output with sum or mean"
    )]
    SeedMissing {
        op: &'static str,
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
    NoGraph { output: usize },
    /// A gradient was asked for through an op that has none.
    #[error(
        "{op} has no gradient: its output is not differentiable (an integer or boolean tensor, or \
         marked so); differentiate another output, or detach() this one where a constant is meant"
    )]
    NotDifferentiable { op: &'static str },
    /// An input of `grad` does not require a gradient.
    #[error(
        "input {input} does not require a gradient; make it with Var::leaf (a tensor: \
         set_requires_grad(true)), or compute it from one that does"
    )]
    InputNoGrad { input: usize },
    /// An input of `grad` is not in the graph of the outputs.
    #[error(
        "input {input} was not used to compute the outputs, or no gradient flows to it; \
         GradOptions::allow_unused(true) gives None for it"
    )]
    Unused { input: usize },
    /// User code in a hook returned an error or panicked.
    #[error("a hook on {on} failed: {}", in_one_line(source))]
    Hook {
        /// The node or tensor that the hook was registered on.
        on: String,
        /// The error that it returned.
        r#source: anyhow::Error,
    },
    /// A second backward pass over a graph that was not retained.
    #[error(
        "{op}: this part of the graph was already differentiated and its saved tensors are freed; \
         pass retain_graph(true) to every pass but the last"
    )]
    GraphFreed { op: &'static str },

    /// `save_for_backward` was called a second time.
    #[error("{op}: save_for_backward was called twice; save all tensors in one call")]
    SavedTwice { op: &'static str },
    /// `saved_tensors` asked for another number than was saved.
    #[error("{op}: saved_tensors asked for {expected} tensors, {found} were saved")]
    SavedCount { op: &'static str, expected: usize, found: usize },
    /// A saved tensor was changed in place before `backward` read it.
    #[error(
        "{op}: saved tensor {position} was changed in place after it was saved (version {found}, \
         saved at {expected}); change a copy, or save what backward needs before the change"
    )]
    SavedChanged { op: &'static str, position: usize, expected: u32, found: u32 },
    /// A tensor was to be saved whose changes nothing can show: an inference tensor.
    #[error(
        "{op}: {what} is an inference tensor, whose changes in place cannot be seen; save a clone \
         that was made outside inference mode"
    )]
    SavedInference {
        op: &'static str,
        /// The tensor's name.
        what: String,
    },
    /// A gradient that is to be differentiated further, and that libtorch has not recorded.
    #[error(
        "{op}: backward returned a gradient for input {input} that libtorch did not record \
         (computed under no_grad, from numbers or on a detached copy), in a pass with \
         create_graph, after which it could be differentiated again; compute it from dy and saved tensors by recorded operations, or let \
         Function::double_backward return DoubleBackward::Once, or pass it through \
         ctx.constant_gradient where its derivative is meant to be zero"
    )]
    UnrecordedBackward { op: &'static str, input: usize },
    /// A second derivative through a saved tensor whose history is not known.
    #[error(
        "{op}: the second derivative goes through saved tensor {position}, which is neither an \
         input nor an output, so how it depends on the inputs is not known; save inputs or outputs, \
         or let Function::double_backward return DoubleBackward::Recompute, or ctx.mark_constant \
         it if it does not depend on them"
    )]
    SavedIntermediate { op: &'static str, position: usize },
    /// A second derivative of an op that declares it has only a first.
    #[error("{op}: backward has no second derivative (DoubleBackward::Once)")]
    OnceDifferentiable { op: &'static str },
    /// A derivative of a forward-mode tangent whose history libtorch does not have.
    #[error(
        "{op}: the derivative of a forward-mode tangent goes through what jvp computed by a kernel, \
         or from saved tensors that are no inputs, so how it depends on the inputs is not known; \
         differentiate in reverse mode twice, or compute jvp from the inputs by tch operators"
    )]
    UnrecordedTangent { op: &'static str },
    /// A gradient of an op that has only a forward.
    #[error(
        "{op}: it has no backward, and a gradient was asked for through it; give it one (impl \
         Function), or detach its inputs, or call it under no_grad"
    )]
    NoBackward { op: &'static str },
    /// `save` was called a second time.
    #[error("{op}: ctx.save was called twice; save one struct or tuple")]
    StateTwice { op: &'static str },
    /// `state::<T>()` found nothing, or another type.
    #[error("{op}: no state of type {expected} was saved in forward")]
    State { op: &'static str, expected: &'static str },
    /// A position past the op's input tensors.
    #[error("{op}: there is no input tensor {input}; the op has {count}")]
    NoInput {
        op: &'static str,
        input: usize,
        /// Number of input tensors there are.
        count: usize,
    },
    /// `mark_dirty` of a tensor that is not an input.
    #[error("{op}: mark_dirty was given a tensor that is not an input of this call")]
    DirtyNotInput { op: &'static str },
    /// `mark_dirty` of a leaf that requires a gradient, or of a view of one.
    #[error(
        "{op}: input {input} is a leaf that requires a gradient (or did when it was used), or \
         shares the memory of one, and cannot be changed in place; nothing was changed; use a copy \
         of it"
    )]
    DirtyLeaf { op: &'static str, input: usize },
    /// A dirty input is not among the outputs.
    #[error("{op}: input {input} was marked dirty but not returned; return every dirty tensor")]
    DirtyNotReturned { op: &'static str, input: usize },
    /// `forward` changed an input without declaring it.
    #[error(
        "{op}: forward changed input {input} in place without ctx.mark_dirty; \
         mark it before the change and return it, or work on a copy"
    )]
    InputChanged { op: &'static str, input: usize },
    /// `mark_non_differentiable` of a tensor that was not returned.
    #[error("{op}: mark_non_differentiable was given a tensor that forward did not return")]
    NotAnOutput { op: &'static str },
    /// A Var whose value was changed in place by an op.
    #[error(
        "{op}: input {input} was changed in place by {by}; use the output of {by} in its place"
    )]
    Superseded {
        op: &'static str,
        input: usize,
        /// The op that changed it.
        by: &'static str,
    },
    /// A Var whose tensor was changed in place, and not by an op.
    #[error(
        "{op}: the tensor of input {input} was changed in place after the Var was made; \
         change a leaf with Var::update, and compute other values anew"
    )]
    ValueChanged { op: &'static str, input: usize },
    /// An undefined tensor.
    #[error("{op}: {what} is an undefined tensor")]
    Undefined {
        op: &'static str,
        /// The tensor's name.
        what: String,
    },
    /// A dtype that cannot have gradients.
    #[error(
        "{op}: a {found:?} tensor cannot require a gradient; use a floating-point or complex dtype"
    )]
    NotFloating { op: &'static str, found: Kind },
    /// Arguments that do not fit together.
    #[error("{op}: {message}")]
    Argument {
        op: &'static str,
        /// The text: what was expected, what was found, and what to do.
        message: String,
    },
    /// A tensor whose memory a kernel cannot use.
    #[error("{op}: {what} {found}; {instead}")]
    NoKernel {
        op: &'static str,
        /// The tensor's name.
        what: String,
        found: &'static str,
        /// An instruction.
        instead: &'static str,
    },
    /// A tensor of another dtype than the kernel is written for.
    #[error(
        "{op}: {what} has dtype {found:?}, the kernel is written for {expected:?}; convert it with \
         to_kind({expected:?}), or write the kernel for {found:?} (kernel::floats! writes one for \
         every floating-point dtype)"
    )]
    KernelDtype {
        op: &'static str,
        /// The tensor's name.
        what: String,
        expected: Kind,
        found: Kind,
    },
    /// A forward-mode tangent on an input of a Function without a jvp.
    #[error(
        "{op}: an input carries a forward-mode tangent, and {op} has no jvp; implement \
         Function::jvp, use reverse mode, or detach the input"
    )]
    NoForwardMode { op: &'static str },
    /// An op could not be registered with libtorch's dispatcher.
    #[error("{what} cannot be registered: {message}")]
    Registration {
        /// The op, or the namespace.
        what: String,
        /// The text: what was expected, what was found, and what to do.
        message: String,
    },
    /// A TorchScript module calls an op that is not registered.
    #[error(
        "{file} calls {op}, which is not registered: before loading, call the function (usually \
         register()) that tch_function::library! defines in the crate of namespace \
         {namespace:?}; if it returns Ok, that crate does not define this op"
    )]
    UnknownOp {
        /// The module's file.
        file: String,
        op: String,
        /// The namespace that it is in.
        namespace: String,
    },
    /// Something this version does not do yet.
    #[error("{what} is not supported yet; {instead}")]
    NotYet {
        /// The request.
        what: &'static str,
        /// An instruction.
        instead: &'static str,
    },
    /// libtorch reported an error.
    #[error("{op}: {message}")]
    Torch {
        op: &'static str,
        /// libtorch's message.
        message: String,
    },
}
