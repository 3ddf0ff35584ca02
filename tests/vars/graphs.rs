//! Reverse accumulation over graphs of every form, against hand-computed numbers.

use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::Tensor;
use tch_function::{Ctx, Function, GradOptions, Var, backward, grad};
use test_support::{number, numbers, vector};

pub(super) fn leaf(x: f64) -> Var {
    Var::leaf(Tensor::from(x))
}

pub(super) fn d(y: &Var, x: &Var) -> f64 {
    number(grad(y, x).unwrap().value())
}

#[test]
fn the_chain_rule() {
    let x = leaf(0.7);
    let y = x.exp().unwrap().log1p_exp().unwrap().tanh().unwrap();
    let (e, t) = (0.7f64.exp(), 0.7f64.exp().exp().ln_1p().tanh());
    let expected = (1.0 - t * t) * (1.0 / (1.0 + (-e).exp())) * e;
    approx::assert_relative_eq!(d(&y, &x), expected, max_relative = 1e-14);
}

#[test]
fn fan_out_is_summed() {
    let x = leaf(3.0);
    let y = &(&x * 2.0) + &(&(&x * 5.0) + &(&x * 7.0));
    assert_eq!(d(&y, &x), 14.0);
}

/// Counts how often its backward runs.
struct Counting<'a>(&'a AtomicUsize);
impl Function for Counting<'static> {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        self.0.fetch_add(1, SeqCst);
        Ok(Some(dy.shallow_clone()))
    }
}

#[test]
fn each_node_of_stacked_diamonds_is_visited_once() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let x = leaf(1.0);
    let mut y = x.clone();
    for _ in 0..40 {
        let top = Counting(&RUNS).apply(&y).unwrap();
        y = &top + &top; // 2^40 paths
    }
    assert_eq!(d(&y, &x), 2f64.powi(40));
    assert_eq!(RUNS.load(SeqCst), 40);
}

#[test]
fn what_does_not_lead_to_an_input_does_not_run() {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let (a, b) = (leaf(2.0), leaf(3.0));
    let side = Counting(&RUNS).apply(&b).unwrap();
    let y = &a * &side;
    assert_eq!(
        number(GradOptions::new().retain_graph(true).grad(&y, &a).unwrap().unwrap().value()),
        3.0
    );
    assert_eq!(RUNS.load(SeqCst), 0);
    backward(&y).unwrap();
    assert_eq!(RUNS.load(SeqCst), 1);
    assert_eq!(number(&b.grad().unwrap()), 2.0);
}

#[test]
fn a_shared_node_is_visited_after_all_its_children_however_old() {
    let x = leaf(1.5);
    let shared = x.exp().unwrap();
    let mut long = shared.clone();
    for _ in 0..10 {
        long = &long * 2.0;
    }
    let y = &shared * &long; // 1024 e^{2x}
    approx::assert_relative_eq!(d(&y, &x), 2048.0 * 3f64.exp(), max_relative = 1e-14);
}

/// Returns its input twice, and a third output.
struct Twice;
impl Function for Twice {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor, Tensor);
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let double = x * 2.0;
        Ok((x.shallow_clone(), double.shallow_clone(), double))
    }
    fn backward(&self, _: &Ctx, (a, b, c): (&Tensor, &Tensor, &Tensor)) -> Result<Option<Tensor>> {
        Ok(Some(a + (b + c) * 2.0))
    }
}

#[test]
fn an_input_as_output_and_one_tensor_as_two_outputs() {
    let x = leaf(3.0);
    let (a, b, c) = Twice.apply(&x).unwrap();
    let y = &(&a * 10.0) + &(&(&b * 100.0) + &(&c * 1000.0));
    assert_eq!(d(&y, &x), 10.0 + 200.0 + 2000.0);
    let (a, _, unused) = Twice.apply(&x).unwrap();
    drop(unused);
    assert_eq!(d(&a, &x), 1.0);
}

#[test]
fn the_same_tensor_twice_in_one_op() {
    let x = leaf(3.0);
    assert_eq!(d(&(&x * &x), &x), 6.0);
    assert_eq!(d(&(&x / &x), &x), 0.0);
}

#[test]
fn an_output_that_is_an_input_and_several_outputs_at_once() {
    let (x, z) = (leaf(3.0), leaf(4.0));
    assert_eq!(d(&x, &x), 1.0);
    let y = &x * &z;
    let [dx, dy] = grad([&y, &x], [&x, &y]).unwrap();
    assert_eq!((number(dx.value()), number(dy.value())), (5.0, 1.0));
    let found = grad(&(&x * &z), &vec![x, z]).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn the_gradient_with_respect_to_every_expression() {
    let (x, w) = (leaf(2.0), leaf(5.0));
    let p = &x * &w;
    let s = &p + 1.0;
    let y = &s * &s;
    let gradients = y.gradients().unwrap();
    let of = |v: &Var| number(&gradients[v]);
    assert_eq!([of(&y), of(&s), of(&p), of(&x), of(&w)], [1.0, 22.0, 22.0, 110.0, 44.0]);
    assert_eq!(gradients.len(), 5);
    assert!(gradients.get(&leaf(1.0)).is_none());
    assert!(x.grad().is_none(), "gradients() adds to no leaf");
}

#[test]
fn leaf_gradients_do_not_share_memory() {
    let (a, b) = (Var::leaf(vector(&[1.0, 2.0])), Var::leaf(vector(&[1.0, 2.0])));
    let seed = Var::constant(vector(&[1.0, 1.0]));
    GradOptions::new().seeds(&seed).backward(&(&a + &b)).unwrap();
    let _ = a.grad().unwrap().fill_(7.0);
    assert_eq!(numbers(&b.grad().unwrap()), [1.0, 1.0]);
    assert_eq!(numbers(seed.value()), [1.0, 1.0]);
}

#[test]
fn sums_in_place_touch_nobody_elses_memory() {
    let x = Var::leaf(vector(&[1.0, 2.0]));
    let seed = Var::constant(vector(&[1.0, 1.0]));
    let y = &(&x + &x) + &(&x + &x);
    let gradients = GradOptions::new().seeds(&seed).gradients(&y).unwrap();
    assert_eq!(numbers(&gradients[&x]), [4.0, 4.0]);
    assert_eq!(numbers(&gradients[&y]), [1.0, 1.0]);
    assert_eq!(numbers(seed.value()), [1.0, 1.0]);
}

#[test]
fn expanded_gradients_are_summed_right() {
    let x = Var::leaf(vector(&[1.0, 2.0, 3.0]));
    let y = &x.sum().unwrap() + &(&x * &x).sum().unwrap(); // seeds with stride 0
    let gradients = y.gradients().unwrap();
    assert_eq!(numbers(&gradients[&x]), [3.0, 5.0, 7.0]);
}

/// `y = x`; its gradient is a sparse tensor.
struct SparseGradient;
impl Function for SparseGradient {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.to_sparse_sparse_dim(1)))
    }
}

#[test]
fn sparse_gradients_are_summed_with_dense_ones_in_either_order() {
    let x = Var::leaf(vector(&[1.0, 2.0]));
    let sparse = || SparseGradient.apply(&x).unwrap();
    let seed = Var::constant(vector(&[1.0, 1.0]));
    let pass = GradOptions::new().seeds(&seed);
    for y in [&(&x * 3.0) + &sparse(), &sparse() + &(&x * 3.0)] {
        assert_eq!(numbers(pass.grad(&y, &x).unwrap().unwrap().value()), [4.0, 4.0]);
    }
    let dx = pass.grad(&(&sparse() + &sparse()), &x).unwrap().unwrap();
    assert_eq!(numbers(&dx.value().to_dense(None, false)), [2.0, 2.0]);
}

#[test]
fn a_var_moves_to_another_thread() {
    let x = leaf(3.0);
    let y = &x * &x;
    let on_thread = std::thread::spawn(move || {
        let z = &y * 2.0;
        let dx = d(&z, &x);
        (x, dx)
    });
    let (x, dx) = on_thread.join().unwrap();
    assert_eq!(dx, 12.0);
    assert_eq!(d(&x.exp().unwrap(), &x), 3f64.exp());
}

#[test]
fn eight_threads_differentiate_one_graph() {
    let x = leaf(2.0);
    let y = &x.exp().unwrap() * &x;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (x, y) = (x.clone(), y.clone());
            scope.spawn(move || {
                for _ in 0..100 {
                    let retain = GradOptions::new().retain_graph(true);
                    let dx = retain.grad(&y, &x).unwrap().unwrap();
                    approx::assert_relative_eq!(
                        number(dx.value()),
                        3.0 * 2f64.exp(),
                        max_relative = 1e-14
                    );
                }
            });
        }
    });
}
