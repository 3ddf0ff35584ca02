//! What a user implements and sees: [`Function`], an operator with its own
//! backward, its [`Ctx`], and the shapes of its inputs and outputs.

mod autocast;
mod constant;
mod ctx;
mod module;
mod name;
mod tensors;
mod value;

pub use autocast::Autocast;
pub use constant::{Constant, Shareable};
pub use ctx::Ctx;
pub use module::FunctionModule;
pub use tensors::{Grads, Of, Refs, Tensors};
pub use value::{Differentiable, Value};

pub(crate) use ctx::{Frame, Input, Marks, Origin, Saved, Stage};
pub(crate) use tensors::{Shape, Slot};
pub(crate) use value::{Engine, PassOptions};

use crate::error::Result;
pub(crate) use name::short_name;
use std::sync::Arc;

/// A differentiable operator: `torch.autograd.Function` in Rust.
///
/// Hyper-parameters are fields; what `forward` leaves for `backward` goes
/// through the [`Ctx`]. For `y = f(x)` and an output of the whole program `L`,
/// `backward` gets `dy = dL/dy` and returns `dL/dx = dL/dy * dy/dx` (the chain
/// rule; for tensors the vector-Jacobian product).
///
/// ```
/// use anyhow::Result;
/// use tch::Tensor;
/// use tch_function::{Ctx, Function, Var, grad};
///
/// /// y = k x, dy/dx = k
/// struct Scale {
///     k: f64,
/// }
///
/// impl Function for Scale {
///     type Inputs = Tensor;
///     type Outputs = Tensor;
///     fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
///         Ok(x * self.k)
///     }
///     fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         Ok(Some(dy * self.k))
///     }
/// }
///
/// let x = Var::leaf(Tensor::from(4.5));
/// let y = Scale { k: 2.0 }.apply(&x)?;
/// assert_eq!(f64::try_from(grad(&y, &x)?.value())?, 2.0);
/// # anyhow::Ok(())
/// ```
///
/// The wrong number of gradients does not compile:
///
/// ```compile_fail,E0053
/// # use anyhow::Result;
/// # use tch::Tensor;
/// # use tch_function::{Ctx, Function};
/// struct Mul;
/// impl Function for Mul {
///     type Inputs = (Tensor, Tensor);
///     type Outputs = Tensor;
///     fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
///         Ok(a * b)
///     }
///     // two inputs, one gradient
///     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         Ok(None)
///     }
/// }
/// ```
pub trait Function: Shareable + Sized + 'static {
    /// The input tensors: `Tensor`, `(Tensor, Tensor)`, `Vec<Tensor>`, ...
    type Inputs: Tensors;
    /// The output tensors: `Tensor`, `(Tensor, Tensor)`, `Vec<Tensor>`, ...
    type Outputs: Tensors;

    /// Computes the outputs. Runs with gradient recording off: libtorch's
    /// autograd does not see the operations in it. (For a second derivative under
    /// [`DoubleBackward::Recompute`] it runs again, recorded.)
    ///
    /// It must not change its inputs, unless it declares so with
    /// [`Ctx::mark_dirty`].
    ///
    /// # Errors
    /// Any error about the inputs. It comes back from `apply` as [`Error::Forward`](crate::Error::Forward), with the op's name.
    fn forward(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, Self::Inputs>,
    ) -> anyhow::Result<Of<Self::Outputs, tch::Tensor>>;

    /// Computes the gradients of the inputs from those of the outputs: each of
    /// the shape, dtype and device of its input, `None` if no gradient
    /// flows. A gradient that [`Ctx::needs_input_grad`] says no to need not be computed.
    ///
    /// It must not change `dy` in place: other nodes may hold the same tensor.
    ///
    /// # Errors
    /// Any error; it comes back from the pass as [`Error::Backward`](crate::Error::Backward).
    fn backward(
        &self,
        ctx: &Ctx,
        dy: Refs<'_, Self::Outputs>,
    ) -> anyhow::Result<Grads<Self::Inputs>>;

    /// Computes the tangents of the outputs from those of the inputs: for
    /// `y = f(x)`, `dy = dy/dx * dx`, the Jacobian-vector product of libtorch's
    /// forward mode ([`DualLevel`](crate::DualLevel)). Runs after `forward`, with
    /// the same inputs and context; an input without a tangent gets zeros (an
    /// undefined tensor if its dtype has no derivative).
    ///
    /// Where an input or a tangent requires a gradient and grad mode is on, libtorch records
    /// what this computes, so that the tangents can be differentiated in reverse mode. If it
    /// computes by a kernel, it runs a second time, unrecorded; then, and through saved tensors
    /// whose history is not known, a derivative of the tangents is
    /// [`Error::UnrecordedTangent`](crate::Error::UnrecordedTangent).
    ///
    /// # Errors
    /// Without an implementation,
    /// [`Error::NoForwardMode`](crate::Error::NoForwardMode).
    fn jvp(
        &self,
        ctx: &Ctx,
        x: Refs<'_, Self::Inputs>,
        dx: Refs<'_, Self::Inputs>,
    ) -> anyhow::Result<Of<Self::Outputs, tch::Tensor>> {
        let (_, _) = (x, dx);
        Err(crate::Error::NoForwardMode { op: ctx.op() }.into())
    }

    /// Makes outputs of the right shape and dtype from inputs that have no data:
    /// meta tensors, and the fake ones that `torch.compile` and `torch.export`
    /// trace with (`torch.library.register_fake`). It must save as many tensors as
    /// `forward`. The default runs `forward`, which suits formulas of tch ops;
    /// override it if `forward` reads the data.
    ///
    /// # Errors
    /// Those of `forward`.
    fn fake(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, Self::Inputs>,
    ) -> anyhow::Result<Of<Self::Outputs, tch::Tensor>> {
        self.forward(ctx, x)
    }

    /// Returns how the op, once [registered](crate::dispatcher), runs under
    /// `torch.func.vmap`.
    fn vmap(&self) -> Vmap {
        Vmap::Loop
    }

    /// Returns the op's name in errors; the type's name without its path unless
    /// overridden.
    fn name(&self) -> &'static str {
        short_name(std::any::type_name::<Self>())
    }

    /// Returns how second derivatives go through `backward`.
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::ThroughSaved
    }

    /// Returns the dtype that the op wants its inputs in under
    /// [`autocast`](crate::autocast()): `custom_fwd(cast_inputs=...)`. If autocast is
    /// on for an input's device, floating-point inputs that are not in f64 are
    /// converted first (recorded, so that gradients come back in the inputs' dtypes),
    /// and `forward` and `backward` run with autocast off. With `None`, `forward` runs
    /// under autocast unchanged.
    fn cast_inputs(&self) -> Option<tch::Kind> {
        None
    }

    /// Returns the rule that [`cast_inputs`](Function::cast_inputs) makes, and for this
    /// crate's ops that of libtorch's.
    #[doc(hidden)]
    fn autocast(&self) -> Autocast {
        self.cast_inputs().map_or(Autocast::Unchanged, Autocast::To)
    }

    /// Applies the op: to [`Var`](crate::Var)s in this crate's graph, or
    /// to [`Tensor`](tch::Tensor)s in libtorch's. The type of `x` decides which, and
    /// the outputs have the same type.
    ///
    /// # Errors
    /// What `forward` returns or panics with, and each broken rule of
    /// [`Ctx`], as an [`Error`](crate::Error) that names the op.
    ///
    /// Takes the op by value. To apply it more than once, derive `Copy` or `Clone`, or
    /// share it in an [`Arc`], which is a Function too.
    fn apply<V: Differentiable>(
        self,
        x: Refs<'_, Self::Inputs, V>,
    ) -> Result<Of<Self::Outputs, V>> {
        V::apply(self, x)
    }

    /// Makes the Function a layer, for [`nn::seq`](tch::nn::seq). The layer panics if
    /// `apply` returns an `Err`, since tch's layers return no errors.
    ///
    /// ```
    /// use tch::{Device, nn};
    /// use tch_function::{Function, ops::Log1pExp};
    ///
    /// let vs = nn::VarStore::new(Device::Cpu);
    /// let layer = nn::linear(vs.root(), 4, 2, Default::default());
    /// let model = nn::seq().add(layer).add(Log1pExp.into_module());
    /// # let x = tch::Tensor::ones([3, 4], (tch::Kind::Float, Device::Cpu));
    /// # assert_eq!(x.apply(&model).size(), [3, 2]);
    /// ```
    fn into_module(self) -> FunctionModule<Self>
    where
        Self: Function<Inputs = tch::Tensor, Outputs = tch::Tensor>,
    {
        FunctionModule::new(self)
    }
}

/// The way in which a [`Function`]'s backward is differentiated itself, under
/// [`create_graph`](crate::GradOptions::create_graph).
///
/// ```
/// # use anyhow::Result;
/// # use tch::Tensor;
/// # use tch_function::{Ctx, Function, GradOptions, Var, grad};
/// struct Cube;
///
/// impl Function for Cube {
///     type Inputs = Tensor;
///     type Outputs = Tensor;
///
///     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
///         ctx.save_for_backward([x])?;
///         Ok(x * x * x)
///     }
///
///     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         let [x] = ctx.saved_tensors()?;
///         Ok(Some(dy * x * x * 3.0))
///     }
/// }
///
/// let x = Var::leaf(Tensor::from(2.0));
/// let y = Cube.apply(&x)?;
/// let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.expect("x was used");
/// assert_eq!(f64::try_from(grad(&dx, &x)?.value())?, 12.0); // 6 x
/// # anyhow::Ok(())
/// ```
///
/// What `backward` reads from [`Ctx::state`], or takes out of a tensor as a number,
/// counts as constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DoubleBackward {
    /// Through `dy` and through saved inputs and outputs. If the derivative would go
    /// through another saved tensor, whose history is not known, it is an error and
    /// not a wrong number.
    ThroughSaved = 0,
    /// `forward` runs again, recorded, so that derivatives of any order go
    /// through everything that it saves. Costs the memory of the inputs, and for second
    /// derivatives the time of a second `forward`. Random numbers are the same ones as
    /// before: if `forward` draws any, the state of libtorch's generators is kept (5 KB on
    /// the CPU). It is an error if another thread draws meanwhile. Autocast is as it was.
    /// [`Ctx::is_recomputation`] tells the second run.
    Recompute = 1,
    /// Not at all: asking for a second derivative is an error
    /// (`once_differentiable` in PyTorch).
    Once = 2,
}

/// The way in which an op runs on a batch of inputs, under `torch.func.vmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vmap {
    /// Once for each entry of the batch, which is right for every op.
    Loop,
    /// Once, on tensors that libtorch has batched: each shows the shape of one
    /// entry, and libtorch's ops work on all of them. For ops that are formulas
    /// of tch ops, and ask no tensor for its values.
    Formulas,
}

/// Implements every method of [`Function`] but `forward` and `fake` by that of another one.
macro_rules! delegate_function {
    ($this:ident => $f:expr) => {
        fn backward(
            &$this,
            ctx: &Ctx,
            dy: Refs<'_, F::Outputs>,
        ) -> anyhow::Result<Grads<F::Inputs>> {
            $f.backward(ctx, dy)
        }
        fn jvp(
            &$this,
            ctx: &Ctx,
            x: Refs<'_, F::Inputs>,
            dx: Refs<'_, F::Inputs>,
        ) -> anyhow::Result<Of<F::Outputs, tch::Tensor>> {
            $f.jvp(ctx, x, dx)
        }
        fn vmap(&$this) -> Vmap {
            $f.vmap()
        }
        fn name(&$this) -> &'static str {
            $f.name()
        }
        fn double_backward(&$this) -> DoubleBackward {
            $f.double_backward()
        }
        fn cast_inputs(&$this) -> Option<tch::Kind> {
            $f.cast_inputs()
        }
        fn autocast(&$this) -> $crate::function::Autocast {
            $f.autocast()
        }
    };
}
pub(crate) use delegate_function;

/// Shares one op, with its parameters, between several calls.
impl<F: Function> Function for Arc<F> {
    type Inputs = F::Inputs;
    type Outputs = F::Outputs;
    fn forward(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, F::Inputs>,
    ) -> anyhow::Result<Of<F::Outputs, tch::Tensor>> {
        (**self).forward(ctx, x)
    }
    fn fake(
        &self,
        ctx: &mut Ctx,
        x: Refs<'_, F::Inputs>,
    ) -> anyhow::Result<Of<F::Outputs, tch::Tensor>> {
        (**self).fake(ctx, x)
    }
    delegate_function!(self => (**self));
}
