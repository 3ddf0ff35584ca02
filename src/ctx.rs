//! [`Ctx`]: what `forward` leaves for `backward`.

mod again;
mod input;
mod kept;
mod marks;
mod saved;

pub(crate) use input::Input;
pub(crate) use kept::{Kept, gather};
pub(crate) use marks::Marks;
pub(crate) use saved::{Origin, Saved};

use crate::{Error, Result, error, ffi, forward::Output, meta::Meta};
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// The context of one application of a [`Function`](crate::Function): what
/// `forward` saves and marks, and what `backward` reads.
///
/// Only an engine makes one, so `forward` cannot be called around `apply`.
/// `backward` gets `&Ctx`: nothing done there changes a second pass.
///
/// ```compile_fail
/// let ctx = tch_function::Ctx::new("Mine"); // not constructible by users
/// ```
pub struct Ctx {
    op: &'static str,
    inputs: SmallVec<[Input; 1]>,
    saved: SavedList,
    rest: Option<Box<Rest>>,
    /// `save_for_backward` was called.
    has_saved: bool,
    recording: bool,
    /// `forward` runs a second time, for `DoubleBackward::Recompute`.
    recomputing: bool,
    /// An input carries a forward-mode tangent, so `jvp` will run.
    dual: bool,
    /// The op's schema says that it changes no input.
    pure: bool,
    materialize_grads: bool,
}

pub(crate) type SavedList = SmallVec<[Saved; 1]>;

/// What few contexts have, in a box of its own: a node holds its context, and
/// the speed of small ops needs nodes that are small.
#[derive(Default)]
struct Rest {
    /// Of the outputs, where there are several: a node with one output runs
    /// only when its gradient is there, so nothing needs materialising.
    outputs: Vec<Meta>,
    /// The inputs, for `DoubleBackward::Recompute`.
    kept: Vec<Option<Saved>>,
    state: Option<Arc<dyn Any + Send + Sync>>,
    /// Until `forward` is over.
    marks: Option<Box<Marks>>,
}

impl Ctx {
    #[inline]
    pub(crate) fn new(op: &'static str, recording: bool) -> Ctx {
        Ctx {
            op,
            inputs: SmallVec::new(),
            saved: SavedList::new(),
            rest: None,
            has_saved: false,
            recording,
            recomputing: false,
            dual: false,
            pure: false,
            materialize_grads: true,
        }
    }

    /// Saves tensors for `backward`, inputs, outputs or others, at most once
    /// per `forward`. Nothing is kept where no gradient will be asked for.
    ///
    /// # Errors
    /// [`Error::SavedTwice`]; [`Error::Undefined`] for an undefined tensor.
    pub fn save_for_backward<'a>(
        &mut self,
        tensors: impl IntoIterator<Item = &'a Tensor>,
    ) -> Result<()> {
        if self.has_saved {
            return Err(Error::SavedTwice { op: self.op });
        }
        let mut saved = SavedList::new();
        for (position, tensor) in tensors.into_iter().enumerate() {
            let d = ffi::describe(self.op, tensor)?;
            if !d.is_defined() {
                let what = format!("tensor {position} given to save_for_backward");
                return Err(Error::Undefined { op: self.op, what });
            }
            if self.recording || self.dual {
                let (version, origin) = (d.version, self.origin_among_inputs(d.identity));
                saved.push(Saved { tensor: tensor.shallow_clone(), version, origin });
            }
        }
        (self.saved, self.has_saved) = (saved, true);
        Ok(())
    }

    /// The saved tensors, in the order in which they were saved.
    ///
    /// # Errors
    /// [`Error::SavedCount`] when not exactly `N` were saved;
    /// [`Error::SavedChanged`] when one was changed in place since.
    pub fn saved_tensors<const N: usize>(&self) -> Result<[&Tensor; N]> {
        let saved = self.saved();
        if saved.len() != N {
            return Err(Error::SavedCount { op: self.op, expected: N, found: saved.len() });
        }
        (0..N).try_for_each(|i| saved[i].check(self.op, i))?;
        Ok(std::array::from_fn(|i| &saved[i].tensor))
    }

    /// As [`saved_tensors`](Ctx::saved_tensors), for a number of tensors that
    /// only the run knows.
    ///
    /// # Errors
    /// [`Error::SavedChanged`] when one was changed in place since.
    pub fn saved_tensors_vec(&self) -> Result<Vec<&Tensor>> {
        let saved = self.saved();
        saved.iter().enumerate().try_for_each(|(i, s)| s.check(self.op, i))?;
        Ok(saved.iter().map(|s| &s.tensor).collect())
    }

    fn origin_among_inputs(&self, identity: usize) -> Origin {
        let position = self.inputs.iter().position(|input| input.identity == identity);
        position.map_or(Origin::Intermediate, |i| Origin::Input(i as u32))
    }

    /// Saves the leaves of libtorch's that stand for the inputs, one per position.
    pub(crate) fn save_leaves(&mut self, tensors: &[Tensor]) {
        if self.recording {
            let saved = |(t, i): (&Tensor, u32)| Saved::of(t.shallow_clone(), Origin::LeafFor(i));
            self.saved = tensors.iter().zip(0..).map(saved).collect();
            self.has_saved = true;
        }
    }

    /// Tells outputs and constants from other saved tensors; dirty inputs are
    /// outputs now. Constants are those declared, and outputs without a gradient.
    #[inline]
    pub(crate) fn settle_origins(
        &mut self,
        outputs: &[Output],
        marks: Option<&Marks>,
    ) -> Result<()> {
        if !self.has_saved { Ok(()) } else { self.settle_saved(outputs, marks) }
    }

    fn settle_saved(&mut self, outputs: &[Output], marks: Option<&Marks>) -> Result<()> {
        let op = self.op;
        let dirty = marks.map_or(&[][..], |marks| &marks.dirty);
        let mut found = 0;
        for saved in &mut self.saved {
            match saved.origin {
                Origin::LeafFor(_) => continue,
                Origin::Input(i) if !dirty.contains(&(i as usize)) => continue,
                _ => {}
            }
            let identity = |t: &Tensor| Ok(ffi::describe(op, t)?.identity);
            let own = identity(&saved.tensor)?;
            if let Some(k) = outputs.iter().position(|y| y.identity == own) {
                saved.origin = match outputs[k].differentiable {
                    true => Origin::Output(k as u32),
                    false => Origin::Constant,
                };
            }
            for declared in marks.iter().flat_map(|marks| &marks.constant) {
                if identity(declared)? == own {
                    saved.origin = Origin::Constant;
                    found += 1;
                }
            }
        }
        let declared = marks.map_or(0, |marks| marks.constant.len());
        if self.recording && found < declared {
            let message = "mark_constant was given a tensor that is an input or an output, or that \
                           save_for_backward was not given";
            return Err(Error::Argument { op, message: message.to_owned() });
        }
        Ok(())
    }

    pub(crate) fn saved(&self) -> &[Saved] {
        &self.saved
    }

    /// Whether the gradient of input tensor `i` is wanted: in `forward`, whether
    /// one may be asked for later; in `backward`, whether the pass that runs
    /// needs it.
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

    /// Whether gradients that are not there reach `backward` as zeros (`true`,
    /// the default) or as undefined tensors (`!dy.defined()`).
    pub fn set_materialize_grads(&mut self, materialize: bool) {
        self.materialize_grads = materialize;
    }

    /// Keeps state that is not a tensor for `backward`, at most once per
    /// `forward`. Second derivatives take it for a constant.
    ///
    /// # Errors
    /// [`Error::StateTwice`].
    pub fn save<T: Any + Send + Sync>(&mut self, state: T) -> Result<()> {
        let op = self.op;
        let kept = &mut self.rest().state;
        if kept.is_some() {
            return Err(Error::StateTwice { op });
        }
        *kept = Some(Arc::new(state));
        Ok(())
    }

    /// The state that `forward` kept with [`save`](Ctx::save).
    ///
    /// # Errors
    /// [`Error::State`] when there is none or it is of another type.
    pub fn state<T: Any + Send + Sync>(&self) -> Result<&T> {
        let missing = Error::State { op: self.op, expected: std::any::type_name::<T>() };
        let state = self.rest.as_ref().and_then(|rest| rest.state.as_deref());
        state.and_then(|s| s.downcast_ref()).ok_or(missing)
    }

    /// The shape of input tensor `i`.
    ///
    /// # Errors
    /// [`Error::NoInput`] past the last input.
    pub fn input_size(&self, i: usize) -> Result<&[i64]> {
        self.input(i)?.meta.known_sizes(self.op)
    }

    /// The dtype of input tensor `i`.
    ///
    /// # Errors
    /// [`Error::NoInput`] past the last input.
    pub fn input_kind(&self, i: usize) -> Result<Kind> {
        Ok(self.input(i)?.meta.kind())
    }

    /// Sums `grad` over the dimensions in which input `i` was broadcast and
    /// converts it to the input's dtype: the adjoint of broadcasting and of
    /// type promotion.
    ///
    /// # Errors
    /// [`Error::NoInput`] past the last input; [`Error::Torch`] when the
    /// input's shape does not broadcast to that of `grad`.
    pub fn reduce_to_input(&self, i: usize, grad: &Tensor) -> Result<Tensor> {
        let meta = &self.input(i)?.meta;
        if meta.fits(&ffi::describe(self.op, grad)?) {
            return Ok(grad.shallow_clone());
        }
        self.reduce(meta, grad)
    }

    /// As `reduce_to_input`, without another handle where nothing is to be done.
    pub(crate) fn reduce_own_to_input(&self, i: usize, grad: Tensor) -> Result<Tensor> {
        let meta = &self.input(i)?.meta;
        if meta.fits(&ffi::describe(self.op, &grad)?) {
            return Ok(grad);
        }
        self.reduce(meta, &grad)
    }

    fn reduce(&self, meta: &Meta, grad: &Tensor) -> Result<Tensor> {
        let summed = grad.f_sum_to_size(meta.known_sizes(self.op)?);
        summed.and_then(|grad| grad.f_to_kind(meta.kind())).map_err(error::torch(self.op))
    }

    fn input(&self, i: usize) -> Result<&Input> {
        let count = self.inputs.len();
        self.inputs.get(i).ok_or(Error::NoInput { op: self.op, input: i, count })
    }

    /// Records if an input needs a gradient.
    pub(crate) fn record(&mut self) {
        self.recording = self.inputs.iter().any(|input| input.needs_grad);
    }

    /// What a node of libtorch's must keep to make contexts for `backward`, once
    /// the tensors are taken out.
    #[inline]
    pub(crate) fn keep(self) -> Kept {
        Kept::of(self)
    }

    /// Says that the op's schema lets it change no input.
    pub(crate) fn expect_no_change(&mut self) {
        self.pure = true;
    }

    /// Says that `jvp` will run.
    pub(crate) fn expect_jvp(&mut self) {
        self.dual = true;
    }

    pub(crate) fn is_recording(&self) -> bool {
        self.recording
    }

    #[inline]
    pub(crate) fn push_input(&mut self, input: Input) {
        self.inputs.push(input);
    }

    pub(crate) fn push_output(&mut self, output: Meta) {
        self.rest().outputs.push(output);
    }

    pub(crate) fn outputs(&self) -> &[Meta] {
        self.rest.as_ref().map_or(&[], |rest| &rest.outputs)
    }

    fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    pub(crate) fn op(&self) -> &'static str {
        self.op
    }

    pub(crate) fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    /// As `needs_input_grad`, for a position that is known to be there.
    pub(crate) fn needs(&self, i: usize) -> bool {
        self.inputs[i].needs_grad
    }

    pub(crate) fn materialize_grads(&self) -> bool {
        self.materialize_grads
    }

    /// Says which gradients the pass that runs needs.
    pub(crate) fn set_needs(&mut self, mut needs: impl FnMut(usize) -> bool) {
        for (i, input) in self.inputs.iter_mut().enumerate() {
            input.needs_grad = needs(i);
        }
    }

    /// Whether `forward` kept state that is not a tensor.
    pub(crate) fn has_state(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.state.is_some())
    }
}
