//! Every operator of the crate passes every check.

use tch::{Reduction, Tensor};
use tch_function::check::Check;
use tch_function::ops;

fn x() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7]).reshape([2, 3])
}

fn positive() -> Tensor {
    x().abs() + 0.25
}

fn row() -> Tensor {
    Tensor::from_slice(&[1.5, -0.5, 0.25])
}

fn column() -> Tensor {
    Tensor::from_slice(&[0.75, -2.0]).reshape([2, 1])
}

/// Of equal shapes, broadcast in one, and in both.
fn pairs() -> Vec<(Tensor, Tensor)> {
    vec![(x(), x() * 0.5 + 0.125), (x(), row()), (column(), row())]
}

fn integers(values: &[i64]) -> Tensor {
    Tensor::from_slice(values)
}

/// Bases and exponents of 0.
fn edges() -> (Tensor, Tensor) {
    (Tensor::from_slice(&[2.0, 0.5, 0.0]), Tensor::from_slice(&[0.0, 0.0, 3.0]))
}

/// One test per op: a whole check.
macro_rules! ops {
    ($($name:ident: $check:expr;)+) => {$(
        #[test]
        fn $name() {
            let report = $check.run().expect(stringify!($name));
            println!("{report}");
            report.assert();
        }
    )+};
}

ops! {
    add: Check::new(ops::Add, pairs()).reference(|(a, b)| a + b);
    sub: Check::new(ops::Sub, pairs()).reference(|(a, b)| a - b);
    mul: Check::new(ops::Mul, pairs()).reference(|(a, b)| a * b);
    div: Check::new(ops::Div, pairs()).reference(|(a, b)| a / b);
    pow: Check::new(ops::Pow, [(positive(), x()), (positive(), row()), edges()]).reference(|(a, b)| a.pow(b));
    neg: Check::new(ops::Neg, [x()]).reference(|x| -x);
    add_scalar: Check::new(ops::AddScalar { c: 1.5 }, [x()]).reference(|x| x + 1.5);
    scalar_sub: Check::new(ops::ScalarSub { c: 1.5 }, [x()]).reference(|x| 1.5 - x);
    mul_scalar: Check::new(ops::MulScalar { c: -2.5 }, [x()]).reference(|x| x * -2.5);
    div_scalar: Check::new(ops::DivScalar { c: 3.0 }, [x()]).reference(|x| x / 3.0);
    scalar_div: Check::new(ops::ScalarDiv { c: 3.0 }, [x()]).reference(|x| 3.0 / x);
    square: Check::new(ops::PowScalar { exponent: 2.0 }, [x()]).reference(|x| x * x);
    cube_root: Check::new(ops::PowScalar { exponent: 1.0 / 3.0 }, [positive()])
        .reference(|x| x.pow_tensor_scalar(1.0 / 3.0));
    reciprocal: Check::new(ops::PowScalar { exponent: -1.0 }, [x()]).reference(|x| x.reciprocal());
    zeroth_power: Check::new(ops::PowScalar { exponent: 0.0 }, [x()]).reference(|x| x.pow_tensor_scalar(0.0));

    exp: Check::new(ops::Exp, [x()]).reference(|x| x.exp());
    log: Check::new(ops::Log, [positive()]).reference(|x| x.log());
    sqrt: Check::new(ops::Sqrt, [positive()]).reference(|x| x.sqrt());
    tanh: Check::new(ops::Tanh, [x()]).reference(|x| x.tanh());
    sigmoid: Check::new(ops::Sigmoid, [x()]).reference(|x| x.sigmoid());

    relu: Check::new(ops::Relu, [x()]).reference(|x| x.relu());
    abs: Check::new(ops::Abs, [x()]).reference(|x| x.abs());
    maximum: Check::new(ops::Maximum, pairs()).reference(|(a, b)| a.maximum(b));
    minimum: Check::new(ops::Minimum, pairs()).reference(|(a, b)| a.minimum(b));
    where_self: Check::new(ops::Where, [(x().gt(0.0), x(), row())])
        .reference(|(c, a, b)| a.where_self(c, b));

    greater: Check::new(ops::Greater, pairs()).reference(|(a, b)| a.gt_tensor(b));
    equal: Check::new(ops::Equal, pairs()).reference(|(a, b)| a.eq_tensor(b));

    sum: Check::new(ops::Sum::default(), [x()]).reference(|x| x.sum(None));
    sum_dims: Check::new(ops::Sum { dims: vec![-1], keepdim: true }, [x()])
        .reference(|x| x.sum_dim_intlist(-1, true, None));
    mean: Check::new(ops::Mean::default(), [x()]).reference(|x| x.mean(None));
    mean_dims: Check::new(ops::Mean { dims: vec![0], keepdim: false }, [x()])
        .reference(|x| x.mean_dim(0, false, None));
    amax: Check::new(ops::Amax { dims: vec![-1], keepdim: false }, [x()]).reference(|x| x.amax(-1, false));
    amin: Check::new(ops::Amin { dims: vec![0], keepdim: true }, [x()]).reference(|x| x.amin(0, true));
    max: Check::new(ops::Max { dim: -1, keepdim: false }, [x()])
        .reference(|x| x.max_dim(-1, false));
    min: Check::new(ops::Min { dim: 0, keepdim: true }, [x()]).reference(|x| x.min_dim(0, true));

    matmul: Check::new(ops::Matmul, [(x(), x().tr()), (x(), row()), (row(), row() * 2.0)])
        .reference(|(a, b)| a.matmul(b));
    batched_matmul: Check::new(ops::Matmul, [(Tensor::stack(&[x(), x() * 0.5], 0), x().tr())])
        .reference(|(a, b)| a.matmul(b));
    transpose: Check::new(ops::Transpose { dim0: 0, dim1: -1 }, [x()])
        .reference(|x| x.transpose(0, -1));
    reshape: Check::new(ops::Reshape { shape: vec![3, -1] }, [x()])
        .reference(|x| x.reshape([3, -1]));
    index_select: Check::new(ops::IndexSelect { dim: 1 }, [(x(), integers(&[2, 0, 0]))])
        .reference(|(x, i)| x.index_select(1, i));
    gather: Check::new(ops::Gather { dim: 1 }, [(x(), integers(&[2, 0, 0, 1]).reshape([2, 2]))])
        .reference(|(x, i)| x.gather(1, i, false));

    softmax: Check::new(ops::Softmax { dim: -1 }, [x()]).reference(|x| x.softmax(-1, None));
    log_softmax: Check::new(ops::LogSoftmax { dim: 0 }, [x()])
        .reference(|x| x.log_softmax(0, None));
    squared_error: Check::new(ops::SquaredError, pairs())
        .reference(|(y, t)| ((t - y) * (t - y) / 2.0).sum(None));
}

fn scores() -> Tensor {
    Tensor::from_slice(&[0.5, -1.25, 2.0, 3.0, 0.1, -0.7, 1.5, -0.2, 0.3, 0.9, -2.0, 0.4])
        .reshape([4, 3])
}

/// Of `smoothing`, as libtorch's.
fn cross_entropy(smoothing: f64) -> Check<ops::CrossEntropy> {
    let row = (scores(), integers(&[2, 0, -100, 1]));
    let deep = (scores().reshape([2, 3, 2]), integers(&[2, 0, 1, 0]).reshape([2, 2]));
    let single = (scores().select(0, 0), Tensor::from(1i64));
    let op = ops::CrossEntropy { label_smoothing: smoothing };
    Check::new(op, [row, deep, single]).reference(move |(x, t)| {
        x.cross_entropy_loss::<Tensor>(t, None, Reduction::Mean, -100, smoothing)
    })
}

/// With some differences on either side of `delta`.
fn huber(reduction: Reduction) -> Check<ops::HuberLoss> {
    let op = ops::HuberLoss { delta: 0.8, reduction };
    Check::new(op, pairs()).reference(move |(x, t)| {
        // libtorch's gradients are wrong where one broadcasts.
        let both = Tensor::broadcast_tensors(&[x, t]);
        both[0].huber_loss(&both[1], reduction, 0.8)
    })
}

tch_function::check_tests! {
    log1p_exp => Check::new(ops::Log1pExp, [x(), Tensor::from(0.0)]).reference(|x| x.softplus());
    gelu => Check::new(ops::Gelu, [x(), Tensor::from(0.0)]).reference(|x| x.gelu("none"));
    gelu_tanh => Check::new(ops::GeluTanh, [x(), Tensor::from(0.0)]).reference(|x| x.gelu("tanh"));
    silu => Check::new(ops::Silu, [x(), Tensor::from(0.0)]).reference(|x| x.silu());
    huber_mean => huber(Reduction::Mean);
    huber_sum => huber(Reduction::Sum);
    huber_none => huber(Reduction::None);
    cross_entropy_plain => cross_entropy(0.0);
    cross_entropy_smoothed => cross_entropy(0.3);
    rms_norm => Check::new(ops::RmsNorm { eps: 1e-5 }, [(x(), row()), (row() + 1.0, row())])
        .reference(|(x, w)| {
            let r = (x.square().mean_dim(-1, true, None) + 1e-5).rsqrt();
            x * r * w
        });
}
