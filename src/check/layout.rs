//! [`Layout`]: the same numbers in other strides.

use crate::{Ctx, Function};
use anyhow::Result;
use tch::Tensor;

/// An order of a tensor's elements in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    /// Row-major order.
    Contiguous,
    /// Column-major order.
    Transposed,
    /// Every second element, from the second on, of wider memory.
    Sliced,
    /// The first index of every dimension stands for all (stride 0).
    Expanded,
}

impl Layout {
    /// A tensor of new memory that lies so.
    pub fn arrange(self, x: &Tensor) -> Tensor {
        let rank = x.dim() as i64;
        match self {
            Layout::Contiguous => x.contiguous().copy(),
            Layout::Transposed => {
                let order: Vec<i64> = (0..rank).rev().collect();
                x.permute(&order).contiguous().copy().permute(&order)
            }
            Layout::Sliced if rank == 0 => Tensor::stack(&[&x.zeros_like(), x], 0).select(0, 1),
            Layout::Sliced => {
                let wide = Tensor::stack(&[&x.zeros_like(), x], -1).flatten(-2, -1);
                wide.slice(-1, 1, None, 2)
            }
            Layout::Expanded => first_of_all(x).copy().expand_as(x),
        }
    }

    /// The numbers that a tensor has once it lies so.
    pub fn numbers(self, x: &Tensor) -> Tensor {
        if self == Layout::Expanded { first_of_all(x).expand_as(x).copy() } else { x.copy() }
    }
}

fn first_of_all(x: &Tensor) -> Tensor {
    (0..x.dim() as i64)
        .fold(x.shallow_clone(), |x, dim| x.narrow(dim, 0, x.size()[dim as usize].min(1)))
}

/// `y = x` in new memory, so arranged: what is checked may work in place on it,
/// as it may not on a leaf.
pub(super) struct Arrange(pub Layout);

impl Function for Arrange {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(self.0.arrange(x))
    }

    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.shallow_clone()))
    }
}
