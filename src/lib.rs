//! `torch.autograd.Function` for Rust: write an operator's `forward` and
//! `backward` once, with [`tch`] tensors, and differentiate programs that use it
//! in this crate's own engine or inside libtorch's autograd.
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
//! `forward` computes `y` and leaves in the [`Ctx`] what `backward` will need.
//! `backward` gets `dy = dL/dy`, the gradient of whatever `L` the program ends
//! in, and returns `dL/dx = dL/dy * dy/dx`: the chain rule, where the product
//! is elementwise for an elementwise op and `dy` times the Jacobian for others.
//! It does not return `dy/dx`.
//!
//! [`apply`](Function::apply) runs `forward` and records a node. A [`Var`] is a
//! tensor with its place in the graph of such nodes: [`Var::leaf`] makes one
//! that gradients can be asked for, [`Var::constant`] one without. The common
//! operators are there already, as methods and Rust operators of `Var` and as
//! Functions in [`ops`]. ([`ops::Log1pExp`] is the form that is right for every
//! `x`; the one above overflows where `e^x` does.)
//!
//! # Hyper-parameters and state
//!
//! Hyper-parameters are fields. What `forward` finds out and `backward` needs is
//! saved: tensors with [`save_for_backward`](Ctx::save_for_backward), which the
//! engine frees when the pass is over and checks for changes in place; anything
//! else, typed, with [`save`](Ctx::save). Each is called at most once.
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Function, Var, grad};
//! /// `y = x` where `|x| <= limit`, else 0.
//! struct Clip {
//!     limit: f64,
//! }
//!
//! impl Function for Clip {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         let kept = x.abs().le(self.limit);
//!         ctx.save(bool::try_from(kept.all())?)?;
//!         ctx.save_for_backward([&kept])?;
//!         Ok(x * kept)
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         if *ctx.state::<bool>()? {
//!             return Ok(Some(dy.shallow_clone())); // nothing was clipped
//!         }
//!         let [kept] = ctx.saved_tensors()?;
//!         Ok(Some(dy * kept))
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from_slice(&[-3.0, 0.5]));
//! let y = Clip { limit: 1.0 }.apply(&x)?.sum()?;
//! assert_eq!(Vec::<f64>::try_from(grad(&y, &x)?.value())?, [0.0, 1.0]);
//! # anyhow::Ok(())
//! ```
//!
//! Save inputs and outputs through the context, not in a field: a tensor that
//! the Function holds itself is neither freed nor checked. And do not change
//! `dy` in place: other nodes may hold it too.
//!
//! # Several inputs and outputs
//!
//! `Inputs` and `Outputs` are a tensor, a tuple of up to eight, an array, a
//! `Vec`, an `Option`, or nests of these ([`Tensors`] has the table). `forward`
//! gets references in that shape, `backward` returns an `Option<Tensor>` for
//! each input tensor, and the wrong number does not compile.
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Function, Var, grad};
//! /// `y = a x + b`, where `b` may be absent, and `sum of y`.
//! struct Affine;
//!
//! impl Function for Affine {
//!     type Inputs = (Tensor, Tensor, Option<Tensor>);
//!     type Outputs = (Tensor, Tensor);
//!
//!     fn forward(
//!         &self,
//!         ctx: &mut Ctx,
//!         (a, x, b): (&Tensor, &Tensor, Option<&Tensor>),
//!     ) -> Result<(Tensor, Tensor)> {
//!         ctx.save_for_backward([a, x])?;
//!         let y = match b {
//!             Some(b) => a * x + b,
//!             None => a * x,
//!         };
//!         let sum = y.sum(y.kind());
//!         Ok((y, sum))
//!     }
//!
//!     fn backward(
//!         &self,
//!         ctx: &Ctx,
//!         (dy, dsum): (&Tensor, &Tensor),
//!     ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
//!         let [a, x] = ctx.saved_tensors()?;
//!         let dy = dy + dsum;
//!         let da = ctx.needs_input_grad(0).then(|| &dy * x);
//!         let dx = ctx.needs_input_grad(1).then(|| &dy * a);
//!         let db = ctx.needs_input_grad(2).then_some(dy);
//!         Ok((da, dx, db))
//!     }
//! }
//!
//! let [a, x, b] = [2.0, 3.0, 4.0].map(|v| Var::leaf(Tensor::from_slice(&[v])));
//! let (y, sum) = Affine.apply((&a, &x, Some(&b)))?;
//! let [da, db] = grad(&sum, [&a, &b])?;
//! assert_eq!(Vec::<f64>::try_from(da.value())?, [3.0]);
//! let (y, sum) = Affine.apply((&a, &x, None))?;
//! # assert_eq!(Vec::<f64>::try_from(y.value())?, [6.0]);
//! # assert_eq!(Vec::<f64>::try_from(db.value())?, [1.0]);
//! # anyhow::Ok(())
//! ```
//!
//! - Positions count tensors from left to right; an absent optional one keeps
//!   its position.
//! - [`needs_input_grad(i)`](Ctx::needs_input_grad) says whether the pass that
//!   runs wants the gradient of input `i`. Asked in `forward`, it says whether
//!   one may be wanted later, so that what is not needed is not saved.
//! - `None` means that no gradient flows to that input.
//! - Where an output got no gradient (above, `y`), `backward` sees zeros. After
//!   [`set_materialize_grads(false)`](Ctx::set_materialize_grads) it sees an
//!   undefined tensor instead (`!dy.defined()`), and saves the work.
//! - A gradient has exactly its input's shape, dtype and device. Where inputs
//!   were broadcast or promoted, [`reduce_to_input`](Ctx::reduce_to_input) sums
//!   and converts back.
//!
//! # Marks
//!
//! An output through which no gradient flows is marked in `forward` with
//! [`mark_non_differentiable`](Ctx::mark_non_differentiable); integer and boolean
//! ones need no mark. An op that works in place says so with
//! [`mark_dirty`](Ctx::mark_dirty) before it changes the input, and returns it:
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Error, Function, Var, grad};
//! struct DoubleInPlace;
//!
//! impl Function for DoubleInPlace {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.mark_dirty(x)?;
//!         Ok(x.shallow_clone().g_mul_scalar_(2.0))
//!     }
//!
//!     fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         Ok(Some(dy * 2.0))
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from(3.0));
//! let y = &x + 1.0;
//! let z = DoubleInPlace.apply(&y)?;
//! assert_eq!(f64::try_from(grad(&z, &x)?.value())?, 2.0);
//! // The old handle holds another value now, and refuses to be used.
//! assert!(matches!(y.exp(), Err(Error::Superseded { by: "DoubleInPlace", .. })));
//! # anyhow::Ok(())
//! ```
//!
//! # Errors
//!
//! `forward` and `backward` return [`anyhow::Result`], so `?` works on tch's
//! fallible `f_` methods and on everything else. What they return, and what
//! they panic with, comes back from `apply`, [`grad()`] or [`backward()`] as an
//! [`Error`] with the op's name; so does every broken rule. The graph stays
//! usable, and a failed [`backward()`] changes no leaf.
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Error, Function, Var, grad};
//! struct Mean;
//!
//! impl Function for Mean {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         Ok(x.f_mean(x.kind())?)
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let n: i64 = ctx.input_size(0)?.iter().product();
//!         Ok(Some(dy / n)) // forgets to give it the shape of x
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from_slice(&[1.0, 2.0, 3.0]));
//! let error = grad(&Mean.apply(&x)?, &x).unwrap_err();
//! assert!(matches!(error, Error::GradientShape { op: "Mean", input: 0, .. }));
//! assert!(error.to_string().starts_with(
//!     "Mean: backward returned shape [] for input 0 of shape [3]; return a gradient of the \
//!      input's shape"
//! ));
//! # anyhow::Ok(())
//! ```
//!
//! # Asking for gradients
//!
//! | call | gives |
//! |---|---|
//! | [`grad(&y, &x)`](grad()), `grad(&y, [&a, &b])` | `dy/dx`, in the form of the second argument; no leaf changes |
//! | [`backward(&y)`](backward()), [`y.backward()`](Var::backward) | nothing: adds to [`x.grad()`](Var::grad) of every leaf behind `y` |
//! | [`y.gradients()`](Var::gradients) | [`Gradients`]: `dy/dv` of every `v` on the way, `gradients[&v]` |
//!
//! The output must be one real number, or be given a seed: what `dy` starts
//! from, `grad_outputs` in PyTorch. [`GradOptions`] takes seeds and the rest:
//!
//! ```
//! use tch::Tensor;
//! use tch_function::{GradOptions, Var};
//!
//! let [x, w, other] = [2.0, 3.0, 5.0].map(|v| Var::leaf(Tensor::from(v)));
//! let square = &x * &x;
//! let y = &square * &w;
//! let number = |t: &Tensor| f64::try_from(t);
//!
//! let seed = Var::constant(Tensor::from(10.0));
//! let keep = GradOptions::new().seeds(&seed).retain_graph(true).allow_unused(true);
//! let [dx, none] = keep.grad(&y, [&x, &other])?;
//! assert_eq!(number(dx.expect("x was used").value())?, 120.0);
//! assert!(none.is_none());
//!
//! let gradients = y.gradients()?; // the last pass, which frees the graph
//! assert_eq!(number(&gradients[&square])?, 3.0);
//! assert_eq!(number(&gradients[&w])?, 4.0);
//! # anyhow::Ok(())
//! ```
//!
//! A pass frees what it has used, so a second one over the same graph is an
//! error unless the first had [`retain_graph`](GradOptions::retain_graph).
//! Between training steps, [`Var::update`] changes a leaf in place and
//! [`Var::zero_grad`] forgets its gradient. Nothing is recorded under
//! [`tch::no_grad`].
//!
//! # Second derivatives
//!
//! With [`create_graph`](GradOptions::create_graph) the gradients that
//! [`grad`](GradOptions::grad) gives have a graph of their own: the user's
//! `backward` is differentiated as it stands, to any order.
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Function, GradOptions, Var, grad};
//! struct Cube;
//!
//! impl Function for Cube {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.save_for_backward([x])?;
//!         Ok(x * x * x)
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [x] = ctx.saved_tensors()?;
//!         Ok(Some(dy * x * x * 3.0))
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from(2.0));
//! let y = Cube.apply(&x)?;
//! let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.expect("x was used");
//! assert_eq!(f64::try_from(grad(&dx, &x)?.value())?, 12.0); // 6 x
//! # anyhow::Ok(())
//! ```
//!
//! This follows what is saved as an input or an output, as `x` is here. Had
//! `forward` saved `x * x`, nobody could know how that depends on `x`, and where
//! PyTorch returns a wrong number the second pass would return
//! [`Error::SavedIntermediate`]. Then either save inputs and outputs alone, or
//! let [`double_backward`](Function::double_backward) return
//! [`DoubleBackward::Recompute`], or, if the tensor does not depend on the inputs,
//! say so with [`Ctx::mark_constant`]. What `backward` reads from
//! [`Ctx::state`], or takes out of a tensor as a number, counts as constant.
//!
//! # Inside libtorch
//!
//! The same `apply`, given tensors, gives tensors: the Function becomes a node
//! of libtorch's own graph, so it works in any tch model, with tch's optimizers
//! and with `loss.backward()`. [`grad()`] and [`backward()`] take tensors too, with
//! all of [`GradOptions`]; tch has no seeds.
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
//! The other way round, [`lift()`] makes any closure over tch tensors, or a whole
//! module, one node of the own graph:
//!
//! ```
//! use tch::{Tensor, nn, nn::Module};
//! use tch_function::{Var, lift};
//!
//! let vs = nn::VarStore::new(tch::Device::Cpu);
//! let layer = nn::linear(vs.root(), 2, 1, Default::default());
//! let x = Var::leaf(Tensor::from_slice(&[1.0f32, 2.0]));
//! let y = lift(&x, |x| Ok(layer.forward(&x[0])))?.log1p_exp()?;
//! y.backward()?;
//! assert!(x.grad().is_some() && layer.ws.grad().defined());
//! # anyhow::Ok(())
//! ```
//!
//! A leaf made from a parameter of a `VarStore` stands for it: gradients go to
//! the parameter's `.grad`, where tch's optimizers look.
//!
//! # Loops of one's own
//!
//! [`kernel`] runs a closure on every element, on every row or over all of them,
//! and [`kernel::simd`] an op on vectors: the loop that no tensor operator has, or
//! one pass over memory where tensor operators take several.
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Function, Var, grad, kernel};
//! /// `y = e^x`
//! struct MyExp;
//!
//! impl Function for MyExp {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         let y = kernel::map(x, f32::exp)?;
//!         ctx.save_for_backward([&y])?;
//!         Ok(y)
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [y] = ctx.saved_tensors()?;
//!         Ok(Some(kernel::map((dy, y), |(dy, y): (f32, f32)| dy * y)?))
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from(0f32));
//! let dx = grad(&MyExp.apply(&x)?, &x)?;
//! assert_eq!(f64::try_from(dx.value())?, 1.0);
//! # anyhow::Ok(())
//! ```
//!
//! # In Python and TorchScript
//!
//! [`library!`] registers Functions as ops of libtorch's dispatcher. A crate of
//! type `cdylib` with this line in it is what `torch.ops.load_library` loads, with
//! autograd, `torch.compile` and `torch.func`; see [`dispatcher`].
//!
//! ```
//! use tch_function::ops::Log1pExp;
//!
//! tch_function::library! {
//!     pub fn register() for "my_ops" { "log1pexp(Tensor x) -> Tensor" => || Log1pExp }
//! }
//! # fn main() -> tch_function::Result<()> { register() }
//! ```
//!
//! # Checking a Function
//!
//! [`check`](check::check()) tries everything that is known to go wrong with a
//! Function: each [`Property`](check::Property), from derivatives of first and
//! second order to strides, dtypes, threads and leaks, at the samples given and
//! at random points like them. Write this test first; it needs no formula of
//! yours.
//!
//! ```
//! use tch::Tensor;
//! use tch_function::{check::Check, ops::Log1pExp};
//!
//! let samples = [Tensor::from_slice(&[-3.0, 0.5, 4.5])];
//! Check::new(Log1pExp, samples).reference(|x| x.softplus()).assert();
//! ```
//!
//! [`check_tests!`] makes each property a test of its own, and
//! [`gradcheck`](check::gradcheck()) compares derivatives alone.
//!
//! # Why
//!
//! A wrong gradient seldom crashes; it trains a little worse. So where PyTorch
//! 2.13 goes on silently, this crate gives the right number or an error that
//! names the op, the position, what was expected, what was found, and what to
//! do:
//!
//! | situation | PyTorch 2.13 | here |
//! |---|---|---|
//! | an intermediate is saved, and differentiated through a second time | a wrong number | error; with `DoubleBackward::Recompute` the right number |
//! | a gradient whose shape only broadcasts to the input's | summed silently | error |
//! | a gradient of another dtype or device | converted silently (1e300 becomes infinite in f32) | error |
//! | `backward` twice over a graph that saved nothing | doubles `.grad` | error, unless the graph was retained |
//! | `save_for_backward` called twice | the last call wins | error |
//! | a saved tensor changed in place | error | error that names the tensor's position |
//! | `needs_input_grad` where only some inputs are asked for | not told (Python) | told |
//! | an input changed in place, then used through its old handle | the handle is rebased | error that names the op whose output to use |
//! | `mark_dirty` of a leaf that requires a gradient, or of a view of one | error after the change | error before the change |
//! | an input changed in place without `mark_dirty` | nothing | error |
//! | a gradient asked for through a comparison, or another op without one | error that does not name the op | error that names it |
//! | a forward-mode tangent on a Function without a [`jvp`](Function::jvp) | depends: an error, or zeros | error |
//! | an `Err` or a panic, on any thread | - | an [`Error`] with the op's name |
//!
//! What no version counter sees stays unseen here as in PyTorch: a change
//! through `Tensor::data`, or of an inference tensor.
//!
//! Reverse accumulation runs over nodes `x_i = f_i(x_parents(i))` from the
//! youngest to the oldest and sums at each the gradients of its children,
//! `dL/dx_i = sum over children j of dL/dx_j dx_j/dx_i`. Building,
//! differentiating and dropping a graph are loops, not recursion: a chain of a
//! million nodes needs no more stack than one of ten. Functions are `Send +
//! Sync`, Vars are `Send`, and several threads may differentiate one graph.
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
mod function;
mod grad;
mod graph;
pub mod kernel;
mod libtorch;
mod lift;
pub mod ops;
mod quiet;

pub use check::{Check, Gradcheck, check, gradcheck, gradcheck_fn};
pub use error::{Error, Result};
pub use function::{
    Ctx, Differentiable, DoubleBackward, Function, FunctionModule, Grads, Of, Refs, Tensors, Value,
    Vmap,
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
