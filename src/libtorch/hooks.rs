//! Hooks on the gradients that libtorch's engine computes, which tch cannot set.

use crate::application::run_hook;
use crate::error::{Error, Result};
use crate::ffi::{self, Meta, hooks};
use std::marker::PhantomData;
use tch::Tensor;

/// Calls `hook` with the gradient of `t` whenever libtorch's engine has computed
/// it: `Tensor.register_hook`. If the hook returns a tensor, that takes the
/// gradient's place; it must have its shape, dtype and device. The hook is not
/// called if no gradient came, and must not change its argument in place.
///
/// It may be called on any thread, by several passes at once. An `Err` or a panic
/// in it makes the pass fail with [`Error::Hook`].
///
/// Add hooks before passes begin: libtorch reads a node's hooks without a lock, so none may
/// be added while another thread runs the node. On the thread that runs it, that is an error.
///
/// The own engine has no hooks on Vars. A hook on a parameter runs there too, when a pass on
/// Vars gives the parameter its gradient; `create_graph` is [`Error::NotYet`] then.
///
/// # Errors
/// [`Error::Torch`] if `t` does not require a gradient.
///
/// ```
/// use tch::Tensor;
/// use tch_function::{Function, grad, ops::Log1pExp, register_hook};
///
/// let x = Tensor::from(4.5).set_requires_grad(true);
/// let y = Log1pExp.apply(&x)?;
/// let hook = register_hook(&y, |dy| Ok(Some(dy.clamp(-0.1, 0.1))))?;
/// let dx = f64::try_from(grad(&(&y * 3.0), &x)?)?;
/// assert!((dx - 0.1 * 0.98901).abs() < 1e-5); // 0.1 where 3 came
/// hook.remove();
/// # anyhow::Ok(())
/// ```
pub fn register_hook(
    t: &Tensor,
    hook: impl Fn(&Tensor) -> anyhow::Result<Option<Tensor>> + Send + Sync + 'static,
) -> Result<HookHandle> {
    let on = hooks::GradFn::of(t).map_or_else(|| "a leaf".to_owned(), |node| node.name());
    let hook = move |grads: &[Tensor], _: &[Tensor]| {
        let Some(grad) = grads.first().filter(|grad| grad.defined()) else { return Ok(None) };
        Ok(hook(grad)?.map(|changed| vec![Some(changed)]))
    };
    register(on, hook, |hook| hooks::register(t, hook))
}

/// Returns the node that made `t`, if libtorch recorded one: `Tensor.grad_fn`.
pub fn grad_fn(t: &Tensor) -> Option<GradFn<'_>> {
    let node = hooks::GradFn::of(t)?;
    Some(GradFn { name: node.name(), node, of: PhantomData })
}

/// A node of libtorch's graph, whatever becomes of the tensor that it made.
pub struct GradFn<'t> {
    node: hooks::GradFn,
    name: String,
    of: PhantomData<&'t Tensor>,
}

/// Gradients of a node's inputs or outputs, `None` if none flows.
pub type NodeGradients = Vec<Option<Tensor>>;

impl GradFn<'_> {
    /// Returns the node's name: `Log1pExpBackward`, `AddBackward0`, ...
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Calls `hook(grad_inputs, grad_outputs)` after the node ran:
    /// `Node.register_hook`. If it returns a list, that takes the place of
    /// `grad_inputs`: as long, each of the same shape, dtype and device.
    ///
    /// Threads and errors are as for [`register_hook`].
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn register_hook(
        &self,
        hook: impl Fn(&[Option<Tensor>], &[Option<Tensor>]) -> anyhow::Result<Option<NodeGradients>>
        + Send
        + Sync
        + 'static,
    ) -> Result<HookHandle> {
        let hook = move |grads: &[Tensor], seen: &[Tensor]| hook(&options(grads), &options(seen));
        register(self.name.clone(), hook, |hook| self.node.register(false, hook))
    }

    /// Calls `hook(grad_outputs)` before the node runs: `Node.register_prehook`.
    /// If it returns a list, that takes their place, as in
    /// [`register_hook`](GradFn::register_hook).
    ///
    /// # Errors
    /// What libtorch reports.
    pub fn register_prehook(
        &self,
        hook: impl Fn(&[Option<Tensor>]) -> anyhow::Result<Option<NodeGradients>>
        + Send
        + Sync
        + 'static,
    ) -> Result<HookHandle> {
        let hook = move |grads: &[Tensor], _: &[Tensor]| hook(&options(grads));
        register(self.name.clone(), hook, |hook| self.node.register(true, hook))
    }
}

/// A registered hook. Dropping this leaves the hook in place.
pub struct HookHandle {
    registered: hooks::Registered,
}

impl HookHandle {
    /// Removes the hook; a pass that runs meanwhile may still call it.
    pub fn remove(self) {
        self.registered.remove();
    }
}

fn options(tensors: &[Tensor]) -> NodeGradients {
    tensors.iter().map(|t| t.defined().then(|| t.shallow_clone())).collect()
}

/// Makes `add` register a hook, whose results are checked.
fn register<H>(
    on: String,
    hook: H,
    add: impl FnOnce(Box<hooks::Hook>) -> Result<hooks::Registered>,
) -> Result<HookHandle>
where
    H: Fn(&[Tensor], &[Tensor]) -> anyhow::Result<Option<NodeGradients>> + Send + Sync + 'static,
{
    let call = move |grads: &mut [Tensor], seen: &[Tensor]| {
        let failed = |source| Error::hook(&on, source);
        let changed = run_hook(|| hook(grads, seen)).map_err(failed)?;
        changed.map_or(Ok(()), |changed| replace(grads, changed).map_err(failed))
    };
    Ok(HookHandle { registered: add(Box::new(call))? })
}

/// Replaces the gradients by the hook's, if they fit.
fn replace(grads: &mut [Tensor], changed: NodeGradients) -> anyhow::Result<()> {
    let (expected, found) = (grads.len(), changed.len());
    anyhow::ensure!(
        found == expected,
        "the hook returned {found} gradients, expected {expected}; return one per input, None where none flows"
    );
    for (i, (grad, changed)) in grads.iter_mut().zip(changed).enumerate() {
        let changed = changed.unwrap_or_else(Tensor::new);
        let [old, new] = [&*grad, &changed].map(|t| ffi::describe("a hook", t));
        let (old, new) = (Meta::of(&old?), Meta::of(&new?));
        anyhow::ensure!(
            !old.is_defined() || !new.is_defined() || old == new,
            "the hook returned {new} for gradient {i} of {old}; return a gradient of the same shape, dtype and device"
        );
        *grad = changed;
    }
    Ok(())
}
