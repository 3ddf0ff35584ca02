//! [`Constructor`]: a closure that makes a Function from a schema's arguments.

use super::argument::Argument;
use crate::ffi::dispatcher::Value;
use crate::{Error, Function, Result};

/// A closure from parameters of up to eight, of types that are an [`Argument`],
/// to a [`Function`] or an `anyhow::Result` of one.
pub trait Constructor<A>: sealed::Construct<A> {}
impl<A, C: sealed::Construct<A>> Constructor<A> for C {}

pub(crate) mod sealed {
    use super::*;

    pub trait Construct<A>: Send + Sync + 'static {
        type Function: Function;
        /// Returns for each parameter the types of a schema that it can come from.
        fn parameters() -> Vec<Vec<String>>;
        /// Makes the Function from the arguments that are not tensors, in order.
        fn construct(
            &self,
            op: &'static str,
            args: &mut dyn Iterator<Item = Value<'_>>,
        ) -> Result<Self::Function>;
    }

    pub trait IntoFunction {
        type Function: Function;
        fn into_function(self) -> anyhow::Result<Self::Function>;
    }
    impl<F: Function> IntoFunction for F {
        type Function = F;
        fn into_function(self) -> anyhow::Result<F> {
            Ok(self)
        }
    }
    impl<F: Function> IntoFunction for anyhow::Result<F> {
        type Function = F;
        fn into_function(self) -> anyhow::Result<F> {
            self
        }
    }
}

fn next<A: Argument>(
    op: &'static str,
    args: &mut dyn Iterator<Item = Value<'_>>,
) -> anyhow::Result<A> {
    let found = args.next().and_then(A::from_value);
    found.ok_or_else(|| {
        let message = format!("an argument is not the {} of its schema", A::types().join(" or "));
        Error::Argument { op, message }.into()
    })
}

macro_rules! constructor {
    ($($A:ident)*) => {
        impl<C, R, $($A),*> sealed::Construct<($($A,)*)> for C
        where
            C: Fn($($A),*) -> R + Send + Sync + 'static,
            R: sealed::IntoFunction,
            $($A: Argument,)*
        {
            type Function = R::Function;
            fn parameters() -> Vec<Vec<String>> {
                vec![$($A::types()),*]
            }
            #[allow(unused_variables)]
            fn construct(
                &self,
                op: &'static str,
                args: &mut dyn Iterator<Item = Value<'_>>,
            ) -> Result<R::Function> {
                crate::application::run_user(op, "its constructor", Error::forward, || {
                    self($(next::<$A>(op, args)?),*).into_function()
                })
            }
        }
    };
}
constructor!();
constructor!(A1);
constructor!(A1 A2);
constructor!(A1 A2 A3);
constructor!(A1 A2 A3 A4);
constructor!(A1 A2 A3 A4 A5);
constructor!(A1 A2 A3 A4 A5 A6);
constructor!(A1 A2 A3 A4 A5 A6 A7);
constructor!(A1 A2 A3 A4 A5 A6 A7 A8);
