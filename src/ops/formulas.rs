//! Ops that are formulas.

/// Makes a type that is a [`Formula`](crate::formula::Formula) a Function of 1 or 2 tensors.
/// `sort` says who computes what, and `autocast` is libtorch's rule.
macro_rules! function {
    ($Op:ident of 1, $sort:expr, $autocast:expr) => {
        $crate::ops::formulas::function!(@one $Op, $sort, $autocast, forward, |op| *op);
    };
    ($Op:ident of 1, $sort:expr, $autocast:expr, of value |$_:pat_param|) => {
        $crate::ops::formulas::function!(@one $Op, $sort, $autocast,
            forward_keeping_value, |op| $crate::formula::OfValue(*op));
    };
    ($Op:ident of 1, $sort:expr, $autocast:expr, keeping value) => {
        $crate::ops::formulas::function!(@one $Op, $sort, $autocast,
            forward_keeping_value, |op| *op);
    };
    ($Op:ident of 2, $sort:expr, $autocast:expr) => {
        $crate::ops::formulas::function!(@ $Op, $sort, $autocast, forward, |op| *op,
            (tch::Tensor, tch::Tensor), (&tch::Tensor, &tch::Tensor),
            (Option<tch::Tensor>, Option<tch::Tensor>),
            (a, b) => [a, b], (da, db) => [da, db], |[da, db]| (da, db));
    };
    (@one $Op:ident, $sort:expr, $autocast:expr, $forward:ident, |$op:ident| $formula:expr) => {
        $crate::ops::formulas::function!(@ $Op, $sort, $autocast, $forward, |$op| $formula,
            tch::Tensor, &tch::Tensor, Option<tch::Tensor>,
            x => [x], dx => [dx], |[dx]| dx);
    };
    // `$formula` is the one whose gradients are those of the op.
    (@ $Op:ident, $sort:expr, $autocast:expr, $forward:ident, |$op:ident| $formula:expr,
     $Inputs:ty, $Refs:ty, $Grads:ty,
     $x:pat => $listed:expr, $dx:pat => $tangents:expr, |$found:pat_param| $grads:expr) => {
        impl $crate::Function for $Op {
            type Inputs = $Inputs;
            type Outputs = tch::Tensor;

            fn autocast(&self) -> $crate::function::Autocast {
                $autocast
            }

            fn forward(&self, ctx: &mut $crate::Ctx, $x: $Refs) -> anyhow::Result<tch::Tensor> {
                let [y] = $crate::formula::$forward(self, $sort, ctx, $listed)?;
                Ok(y)
            }

            fn backward(&self, ctx: &$crate::Ctx, dy: &tch::Tensor) -> anyhow::Result<$Grads> {
                let $op = self;
                let $found = $crate::formula::backward(&$formula, $sort, ctx, [dy])?;
                Ok($grads)
            }

            fn jvp(
                &self,
                ctx: &$crate::Ctx,
                $x: $Refs,
                $dx: $Refs,
            ) -> anyhow::Result<tch::Tensor> {
                let [dy] = $crate::formula::jvp(self, $sort, ctx, $listed, $tangents)?;
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
/// name under autocast, which converts the inputs to f32. The value is saved in place of the
/// input if `of value` gives the derivative from it, or, with `keeping value`, if the derivative
/// at the value is the one at the input. Kernels compute the first derivatives, or `kernels All`.
macro_rules! operator {
    ($Op:ident of $n:tt $(as $torch:literal)?, |$f:pat_param, $x:pat_param| $y:expr
     $(, of value |$v:pat_param| $slope:expr)? $(, keeping $kept:ident)? $(, kernels $kernels:ident)?) => {
        impl $crate::formula::Formula<$n> for $Op {
            #[inline(always)]
            fn eval<S: $crate::formula::Scalar>(&self, x: [S; $n]) -> [S; 1] {
                let ($f, $x) = (self, x);
                [$y]
            }

            const KERNELS: $crate::formula::Kernels =
                $crate::ops::formulas::operator!(@kernels $($kernels)?);
        }
        $(
            impl $crate::formula::SlopeOfValue for $Op {
                #[inline(always)]
                fn slope_of_value<S: $crate::formula::Scalar>(y: S) -> S {
                    let $v = y;
                    $slope
                }
            }
        )?
        $crate::ops::formulas::function!(
            $Op of $n,
            $crate::formula::Sort::Operator,
            $crate::ops::formulas::operator!(@autocast $($torch)?)
            $(, of value |$v|)?
            $(, keeping $kept)?
        );
    };
    (@kernels) => { $crate::formula::Kernels::First };
    (@kernels $kernels:ident) => { $crate::formula::Kernels::$kernels };
    (@autocast) => { $crate::function::Autocast::Unchanged };
    (@autocast $torch:literal) => { $crate::function::Autocast::Wide($torch) };
}
pub(super) use operator;
