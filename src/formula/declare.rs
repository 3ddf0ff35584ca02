//! [`formula!`](crate::formula!): a formula in as few lines as its mathematics.

/// Declares a [`Formula`](crate::formula::Formula): a struct whose named fields are the
/// parameters, and its outputs as a closure of the struct and an array of the inputs. `S` is the
/// [`Scalar`](crate::formula::Scalar) that it computes with.
///
/// The struct is `Clone` and `Debug`, and `Copy` if it has no fields. A formula with other
/// derives, generic parameters or a derivative of its own is an `impl` of the trait.
///
/// ```
/// use tch::Tensor;
/// use tch_function::Function;
/// use tch_function::formula::Derived;
///
/// tch_function::formula! {
///     /// `log(1 + e^x)`
///     pub struct Softplus;
///     |_, [x]| [x.max(S::zero()) + (-x.abs()).exp().ln_1p()]
/// }
/// tch_function::formula! {
///     /// The polar coordinates of `scale (x, y)`.
///     struct Polar { scale: f64 }
///     |op, [x, y]| -> [S; 2] {
///         let (x, y) = (x * op.scale, y * op.scale);
///         [(x * x + y * y).sqrt(), y.atan2(x)]
///     }
/// }
/// let y = Derived(Softplus).apply(&Tensor::from(0.0))?;
/// # assert!((f64::try_from(y)? - 2f64.ln()).abs() < 1e-15);
/// let (r, angle) = Derived(Polar { scale: 2.0 }).apply((&Tensor::from(3.0), &Tensor::from(4.0)))?;
/// # assert_eq!(f64::try_from(r)?, 10.0);
/// # assert!((f64::try_from(angle)? - 4f64.atan2(3.0)).abs() < 1e-15);
/// # anyhow::Ok(())
/// ```
#[macro_export]
macro_rules! formula {
    ($(#[$meta:meta])* $vis:vis struct $Name:ident $({ $($fields:tt)* })? $(;)?
     |$op:pat_param, [$($x:pat_param),+ $(,)?]| [$($y:expr),+ $(,)?]) => {
        $crate::formula! {
            $(#[$meta])* $vis struct $Name $({ $($fields)* })?
            |$op, [$($x),+]| -> [S; [$(::core::stringify!($y)),+].len()] { [$($y),+] }
        }
    };
    ($(#[$meta:meta])* $vis:vis struct $Name:ident $(;)?
     |$op:pat_param, [$($x:pat_param),+ $(,)?]| -> [S; $outputs:expr] $body:block) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        $vis struct $Name;
        $crate::formula! { @ $Name [$outputs] |$op, [$($x),+]| $body }
    };
    ($(#[$meta:meta])* $vis:vis struct $Name:ident { $($fields:tt)* } $(;)?
     |$op:pat_param, [$($x:pat_param),+ $(,)?]| -> [S; $outputs:expr] $body:block) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $Name { $($fields)* }
        $crate::formula! { @ $Name [$outputs] |$op, [$($x),+]| $body }
    };
    ($(#[$meta:meta])* $vis:vis struct $Name:ident $({ $($fields:tt)* })? $(;)?
     |$op:pat_param, [$($x:pat_param),+ $(,)?]| $body:block) => {
        ::core::compile_error!("say how many outputs the block gives: |op, [x]| -> [S; 1] { .. }");
    };
    (@ $Name:ident [$outputs:expr] |$op:pat_param, [$($x:pat_param),+]| $body:block) => {
        impl $crate::formula::Formula<{ [$(::core::stringify!($x)),+].len() }, { $outputs }>
            for $Name
        {
            #[inline(always)]
            fn eval<S: $crate::formula::Scalar>(
                &self,
                [$($x),+]: [S; [$(::core::stringify!($x)),+].len()],
            ) -> [S; $outputs] {
                let $op = self;
                $body
            }
        }
    };
}
