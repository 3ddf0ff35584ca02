//! [`Frame`]: what an application keeps from `forward` to `backward`, without its
//! tensors.

use crate::ffi::modes::AutocastState;
use crate::ffi::rng::Drawn;
use crate::ffi::{Description, Meta, Quiet};
use smallvec::SmallVec;
use std::any::Any;
use std::sync::Arc;

/// The facts about one application. It holds no tensor, so a node of libtorch's
/// graph can share it between threads.
pub(crate) struct Frame {
    pub op: &'static str,
    pub inputs: SmallVec<[Input; 1]>,
    /// Whether an input needs a gradient, so that the application is recorded.
    pub recording: bool,
    pub materialize_grads: bool,
    /// Facts of few applications, boxed so that a node is small.
    extra: Option<Box<Extra>>,
}

impl Clone for Frame {
    /// Pushes input by input, which for the usual one or two is quicker than
    /// SmallVec's own clone.
    #[inline]
    fn clone(&self) -> Frame {
        let mut inputs = SmallVec::new();
        self.inputs.iter().for_each(|input| inputs.push(input.clone()));
        Frame { inputs, extra: self.extra.clone(), ..*self }
    }
}

const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Frame>();
};

#[derive(Clone, Default)]
struct Extra {
    /// The outputs, if there are several: a node with one output runs only when
    /// its gradient is there, so nothing needs materialising.
    outputs: Vec<Meta>,
    state: Option<Quiet<Arc<dyn Any + Send + Sync>>>,
    /// What the random number generators were before a `forward` that drew from them, and
    /// that may run again.
    drawn: Option<Arc<Drawn>>,
    /// What autocast was around a `forward` that may run again.
    autocast: Option<AutocastState>,
}

impl Frame {
    #[inline]
    pub fn new(op: &'static str) -> Frame {
        Frame {
            op,
            inputs: SmallVec::new(),
            recording: false,
            materialize_grads: true,
            extra: None,
        }
    }

    pub fn push_output(&mut self, output: Meta) {
        self.extra().outputs.push(output);
    }

    pub fn outputs(&self) -> &[Meta] {
        self.extra.as_ref().map_or(&[], |extra| &extra.outputs)
    }

    /// Returns the state that is not a tensor.
    pub fn state(&self) -> Option<&(dyn Any + Send + Sync)> {
        Some(&***self.extra.as_ref()?.state.as_ref()?)
    }

    pub fn set_state(&mut self, state: Option<Arc<dyn Any + Send + Sync>>) {
        self.extra().state = state.map(Quiet::new);
    }

    /// Returns what `forward` drew from the random number generators, if anything.
    pub fn drawn(&self) -> Option<&Arc<Drawn>> {
        self.extra.as_ref()?.drawn.as_ref()
    }

    pub fn set_drawn(&mut self, drawn: Drawn) {
        self.extra().drawn = Some(Arc::new(drawn));
    }

    /// Returns what autocast was around `forward`.
    pub fn autocast(&self) -> AutocastState {
        self.extra.as_ref().and_then(|extra| extra.autocast).unwrap_or(AutocastState::OFF)
    }

    /// Notes what autocast is around a `forward` that may run again.
    pub fn set_autocast(&mut self, state: AutocastState) {
        if state.is_on_somewhere() {
            self.extra().autocast = Some(state);
        }
    }

    /// Sets which inputs' gradients are needed.
    #[inline]
    pub fn set_needs(&mut self, mut needs: impl FnMut(usize) -> bool) {
        for (i, input) in self.inputs.iter_mut().enumerate() {
            input.needs_grad = needs(i);
        }
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

/// One input tensor, as `forward` was given it.
#[derive(Clone)]
pub(crate) struct Input {
    pub meta: Meta,
    pub identity: usize,
    pub version: u32,
    pub needs_grad: bool,
    /// Whether the input is a leaf that requires a gradient, or a view of one.
    pub in_leaf: bool,
}

impl Input {
    #[inline]
    pub fn new(d: &Description<'_>, needs_grad: bool, in_leaf: bool) -> Input {
        Input { meta: Meta::of(d), identity: d.identity, version: d.version, needs_grad, in_leaf }
    }

    /// Makes the entry of an optional input that is absent.
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
