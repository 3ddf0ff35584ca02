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
pub trait Tensors: Shape {}
impl<T: Shape> Tensors for T {}

/// Borrowed values in the shape of `T`.
pub type Refs<'a, T, V = Tensor> = <T as Shape>::Refs<'a, V>;
/// Owned values in the shape of `T`.
pub type Of<T, V> = <T as Shape>::Of<V>;
/// Gradients in the shape of `T`; `None` where no gradient flows.
pub type Grads<T> = <T as Shape>::Grads;
