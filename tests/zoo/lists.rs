//! Functions of lists, optional inputs, and nests of them.

use super::*;
use anyhow::{Result, ensure};
use tch_function::check::Check;
use tch_function::{Ctx, Function};

/// A list to one: the sum.
struct SumOfList;

impl Function for SumOfList {
    type Inputs = Vec<Tensor>;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &[Tensor]) -> Result<Tensor> {
        ensure!(!x.is_empty(), "the list is empty");
        ctx.save(x.len())?;
        Ok(x[1..].iter().fold(x[0].copy(), |sum, x| sum + x))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let n = *ctx.state::<usize>()?;
        (0..n)
            .map(|i| ctx.needs_input_grad(i).then(|| ctx.reduce_to_input(i, dy)).transpose())
            .map(|grad| Ok(grad?))
            .collect()
    }
}

/// A list to one: joined rows.
struct Concat;

impl Function for Concat {
    type Inputs = Vec<Tensor>;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &[Tensor]) -> Result<Tensor> {
        ensure!(x.iter().all(|x| x.dim() > 0), "a scalar cannot be joined");
        ctx.save(x.iter().map(|x| x.size()[0]).collect::<Vec<_>>())?;
        Ok(Tensor::f_cat(x, 0)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let lengths = ctx.state::<Vec<i64>>()?;
        let parts = dy.split_with_sizes(lengths, 0);
        Ok(parts.into_iter().map(Some).collect())
    }
}

/// One to a list: the columns, each a view.
struct Columns;

impl Function for Columns {
    type Inputs = Tensor;
    type Outputs = Vec<Tensor>;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Vec<Tensor>> {
        ensure!(x.dim() > 0 && x.size()[x.dim() - 1] > 0, "there are no columns");
        Ok((0..x.size()[x.dim() - 1]).map(|i| x.select(-1, i)).collect())
    }
    fn backward(&self, _: &Ctx, dy: &[Tensor]) -> Grad {
        Ok(Some(Tensor::stack(dy, -1)))
    }
}

/// A list to a list: each but the last times the next; saves all of it.
struct Neighbours;

impl Function for Neighbours {
    type Inputs = Vec<Tensor>;
    type Outputs = Vec<Tensor>;
    fn forward(&self, ctx: &mut Ctx, x: &[Tensor]) -> Result<Vec<Tensor>> {
        ensure!(x.windows(2).all(|x| x[0].size() == x[1].size()), "the shapes differ");
        ctx.save_for_backward(x)?;
        Ok(x.windows(2).map(|x| &x[0] * &x[1]).collect())
    }
    fn backward(&self, ctx: &Ctx, dy: &[Tensor]) -> Result<Vec<Option<Tensor>>> {
        let x = ctx.saved_tensors_vec()?;
        let of = |i: usize| {
            let right = (i + 1 < x.len()).then(|| &dy[i] * x[i + 1]);
            let left = (i > 0).then(|| &dy[i - 1] * x[i - 1]);
            right.into_iter().chain(left).reduce(|a, b| a + b)
        };
        Ok((0..x.len()).map(of).collect())
    }
}

/// An array: `a (1 - t) + b t` of `[a, b, t]`.
struct Lerp;

impl Function for Lerp {
    type Inputs = [Tensor; 3];
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, [a, b, t]: [&Tensor; 3]) -> Result<Tensor> {
        ctx.save_for_backward([a, b, t])?;
        Ok(a + (b - a) * t)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let [a, b, t] = ctx.saved_tensors()?;
        let sum = |i, grad: Tensor| ctx.reduce_to_input(i, &grad).map(Some);
        Ok([sum(0, dy * (1.0 - t))?, sum(1, dy * t)?, sum(2, dy * (b - a))?])
    }
}

/// Optional inputs: `x w + b`, where `w` and `b` may be absent.
struct OptionalAffine;

impl Function for OptionalAffine {
    type Inputs = (Tensor, Option<Tensor>, Option<Tensor>);
    type Outputs = Tensor;
    fn forward(
        &self,
        ctx: &mut Ctx,
        (x, w, b): (&Tensor, Option<&Tensor>, Option<&Tensor>),
    ) -> Result<Tensor> {
        ctx.save((w.is_some(), b.is_some()))?;
        ctx.save_for_backward([x].into_iter().chain(w))?;
        Ok(optional_affine(x, w, b))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads3 {
        let (has_w, has_b) = *ctx.state::<(bool, bool)>()?;
        let db = if has_b { Some(ctx.reduce_to_input(2, dy)?) } else { None };
        if !has_w {
            return Ok((Some(ctx.reduce_to_input(0, dy)?), None, db));
        }
        let [x, w] = ctx.saved_tensors()?;
        let (dx, dw) = (ctx.reduce_to_input(0, &(dy * w))?, ctx.reduce_to_input(1, &(dy * x))?);
        Ok((Some(dx), Some(dw), db))
    }
}

fn optional_affine(x: &Tensor, w: Option<&Tensor>, b: Option<&Tensor>) -> Tensor {
    let y = w.map_or_else(|| x * 1.0, |w| x * w);
    b.map_or(y.shallow_clone(), |b| &y + b)
}

/// A nest: the products of a pair and of each of a list with the first of the
/// pair, and the sum of the pair.
struct Nest;

type NestIn = ((Tensor, Tensor), Vec<Tensor>);

impl Function for Nest {
    type Inputs = NestIn;
    type Outputs = (Tensor, (Vec<Tensor>, Tensor));
    fn forward(
        &self,
        ctx: &mut Ctx,
        ((a, b), list): ((&Tensor, &Tensor), &[Tensor]),
    ) -> Result<(Tensor, (Vec<Tensor>, Tensor))> {
        ensure!(
            a.size() == b.size() && list.iter().all(|t| t.size() == a.size()),
            "the shapes differ"
        );
        ctx.save_for_backward([a, b].into_iter().chain(list))?;
        Ok(nest(a, b, list))
    }
    fn backward(
        &self,
        ctx: &Ctx,
        (dy, (dlist, dsum)): (&Tensor, (&[Tensor], &Tensor)),
    ) -> Result<((Option<Tensor>, Option<Tensor>), Vec<Option<Tensor>>)> {
        let saved = ctx.saved_tensors_vec()?;
        let (a, b, list) = (saved[0], saved[1], &saved[2..]);
        let da = list.iter().zip(dlist).fold(dy * b + dsum, |sum, (t, d)| sum + d * *t);
        let dlist = dlist.iter().map(|d| Some(d * a)).collect();
        Ok(((Some(da), Some(dy * a + dsum)), dlist))
    }
}

fn nest(a: &Tensor, b: &Tensor, list: &[Tensor]) -> (Tensor, (Vec<Tensor>, Tensor)) {
    (a * b, (list.iter().map(|t| t * a).collect(), a + b))
}

/// An optional output: `x` less its mean, and the mean where it is asked for.
struct Centre {
    with_mean: bool,
}

impl Function for Centre {
    type Inputs = Tensor;
    type Outputs = (Tensor, Option<Tensor>);
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let mean = x.mean(None);
        Ok((x - &mean, self.with_mean.then_some(mean)))
    }
    fn backward(&self, ctx: &Ctx, (dy, dmean): (&Tensor, Option<&Tensor>)) -> Grad {
        let n = ctx.input_size(0)?.iter().product::<i64>();
        let dmean = dmean.map_or_else(|| -dy.sum(None), |dmean| dmean - dy.sum(None));
        Ok(Some(dy + dmean / n as f64))
    }
}

tch_function::check_tests! {
    sum_of_list => Check::new(SumOfList, [vec![x(), row(), x() * 2.0], vec![x()]])
        .reference(|x| x.iter().fold(Tensor::from(0.0), |sum, x| sum + x).to_kind(x[0].kind()));
    concat => Check::new(Concat, [vec![x(), x().narrow(0, 0, 1) * 2.0], vec![row()]])
        .reference(|x| Tensor::cat(x, 0));
    columns => Check::new(Columns, [x()]).reference(|x| x.unbind(-1));
    neighbours => Check::new(Neighbours, [
        vec![x(), x() + 1.0, x() * 0.5],
        vec![row(), row() * 2.0],
    ])
        .reference(|x| x.windows(2).map(|x| &x[0] * &x[1]).collect());
    lerp => Check::new(Lerp, [[x(), x() * 0.5 + 1.0, row()]])
        .reference(|[a, b, t]| a * (1.0 - t) + b * t);
    optional_affine => Check::new(OptionalAffine, [
        (x(), Some(row()), Some(row() + 1.0)),
        (x(), None, Some(row())),
        (x(), Some(row()), None),
        (x(), None, None),
    ]).reference(|(x, w, b)| optional_affine(x, w, b));
    centre => Check::new(Centre { with_mean: false }, [x()])
        .reference(|x| (x - x.mean(None), None));
    centre_and_mean => Check::new(Centre { with_mean: true }, [x()])
        .reference(|x| (x - x.mean(None), Some(x.mean(None))));
    nest => Check::new(Nest, [
        ((x(), x() + 1.0), vec![x() * 0.5, x() - 2.0]),
        ((row(), row() * 2.0), vec![]),
    ])
        .reference(|((a, b), list)| nest(a, b, list));
}
