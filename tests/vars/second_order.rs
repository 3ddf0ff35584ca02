//! Second and higher derivatives in the own engine (`tests/libtorch.rs` has
//! them inside libtorch).

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{
    Ctx, DoubleBackward, Error, Function, GradOptions, Var, backward, grad, lift, ops,
};
use test_support::{number, numbers, vector};

fn leaf(values: &[f64]) -> Var {
    Var::leaf(vector(values))
}

fn create_graph<'a>() -> GradOptions<'a, Var> {
    GradOptions::new().create_graph(true)
}

fn d(y: &Var, x: &Var) -> Result<Var> {
    Ok(create_graph().grad(&y.sum()?, x)?.expect("x was used"))
}

fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
        assert!((a - b).abs() <= 1e-13 * (1.0 + b.abs()), "{what}: {a} and {b}");
    }
}

/// Derivatives of orders 0 to 3 of the same function in both engines.
fn compare(what: &str, own: impl Fn(&Var) -> Result<Var>, torch: impl Fn(&Tensor) -> Tensor) {
    let values = vector(&[0.3, 1.7, 0.9]);
    let (x, t) = (Var::leaf(&values), values.set_requires_grad(true));
    let (mut y, mut z) = (own(&x).expect(what), torch(&t));
    for order in 0..=3 {
        assert_close(y.value(), &z.detach(), &format!("{what}, order {order}"));
        if !z.requires_grad() {
            return;
        }
        y = d(&y, &x).expect(what);
        let options = GradOptions::new().create_graph(true).allow_unused(true);
        z = options.grad(&z.sum(Kind::Double), &t).expect(what).expect("used");
    }
}

#[test]
fn three_orders_of_the_operators_equal_libtorchs() {
    compare("exp", |x| Ok(x.exp()?), Tensor::exp);
    compare("log", |x| Ok(x.log()?), Tensor::log);
    compare("sqrt", |x| Ok(x.sqrt()?), Tensor::sqrt);
    compare("tanh", |x| Ok(x.tanh()?), Tensor::tanh);
    compare("sigmoid", |x| Ok(x.sigmoid()?), Tensor::sigmoid);
    compare("log1p_exp", |x| Ok(x.log1p_exp()?), Tensor::softplus);
    compare("cube", |x| Ok(&(x * x) * x), |x| x * x * x);
    compare("quotient", |x| Ok(&x.tanh()? / x), |x| x.tanh() / x);
    compare("softmax", |x| Ok(&x.softmax(0)? * x), |x| x.softmax(0, Kind::Double) * x);
    compare("logsoftmax", |x| Ok(&x.log_softmax(0)? * x), |x| x.log_softmax(0, Kind::Double) * x);
    compare("chain", |x| Ok(x.exp()?.log1p_exp()?.tanh()?), |x| x.exp().softplus().tanh());
    compare("lift", |x| Ok(&lift(x, |x| Ok(x[0].sin() * &x[0]))? * x), |x| x.sin() * x * x);
}

/// y = x^3, saving what `save` says.
struct Cube {
    save: Save,
    double_backward: DoubleBackward,
}
#[derive(Clone, Copy, PartialEq)]
enum Save {
    Input,
    Output,
    Intermediate,
    Constant,
}
impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let square = x * x;
        let y = &square * x;
        match self.save {
            Save::Input => ctx.save_for_backward([x])?,
            Save::Output => ctx.save_for_backward([&y])?,
            Save::Intermediate | Save::Constant => ctx.save_for_backward([&square])?,
        }
        if self.save == Save::Constant {
            ctx.mark_constant(&square);
        }
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [kept] = ctx.saved_tensors()?;
        let square = match self.save {
            Save::Input => kept * kept,
            Save::Output => kept.pow_tensor_scalar(2.0 / 3.0),
            Save::Intermediate | Save::Constant => kept.shallow_clone(),
        };
        Ok(Some(dy * square * 3.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}

fn cube(save: Save, double_backward: DoubleBackward, x: &Var) -> Result<Var> {
    Ok(Cube { save, double_backward }.apply(x)?)
}

#[test]
fn through_saved_inputs_and_outputs() {
    use DoubleBackward::ThroughSaved;
    compare("input", |x| cube(Save::Input, ThroughSaved, x), |x| x * x * x);
    compare("output", |x| cube(Save::Output, ThroughSaved, x), |x| x * x * x);
}

#[test]
fn recomputed_to_any_order() {
    use DoubleBackward::Recompute;
    compare("recomputed", |x| cube(Save::Intermediate, Recompute, x), |x| x * x * x);
    compare("inside", |x| cube(Save::Intermediate, Recompute, &x.exp()?), |x| (x * 3.0).exp());
}

#[test]
fn recomputation_costs_a_plain_pass_nothing_but_memory() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Intermediate, DoubleBackward::Recompute, &x)?;
    assert_eq!(number(grad(&y, &x)?.value()), 12.0);
    Ok(())
}

#[test]
fn a_saved_intermediate_is_an_error_on_the_wrong_path_and_only_there() -> Result<()> {
    let (x, w) = (leaf(&[2.0]), leaf(&[5.0]));
    let y = cube(Save::Intermediate, DoubleBackward::ThroughSaved, &x)?;
    let first = d(&(&y * &w), &x)?; // w * 3 x^2
    assert_eq!(number(first.value()), 60.0);
    let keep = GradOptions::new().retain_graph(true);
    assert_eq!(number(keep.grad(&first, &w)?.unwrap().value()), 12.0);
    let error = grad(&first, &x).expect_err("the path through x * x is lost");
    assert!(matches!(error, Error::SavedIntermediate { op: "Cube", position: 0 }), "{error:?}");
    Ok(())
}

#[test]
fn a_declared_constant_has_no_second_path() -> Result<()> {
    let (x, w) = (leaf(&[2.0]), leaf(&[5.0]));
    let y = cube(Save::Constant, DoubleBackward::ThroughSaved, &x)?;
    let first = d(&(&y * &w), &x)?;
    let second = GradOptions::new().allow_unused(true).grad(&first, &x)?;
    assert!(second.is_none());
    Ok(())
}

/// `(x m, m)` with `m` 1 where `x > 0`: a floating-point output without a
/// gradient, which is saved.
struct Gate;
impl Function for Gate {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let open = x.gt(0.0).to_kind(Kind::Double);
        ctx.save_for_backward([&open])?;
        ctx.mark_non_differentiable(&open);
        Ok((x * &open, open))
    }
    fn backward(&self, ctx: &Ctx, (dy, dopen): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [open] = ctx.saved_tensors()?;
        Ok(Some(dy * open + dopen))
    }
}

#[test]
fn a_saved_output_without_a_gradient_has_no_second_path() -> Result<()> {
    let (x, w) = (leaf(&[2.0]), leaf(&[5.0]));
    let first = d(&(&Gate.apply(&x)?.0 * &w), &x)?; // w m
    let options = GradOptions::new().allow_unused(true);
    let [dx, dw] = options.grad(&first, [&x, &w])?;
    assert!(dx.is_none(), "{dx:?}");
    assert_eq!(number(dw.unwrap().value()), 1.0);
    Ok(())
}

#[test]
fn once_differentiable_says_so() -> Result<()> {
    let x = leaf(&[2.0]);
    let first = d(&cube(Save::Input, DoubleBackward::Once, &x)?, &x)?;
    assert_eq!(number(first.value()), 12.0);
    let error = grad(&first, &x).expect_err("no second derivative");
    assert!(matches!(error, Error::OnceDifferentiable { op: "Cube" }), "{error:?}");
    Ok(())
}

/// Its `forward` cannot run a second time: the input is no more what it was.
#[test]
fn recomputation_in_place_is_refused() -> Result<()> {
    struct SquareInPlace;
    impl Function for SquareInPlace {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            ctx.mark_dirty(x)?;
            let old = x.copy();
            ctx.save_for_backward([&old])?;
            Ok(x.shallow_clone().square_())
        }
        fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            let [x] = ctx.saved_tensors()?;
            Ok(Some(dy * x * 2.0))
        }
        fn double_backward(&self) -> DoubleBackward {
            DoubleBackward::Recompute
        }
    }
    let x = leaf(&[3.0]);
    let before = &x * 1.0;
    let y = SquareInPlace.apply(&before)?;
    assert_eq!(number(GradOptions::new().retain_graph(true).grad(&y, &x)?.unwrap().value()), 6.0);
    let error = create_graph().grad(&y, &x).expect_err("forward cannot run again").to_string();
    assert!(error.contains("in place"), "{error}");
    assert_eq!(number(y.value()), 9.0, "nothing is changed");
    Ok(())
}

#[test]
fn a_gradient_penalty_trains_through_the_gradient() -> Result<()> {
    // L = |dy/dx|^2 with y = sum(tanh(w x)): dL/dw against libtorch.
    let (w, x) = (vector(&[0.5, -1.2]), vector(&[0.3, 0.8]));
    let (v, u) = (Var::leaf(&w), Var::leaf(&x));
    let slope = d(&(&v * &u).tanh()?, &u)?;
    backward(&(&slope * &slope).sum()?)?;
    let (w, x) = (w.set_requires_grad(true), x.set_requires_grad(true));
    let y = (&w * &x).tanh().sum(Kind::Double);
    let slope = GradOptions::new().create_graph(true).grad(&y, &x)?.unwrap();
    slope.square().sum(Kind::Double).backward();
    assert_close(&v.grad().unwrap(), &w.grad(), "dL/dw");
    Ok(())
}

#[test]
fn seeds_carry_their_history() -> Result<()> {
    let (x, s) = (leaf(&[2.0, 3.0]), leaf(&[1.0, 10.0]));
    let first = create_graph().seeds(&s).grad(&(&x * &x), &x)?.unwrap(); // 2 x s
    let ds = grad(&first.sum()?, &s)?;
    assert_eq!(numbers(ds.value()), [4.0, 6.0]);
    Ok(())
}

#[test]
fn several_inputs_outputs_and_broadcasting() -> Result<()> {
    let (a, b) = (leaf(&[2.0, 3.0]), leaf(&[4.0]));
    let y = &(&a * &b) * &b; // a b^2
    let [da, db] = create_graph().grad(&y.sum()?, [&a, &b])?.map(Option::unwrap);
    assert_eq!((numbers(da.value()), numbers(db.value())), (vec![16.0, 16.0], vec![40.0]));
    let mixed = GradOptions::new().retain_graph(true).grad(&db, &a)?.unwrap();
    assert_eq!(numbers(mixed.value()), [8.0, 8.0]);
    assert_eq!(numbers(grad(&da.sum()?, &b)?.value()), [16.0]);
    let (values, _) = leaf(&[3.0, 1.0]).max_dim(0, false)?;
    assert!(values.requires_grad());
    Ok(())
}

#[test]
fn what_gives_plain_tensors_cannot_carry_a_graph() {
    let x = leaf(&[2.0]);
    let y = &x * &x;
    let error = create_graph().backward(&y).expect_err("leaves hold tensors");
    assert!(matches!(error, Error::NotYet { .. }), "{error:?}");
    let _ = ops::Exp;
}

#[test]
fn a_saved_tensor_changed_in_place_is_an_error_here_too() {
    use DoubleBackward::{Once, Recompute, ThroughSaved};
    for double_backward in [ThroughSaved, Recompute, Once] {
        let t = vector(&[2.0]);
        let x = Var::leaf(&t);
        let y = cube(Save::Input, double_backward, &x).unwrap();
        let _ = t.shallow_clone().fill_(100.0);
        let error = create_graph().grad(&y, &x).expect_err("not the slope at 100");
        assert!(matches!(error, Error::SavedChanged { op: "Cube", .. }), "{error:?}");
    }
}
