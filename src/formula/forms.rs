//! [`Form`]: the tensors of a formula as the inputs and outputs of a Function.

use crate::function::{Grads, Of, Refs, Tensors};
use tch::Tensor;

/// A number of tensors.
pub struct Count<const N: usize>;

/// One tensor for 1, a tuple of tensors for 2 to 8.
pub trait Form<const N: usize> {
    type Tensors: Tensors;
    fn refs<'a>(x: Refs<'a, Self::Tensors>) -> [&'a Tensor; N];
    fn of(y: [Tensor; N]) -> Of<Self::Tensors, Tensor>;
    fn grads(grads: [Option<Tensor>; N]) -> Grads<Self::Tensors>;
    fn borrowed<'a>(x: [&'a Tensor; N]) -> Refs<'a, Self::Tensors>;
    fn list(y: Of<Self::Tensors, Tensor>) -> [Tensor; N];
}

impl Form<1> for Count<1> {
    type Tensors = Tensor;
    #[inline]
    fn refs<'a>(x: Refs<'a, Tensor>) -> [&'a Tensor; 1] {
        [x]
    }
    #[inline]
    fn of([y]: [Tensor; 1]) -> Tensor {
        y
    }
    #[inline]
    fn grads([grad]: [Option<Tensor>; 1]) -> Option<Tensor> {
        grad
    }
    #[inline]
    fn borrowed<'a>(x: [&'a Tensor; 1]) -> Refs<'a, Tensor> {
        x[0]
    }
    #[inline]
    fn list(y: Tensor) -> [Tensor; 1] {
        [y]
    }
}

macro_rules! tuple {
    ($n:literal, $($x:ident $T:ident),+) => {
        impl Form<$n> for Count<$n> {
            type Tensors = ($($T,)+);
            #[inline]
            fn refs<'a>(($($x,)+): Refs<'a, Self::Tensors>) -> [&'a Tensor; $n] {
                [$($x),+]
            }
            #[inline]
            fn of([$($x),+]: [Tensor; $n]) -> ($($T,)+) {
                ($($x,)+)
            }
            #[inline]
            fn grads([$($x),+]: [Option<Tensor>; $n]) -> ($(Option<$T>,)+) {
                ($($x,)+)
            }
            #[inline]
            fn borrowed<'a>([$($x),+]: [&'a Tensor; $n]) -> Refs<'a, Self::Tensors> {
                ($($x,)+)
            }
            #[inline]
            fn list(($($x,)+): ($($T,)+)) -> [Tensor; $n] {
                [$($x),+]
            }
        }
    };
}
tuple!(2, a Tensor, b Tensor);
tuple!(3, a Tensor, b Tensor, c Tensor);
tuple!(4, a Tensor, b Tensor, c Tensor, d Tensor);
tuple!(5, a Tensor, b Tensor, c Tensor, d Tensor, e Tensor);
tuple!(6, a Tensor, b Tensor, c Tensor, d Tensor, e Tensor, f Tensor);
tuple!(7, a Tensor, b Tensor, c Tensor, d Tensor, e Tensor, f Tensor, g Tensor);
tuple!(8, a Tensor, b Tensor, c Tensor, d Tensor, e Tensor, f Tensor, g Tensor, h Tensor);
