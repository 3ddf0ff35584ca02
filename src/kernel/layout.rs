//! What tensors a kernel is given, and the order in which it goes through them.

use super::dims::{contiguous, count_of, order, own_dims};
use super::element::Stored;
use super::overlap::{is_injective, overlap};
use super::refusals::{other_dtype, overlapping, shape, shared, unfit};
use super::view::Place;
use super::walk::Walk;
use crate::Result;
use crate::ffi::memory::{self, Memory, Pin};
use smallvec::SmallVec;
use std::fmt;
use std::marker::PhantomData;
use tch::Tensor;

/// [`Element::stored`](super::element::sealed::Element::stored).
pub type StoredAs = fn(i8) -> Option<Stored>;

/// The role of a tensor in a kernel.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    Input,
    Output,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Role::Input { "input" } else { "output" })
    }
}

/// One tensor of a kernel.
#[derive(Clone, Copy)]
pub(super) struct Operand<'t> {
    pub memory: Memory<'t>,
    pub stored: Stored,
    /// The code of the dtype that the kernel sees.
    pub seen: i8,
}

pub(super) type List<'t> = SmallVec<[Operand<'t>; 3]>;

/// The tensors of a kernel. Their storages cannot be freed or resized while this lives,
/// whatever the closure does with other handles of them.
#[derive(Default)]
pub(super) struct Operands<'t> {
    list: List<'t>,
    _pins: SmallVec<[Pin; 3]>,
}

impl<'t> Operands<'t> {
    pub fn push(
        &mut self,
        op: &'static str,
        t: &Tensor,
        operand: impl FnOnce(usize) -> Result<Operand<'t>>,
    ) -> Result<()> {
        // Before its memory is read, which lives as long as the pin.
        self._pins.push(Pin::of(op, t)?);
        self.list.push(operand(self.list.len())?);
        Ok(())
    }
}

impl<'t> std::ops::Deref for Operands<'t> {
    type Target = [Operand<'t>];
    fn deref(&self) -> &[Operand<'t>] {
        &self.list
    }
}

impl<'t> Operand<'t> {
    #[inline]
    pub fn of(
        op: &'static str,
        what: (Role, usize),
        t: &'t Tensor,
        stored: StoredAs,
        seen: i8,
    ) -> Result<Operand<'t>> {
        let written = what.0 == Role::Output;
        let memory = memory::memory(t, written).map_err(|why| unfit(op, what, why))?;
        match stored(memory.dtype) {
            Some(stored) => Ok(Operand { memory, stored, seen }),
            None => Err(other_dtype(op, what, seen, memory.dtype)),
        }
    }

    pub fn element_size(&self) -> usize {
        match self.memory.dtype {
            0 | 1 | 11 => 1,
            2 | 5 | 15 => 2,
            3 | 6 => 4,
            _ => 8,
        }
    }

    /// Returns the number of elements from the first lie in the tensor's memory.
    fn extent(&self) -> usize {
        let Memory { sizes, strides, count, .. } = self.memory;
        if count == 0 {
            return 0;
        }
        let last = |(size, stride): (&i64, &i64)| (size - 1) as usize * *stride as usize;
        1 + sizes.iter().zip(strides).map(last).sum::<usize>()
    }

    #[inline]
    pub fn place(&self, walk: Walk, width: usize) -> Place<'t> {
        Place {
            data: self.memory.data.cast_mut(),
            extent: if self.memory.dense { self.memory.count } else { self.extent() },
            stored: self.stored,
            walk,
            width,
            tensor: PhantomData,
        }
    }
}

/// The shape of a kernel, and the order of its dimensions.
pub(super) struct Layout {
    sizes: SmallVec<[i64; 4]>,
    pub count: usize,
    /// Every full operand has these strides and no gaps; the others are
    /// constants.
    flat: bool,
    /// The strides of a new output; `None`: contiguous.
    strides: Option<SmallVec<[i64; 4]>>,
    /// The dimensions from the outermost to the innermost.
    order: SmallVec<[usize; 4]>,
}

impl Layout {
    /// Makes the layout for new outputs: of the broadcast shape, and in the order of the first
    /// input that has it.
    #[inline]
    pub fn new(op: &'static str, inputs: &[Operand<'_>]) -> Result<Layout> {
        let sizes = broadcast(op, inputs)?;
        let full = |x: &&Operand<'_>| x.memory.dense && same(x.memory.sizes, &sizes);
        let leader = inputs.iter().find(full).map(|x| &x.memory);
        let strides = leader.filter(|x| !x.contiguous).map(|x| SmallVec::from_slice(x.strides));
        let count = count_of(op, &sizes)?;
        let like = |x: &Operand<'_>| is_constant(x, count) || is_like(x, &sizes, &strides);
        let flat = inputs.iter().all(like);
        let order = if flat { SmallVec::new() } else { order(&sizes, strides.as_deref()) };
        Ok(Layout { sizes, count, flat, strides, order })
    }

    /// Makes the layout for walks in row-major order of the broadcast shape.
    pub fn in_order(op: &'static str, inputs: &[Operand<'_>]) -> Result<Layout> {
        let sizes = broadcast(op, inputs)?;
        let count = count_of(op, &sizes)?;
        let order = order(&sizes, None);
        let flat = inputs.iter().all(|x| is_constant(x, count) || is_like(x, &sizes, &None));
        Ok(Layout { sizes, count, flat, strides: None, order })
    }

    pub fn sizes(&self) -> &[i64] {
        &self.sizes
    }

    /// Moves dimension `dim` to the innermost place of the walks.
    pub fn with_innermost(mut self, dim: usize) -> Layout {
        if dim < self.sizes.len() {
            self.flat &= self.sizes[dim + 1..].iter().all(|size| *size == 1);
            self.order.retain(|at| *at != dim);
            self.order.push(dim);
        }
        self
    }

    /// Makes the layout for given outputs: in the order of the first.
    pub fn of_outputs(
        op: &'static str,
        outputs: &[Operand<'_>],
        inputs: &[Operand<'_>],
    ) -> Result<Layout> {
        let Memory { sizes, strides, .. } = outputs[0].memory;
        for (i, output) in outputs.iter().enumerate() {
            if output.memory.sizes != sizes {
                return Err(shape(op, (Role::Output, i), output.memory.sizes, sizes));
            }
            if !output.memory.dense && !is_injective(output.memory) {
                return Err(overlapping(op, i));
            }
            for other in &outputs[..i] {
                if overlap(output, other) {
                    return Err(shared(op, (Role::Output, i)));
                }
            }
        }
        for (i, input) in inputs.iter().enumerate() {
            if !broadcasts_to(input.memory.sizes, sizes) {
                return Err(shape(op, (Role::Input, i), input.memory.sizes, sizes));
            }
        }
        let order = order(sizes, Some(strides));
        let (strides, count) = (Some(SmallVec::from_slice(strides)), count_of(op, sizes)?);
        Ok(Layout { sizes: SmallVec::from_slice(sizes), count, flat: false, strides, order })
    }

    /// A new output, and its operand.
    #[inline]
    pub fn empty(&self, op: &'static str, dtype: i8) -> Result<(Tensor, *mut u8)> {
        memory::empty(op, &self.sizes, self.strides.as_deref(), dtype)
    }

    /// The place of a new output of this layout.
    #[inline]
    pub fn fresh<'t>(&self, data: *mut u8, stored: Stored) -> Place<'t> {
        Place { data, extent: self.count, stored, walk: Walk::Flat, width: 1, tensor: PhantomData }
    }

    #[inline]
    pub fn walk(&self, x: &Operand<'_>) -> Walk {
        match self.flat {
            true if is_constant(x, self.count) => Walk::Constant,
            true => Walk::Flat,
            false => Walk::new(self.dims(x)),
        }
    }

    /// The walk through a new, contiguous output.
    pub fn walk_contiguous(&self) -> Walk {
        let strides = contiguous(&self.sizes);
        Walk::new(self.order.iter().map(|&dim| (self.sizes[dim] as usize, strides[dim])))
    }

    /// Sizes and strides of `x` in the order of the walk; stride 0 where it is
    /// broadcast.
    pub fn dims(&self, x: &Operand<'_>) -> impl Iterator<Item = (usize, usize)> {
        let own = own_dims(x, self.sizes.len());
        self.order.iter().map(move |&dim| (self.sizes[dim] as usize, own(dim).1))
    }

    /// Returns whether the input is one of the outputs; it must not share memory with
    /// them in another way.
    pub fn is_output(
        &self,
        op: &'static str,
        i: usize,
        input: &Operand<'_>,
        outputs: &[Operand<'_>],
    ) -> Result<bool> {
        let mut found = false;
        for output in outputs.iter().filter(|output| overlap(input, output)) {
            let same = input.memory.data == output.memory.data
                && input.memory.dtype == output.memory.dtype
                && self.walk(input) == self.walk(output);
            if !same {
                return Err(shared(op, (Role::Input, i)));
            }
            found = true;
        }
        Ok(found)
    }
}

/// Returns whether the tensor is one element, expanded.
#[inline]
fn is_constant(x: &Operand<'_>, count: usize) -> bool {
    x.memory.count == 1 && count > 1
        || x.memory.count == count && count > 1 && x.memory.strides.iter().all(|s| *s == 0)
}

#[inline]
fn is_like(x: &Operand<'_>, sizes: &[i64], strides: &Option<SmallVec<[i64; 4]>>) -> bool {
    let same_strides = match strides {
        Some(strides) => same(x.memory.strides, strides),
        None => x.memory.contiguous,
    };
    same_strides && same(x.memory.sizes, sizes)
}

/// Compares as `==` does, which for a few numbers costs a call.
#[inline]
fn same(a: &[i64], b: &[i64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b)
}

#[inline]
fn broadcast(op: &'static str, inputs: &[Operand<'_>]) -> Result<SmallVec<[i64; 4]>> {
    let first = inputs[0].memory.sizes;
    if inputs[1..].iter().all(|x| same(x.memory.sizes, first)) {
        return Ok(SmallVec::from_slice(first));
    }
    let dim = inputs.iter().map(|x| x.memory.sizes.len()).max().unwrap_or(0);
    let mut sizes = SmallVec::from_elem(1, dim);
    for (i, x) in inputs.iter().enumerate() {
        for (size, own) in sizes.iter_mut().rev().zip(x.memory.sizes.iter().rev()) {
            match (*size, *own) {
                (1, own) => *size = own,
                (size, own) if own == size || own == 1 => {}
                _ => return Err(shape(op, (Role::Input, i), x.memory.sizes, &sizes)),
            }
        }
    }
    Ok(sizes)
}

pub(super) fn broadcasts_to(own: &[i64], sizes: &[i64]) -> bool {
    let fits = |(own, size): (&i64, &i64)| own == size || *own == 1;
    own.len() <= sizes.len() && own.iter().rev().zip(sizes.iter().rev()).all(fits)
}
