//! The page's Functions: patterns, signatures, marks.

use anyhow::{Result, bail, ensure};
use tch::{Kind, Reduction, Tensor};
use tch_function::{Ctx, DoubleBackward, Error, Function, Var, grad, gradcheck};
use test_support::{number, numbers, vector};

pub(super) fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

pub struct ScaledSquare {
    pub k: f64,
}

impl Function for ScaledSquare {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(self.k * x * x)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * 2.0 * self.k * x))
    }
}

#[test]
fn the_pattern_in_both_engines() -> Result<()> {
    let x = leaf(&[5.0]);
    let y = ScaledSquare { k: 3.0 }.apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 30.0);
    let x = Var::leaf(vector(&[5.0]));
    let y = ScaledSquare { k: 3.0 }.apply(&x)?;
    assert_eq!(number(grad(&y, &x)?.value()), 30.0);
    Ok(())
}

pub struct Mul;
impl Function for Mul {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, w])?;
        Ok(x * w)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        let dx = ctx.needs_input_grad(0).then(|| dy * w);
        let dw = ctx.needs_input_grad(1).then(|| dy * x);
        Ok((dx, dw))
    }
}

pub struct Square;
impl Function for Square {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * 2.0 * x))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}

/// The tensors of a list on top of each other, times their number.
struct Stack;
impl Function for Stack {
    type Inputs = Vec<Tensor>;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, xs: &[Tensor]) -> Result<Tensor> {
        if xs.iter().any(|x| number(&x.min()) < 0.0) {
            bail!("x must not be negative");
        }
        let n = xs.len() as f64;
        ctx.save(n)?;
        ctx.save_for_backward(xs)?;
        Ok(Tensor::stack(xs, 0) * n)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let n = *ctx.state::<f64>()?;
        let xs = ctx.saved_tensors_vec()?;
        ensure!(ctx.input_size(0)? == xs[0].size());
        Ok((0..xs.len() as i64).map(|i| Some(dy.select(0, i) * n)).collect())
    }
}

struct Shift;
impl Function for Shift {
    type Inputs = (Tensor, Option<Tensor>);
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, (x, bias): (&Tensor, Option<&Tensor>)) -> Result<Tensor> {
        Ok(bias.map_or_else(|| x.copy(), |bias| x + bias))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let db = ctx.needs_input_grad(1).then(|| dy.copy());
        Ok((Some(dy.copy()), db))
    }
}

#[test]
fn signatures() -> Result<()> {
    let (x, w) = (leaf(&[2.0]), leaf(&[3.0]));
    let y = Mul.apply((&x, &w))?;
    let [dx, dw] = grad(&y, [&x, &w])?;
    assert_eq!([number(&dx), number(&dw)], [3.0, 2.0]);

    let xs = vec![leaf(&[1.0]), leaf(&[2.0])];
    let y = Stack.apply(&xs)?;
    let dxs = grad(&y.sum(Kind::Double), &xs)?;
    assert_eq!([number(&dxs[0]), number(&dxs[1])], [2.0, 2.0]);
    let error = Stack.apply(&[leaf(&[-1.0])]).unwrap_err();
    assert!(matches!(error, Error::Forward { op: "Stack", .. }));

    let scores = vector(&[0.3, 0.5, 0.1, -2.0]).view([2, 2]);
    gradcheck(CrossEntropy, (&scores, &Tensor::from_slice(&[1i64, 0])))?.assert();

    let b = leaf(&[1.0]);
    let y = Shift.apply((&x, None))?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    let y = Shift.apply((&x, Some(&b)))?;
    assert_eq!(number(&grad(&y, &b)?), 1.0);
    Ok(())
}

/// Cross entropy of scores and classes; classes have no gradient.
struct CrossEntropy;
impl Function for CrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, class): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, class])?;
        Ok(x.cross_entropy_loss::<Tensor>(class, None, Reduction::Mean, -100, 0.0))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, class] = ctx.saved_tensors()?;
        let wanted = class.one_hot(x.size()[1]);
        let dx = dy * (x.softmax(1, None) - wanted) / x.size()[0] as f64;
        Ok((Some(dx), None))
    }
}

/// The largest element, and where it is.
struct Largest;
impl Function for Largest {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, i) = x.max_dim(0, false);
        let i = i.to_kind(Kind::Double);
        ctx.mark_non_differentiable(&i);
        ctx.save_for_backward([&i])?;
        let z = i;
        Ok((y, z))
    }
    fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [i] = ctx.saved_tensors()?;
        let dx = Tensor::zeros(ctx.input_size(0)?, (Kind::Double, dy.device()));
        Ok(Some(dx.index_fill_int_tensor(0, &i.to_kind(Kind::Int64), dy)))
    }
}

struct Twins;
impl Function for Twins {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.set_materialize_grads(false);
        Ok((x * 1.0, x * 2.0))
    }
    fn backward(&self, _: &Ctx, (dy, dz): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        if !dz.defined() {
            return Ok(Some(dy.copy()));
        }
        Ok(Some(dz * 2.0))
    }
}

struct ExpInPlace;
impl Function for ExpInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        Ok(x.shallow_clone().exp_())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.copy()))
    }
}

#[test]
fn marks() -> Result<()> {
    let x = leaf(&[1.0, 7.0]);
    let (y, i) = Largest.apply(&x)?;
    assert!(!i.requires_grad());
    assert_eq!(numbers(&grad(&y, &x)?), [0.0, 1.0]);
    let x = leaf(&[1.0]);
    assert_eq!(number(&grad(&Twins.apply(&x)?.0, &x)?), 1.0);
    let h = &x * 0.0;
    let _ = ExpInPlace.apply(&h)?;
    assert_eq!(number(&h), 1.0);
    Ok(())
}
