//! [`check_tests!`](crate::check_tests): one test per property.

/// Makes each [`Property`](crate::check::Property) of each
/// [`Check`](crate::check::Check) a test of its own, so that `cargo test` and
/// nextest show which one fails: `log1p_exp::gradcheck`, `log1p_exp::layouts`.
///
/// ```
/// # mod tests {
/// use tch::Tensor;
/// use tch_function::check::{Check, Property};
/// use tch_function::ops::{Log1pExp, Mul};
///
/// tch_function::check_tests! {
///     log1p_exp => Check::new(Log1pExp, [Tensor::from_slice(&[-3.0, 0.5, 4.5])])
///         .reference(|x| x.softplus());
///     mul => Check::new(Mul, [(Tensor::from(2.0), Tensor::from_slice(&[3.0, 4.0]))])
///         .skip(Property::Threads, "tested elsewhere");
/// }
/// # }
/// ```
#[macro_export]
macro_rules! check_tests {
    ($($(#[$attribute:meta])* $name:ident => $check:expr;)+) => {$(
        $(#[$attribute])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[track_caller]
            fn holds(property: $crate::check::Property) {
                $check.only(property).assert();
            }

            $crate::check_tests! { @tests
                value Value,
                gradcheck Gradcheck,
                gradgradcheck Gradgradcheck,
                forward_mode ForwardMode,
                linearity Linearity,
                zero_seed ZeroSeed,
                undefined_seeds UndefinedSeeds,
                layouts Layouts,
                needs_input_grad NeedsInputGrad,
                dtypes Dtypes,
                shapes Shapes,
                determinism Determinism,
                unchanged Unchanged,
                aliasing Aliasing,
                second_pass SecondPass,
                threads Threads,
                leaks Leaks,
                engines Engines,
            }
        }
    )+};
    (@tests $($test:ident $Property:ident,)+) => {
        $(
            #[test]
            fn $test() {
                holds($crate::check::Property::$Property);
            }
        )+
    };
}
