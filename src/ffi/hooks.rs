//! Hooks: Rust closures that libtorch's engine calls in its passes.

use super::check;
use super::drop_in_turn;
use super::errors::call_back;
use super::node::{Callbacks, ERRORS};
use crate::error::Result;
use std::ffi::{c_char, c_void};
use tch::Tensor;
use torch_sys::C_tensor;

/// A hook, which may put other tensors into the first list. Missing gradients are
/// undefined tensors.
pub(crate) type Hook = dyn Fn(&mut [Tensor], &[Tensor]) -> Result<()> + Send + Sync;

/// `tf_hook` of the shim.
#[repr(C)]
pub(super) struct RawHook {
    pub(super) callbacks: *const Callbacks,
    pub(super) state: *const c_void,
    pub(super) call: extern "C" fn(
        *const c_void,
        *const *mut C_tensor,
        usize,
        *const *const C_tensor,
        usize,
    ) -> *mut c_void,
    pub(super) drop: extern "C" fn(*const c_void),
}

unsafe extern "C" {
    fn tf_register_hook(t: *const C_tensor, what: *const RawHook) -> *mut c_void;
    fn tf_register_node_hook(
        node: *const c_void,
        before: bool,
        what: *const RawHook,
    ) -> *mut c_void;
    fn tf_remove_hook(registered: *const c_void);
    fn tf_drop_registered(registered: *mut c_void);
    fn tf_has_hooks(leaf: *const C_tensor) -> bool;
    fn tf_grad_fn(t: *const C_tensor) -> *mut c_void;
    fn tf_drop_node(node: *mut c_void);
    fn tf_assign(to: *mut C_tensor, from: *const C_tensor);
    fn tf_node_name(
        node: *const c_void,
        take: extern "C" fn(*mut c_void, *const c_char, usize),
        data: *mut c_void,
    );
}

const OP: &str = "register_hook";

fn raw(hook: Box<Hook>) -> RawHook {
    let state = Box::into_raw(Box::new(hook)).cast_const().cast();
    RawHook { callbacks: &ERRORS, state, call, drop: drop_hook }
}

/// Registers a hook on the gradient of `t`.
pub(crate) fn register(t: &Tensor, hook: Box<Hook>) -> Result<Registered> {
    // SAFETY: `t` owns a valid handle; the shim takes the hook, also where it
    // fails, and gives its state back to `drop_hook` once.
    Registered::of(unsafe { tf_register_hook(t.as_ptr(), &raw(hook)) })
}

/// A hook that was registered.
pub(crate) struct Registered(*mut c_void);

// SAFETY: the shim's list of hooks has a lock of its own, and handles of it are counted
// atomically.
unsafe impl Send for Registered {}
// SAFETY: see above.
unsafe impl Sync for Registered {}

impl Registered {
    fn of(registered: *mut c_void) -> Result<Registered> {
        check(OP, !registered.is_null())?;
        Ok(Registered(registered))
    }

    /// Removes the hook; a pass that runs meanwhile may still call it.
    pub fn remove(&self) {
        // SAFETY: the handle is ours.
        unsafe { tf_remove_hook(self.0) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: given by the shim, given back once.
        unsafe { tf_drop_registered(self.0) }
    }
}

/// Returns whether hooks run on the gradient of libtorch's leaf: one that was removed does not.
pub(crate) fn has_hooks(leaf: &Tensor) -> bool {
    // SAFETY: `leaf` owns a valid handle.
    unsafe { tf_has_hooks(leaf.as_ptr()) }
}

/// A node of libtorch's graph, which this keeps alive.
pub(crate) struct GradFn(*mut c_void);

impl GradFn {
    /// Returns the node that made `t`.
    pub fn of(t: &Tensor) -> Option<GradFn> {
        // SAFETY: `t` owns a valid handle; what the shim gives is ours.
        let node = unsafe { tf_grad_fn(t.as_ptr()) };
        (!node.is_null()).then_some(GradFn(node))
    }

    /// Registers a hook, which runs before the node or after it.
    pub fn register(&self, before: bool, hook: Box<Hook>) -> Result<Registered> {
        // SAFETY: the node is ours; the hook as in `register`.
        Registered::of(unsafe { tf_register_node_hook(self.0, before, &raw(hook)) })
    }

    /// Returns the node's name.
    pub fn name(&self) -> String {
        extern "C" fn take(data: *mut c_void, name: *const c_char, len: usize) {
            // SAFETY: `data` is the String below; `name` has `len` bytes.
            unsafe {
                let name = std::slice::from_raw_parts(name.cast::<u8>(), len);
                *data.cast::<String>() = String::from_utf8_lossy(name).into_owned();
            }
        }
        let mut name = String::new();
        // SAFETY: the node is ours; `take` gets `name` during the call alone.
        unsafe { tf_node_name(self.0, take, (&raw mut name).cast()) };
        name
    }
}

impl Drop for GradFn {
    fn drop(&mut self) {
        // SAFETY: made by `of`, given back once.
        unsafe { tf_drop_node(self.0) }
    }
}

extern "C" fn call(
    hook: *const c_void,
    grads: *const *mut C_tensor,
    n_grads: usize,
    seen: *const *const C_tensor,
    n_seen: usize,
) -> *mut c_void {
    // SAFETY: the shim passes the hook that `register` gave it, alive during
    // the call, and arrays with these lengths (null where that is 0).
    let (hook, handles, seen) = unsafe {
        let seen = if n_seen == 0 { &[] } else { std::slice::from_raw_parts(seen, n_seen) };
        let grads = if n_grads == 0 { &[] } else { std::slice::from_raw_parts(grads, n_grads) };
        (&*hook.cast::<Box<Hook>>(), grads, seen)
    };
    let run = || {
        // SAFETY: each is a valid handle, of which this makes another one.
        let seen: Vec<Tensor> =
            seen.iter().map(|&t| unsafe { Tensor::clone_from_ptr(t.cast_mut()) }).collect();
        // SAFETY: the same.
        let mut grads: Vec<Tensor> =
            handles.iter().map(|&t| unsafe { Tensor::clone_from_ptr(t) }).collect();
        hook(&mut grads, &seen)?;
        for (grad, &handle) in grads.iter().zip(handles) {
            // SAFETY: `handle` is the shim's, which reads it after this call.
            unsafe { tf_assign(handle, grad.as_ptr()) };
        }
        Ok(())
    };
    call_back("a hook", "the hook", run)
}

extern "C" fn drop_hook(hook: *const c_void) {
    // SAFETY: made by `register`; the shim gives it back once.
    drop_in_turn(unsafe { Box::from_raw(hook.cast::<Box<Hook>>().cast_mut()) });
}
