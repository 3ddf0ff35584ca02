//! Comparisons. Their output is boolean, so it has no gradient, and asking for
//! one is [`Error::NotDifferentiable`](crate::Error::NotDifferentiable).

use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

macro_rules! comparisons {
    ($($Op:ident, $method:ident: $forward:ident, $sign:literal;)+) => {$(
        #[doc = concat!("`y = (a ", $sign, " b)`, elementwise, as a boolean tensor; no gradient.")]
        ///
        /// Shapes broadcast, dtypes are promoted for the comparison.
        #[derive(Clone, Copy, Debug)]
        pub struct $Op;

        impl Function for $Op {
            type Inputs = (Tensor, Tensor);
            type Outputs = Tensor;

            fn forward(&self, _: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
                Ok(a.$forward(b)?)
            }

            /// Never called: no gradient reaches a boolean output.
            fn backward(&self, _: &Ctx, _: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
                Ok((None, None))
            }
        }

        $crate::ops::methods! {
            #[doc = concat!("[`", stringify!($Op), "`]: whether each element ", $sign, " the other's.")]
            $method(self, &other) => $Op;
        }
    )+};
}
comparisons! {
    Greater, gt: f_gt_tensor, ">";
    GreaterEqual, ge: f_ge_tensor, ">=";
    Less, lt: f_lt_tensor, "<";
    LessEqual, le: f_le_tensor, "<=";
    Equal, eq: f_eq_tensor, "==";
    NotEqual, ne: f_ne_tensor, "!=";
}
