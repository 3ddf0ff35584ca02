//! [`Ctx`]: what `forward` leaves for `backward`.

mod frame;
mod gradients;
mod marks;
mod saved;

pub(crate) use frame::{Frame, Input};
pub(crate) use marks::Marks;
pub(crate) use saved::{Origin, Saved};

use crate::error::{Error, Result};
use crate::ffi;
use crate::function::Shareable;
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The context of one application of a [`Function`](crate::Function): what
/// `forward` saves and declares, and what `backward` reads.
///
/// Only an engine can make one, so `forward` runs only through `apply`.
/// `backward` gets `&Ctx`, so it cannot affect a later pass.
///
/// ```compile_fail
/// let ctx = tch_function::Ctx::new("Mine"); // not constructible by users
/// ```
///
/// Save inputs and outputs through the context, not in a field. A tensor that the
/// Function holds itself is a [`Constant`](crate::Constant).
///
/// ```
/// # use anyhow::Result;
/// # use tch::Tensor;
/// # use tch_function::{Ctx, Function, Var, grad};
/// /// `y = x` where `|x| <= limit`, else 0.
/// struct Clip {
///     limit: f64,
/// }
///
/// impl Function for Clip {
///     type Inputs = Tensor;
///     type Outputs = Tensor;
///
///     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
///         let kept = x.abs().le(self.limit);
///         ctx.save(bool::try_from(kept.all())?)?;
///         ctx.save_for_backward([&kept])?;
///         Ok(x * kept)
///     }
///
///     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
///         if *ctx.state::<bool>()? {
///             return Ok(Some(dy.shallow_clone())); // nothing was clipped
///         }
///         let [kept] = ctx.saved_tensors()?;
///         Ok(Some(dy * kept))
///     }
/// }
///
/// let x = Var::leaf(Tensor::from_slice(&[-3.0, 0.5]));
/// let y = Clip { limit: 1.0 }.apply(&x)?.sum()?;
/// assert_eq!(Vec::<f64>::try_from(grad(&y, &x)?.value())?, [0.0, 1.0]);
/// # anyhow::Ok(())
/// ```
pub struct Ctx {
    pub(crate) frame: Frame,
    /// The tensors that `forward` saved, and behind them the inputs that are kept for
    /// `DoubleBackward::Recompute`.
    pub(crate) saved: SavedList,
    /// Number of inputs at the end of `saved`.
    pub(crate) kept_inputs: u32,
    /// Whether `save_for_backward` was called.
    pub(crate) has_saved: bool,
    pub(crate) stage: Stage,
    /// Whether the op's schema says that it changes no input.
    pub(crate) pure: bool,
    /// The marks of `forward`, until they are settled.
    pub(crate) marks: Option<Box<Marks>>,
}

pub(crate) type SavedList = SmallVec<[Saved; 1]>;

/// The run that a context is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Forward,
    /// `forward`, and then `jvp`: an input carries a forward-mode tangent.
    Dual,
    /// `forward` a second time, for `DoubleBackward::Recompute`.
    Recomputation,
    Backward,
}

impl Ctx {
    /// Makes the context of a new application of `op`.
    #[inline]
    pub(crate) fn start(op: &'static str) -> Ctx {
        Ctx::new(Frame::new(op), Stage::Forward)
    }

    /// Makes a context without saved tensors.
    #[inline]
    pub(crate) fn new(frame: Frame, stage: Stage) -> Ctx {
        Ctx {
            frame,
            saved: SavedList::new(),
            kept_inputs: 0,
            has_saved: false,
            stage,
            pure: false,
            marks: None,
        }
    }

    /// Makes a second context over the same saved tensors, for a pass that retains the
    /// graph.
    pub(crate) fn share(&self) -> Ctx {
        Ctx {
            saved: self.saved.iter().map(Saved::share).collect(),
            has_saved: self.has_saved,
            kept_inputs: self.kept_inputs,
            ..Ctx::new(self.frame.clone(), Stage::Backward)
        }
    }

    /// Returns the tensors that `forward` saved.
    pub(crate) fn saved(&self) -> &[Saved] {
        &self.saved[..self.saved.len() - self.kept_inputs as usize]
    }

    /// Returns the inputs that are kept for `DoubleBackward::Recompute`.
    pub(crate) fn kept_inputs(&self) -> &[Saved] {
        &self.saved[self.saved().len()..]
    }

    pub(crate) fn op(&self) -> &'static str {
        self.frame.op
    }

    /// Returns `needs_input_grad` of a position that is known to exist.
    pub(crate) fn needs(&self, i: usize) -> bool {
        self.frame.inputs[i].needs_grad
    }

    /// Saves tensors for `backward`, inputs, outputs or others, at most once
    /// per `forward`. Nothing is kept if no gradient can be asked for.
    ///
    /// # Errors
    /// [`Error::SavedTwice`]; [`Error::Undefined`] for an undefined tensor;
    /// [`Error::SavedInference`] for an inference tensor.
    pub fn save_for_backward<'a>(
        &mut self,
        tensors: impl IntoIterator<Item = &'a Tensor>,
    ) -> Result<()> {
        if self.has_saved {
            return Err(Error::SavedTwice { op: self.op() });
        }
        let mut saved = SavedList::new();
        for (position, tensor) in tensors.into_iter().enumerate() {
            let d = ffi::describe(self.op(), tensor)?;
            if !d.is_defined() {
                let what = format!("tensor {position} given to save_for_backward");
                return Err(Error::Undefined { op: self.op(), what });
            }
            if self.frame.recording && d.is_inference {
                let what = format!("saved tensor {position}");
                return Err(Error::SavedInference { op: self.op(), what });
            }
            if self.frame.recording || self.stage == Stage::Dual {
                let (version, origin) = (d.version, self.origin_among_inputs(d.identity));
                saved.push(Saved { tensor: tensor.shallow_clone(), version, origin });
            }
        }
        (self.saved, self.has_saved) = (saved, true);
        Ok(())
    }

    /// Returns the saved tensors, in the order in which they were saved.
    ///
    /// # Errors
    /// [`Error::SavedCount`] when not exactly `N` were saved;
    /// [`Error::SavedChanged`] when one was changed in place since.
    pub fn saved_tensors<const N: usize>(&self) -> Result<[&Tensor; N]> {
        let saved = self.saved();
        if saved.len() != N {
            return Err(Error::SavedCount { op: self.op(), expected: N, found: saved.len() });
        }
        (0..N).try_for_each(|i| saved[i].check(self.op(), i))?;
        Ok(std::array::from_fn(|i| &saved[i].tensor))
    }

    /// Returns the saved tensors, whatever their number, in the order in which they
    /// were saved.
    ///
    /// # Errors
    /// [`Error::SavedChanged`] when one was changed in place since.
    pub fn saved_tensors_vec(&self) -> Result<Vec<&Tensor>> {
        let saved = self.saved();
        saved.iter().enumerate().try_for_each(|(i, s)| s.check(self.op(), i))?;
        Ok(saved.iter().map(|s| &s.tensor).collect())
    }

    fn origin_among_inputs(&self, identity: usize) -> Origin {
        let position = self.frame.inputs.iter().position(|input| input.identity == identity);
        position.map_or(Origin::Intermediate, |i| Origin::Input(i as u32))
    }

    /// Returns whether the gradient of input tensor `i` is needed: in `forward`, by
    /// any later pass; in `backward`, by the pass that runs.
    ///
    /// # Panics
    /// When the op has no input tensor `i` (the panic comes back as an `Err`
    /// from `apply` or `backward`).
    pub fn needs_input_grad(&self, i: usize) -> bool {
        match self.input(i) {
            Ok(input) => input.needs_grad,
            Err(e) => panic!("{e}"),
        }
    }

    /// Returns whether `forward` runs again on the same inputs, for
    /// [`DoubleBackward::Recompute`](crate::DoubleBackward::Recompute). What it does besides
    /// its result, such as updating running statistics, should be left out then. Random
    /// numbers must be drawn in both runs: the second one draws the same.
    ///
    /// ```
    /// # use anyhow::Result;
    /// # use std::sync::Mutex;
    /// # use tch::Tensor;
    /// # use tch_function::{Ctx, DoubleBackward, Function, GradOptions, Var};
    /// /// Drops half of the elements, and keeps the mean of what it saw.
    /// struct Dropout {
    ///     mean: Mutex<f64>,
    /// }
    ///
    /// impl Function for Dropout {
    ///     type Inputs = Tensor;
    ///     type Outputs = Tensor;
    ///     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
    ///         let mask = x.rand_like().ge(0.5).to_kind(x.kind()) * 2.0;
    ///         if !ctx.is_recomputation() {
    ///             *self.mean.lock().expect("no panic") = x.mean(None).double_value(&[]);
    ///         }
    ///         ctx.save_for_backward([&mask])?;
    ///         Ok(x * mask)
    ///     }
    ///     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
    ///         let [mask] = ctx.saved_tensors()?;
    ///         Ok(Some(dy * mask))
    ///     }
    ///     fn double_backward(&self) -> DoubleBackward {
    ///         DoubleBackward::Recompute
    ///     }
    /// }
    ///
    /// let x = Var::leaf(Tensor::ones([100], (tch::Kind::Double, tch::Device::Cpu)));
    /// let y = Dropout { mean: Mutex::new(0.0) }.apply(&x)?;
    /// let dx = GradOptions::new().create_graph(true).grad(&y.sum()?, &x)?.expect("x was used");
    /// assert_eq!(dx.value(), y.value()); // of ones, so each is the mask
    /// # anyhow::Ok(())
    /// ```
    pub fn is_recomputation(&self) -> bool {
        self.stage == Stage::Recomputation
    }

    /// Sets whether missing output gradients reach `backward`, and missing tangents
    /// [`jvp`](crate::Function::jvp), as zeros (`true`, the default) or as undefined
    /// tensors (`!dy.defined()`).
    pub fn set_materialize_grads(&mut self, materialize: bool) {
        self.frame.materialize_grads = materialize;
    }

    /// Keeps state that is not a tensor for `backward`, at most once per
    /// `forward`. Second derivatives treat it as a constant. A tensor in it is a
    /// [`Constant`](crate::Constant), which notices changes in place.
    ///
    /// # Errors
    /// [`Error::StateTwice`].
    pub fn save<T: Any + Shareable>(&mut self, state: T) -> Result<()> {
        let op = self.op();
        if self.frame.state().is_some() {
            return Err(Error::StateTwice { op });
        }
        self.frame.set_state(Some(Arc::new(state)));
        Ok(())
    }

    /// Returns the state that `forward` kept with [`save`](Ctx::save).
    ///
    /// # Errors
    /// [`Error::State`] when there is none or it is of another type.
    pub fn state<T: Any + Send + Sync>(&self) -> Result<&T> {
        let missing = Error::State { op: self.op(), expected: std::any::type_name::<T>() };
        self.frame.state().and_then(|s| s.downcast_ref()).ok_or(missing)
    }

    /// Returns the shape of input tensor `i`.
    ///
    /// # Errors
    /// [`Error::NoInput`] past the last input.
    pub fn input_size(&self, i: usize) -> Result<&[i64]> {
        self.input(i)?.meta.known_sizes(self.op())
    }

    /// Returns the dtype of input tensor `i`.
    ///
    /// # Errors
    /// [`Error::NoInput`] past the last input.
    pub fn input_kind(&self, i: usize) -> Result<Kind> {
        Ok(self.input(i)?.meta.kind())
    }

    fn input(&self, i: usize) -> Result<&Input> {
        let count = self.frame.inputs.len();
        self.frame.inputs.get(i).ok_or(Error::NoInput { op: self.op(), input: i, count })
    }
}
