//! [`forward_only`]: a Function without a backward.

use crate::function::{Grads, Of, Refs, Tensors};
use crate::{Ctx, Error, Function};
use std::marker::PhantomData;
use tch::Tensor;

/// A Function from its forward alone. It runs everywhere, also on inputs that
/// require a gradient; asking for that gradient is
/// [`Error::NoBackward`], with the name given here.
/// (PyTorch warns and leaves the gradient out.) Integer and boolean outputs have no
/// gradient in any case.
///
/// ```
/// # use tch::Tensor;
/// use tch_function::dispatcher::forward_only;
///
/// tch_function::library! {
///     /// Registers this crate's ops.
///     pub fn register() for "doc_rounding" {
///         "round_to(Tensor x, float step) -> Tensor" => |step: f64| {
///             forward_only::<Tensor, Tensor>("doc_rounding::round_to", move |x| {
///                 Ok((x / step).round() * step)
///             })
///         },
///     }
/// }
/// # register()?;
/// # anyhow::Ok(())
/// ```
pub fn forward_only<I: Tensors, O: Tensors>(
    name: &'static str,
    forward: impl Fn(Refs<'_, I>) -> anyhow::Result<Of<O, Tensor>> + Send + Sync + 'static,
) -> impl Function<Inputs = I, Outputs = O> {
    ForwardOnly { name, forward, form: PhantomData::<fn(I) -> O> }
}

struct ForwardOnly<I, O, F> {
    name: &'static str,
    forward: F,
    form: PhantomData<fn(I) -> O>,
}

impl<I, O, F> Function for ForwardOnly<I, O, F>
where
    I: Tensors,
    O: Tensors,
    F: Fn(Refs<'_, I>) -> anyhow::Result<Of<O, Tensor>> + Send + Sync + 'static,
{
    type Inputs = I;
    type Outputs = O;

    fn forward(&self, _: &mut Ctx, x: Refs<'_, I>) -> anyhow::Result<Of<O, Tensor>> {
        (self.forward)(x)
    }

    fn backward(&self, ctx: &Ctx, _: Refs<'_, O>) -> anyhow::Result<Grads<I>> {
        Err(Error::NoBackward { op: ctx.op() }.into())
    }

    fn name(&self) -> &'static str {
        self.name
    }
}
