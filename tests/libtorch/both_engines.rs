//! One table of Functions and cases, run in both engines; the third column is
//! plain tch. Values and gradients of all three agree.

use tch::{Kind, Tensor};
use tch_function::{Differentiable, Function, GradOptions, Result, Var, ops};
use test_support::{numbers, vector};

fn inputs() -> [Tensor; 2] {
    let a = vector(&[0.3, 1.7, 0.9, 2.5, 0.6, 1.1]).view([2, 3]);
    let b = vector(&[1.2, 0.4, 2.2, 0.8, 1.5, 0.7]).view([3, 2]).transpose(0, 1); // not contiguous
    [a, b]
}

/// A value and its gradients with respect to both inputs, flattened; empty
/// where none flows.
type Outcome = (Vec<f64>, [Vec<f64>; 2]);

fn outcome<V: Differentiable>(
    [a, b]: [V; 2],
    seed: impl Fn(&Tensor) -> V,
    f: impl Fn(&V, &V) -> Result<V>,
) -> Outcome {
    let y = f(&a, &b).expect("a value");
    let seed = seed(&y.tensor().arange_like());
    let options = GradOptions::new().seeds(&seed).allow_unused(true);
    let grads = options.grad(&y, [&a, &b]).expect("gradients");
    let flat = |t: &Tensor| numbers(&t.detach().contiguous());
    (flat(y.tensor()), grads.map(|g| g.map_or(vec![], |g| flat(g.tensor()))))
}

trait ArangeLike {
    fn arange_like(&self) -> Tensor;
}
impl ArangeLike for Tensor {
    /// 1, 2, 3, ... in this shape.
    fn arange_like(&self) -> Tensor {
        Tensor::arange_start(1, self.numel() as i64 + 1, (self.kind(), self.device()))
            .view(&self.size()[..])
    }
}

fn own(f: impl Fn(&Var, &Var) -> Result<Var>) -> Outcome {
    outcome(inputs().map(Var::leaf), |t| Var::constant(t), f)
}

fn torch(f: impl Fn(&Tensor, &Tensor) -> Result<Tensor>) -> Outcome {
    let leaves = inputs().map(|t| t.detach().set_requires_grad(true));
    outcome(leaves, Tensor::shallow_clone, f)
}

fn assert_close(what: &str, (y, dy): &Outcome, (z, dz): &Outcome) {
    let lists = [(y, z), (&dy[0], &dz[0]), (&dy[1], &dz[1])];
    for (place, (a, b)) in ["value", "da", "db"].iter().zip(lists) {
        assert_eq!(a.len(), b.len(), "{what}, {place}");
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-13 * (1.0 + b.abs()), "{what}, {place}: {a} and {b}");
        }
    }
}

/// Applies a Function of one input to the first of two.
fn unary<V: Differentiable, F>(f: F) -> impl Fn(&V, &V) -> Result<V>
where
    F: Function<Inputs = Tensor, Outputs = Tensor> + Clone,
{
    move |a, _| f.clone().apply(a)
}

fn binary<V: Differentiable, F>(f: F) -> impl Fn(&V, &V) -> Result<V>
where
    F: Function<Inputs = (Tensor, Tensor), Outputs = Tensor> + Clone,
{
    move |a, b| f.clone().apply((a, b))
}

macro_rules! table {
    ($($name:ident: $program:expr, $torch:expr;)+) => {$(
        #[test]
        fn $name() {
            let name = stringify!($name);
            let plain = torch(|a, b| Ok($torch(a, b)));
            assert_close(&format!("{name}, own engine"), &own($program), &plain);
            assert_close(&format!("{name}, inside libtorch"), &torch($program), &plain);
        }
    )+};
}

table! {
    exp: unary(ops::Exp), |a: &Tensor, _| a.exp();
    log: unary(ops::Log), |a: &Tensor, _| a.log();
    sqrt: unary(ops::Sqrt), |a: &Tensor, _| a.sqrt();
    tanh: unary(ops::Tanh), |a: &Tensor, _| a.tanh();
    sigmoid: unary(ops::Sigmoid), |a: &Tensor, _| a.sigmoid();
    relu: unary(ops::Relu), |a: &Tensor, _| a.relu();
    abs: unary(ops::Abs), |a: &Tensor, _| a.abs();
    neg: unary(ops::Neg), |a: &Tensor, _| -a;
    log1p_exp: unary(ops::Log1pExp), |a: &Tensor, _| a.exp().log1p();
    pow_scalar: unary(ops::PowScalar { exponent: 2.5 }), |a: &Tensor, _| a.pow_tensor_scalar(2.5);
    add_scalar: unary(ops::AddScalar { c: 2.5 }), |a: &Tensor, _| a + 2.5;
    mul_scalar: unary(ops::MulScalar { c: 2.5 }), |a: &Tensor, _| a * 2.5;
    softmax: unary(ops::Softmax { dim: 1 }), |a: &Tensor, _| a.softmax(1, Kind::Double);
    log_softmax: unary(ops::LogSoftmax { dim: 0 }), |a: &Tensor, _| a.log_softmax(0, Kind::Double);
    add: binary(ops::Add), |a: &Tensor, b| a + b;
    sub: binary(ops::Sub), |a: &Tensor, b| a - b;
    mul: binary(ops::Mul), |a: &Tensor, b| a * b;
    div: binary(ops::Div), |a: &Tensor, b| a / b;
    pow: binary(ops::Pow), |a: &Tensor, b| a.pow(b);
    maximum: binary(ops::Maximum), |a: &Tensor, b| a.maximum(b);
    minimum: binary(ops::Minimum), |a: &Tensor, b| a.minimum(b);
    twice: with_itself, |a: &Tensor, _| a * a;
    chain: composed, |a: &Tensor, b: &Tensor| (a * b).exp().log1p() / b;
}

fn with_itself<V: Differentiable>(a: &V, _: &V) -> Result<V> {
    ops::Mul.apply((a, a))
}

fn composed<V: Differentiable>(a: &V, b: &V) -> Result<V> {
    ops::Div.apply((&ops::Log1pExp.apply(&ops::Mul.apply((a, b))?)?, b))
}

/// Several outputs, lists and options, in both engines by one generic program.
#[test]
fn several_outputs_agree() {
    fn largest<V: Differentiable>(a: &V, b: &V) -> Result<V> {
        let (values, _) = ops::Max { dim: 1, keepdim: true }.apply(a)?;
        ops::Mul.apply((&values, b))
    }
    let plain = torch(|a, b| Ok(a.max_dim(1, true).0 * b));
    assert_close("own engine", &own(largest), &plain);
    assert_close("inside libtorch", &torch(largest), &plain);
}
