//! Write the op's own loop in Rust: safe, on tensor memory, as fast as it goes.
//!
//! | function | runs a closure on |
//! |---|---|
//! | [`map`] | every element of one or several tensors; makes one or several |
//! | [`map_into`], [`update`] | the same, into tensors that are there |
//! | [`fold()`] | every element, into one value: a sum, a maximum with its place |
//! | [`rows()`], [`rows_along()`] | every row, along the last dimension or any: softmax and the like |
//! | [`scan()`], [`scan_from`] | every element and a value that is carried along a dimension |
//! | [`simd::map`] | every vector, with `exp`, `ln`, `tanh`, ... of vectors |
//!
//! A kernel is called in the `forward` and the `backward` of a
//! [`Function`](crate::Function):
//!
//! ```
//! use anyhow::Result;
//! use tch::Tensor;
//! use tch_function::{Ctx, Function, Var, check::check, grad, kernel};
//!
//! /// `y = x^3`
//! struct Cube;
//!
//! impl Function for Cube {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.save_for_backward([x])?;
//!         Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x * x * x))?)
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [x] = ctx.saved_tensors()?;
//!         let dx = kernel::floats!(T of x => {
//!             kernel::map((x, dy), |(x, dy): (T, T)| 3.0 * x * x * dy)
//!         });
//!         kernel::or_formula(dx, || Ok(x * x * dy * 3.0)).map(Some)
//!     }
//! }
//!
//! let x = Var::leaf(Tensor::from_slice(&[1.0f32, 2.0]));
//! let dx = grad(&Cube.apply(&x)?.sum()?, &x)?;
//! assert_eq!(Vec::<f32>::try_from(dx.value())?, [3.0, 12.0]);
//! check(Cube, [Tensor::from_slice(&[1.0, 2.0])])?.assert();
//! # anyhow::Ok(())
//! ```
//!
//! - The closure's types say which dtypes it takes ([`Element`]); its shape of
//!   arguments and results says how many tensors there are ([`Elements`]).
//!   [`floats!`](floats) compiles one closure for each floating-point dtype.
//! - Inputs broadcast and may have any strides. What is not contiguous is read
//!   and written block by block through a buffer, and never copied as a whole. A
//!   gradient that is one number expanded, as that of a sum, is read once.
//! - The loop is compiled for several instruction sets, of which the best one is
//!   chosen at run time; a simple closure becomes vector code by itself.
//! - Large tensors are worked on by libtorch's own intra-op threads, as many as
//!   [`tch::set_num_threads`] says. Closures must be `Sync`.
//! - A closure that panics makes the call return
//!   [`Error::Panic`](crate::Error::Panic); new tensors are dropped, given ones are left half written.
//!
//! # Memory of large tensors
//!
//! Most of the time of filling a large new tensor goes into the page faults of
//! fresh memory. So when a tensor of 4 MiB or more that a kernel made is freed,
//! its memory is kept for the next one of about its size: up to 256 MiB of all
//! threads together, which [`set_cache_limit`] changes. Until then the system
//! may take the pages whenever it needs them (`MADV_FREE`), though they count as
//! the process's in the meantime. [`empty_cache`] gives them back at once.
//!
//! # What a kernel does not do
//!
//! libtorch cannot record a kernel. So a kernel refuses tensors that require a
//! gradient while libtorch records, and those that carry a forward-mode tangent:
//! a derivative would be lost. In `forward` nothing is recorded. In a `backward`
//! that is differentiated again (`create_graph`) everything is. So there
//! [`or_formula`] takes a formula of tch operators, as above; or the kernel is the
//! `forward` of a Function that is the derivative, which `backward` names:
//!
//! ```
//! # use anyhow::Result;
//! # use tch::Tensor;
//! # use tch_function::{Ctx, Function, check::check, kernel};
//! struct Sine;
//! struct Cosine;
//!
//! impl Function for Sine {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.save_for_backward([x])?;
//!         Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x.sin()))?)
//!     }
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [x] = ctx.saved_tensors()?;
//!         Ok(Some(dy * Cosine.apply(x)?)) // derivatives of any order
//!     }
//! }
//!
//! impl Function for Cosine {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.save_for_backward([x])?;
//!         Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x.cos()))?)
//!     }
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [x] = ctx.saved_tensors()?;
//!         Ok(Some(-dy * Sine.apply(x)?))
//!     }
//! }
//!
//! check(Sine, [Tensor::from_slice(&[0.5, -2.0])])?.assert();
//! # anyhow::Ok(())
//! ```
//!
//! On other devices and under vmap a kernel does not run either. [`or_formula`] in
//! `forward` takes a formula there; [`reads`] and [`runs_on`] ask before.
//!
//! Neither does TorchScript's tracing see a kernel, so under it kernels refuse
//! every tensor.
//!
//! Tensors of other devices, without data (fake and meta tensors), at addresses
//! that are not aligned, sparse, quantised, lazily conjugated ones, and outputs
//! whose elements share memory are refused as well, by an error that says what
//! to do.
//!
//! While a kernel runs, no other thread may write to its inputs, nor
//! resize any of its tensors through another handle: that holds for all of
//! libtorch's operators, and tch cannot prevent it.

mod choice;
mod dims;
mod element;
mod elements;
mod elementwise;
mod float;
mod fold;
mod layout;
mod overlap;
mod refusals;
mod rows;
mod rows_along;
mod scan;
pub mod simd;
mod view;
mod walk;

pub(crate) use choice::is_elsewhere;
pub use choice::{or_formula, reads, runs_on};
pub use element::Element;
pub use elements::Elements;
pub use elementwise::{map, map_into, update};
#[doc(hidden)]
pub use float::is_f64;
pub use float::{Float, floats};
pub use fold::fold;
pub use rows::rows;
pub use rows_along::rows_along;
pub use scan::{Along, scan, scan_from};

/// Limits how many bytes of freed large tensors all threads together keep for reuse; the
/// default is 256 MiB, and 0 keeps none.
pub fn set_cache_limit(bytes: usize) {
    crate::ffi::memory::set_cache_limit(bytes);
}

/// Gives the memory of freed large tensors back to the system, as
/// `torch.cuda.empty_cache` does.
pub fn empty_cache() {
    crate::ffi::memory::empty_cache();
}
