//! Shapes of inputs and outputs.

use super::graphs::{d, leaf};
use anyhow::Result;
use tch::Tensor;
use tch_function::{Ctx, Function, GradOptions, Var, grad};
use test_support::{Op, number};

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
