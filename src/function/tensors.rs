//! [`Tensors`]: the shapes that a Function's inputs and outputs take.

mod containers;
mod shape;

pub(crate) use shape::{Shape, Slot};

use tch::Tensor;

/// The inputs or outputs of a [`Function`](crate::Function): `Tensor`, tuples
/// of up to eight, `[T; N]`, `Vec<T>`, `Option<T>`, and nests of these.
///
/// For each shape there is a matching shape of borrowed values ([`Refs`]), of
/// owned values ([`Of`]) and of gradients ([`Grads`]):
///
/// | `T` | [`Refs<'a, T, V>`](Refs) | [`Of<T, V>`](Of) | [`Grads<T>`](Grads) |
/// |---|---|---|---|
/// | `Tensor` | `&'a V` | `V` | `Option<Tensor>` |
/// | `(A, B)` | `(Refs<A>, Refs<B>)` | `(Of<A>, Of<B>)` | `(Grads<A>, Grads<B>)` |
/// | `[A; N]` | `[Refs<A>; N]` | `[Of<A>; N]` | `[Grads<A>; N]` |
/// | `Vec<A>` | `&'a [Of<A>]` | `Vec<Of<A>>` | `Vec<Grads<A>>` |
/// | `Option<A>` | `Option<Refs<A>>` | `Option<Of<A>>` | `Grads<A>`, all `None` where absent |
///
/// so that a wrong number of gradients does not compile. Positions, as in
/// [`Ctx::needs_input_grad`](crate::Ctx::needs_input_grad), count the tensors
/// from left to right; an absent optional tensor keeps its position (an absent
/// list has none).
///
/// ```
/// # use anyhow::Result;
/// # use tch::Tensor;
/// # use tch_function::{Ctx, Function, Var, grad};
/// /// `y = a x + b`, where `b` may be absent, and `sum of y`.
/// struct Affine;
///
/// impl Function for Affine {
///     type Inputs = (Tensor, Tensor, Option<Tensor>);
///     type Outputs = (Tensor, Tensor);
///
///     fn forward(
///         &self,
///         ctx: &mut Ctx,
///         (a, x, b): (&Tensor, &Tensor, Option<&Tensor>),
///     ) -> Result<(Tensor, Tensor)> {
///         ctx.save_for_backward([a, x])?;
///         let y = match b {
///             Some(b) => a * x + b,
///             None => a * x,
///         };
///         let sum = y.sum(y.kind());
///         Ok((y, sum))
///     }
///
///     fn backward(
///         &self,
///         ctx: &Ctx,
///         (dy, dsum): (&Tensor, &Tensor),
///     ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
///         let [a, x] = ctx.saved_tensors()?;
///         let dy = dy + dsum;
///         let da = ctx.needs_input_grad(0).then(|| &dy * x);
///         let dx = ctx.needs_input_grad(1).then(|| &dy * a);
///         let db = ctx.needs_input_grad(2).then_some(dy);
///         Ok((da, dx, db))
///     }
/// }
///
/// let [a, x, b] = [2.0, 3.0, 4.0].map(|v| Var::leaf(Tensor::from_slice(&[v])));
/// let (y, sum) = Affine.apply((&a, &x, Some(&b)))?;
/// let [da, db] = grad(&sum, [&a, &b])?;
/// assert_eq!(Vec::<f64>::try_from(da.value())?, [3.0]);
/// let (y, sum) = Affine.apply((&a, &x, None))?;
/// # assert_eq!(Vec::<f64>::try_from(y.value())?, [6.0]);
/// # assert_eq!(Vec::<f64>::try_from(db.value())?, [1.0]);
/// # anyhow::Ok(())
/// ```
pub trait Tensors: Shape {}
impl<T: Shape> Tensors for T {}

/// Borrowed values in the shape of `T`.
pub type Refs<'a, T, V = Tensor> = <T as Shape>::Refs<'a, V>;
/// Owned values in the shape of `T`.
pub type Of<T, V> = <T as Shape>::Of<V>;
/// Gradients in the shape of `T`; `None` where no gradient flows.
pub type Grads<T> = <T as Shape>::Grads;
