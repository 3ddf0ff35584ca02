//! `torch.autograd.Function` for Rust, on top of [`tch`]: write an operator's
//! `forward` and `backward` once, and differentiate it in this crate's engine, inside
//! libtorch's autograd, in TorchScript, and in Python.
//!
//! # A first Function
//!
//! `y = log(1 + e^x)` with `dy/dx = 1 - 1 / (1 + e^x)`:
//!
//! ```
//! use anyhow::Result;
//! use tch::Tensor;
//! use tch_function::{Ctx, Function, Var, grad};
//!
//! struct Log1pExp;
//!
//! impl Function for Log1pExp {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         let e = x.exp();
//!         ctx.save_for_backward([&e])?;
//!         Ok((e + 1.0).log())
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [e] = ctx.saved_tensors()?;
//!         Ok(Some(dy * (1.0 - 1.0 / (1.0 + e))))
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from(4.5));
//! let y = Log1pExp.apply(&x)?;
//! let dx = grad(&y, &x)?;
//! assert!((f64::try_from(dx.value())? - 0.98901).abs() < 1e-5);
//! # anyhow::Ok(())
//! ```
//!
//! `forward` computes `y` and stores in the [`Ctx`] what `backward` needs. `backward`
//! gets `dy = dL/dy`, where `L` is the program's final result, and returns
//! `dL/dx = dL/dy * dy/dx`: the chain rule, in which the product is elementwise for an
//! elementwise op and `dy` times the Jacobian for others. It does not return `dy/dx`.
//!
//! [`apply`](Function::apply) runs `forward` and records a node. A [`Var`] is a tensor
//! with its place in the graph of such nodes: [`Var::leaf`] makes one that gradients can
//! be asked for, [`Var::constant`] one without. Common operators are methods and Rust
//! operators of `Var`, and Functions in [`ops`]. ([`ops::Log1pExp`] is right for every `x`;
//! the one above overflows if `e^x` does.)
//!
//! # What goes through the context
//!
//! | to | call |
//! |---|---|
//! | keep tensors for `backward` | [`save_for_backward`](Ctx::save_for_backward), [`saved_tensors`](Ctx::saved_tensors) |
//! | keep another value | [`save`](Ctx::save), [`state`](Ctx::state) |
//! | know which gradients are needed | [`needs_input_grad`](Ctx::needs_input_grad) |
//! | change an input in place | [`mark_dirty`](Ctx::mark_dirty) |
//! | declare an output without a gradient | [`mark_non_differentiable`](Ctx::mark_non_differentiable) |
//! | undo broadcasting in a gradient | [`reduce_to_input`](Ctx::reduce_to_input) |
//! | get undefined tensors for missing gradients | [`set_materialize_grads`](Ctx::set_materialize_grads) |
//!
//! Hyper-parameters are fields of the Function. A tensor in a field is a [`Constant`]. What
//! changes from call to call, such as running statistics, is a `Mutex` or an atomic, and
//! `forward` leaves it alone if [`is_recomputation`](Ctx::is_recomputation) says so.
//!
//! # Several inputs and outputs
//!
//! `Inputs` and `Outputs` are a tensor, a tuple of up to eight, an array, a `Vec`, an
//! `Option`, or nests of these; [`Tensors`] has the table and an example. `backward`
//! returns an `Option<Tensor>` for each input tensor, `None` if no gradient flows to it.
//! A gradient has exactly its input's shape, dtype and device. Positions count tensors
//! from left to right; an absent optional one keeps its position.
//!
//! # Asking for gradients
//!
//! | call | returns |
//! |---|---|
//! | [`grad(&y, &x)`](grad()), `grad(&y, [&a, &b])` | `dy/dx`, in the form of the second argument; no leaf changes |
//! | [`backward(&y)`](backward()), [`y.backward()`](Var::backward) | nothing; adds to [`x.grad()`](Var::grad) of `y`'s leaves |
//! | [`y.gradients()`](Var::gradients) | [`Gradients`]: `dy/dv` of every intermediate `v`, `gradients[&v]` |
//!
//! Unless the output is one real number, pass a seed: the initial `dy`, `grad_outputs` in
//! PyTorch. [`GradOptions`] has seeds and the other options. A pass frees what it has
//! used; [`retain_graph`](GradOptions::retain_graph) keeps it. Between training steps,
//! [`Var::update`] changes a leaf in place and [`Var::zero_grad`] forgets its gradient.
//!
//! # On tensors
//!
//! Applied to tensors, a Function returns tensors and becomes a node of libtorch's graph,
//! so it works in any tch model, with tch's optimizers and with `loss.backward()`:
//!
//! ```
//! # use tch::{Kind, Tensor};
//! # use tch_function::{Function, ops};
//! let x = Tensor::from_slice(&[-1.0, 4.5]).set_requires_grad(true);
//! let y = ops::Log1pExp.apply(&x)?.sin().sum(Kind::Double);
//! y.backward();
//! assert!(x.grad().defined());
//! # anyhow::Ok(())
//! ```
//!
//! Conversely, [`lift()`] turns a closure over tch tensors, or a module, into one node of
//! a `Var` graph. A leaf made from a parameter of a `VarStore` stands for it: gradients go
//! to the parameter's `.grad`, which tch's optimizers read.
//!
//! # Second derivatives
//!
//! With [`create_graph`](GradOptions::create_graph) the gradients have a graph of their
//! own: the user's `backward` is differentiated as it stands, to any order. This works
//! through saved inputs and outputs. A saved tensor that is neither has an unknown
//! dependence on the inputs: PyTorch returns a wrong number, this crate
//! [`Error::SavedIntermediate`]. [`DoubleBackward`] and [`Ctx::mark_constant`] are the
//! ways out.
//!
//! # Errors
//!
//! `forward` and `backward` return [`anyhow::Result`]. Their errors and panics, and every
//! broken rule, come back from `apply`, [`grad()`] or [`backward()`] as an [`Error`] that
//! names the op. After a pass that fails, the node that failed can run again; those that ran
//! before it have given up what they saved, as in PyTorch, unless the graph is retained. A
//! failed [`backward()`] on Vars changes no leaf. (Where the hook of a parameter fails, which
//! runs last, parameters whose hooks ran before it have their gradients.)
//!
//! # Checking a Function
//!
//! [`check`](check::check()) tests each [`Property`](check::Property) of a Function, from
//! derivatives of first and second order to strides, dtypes, threads and leaks, at your
//! samples and at similar random points. Write this test first; it needs no reference
//! formula.
//!
//! ```
//! use tch::Tensor;
//! use tch_function::{check::Check, ops::Log1pExp};
//!
//! let samples = [Tensor::from_slice(&[-3.0, 0.5, 4.5])];
//! Check::new(Log1pExp, samples).reference(|x| x.softplus()).assert();
//! ```
//!
//! # Loops, and Python
//!
//! [`mod@formula`] makes an elementwise op of one formula, with derivatives of any order. [`kernel`]
//! runs a closure on every element or row, folds all elements into one value, or carries one
//! along a dimension; [`kernel::simd`] runs an op on vectors. [`library!`] registers Functions as ops
//! of libtorch's dispatcher, for Python and TorchScript; see [`dispatcher`].
//!
//! # Differences from PyTorch
//!
//! A wrong gradient seldom crashes; it trains a little worse. So in these situations
//! this crate returns the right number, or an error that names the op, the position, what
//! was expected, what was found, and what to do:
//!
//! | situation | PyTorch 2.13 | here |
//! |---|---|---|
//! | an intermediate is saved, and differentiated through a second time | a wrong number | error; with `DoubleBackward::Recompute` the right number |
//! | a `backward` that libtorch does not record (under `no_grad`, on detached copies, through numbers) is differentiated again, from a `dy` that has a history | a wrong number, which its gradgradcheck sees | error, unless `Once`, zero, or declared with [`Ctx::constant_gradient`] |
//! | `DoubleBackward::Recompute` of an op that draws random numbers | a checkpoint keeps the generator's state | the same; [`Ctx::is_recomputation`] tells the second run |
//! | a gradient whose shape only broadcasts to the input's | summed silently | error |
//! | a gradient of another dtype or device | converted silently (1e300 becomes infinite in f32) | error |
//! | `backward` twice over a graph that saved nothing | doubles `.grad` | error, unless the graph was retained |
//! | `save_for_backward` called twice | the last call wins | error |
//! | a saved tensor changed in place | error | error that names the tensor's position |
//! | an inference tensor is saved, whose changes nothing can show | error | error that names the op and the position, in both engines |
//! | a tensor in a field is changed in place, or requires a gradient | not seen | error, if the field is a [`Constant`] |
//! | a Var made from a parameter, and the parameter is then frozen, unfrozen, stepped or hooked | - | the Var follows |
//! | the same, and it is then given other data (another dtype, device or shape) | - | error that asks for a new Var |
//! | a gradient reaches a leaf that was resized since | summed by broadcasting | error |
//! | the gradient of an op with one output does not arrive, since its consumer returned `None` | `backward` runs on zeros | `backward` does not run: no gradient flows |
//! | an op that changes an input in place fails after the change | nothing | error that names the input |
//! | autocast with a dtype other than bf16 and f16 | warns and does nothing | error |
//! | `needs_input_grad` where only some inputs are asked for | not told (Python) | told |
//! | an input changed in place, then used through its old handle | the handle is rebased | error that names the op whose output to use |
//! | `mark_dirty` of a leaf that requires a gradient, or of a view of one | error after the change | error before the change |
//! | an input changed in place without `mark_dirty` | nothing | error |
//! | a gradient asked for through a comparison, or another op without one | error that does not name the op | error that names it |
//! | a forward-mode tangent on a Function without a [`jvp`](Function::jvp) | depends: an error, or zeros | error |
//! | an `Err` or a panic, on any thread | - | an [`Error`] with the op's name |
//!
//! As in PyTorch, changes that bypass the version counter go unnoticed: through
//! `Tensor::data`, and by libtorch's own SGD.
//!
//! # Threads and depth
//!
//! Building, differentiating and dropping a graph are loops, not recursion: a chain of a
//! million nodes needs no more stack than one of ten. The same holds for passes inside
//! passes, and for graphs in the state of other graphs' nodes. Functions are
//! `Send + Sync`, Vars are `Send`, and several threads may differentiate one graph.
//!
//! # Cargo features
//!
//! - `doc-only` builds neither the C++ part nor tch's, and links nothing: enough
//!   for `cargo doc` and `cargo check` on a machine without libtorch.
#![deny(unsafe_code)]

mod application;
pub mod check;
pub mod dispatcher;
mod error;
mod ffi;
pub mod formula;
mod function;
mod grad;
mod graph;
pub mod kernel;
mod libtorch;
mod lift;
pub mod ops;

pub use check::{Check, Gradcheck, check, gradcheck, gradcheck_fn};
pub use error::{Error, Result};
#[doc(hidden)]
pub use function::Shareable;
pub use function::{
    Constant, Ctx, Differentiable, DoubleBackward, Function, FunctionModule, Grads, Of, Refs,
    Tensors, Value, Vmap,
};
pub use grad::{GradOptions, Handles, backward, grad};
pub use graph::{Gradients, Var};
pub use libtorch::{
    DualLevel, GradFn, HookHandle, NodeGradients, autocast, grad_fn, inference_mode, register_hook,
};
pub use lift::{lift, lift_all};

/// The code of the README is tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So is that of the page on formulas.
#[cfg(doctest)]
#[doc = include_str!("../docs/formula.md")]
struct FormulaPage;
