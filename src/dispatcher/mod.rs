//! Functions as ops of libtorch's dispatcher: `torch.ops.<namespace>.<op>` in
//! Python and in TorchScript.
//!
//! [`library!`](crate::library) defines them. Each entry is a schema, as in
//! `TORCH_LIBRARY`, and a closure that makes the Function from the arguments that
//! are not tensors:
//!
//! ```
//! use anyhow::Result;
//! use tch::Tensor;
//! use tch_function::{Ctx, Function};
//!
//! struct Leaky {
//!     slope: f64,
//! }
//!
//! impl Function for Leaky {
//!     type Inputs = Tensor;
//!     type Outputs = Tensor;
//!
//!     fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
//!         ctx.save_for_backward([x])?;
//!         Ok(x.maximum(&(x * self.slope)))
//!     }
//!
//!     fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
//!         let [x] = ctx.saved_tensors()?;
//!         Ok(Some(dy.where_self(&x.gt(0.0), &(dy * self.slope))))
//!     }
//! }
//!
//! tch_function::library! {
//!     /// Registers this crate's ops.
//!     pub fn register() for "doc_ops" {
//!         "leaky(Tensor x, float slope=0.01) -> Tensor" => |slope: f64| Leaky { slope },
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! register()?; // in a Rust program, before a TorchScript module is loaded
//! # Ok(())
//! # }
//! ```
//!
//! In a crate of type `cdylib` that is all: `torch.ops.load_library("lib<crate>.so")`
//! in Python registers the ops, which are then `torch.ops.doc_ops.leaky(x, 0.2)`.
//!
//! - Tensor arguments, in order, are the Function's inputs: `Tensor` is `Tensor`,
//!   `Tensor?` is `Option<Tensor>`, `Tensor[]` is `Vec<Tensor>`, `Tensor?[]` is
//!   `Vec<Option<Tensor>>`; returns are its outputs in the same way. The other
//!   arguments, in order, are the constructor's parameters ([`Argument`]).
//! - `Tensor(a!)` is an argument that the op changes and marks dirty.
//! - What a Function returns in an argument's memory is copied, since the schema
//!   says that it is new.
//! - An op that draws random numbers says so, or PyTorch's compiler may run it twice where
//!   it thinks that it ran once: `"drop(Tensor x, float p) -> Tensor"
//!   [NondeterministicSeeded] => ...`. [`Tag`] has the other tags.
//! - An op without a backward is made by [`forward_only`](forward_only()).
//! - A Rust program loads TorchScript modules that call the ops after `register()`,
//!   with [`load_module`] or [`load_trainable_module`], whose errors say which
//!   registration is missing, or with `CModule` itself.
//! - Besides `ns::op` itself there are `ns::_op_forward` and `ns::_op_backward`,
//!   which `torch.compile` and `torch.func` see where a gradient is wanted.

mod argument;
mod call;
mod constructor;
mod forward_only;
mod fresh;
mod load;
mod memory;
mod op;
mod plan;
mod reasons;
mod signature;

pub use crate::ffi::dispatcher::Tag;
pub use argument::Argument;
pub use constructor::Constructor;
pub use forward_only::forward_only;
pub use load::{load_module, load_trainable_module};

use crate::ffi::dispatcher::{self as ffi, Definitions};
use crate::{Error, Result};
use op::Registered;
use plan::Plans;
use signature::Signature;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{ThreadId, current};

/// The ops of a namespace while they are defined.
pub struct Ops {
    namespace: &'static str,
    definitions: Definitions,
}

impl Ops {
    /// Defines an op: a schema without its namespace, and what makes a Function
    /// from those of its arguments that are not tensors.
    ///
    /// # Errors
    /// [`Error::Registration`] for a text that is not a schema, one that does not
    /// fit the Function, and a name that is there already.
    pub fn define<A: 'static>(
        &mut self,
        schema: &str,
        constructor: impl Constructor<A>,
    ) -> Result<()> {
        self.define_one(schema, &[], constructor)
    }

    /// Does what [`define`](Ops::define) does, with tags for PyTorch's compiler.
    ///
    /// # Errors
    /// Those of [`define`](Ops::define).
    pub fn define_tagged<A: 'static>(
        &mut self,
        schema: &str,
        tags: &[Tag],
        constructor: impl Constructor<A>,
    ) -> Result<()> {
        self.define_one(schema, tags, constructor)
    }

    fn define_one<A: 'static, C: Constructor<A>>(
        &mut self,
        schema: &str,
        tags: &[Tag],
        constructor: C,
    ) -> Result<()> {
        let signature = Signature::new::<C::Function>(self.namespace, schema, &C::parameters())?;
        let what = signature.name;
        let signature = Arc::new(signature);
        let op =
            Registered { constructor, signature, plans: Plans::default(), parameters: PhantomData };
        let defined = self.definitions.define(schema, tags, Box::new(op));
        defined.map_err(|e| reasons::undefined(what, &e))
    }
}

/// The ops that one [`library!`](crate::library) defines.
pub struct Library {
    namespace: &'static str,
    state: Mutex<State>,
    /// Is told when the registration is done.
    done: Condvar,
}

enum State {
    New,
    /// One thread registers the ops. The lock is free meanwhile, since what it runs is the
    /// user's code.
    Open(ThreadId),
    Done(Outcome),
}

/// The result of a registration, in words.
type Outcome = Result<(), (String, String)>;

impl Library {
    /// Makes a library of a namespace, without ops.
    pub const fn new(namespace: &'static str) -> Library {
        Library { namespace, state: Mutex::new(State::New), done: Condvar::new() }
    }

    /// Registers all ops that `define` defines, or none, until the process ends. Later
    /// calls return the first call's result.
    ///
    /// # Errors
    /// [`Error::Registration`].
    pub fn register(&self, define: impl FnOnce(&mut Ops) -> Result<()>) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*state {
                State::New => break,
                State::Done(outcome) => return in_an_error(outcome.clone()),
                State::Open(thread) if *thread == current().id() => {
                    return Err(reasons::inside_itself(self.namespace));
                }
                State::Open(_) => {
                    state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        *state = State::Open(current().id());
        drop(state);
        let opened = catch_unwind(AssertUnwindSafe(|| self.open(define)));
        let outcome = opened.unwrap_or_else(|panic| Err(reasons::panicked(self.namespace, panic)));
        let outcome = outcome.map_err(in_words);
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Done(outcome.clone());
        self.done.notify_all();
        in_an_error(outcome)
    }

    fn open(&self, define: impl FnOnce(&mut Ops) -> Result<()>) -> Result<()> {
        let namespace = self.namespace;
        reasons::check_namespace(namespace)?;
        let definitions =
            Definitions::open(namespace).map_err(|e| reasons::taken(namespace, &e))?;
        let mut ops = Ops { namespace, definitions };
        define(&mut ops)?;
        ops.definitions.keep();
        Ok(())
    }
}

fn in_an_error(outcome: Outcome) -> Result<()> {
    outcome.map_err(|(what, message)| Error::Registration { what, message })
}

fn in_words(error: Error) -> (String, String) {
    match error {
        Error::Registration { what, message } => (what, message),
        error => ("a library".to_owned(), error.to_string()),
    }
}

/// Registers the ops when a shared object that calls [`library!`](crate::library) is
/// loaded, and keeps it loaded. In Python an error is raised by the call
/// that loads it; in a Rust program `register` itself returns it.
#[doc(hidden)]
pub fn on_load(register: fn() -> Result<()>) {
    ffi::stay_loaded(register);
    let done = std::panic::catch_unwind(register);
    if let Ok(Err(error)) = done {
        ffi::raise_in_python(&error.to_string());
    }
}

/// Defines ops of libtorch's dispatcher, and the function that registers them.
/// See [`dispatcher`](crate::dispatcher).
#[macro_export]
macro_rules! library {
    (
        $(#[$attribute:meta])*
        $visibility:vis fn $register:ident() for $namespace:literal {
            $($schema:literal $([$($tag:ident),+ $(,)?])? => $constructor:expr),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        $visibility fn $register() -> $crate::Result<()> {
            static LIBRARY: $crate::dispatcher::Library =
                $crate::dispatcher::Library::new($namespace);
            LIBRARY.register(|ops| {
                $(ops.define_tagged(
                    $schema,
                    &[$($($crate::dispatcher::Tag::$tag),+)?],
                    $constructor,
                )?;)+
                ::core::result::Result::Ok(())
            })
        }

        const _: () = {
            extern "C" fn on_load() {
                $crate::dispatcher::on_load($register)
            }
            #[allow(unsafe_code)]
            #[used]
            #[unsafe(link_section = ".init_array")]
            static ON_LOAD: extern "C" fn() = on_load;
        };
    };
}
