//! [`Ctx`]: what `forward` leaves for `backward`.

mod kept;
mod saved;

pub(crate) use kept::{Kept, gather};
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

/// What is known of one input tensor.
#[derive(Clone)]
pub(crate) struct Input {
    pub meta: Meta,
    pub identity: usize,
    pub version: u32,
    pub needs_grad: bool,
    /// Whether it is a leaf that requires a gradient, or a view of one.
    pub in_leaf: bool,
}

impl Input {
    /// Of an optional input that is not there.
    pub fn absent() -> Input {
        Input {
            meta: Meta::undefined(),
            identity: 0,
            version: 0,
            needs_grad: false,
            in_leaf: false,
        }
    }
}

/// What only some Functions say in `forward`.
#[derive(Default)]
pub(crate) struct Marks {
    /// Positions of inputs.
    pub dirty: Vec<usize>,
    /// Handles, so that an identity cannot be reused while it matters.
    pub non_differentiable: Vec<Tensor>,
    /// Saved tensors that depend on no input.
    pub constant: Vec<Tensor>,
}

impl Rest {
    fn share(&self) -> Rest {
        Rest {
            outputs: self.outputs.clone(),
            kept: self.kept.iter().map(|kept| kept.as_ref().map(Saved::share)).collect(),
            state: self.state.clone(),
            marks: None,
        }
    }
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

    /// Says that `forward` changes the input `x` in place and returns it. Call
    /// it before the change: on an error nothing must be changed.
    ///
    /// # Errors
    /// [`Error::DirtyNotInput`]; [`Error::DirtyLeaf`] for a leaf that requires
    /// a gradient, and for a view of one; [`Error::Argument`] where `forward`
    /// runs again for a second derivative.
    pub fn mark_dirty(&mut self, x: &Tensor) -> Result<()> {
        if self.pure {
            let message = "it changes an input in place, and its schema does not say so: write \
                           Tensor(a!)";
            return Err(Error::Argument { op: self.op, message: message.to_owned() });
        }
        if self.dual {
            let message = "an input that carries a forward-mode tangent cannot be changed in \
                           place by a Function";
            return Err(Error::Argument { op: self.op, message: message.to_owned() });
        }
        if self.recomputing {
            let message = "forward changes its input in place, so it cannot run again for \
                           DoubleBackward::Recompute";
            return Err(Error::Argument { op: self.op, message: message.to_owned() });
        }
        let (identity, in_torch_leaf) = (ffi::describe(self.op, x)?.identity, ffi::in_leaf(x));
        let mut dirty = Vec::new();
        for (input, i) in self.inputs.iter().zip(0..).filter(|(i, _)| i.identity == identity) {
            if input.in_leaf || in_torch_leaf {
                return Err(Error::DirtyLeaf { op: self.op, input: i });
            }
            dirty.push(i);
        }
        if dirty.is_empty() {
            return Err(Error::DirtyNotInput { op: self.op });
        }
        self.marks().dirty.append(&mut dirty);
        Ok(())
    }

    /// Says that no gradient flows through the output `y`. Integer and boolean
    /// outputs need not be marked.
    pub fn mark_non_differentiable(&mut self, y: &Tensor) {
        self.marks().non_differentiable.push(y.shallow_clone());
    }

    /// Says that a saved tensor that is neither input nor output does not
    /// depend on the inputs (a dropout mask, say), so that second derivatives
    /// need not go through it. Without this, a second derivative through such a
    /// tensor is [`Error::SavedIntermediate`].
    pub fn mark_constant(&mut self, saved: &Tensor) {
        self.marks().constant.push(saved.shallow_clone());
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

    fn marks(&mut self) -> &mut Marks {
        self.rest().marks.get_or_insert_default()
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

    pub(crate) fn has_marks(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.marks.is_some())
    }

    pub(crate) fn take_marks(&mut self) -> Option<Box<Marks>> {
        self.rest.as_mut()?.marks.take()
    }

    /// Says which gradients the pass that runs needs.
    pub(crate) fn set_needs(&mut self, mut needs: impl FnMut(usize) -> bool) {
        for (i, input) in self.inputs.iter_mut().enumerate() {
            input.needs_grad = needs(i);
        }
    }

    /// A second context over the same saved tensors, for a pass that retains
    /// the graph.
    pub(crate) fn share(&self) -> Ctx {
        let saved = self.saved.iter().map(Saved::share).collect();
        Ctx { has_saved: self.has_saved, ..self.again(saved) }
    }

    /// A context for a second run of `forward` on the same inputs.
    pub(crate) fn for_recomputation(&self) -> Ctx {
        let mut ctx = Ctx { recomputing: true, ..self.again(SavedList::new()) };
        if let Some(rest) = &mut ctx.rest {
            rest.state = None;
        }
        ctx
    }

    /// Keeps the inputs, one per position, for `DoubleBackward::Recompute`.
    pub(crate) fn keep_inputs(&mut self, value: impl Fn(usize) -> Option<Tensor>) {
        let keep = |i| Some(Saved::of(value(i)?, Origin::Input(i as u32)));
        let kept = (0..self.inputs.len()).map(keep).collect();
        self.rest().kept = kept;
    }

    /// Takes over what another context saved.
    pub(crate) fn restore(&mut self, saved: impl Iterator<Item = Saved>, materialize_grads: bool) {
        self.saved = saved.collect();
        self.has_saved = true;
        self.materialize_grads = materialize_grads;
    }

    /// Whether `forward` kept state that is not a tensor.
    pub(crate) fn has_state(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.state.is_some())
    }

    /// The inputs that `forward` has marked dirty until now.
    pub(crate) fn dirty(&self) -> &[usize] {
        let marks = self.rest.as_ref().and_then(|rest| rest.marks.as_deref());
        marks.map_or(&[], |marks| &marks.dirty)
    }

    /// What `keep_inputs` kept.
    pub(crate) fn kept_inputs(&self) -> &[Option<Saved>] {
        self.rest.as_ref().map_or(&[], |rest| &rest.kept)
    }

    /// A second context over tensors that were kept elsewhere.
    pub(crate) fn with_saved(&self, saved: Vec<Tensor>) -> Ctx {
        let saved = saved.into_iter().map(|t| Saved::of(t, Origin::Intermediate));
        self.again(saved.collect())
    }

    /// Takes the saved tensors, each of the version that it was saved at, and
    /// what `keep_inputs` kept.
    ///
    /// # Errors
    /// [`Error::SavedChanged`].
    #[inline]
    pub(crate) fn take_saved(&mut self) -> Result<SavedList> {
        let mut saved = std::mem::take(&mut self.saved);
        saved.iter().enumerate().try_for_each(|(i, s)| s.check(self.op, i))?;
        if let Some(rest) = &mut self.rest {
            saved.extend(std::mem::take(&mut rest.kept).into_iter().flatten());
        }
        Ok(saved)
    }

    fn again(&self, saved: SavedList) -> Ctx {
        Ctx {
            op: self.op,
            inputs: self.inputs.clone(),
            saved,
            rest: self.rest.as_ref().map(|rest| Box::new(rest.share())),
            has_saved: false,
            recording: self.recording,
            recomputing: false,
            dual: false,
            pure: self.pure,
            materialize_grads: self.materialize_grads,
        }
    }
}
