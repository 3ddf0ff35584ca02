//! What a step of a graph does, as a Function and in plain tch.

use super::functions::*;
use tch::{Kind, Reduction, Tensor};
use tch_function::{Differentiable, DoubleBackward, Function, Result, ops};
use test_support::compare as common;
use test_support::functions::{Gate, Silu};

/// An op with its parameters; some are small compositions.
#[derive(Clone, Debug)]
pub enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Neg,
    AddScalar(f64),
    ScalarSub(f64),
    MulScalar(f64),
    DivScalar(f64),
    ScalarDiv(f64),
    PowScalar(f64),
    Exp,
    Log,
    Sqrt,
    Tanh,
    Sigmoid,
    Log1pExp,
    Relu,
    Abs,
    Maximum,
    Minimum,
    /// The first where it is less than the second.
    WhereLess,
    Sum(Vec<i64>, bool),
    Mean(Vec<i64>, bool),
    Amax(Vec<i64>, bool),
    Amin(Vec<i64>, bool),
    /// Two outputs: the values, and where they are.
    MaxDim(i64, bool),
    MinDim(i64, bool),
    Matmul,
    Transpose(i64, i64),
    Reshape(Vec<i64>),
    IndexSelect(i64, Vec<i64>),
    /// With indices `0, 3, 6, ..` modulo the size, so many along the dimension.
    Gather(i64, i64),
    Softmax(i64),
    LogSoftmax(i64),
    CrossEntropy,
    SquaredError,
    // Those of `functions.rs`.
    SinCos,
    SumProduct,
    Rows,
    Gate,
    Silu,
    Fma,
    Same,
    ScaleInPlace(f64),
    TanhInPlace,
    AddInPlace,
    ShiftAndSum(f64),
}

impl Op {
    /// Changes its first input.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Op::ScaleInPlace(_) | Op::TanhInPlace | Op::AddInPlace | Op::ShiftAndSum(_))
    }

    /// Its first output is in memory of its own, and nothing has saved it.
    pub fn result_is_free(&self) -> bool {
        let simple = matches!(self, Op::Add | Op::Sub | Op::Mul | Op::Neg | Op::SumProduct);
        let scalar = matches!(self, Op::AddScalar(_) | Op::ScalarSub(_) | Op::MulScalar(_));
        simple || scalar || self.is_in_place() && !matches!(self, Op::TanhInPlace)
    }

    /// It saves none of its inputs, and returns no view of them.
    pub fn leaves_inputs_free(&self) -> bool {
        let simple = matches!(self, Op::Add | Op::Sub | Op::Neg | Op::AddInPlace);
        simple || matches!(self, Op::AddScalar(_) | Op::ScalarSub(_) | Op::MulScalar(_))
    }

    /// As a Function, on Vars or inside libtorch's autograd.
    pub fn ours<V: Differentiable>(&self, x: &[&V], constant: fn(&Tensor) -> V) -> Result<Vec<V>> {
        let a = x[0];
        let y = match self {
            Op::Add => ops::Add.apply((a, x[1])),
            Op::Sub => ops::Sub.apply((a, x[1])),
            Op::Mul => ops::Mul.apply((a, x[1])),
            Op::Div => ops::Div.apply((a, x[1])),
            Op::Pow => ops::Pow.apply((a, x[1])),
            Op::Neg => ops::Neg.apply(a),
            Op::AddScalar(c) => ops::AddScalar { c: *c }.apply(a),
            Op::ScalarSub(c) => ops::ScalarSub { c: *c }.apply(a),
            Op::MulScalar(c) => ops::MulScalar { c: *c }.apply(a),
            Op::DivScalar(c) => ops::DivScalar { c: *c }.apply(a),
            Op::ScalarDiv(c) => ops::ScalarDiv { c: *c }.apply(a),
            Op::PowScalar(exponent) => ops::PowScalar { exponent: *exponent }.apply(a),
            Op::Exp => ops::Exp.apply(a),
            Op::Log => ops::Log.apply(a),
            Op::Sqrt => ops::Sqrt.apply(a),
            Op::Tanh => ops::Tanh.apply(a),
            Op::Sigmoid => ops::Sigmoid.apply(a),
            Op::Log1pExp => ops::Log1pExp.apply(a),
            Op::Relu => ops::Relu.apply(a),
            Op::Abs => ops::Abs.apply(a),
            Op::Maximum => ops::Maximum.apply((a, x[1])),
            Op::Minimum => ops::Minimum.apply((a, x[1])),
            Op::WhereLess => {
                let less = ops::Less.apply((a, x[1]))?;
                ops::Where.apply((&less, a, x[1]))
            }
            Op::Sum(dims, keepdim) => ops::Sum { dims: dims.clone(), keepdim: *keepdim }.apply(a),
            Op::Mean(dims, keepdim) => ops::Mean { dims: dims.clone(), keepdim: *keepdim }.apply(a),
            Op::Amax(dims, keepdim) => ops::Amax { dims: dims.clone(), keepdim: *keepdim }.apply(a),
            Op::Amin(dims, keepdim) => ops::Amin { dims: dims.clone(), keepdim: *keepdim }.apply(a),
            Op::MaxDim(dim, keepdim) => {
                return both(ops::Max { dim: *dim, keepdim: *keepdim }.apply(a));
            }
            Op::MinDim(dim, keepdim) => {
                return both(ops::Min { dim: *dim, keepdim: *keepdim }.apply(a));
            }
            Op::Matmul => ops::Matmul.apply((a, x[1])),
            Op::Transpose(dim0, dim1) => ops::Transpose { dim0: *dim0, dim1: *dim1 }.apply(a),
            Op::Reshape(shape) => ops::Reshape { shape: shape.clone() }.apply(a),
            Op::IndexSelect(dim, index) => {
                ops::IndexSelect { dim: *dim }.apply((a, &constant(&Tensor::from_slice(index))))
            }
            Op::Gather(dim, count) => {
                let index = constant(&places(a.tensor(), *dim, *count));
                ops::Gather { dim: *dim }.apply((a, &index))
            }
            Op::Softmax(dim) => ops::Softmax { dim: *dim }.apply(a),
            Op::LogSoftmax(dim) => ops::LogSoftmax { dim: *dim }.apply(a),
            Op::CrossEntropy => {
                ops::CrossEntropy::default().apply((a, &constant(&classes(a.tensor()))))
            }
            Op::SquaredError => ops::SquaredError.apply((a, x[1])),
            Op::SinCos => return both(SinCos.apply(a)),
            Op::SumProduct => return SumProduct.apply((a, x[1])).map(Vec::from),
            Op::Rows => return Rows.apply(a),
            Op::Gate => return both(Gate.apply(a)),
            Op::Silu => Silu { double_backward: DoubleBackward::Recompute }.apply(a),
            Op::Fma => Fma.apply((a, x[1], x.get(2).copied())),
            Op::Same => Same.apply(a),
            Op::ScaleInPlace(c) => ScaleInPlace { c: *c }.apply(a),
            Op::TanhInPlace => TanhInPlace.apply(a),
            Op::AddInPlace => AddInPlace.apply((a, x[1])),
            Op::ShiftAndSum(c) => return both(ShiftAndSum { c: *c }.apply(a)),
        };
        Ok(vec![y?])
    }

    /// In plain tch, with the engine's `matmul`. Nothing is changed in place
    /// here, which is the same to whoever uses the new value alone.
    pub fn theirs(&self, x: &[&Tensor], matmul: Product) -> Vec<Tensor> {
        let a = x[0];
        let pair = |(values, places): (Tensor, Tensor)| vec![values, places];
        vec![match self {
            Op::Add | Op::AddInPlace => a + x[1],
            Op::Sub => a - x[1],
            Op::Mul => a * x[1],
            Op::Div => a / x[1],
            Op::Pow => a.pow(x[1]),
            Op::Neg => -a,
            Op::AddScalar(c) => a + *c,
            Op::ScalarSub(c) => *c - a,
            Op::MulScalar(c) | Op::ScaleInPlace(c) => a * *c,
            Op::DivScalar(c) => a / *c,
            Op::ScalarDiv(c) => a.reciprocal() * *c,
            Op::PowScalar(e) => a.pow_tensor_scalar(*e),
            Op::Exp => a.exp(),
            Op::Log => a.log(),
            Op::Sqrt => a.sqrt(),
            Op::Tanh | Op::TanhInPlace => a.tanh(),
            Op::Sigmoid => a.sigmoid(),
            Op::Log1pExp => softplus(a),
            Op::Relu => a.relu(),
            Op::Abs => a.abs(),
            Op::Maximum => a.maximum(x[1]),
            Op::Minimum => a.minimum(x[1]),
            Op::WhereLess => a.where_self(&a.lt_tensor(x[1]), x[1]),
            Op::Sum(dims, keepdim) => a.sum_dim_intlist(&dims[..], *keepdim, None),
            Op::Mean(dims, keepdim) => a.mean_dim(&dims[..], *keepdim, None),
            Op::Amax(dims, keepdim) => a.amax(&dims[..], *keepdim),
            Op::Amin(dims, keepdim) => a.amin(&dims[..], *keepdim),
            Op::MaxDim(dim, keepdim) => return pair(a.max_dim(*dim, *keepdim)),
            Op::MinDim(dim, keepdim) => return pair(a.min_dim(*dim, *keepdim)),
            Op::Matmul => matmul(a, x[1]),
            Op::Transpose(dim0, dim1) => a.transpose(*dim0, *dim1),
            Op::Reshape(shape) => a.reshape(shape),
            Op::IndexSelect(dim, index) => a.index_select(*dim, &Tensor::from_slice(index)),
            Op::Gather(dim, count) => a.gather(*dim, &places(a, *dim, *count), false),
            Op::Softmax(dim) => a.softmax(*dim, None),
            Op::LogSoftmax(dim) => a.log_softmax(*dim, None),
            Op::CrossEntropy => cross_entropy(a),
            Op::SquaredError => (x[1] - a).square().sum(None) / 2.0,
            Op::SinCos => return vec![a.sin(), a.cos()],
            Op::SumProduct => return vec![a + x[1], a * x[1]],
            // Strides decide which way a product is computed.
            Op::Rows => return a.unbind(0).iter().map(Tensor::copy).collect(),
            Op::Gate => {
                let open = a.gt(0.0).to_kind(Kind::Double);
                return vec![a * &open, open];
            }
            Op::Silu => a * a.sigmoid(),
            Op::Fma if x.len() == 2 => a * x[1],
            Op::Fma => a * x[1] + x[2],
            Op::Same => a.view_as(a),
            Op::ShiftAndSum(c) => return vec![a + *c, a.sum(Kind::Double)],
        }]
    }
}

pub type Product = fn(&Tensor, &Tensor) -> Tensor;

fn both<V>(y: Result<(V, V)>) -> Result<Vec<V>> {
    y.map(|(a, b)| vec![a, b])
}

/// `y`, which `value` equals but for rounding, with that value: what comes
/// after may have a kink just there.
fn with_value(y: Tensor, value: &Tensor) -> Tensor {
    common::assert_close(value, &y.detach(), 1e-13).expect("the same but for rounding");
    &y - y.detach() + value
}

/// libtorch's softplus differs from ours in the last place.
fn softplus(x: &Tensor) -> Tensor {
    let ours = ops::Log1pExp.apply(&x.detach()).expect("a float tensor");
    with_value(x.softplus(), &ours)
}

/// So does its cross entropy.
fn cross_entropy(x: &Tensor) -> Tensor {
    let classes = classes(x);
    let y = x.cross_entropy_loss::<Tensor>(&classes, None, Reduction::Mean, -100, 0.0);
    let ours = ops::CrossEntropy::default().apply((&x.detach(), &classes));
    with_value(y, &ours.expect("scores and classes"))
}

/// libtorch takes another path through its kernels where a gradient is wanted:
/// what the own engine, which hides that from it, gets.
pub fn detached_matmul(a: &Tensor, b: &Tensor) -> Tensor {
    with_value(a.matmul(b), &a.detach().matmul(&b.detach()))
}

fn places(x: &Tensor, dim: i64, count: i64) -> Tensor {
    let mut shape = x.size();
    let size = match shape.get_mut(dim as usize) {
        Some(size) => std::mem::replace(size, count),
        None => 1,
    };
    let places = (0..shape.iter().product()).map(|i: i64| i * 3 % size);
    Tensor::from_slice(&places.collect::<Vec<_>>()).reshape(shape)
}

fn classes(scores: &Tensor) -> Tensor {
    let mut shape = scores.size();
    let count = shape.remove(usize::from(shape.len() > 1));
    let classes = (0..shape.iter().product()).map(|i: i64| i * 2 % count);
    Tensor::from_slice(&classes.collect::<Vec<_>>()).reshape(shape)
}
