//! Ops that are formulas.

/// Makes a type that is a [`Formula`](crate::formula::Formula) a Function of 1 or 2 tensors.
/// `sort` says who computes what, and `autocast` is libtorch's rule.
macro_rules! function {
    ($Op:ident of 1, $sort:ident, $autocast:expr) => {
        $crate::ops::formulas::function!(@ $Op, $sort, $autocast,
            tch::Tensor, &tch::Tensor, Option<tch::Tensor>,
            x => [x], dx => [dx], |[dx]| dx);
    };
    ($Op:ident of 2, $sort:ident, $autocast:expr) => {
        $crate::ops::formulas::function!(@ $Op, $sort, $autocast,
            (tch::Tensor, tch::Tensor), (&tch::Tensor, &tch::Tensor),
            (Option<tch::Tensor>, Option<tch::Tensor>),
            (a, b) => [a, b], (da, db) => [da, db], |[da, db]| (da, db));
    };
    (@ $Op:ident, $sort:ident, $autocast:expr, $Inputs:ty, $Refs:ty, $Grads:ty,
     $x:pat => $listed:expr, $dx:pat => $tangents:expr, |$found:pat_param| $grads:expr) => {
        impl $crate::Function for $Op {
            type Inputs = $Inputs;
            type Outputs = tch::Tensor;

            fn autocast(&self) -> $crate::function::Autocast {
                $autocast
            }

            fn forward(&self, ctx: &mut $crate::Ctx, $x: $Refs) -> anyhow::Result<tch::Tensor> {
                let sort = $crate::formula::Sort::$sort;
                let [y] = $crate::formula::forward(self, sort, ctx, $listed)?;
                Ok(y)
            }

            fn backward(&self, ctx: &$crate::Ctx, dy: &tch::Tensor) -> anyhow::Result<$Grads> {
                let sort = $crate::formula::Sort::$sort;
                let $found = $crate::formula::backward(self, sort, ctx, [dy])?;
                Ok($grads)
            }

            fn jvp(
                &self,
                ctx: &$crate::Ctx,
                $x: $Refs,
                $dx: $Refs,
            ) -> anyhow::Result<tch::Tensor> {
                let sort = $crate::formula::Sort::$sort;
                let [dy] = $crate::formula::jvp(self, sort, ctx, $listed, $tangents)?;
                Ok(dy)
            }

            fn vmap(&self) -> $crate::Vmap {
                $crate::Vmap::Formulas
            }
        }
    };
}
pub(super) use function;

/// Makes a type the operator of libtorch's that the formula is. `as "name"` is libtorch's
/// name under autocast, which converts the inputs to f32.
macro_rules! operator {
    ($Op:ident of $n:tt $(as $torch:literal)? $(by $sort:ident)?, |$f:pat_param, $x:pat_param| $y:expr) => {
        impl $crate::formula::Formula<$n> for $Op {
            #[inline(always)]
            fn eval<S: $crate::formula::Scalar>(&self, x: [S; $n]) -> [S; 1] {
                let ($f, $x) = (self, x);
                [$y]
            }
        }
        $crate::ops::formulas::operator!(@ $Op of $n, [$($torch)?], [$($sort)?]);
    };
    (@ $Op:ident of $n:tt, [], $sort:tt) => {
        $crate::ops::formulas::operator!(@@ $Op of $n, $sort, $crate::function::Autocast::Unchanged);
    };
    (@ $Op:ident of $n:tt, [$torch:literal], $sort:tt) => {
        $crate::ops::formulas::operator!(@@ $Op of $n, $sort, $crate::function::Autocast::Wide($torch));
    };
    (@@ $Op:ident of $n:tt, [], $autocast:expr) => {
        $crate::ops::formulas::function!($Op of $n, Operator, $autocast);
    };
    (@@ $Op:ident of $n:tt, [$sort:ident], $autocast:expr) => {
        $crate::ops::formulas::function!($Op of $n, $sort, $autocast);
    };
}
pub(super) use operator;
