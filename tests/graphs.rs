//! Reverse accumulation over graphs of every form, against hand-computed
//! numbers.

mod support;

use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use support::{Op, number, numbers, vector};
use tch::Tensor;
use tch_function::{Ctx, Function, GradOptions, Var, backward, grad};

fn leaf(x: f64) -> Var {
    Var::leaf(Tensor::from(x))
}

fn d(y: &Var, x: &Var) -> f64 {
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

// Shapes of inputs and outputs.

/// a.0 + 10 a.1 + 100 (sum of b) + 1000 c + 10000 d
struct Nested;
type Nest = ((Tensor, Tensor), Vec<Tensor>, Option<Tensor>, [Tensor; 2], Option<(Tensor, Tensor)>);
impl Function for Nested {
    type Inputs = Nest;
    type Outputs = (Tensor, Vec<Tensor>, Option<Tensor>);
    fn forward(
        &self,
        ctx: &mut Ctx,
        ((a, b), list, c, [d, e], f): tch_function::Refs<'_, Nest>,
    ) -> Result<(Tensor, Vec<Tensor>, Option<Tensor>)> {
        ctx.save((list.len(), c.is_some(), f.is_some()))?;
        let mut y = a + b * 10.0 + (d + e * 2.0) * 10000.0;
        for x in list {
            y += x * 100.0;
        }
        if let Some((f, g)) = f {
            y += (f + g) * 5.0;
        }
        Ok((y, list.iter().map(|x| x * 3.0).collect(), c.map(|c| c * 1000.0)))
    }
    fn backward(
        &self,
        ctx: &Ctx,
        (dy, dlist, dc): (&Tensor, &[Tensor], Option<&Tensor>),
    ) -> Result<tch_function::Grads<Nest>> {
        let &(n, has_c, has_f) = ctx.state::<(usize, bool, bool)>()?;
        assert_eq!((dlist.len(), dc.is_some()), (n, has_c));
        let f = || has_f.then(|| dy * 5.0);
        Ok((
            (Some(dy.copy()), Some(dy * 10.0)),
            dlist.iter().map(|g| Some(dy * 100.0 + g * 3.0)).collect(),
            dc.map(|g| g * 1000.0),
            [Some(dy * 10000.0), Some(dy * 20000.0)],
            (f(), f()),
        ))
    }
}

#[test]
fn nests_of_tuples_lists_arrays_and_options() {
    let v: Vec<Var> = (0..9).map(|i| leaf(i as f64)).collect();
    let list = v[2..4].to_vec();
    let (y, ys, c) = Nested
        .apply(((&v[0], &v[1]), &list, Some(&v[4]), [&v[5], &v[6]], Some((&v[7], &v[8]))))
        .unwrap();
    assert_eq!(ys.len(), 2);
    let total = &(&y + &ys[1]) + &c.unwrap();
    let found: Vec<f64> = grad(&total, &v).unwrap().iter().map(|g| number(g.value())).collect();
    assert_eq!(found, [1.0, 10.0, 100.0, 103.0, 1000.0, 10000.0, 20000.0, 5.0, 5.0]);
}

#[test]
fn absent_options_and_empty_lists() {
    let v: Vec<Var> = (0..4).map(|i| leaf(i as f64)).collect();
    let (y, ys, c) = Nested.apply(((&v[0], &v[1]), &[], None, [&v[2], &v[3]], None)).unwrap();
    assert!(ys.is_empty() && c.is_none());
    let found: Vec<f64> = grad(&y, &v).unwrap().iter().map(|g| number(g.value())).collect();
    assert_eq!(found, [1.0, 10.0, 10000.0, 20000.0]);
}

#[test]
fn eight_inputs_and_no_outputs() {
    struct Sum8;
    type T = Tensor;
    impl Function for Sum8 {
        type Inputs = (T, T, T, T, T, T, T, T);
        type Outputs = T;
        fn forward(&self, _: &mut Ctx, x: tch_function::Refs<'_, Self::Inputs>) -> Result<T> {
            Ok(x.0 + x.1 + x.2 + x.3 + x.4 + x.5 + x.6 + x.7 * 8.0)
        }
        fn backward(&self, _: &Ctx, dy: &T) -> Result<tch_function::Grads<Self::Inputs>> {
            let g = || Some(dy.copy());
            Ok((g(), g(), g(), g(), g(), g(), g(), Some(dy * 8.0)))
        }
    }
    let v: Vec<Var> = (0..8).map(|i| leaf(i as f64)).collect();
    let y = Sum8.apply((&v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7])).unwrap();
    assert_eq!((number(y.value()), d(&y, &v[7])), (77.0, 8.0));

    struct Nothing;
    impl Function for Nothing {
        type Inputs = Vec<T>;
        type Outputs = Vec<T>;
        fn forward(&self, _: &mut Ctx, _: &[T]) -> Result<Vec<T>> {
            Ok(vec![])
        }
        fn backward(&self, _: &Ctx, _: &[T]) -> Result<Vec<Option<T>>> {
            unreachable!("it has no outputs to start from")
        }
    }
    assert!(Nothing.apply(&v).unwrap().is_empty());
}

#[test]
fn one_op_shared_by_several_calls() {
    struct Table(Vec<f64>);
    impl Function for Table {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            Ok(x * self.0[0])
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * self.0[0]))
        }
    }
    let table = std::sync::Arc::new(Table(vec![3.0]));
    let x = leaf(1.0);
    let y = table.clone().apply(&table.apply(&x).unwrap()).unwrap();
    assert_eq!(d(&y, &x), 9.0);
}

#[test]
fn a_gradient_that_the_pass_does_not_need_is_let_go() {
    // Which a wrong dtype shows: what is needed is checked.
    let careless = Op::<(Tensor, Tensor), Tensor> {
        forward: |_, (a, b)| Ok(a * b),
        backward: |_, dy| Ok((Some(dy.shallow_clone()), Some(dy.to_kind(tch::Kind::Float)))),
    };
    let (a, b) = (leaf(2.0), leaf(3.0));
    let y = careless.apply((&a, &b)).unwrap();
    let keep = GradOptions::new().retain_graph(true);
    assert_eq!(number(keep.grad(&y, &a).unwrap().unwrap().value()), 1.0);
    assert!(keep.grad(&y, &b).is_err());
}
