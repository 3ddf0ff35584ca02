//! [`Form`]: the tensors of a formula as the inputs and outputs of a Function.

use crate::function::{Grads, Of, Refs, Tensors};
use tch::Tensor;

/// A number of tensors.
pub struct Count<const N: usize>;

/// One tensor for 1, a tuple of tensors for 2 to 8.
#[diagnostic::on_unimplemented(
    message = "a formula has 1 to 8 inputs and 1 to 4 outputs",
    label = "this number is outside"
)]
pub trait Form<const N: usize> {
    type Tensors: Tensors;
    fn refs<'a>(x: Refs<'a, Self::Tensors>) -> [&'a Tensor; N];
    fn of(y: [Tensor; N]) -> Of<Self::Tensors, Tensor>;
    fn grads(grads: [Option<Tensor>; N]) -> Grads<Self::Tensors>;
    fn borrowed<'a>(x: [&'a Tensor; N]) -> Refs<'a, Self::Tensors>;
    fn list(y: Of<Self::Tensors, Tensor>) -> [Tensor; N];
    /// Calls `a` with `K = i`.
    fn at<A: At>(i: usize, a: A) -> A::Output;
}

/// Code for one of `N` tensors.
pub trait At {
    type Output;
    fn call<const K: usize>(self) -> Self::Output;
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
    #[inline]
    fn at<A: At>(_: usize, a: A) -> A::Output {
        a.call::<0>()
    }
}

macro_rules! tuple {
    ($n:literal, $($k:literal $x:ident $T:ident),+) => {
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
            fn at<A: At>(i: usize, a: A) -> A::Output {
                match i {
                    $($k => a.call::<$k>(),)+
                    _ => unreachable!("there are {} tensors", $n),
                }
            }
        }
    };
}
tuple!(2, 0 a Tensor, 1 b Tensor);
tuple!(3, 0 a Tensor, 1 b Tensor, 2 c Tensor);
tuple!(4, 0 a Tensor, 1 b Tensor, 2 c Tensor, 3 d Tensor);
tuple!(5, 0 a Tensor, 1 b Tensor, 2 c Tensor, 3 d Tensor, 4 e Tensor);
tuple!(6, 0 a Tensor, 1 b Tensor, 2 c Tensor, 3 d Tensor, 4 e Tensor, 5 f Tensor);
tuple!(7, 0 a Tensor, 1 b Tensor, 2 c Tensor, 3 d Tensor, 4 e Tensor, 5 f Tensor, 6 g Tensor);
tuple!(8, 0 a Tensor, 1 b Tensor, 2 c Tensor, 3 d Tensor, 4 e Tensor, 5 f Tensor, 6 g Tensor, 7 h Tensor);
