//! Functions that move numbers: views, indices, sorting, windows.

use super::*;
use anyhow::Result;
use tch_function::check::{Check, Domain};
use tch_function::{Ctx, Function};

/// Returns a view: the transpose of the last two dimensions.
struct Transpose;

impl Function for Transpose {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_transpose(-2, -1)?)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.transpose(-2, -1)))
    }
}

/// Returns a view with an offset: all but the first column.
struct Slice;

impl Function for Slice {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        anyhow::ensure!(x.dim() > 0 && x.size()[x.dim() - 1] > 0, "there is no first column");
        Ok(x.narrow(-1, 1, x.size()[x.dim() - 1] - 1))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.constant_pad_nd([1, 0])))
    }
}

/// Returns its input.
struct Identity;

impl Function for Identity {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.shallow_clone())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.shallow_clone()))
    }
}

/// One row of all numbers; keeps the shape, which is no tensor.
struct Flatten;

impl Function for Flatten {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save(x.size())?;
        Ok(x.reshape(-1))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        Ok(Some(dy.reshape(ctx.state::<Vec<i64>>()?)))
    }
}

/// Sorted rows, and where each number was: an integer output, which it saves.
struct Sort;

impl Function for Sort {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, index) = x.sort(-1, true);
        ctx.save_for_backward([&index])?;
        Ok((y, index))
    }
    fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Grad {
        let [index] = ctx.saved_tensors()?;
        Ok(Some(dy.zeros_like().scatter_add(-1, index, dy)))
    }
}

/// The two greatest numbers of each row, and where they are; keeps the indices
/// as a tensor outside the outputs, declared constant.
struct TopTwo;

impl Function for TopTwo {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, index) = x.f_topk(2, -1, true, true)?;
        let kept = index.copy();
        ctx.save_for_backward([&kept])?;
        ctx.mark_constant(&kept);
        Ok((y, index))
    }
    fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Grad {
        let [index] = ctx.saved_tensors()?;
        let zeros = Tensor::zeros(ctx.input_size(0)?, (dy.kind(), dy.device()));
        Ok(Some(zeros.scatter_add(-1, index, dy)))
    }
}

/// Where the greatest number of each row is: nothing to differentiate.
struct ArgMax;

impl Function for ArgMax {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_argmax(-1, false)?)
    }
    fn backward(&self, _: &Ctx, _: &Tensor) -> Grad {
        anyhow::bail!("the output is an integer")
    }
}

/// Rows of a table, by their numbers; a row that is taken twice gets two
/// gradients.
struct Embedding;

impl Function for Embedding {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (table, rows): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([rows])?;
        Ok(table.f_index_select(0, rows)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads2 {
        let [rows] = ctx.saved_tensors()?;
        let zeros = Tensor::zeros(ctx.input_size(0)?, (dy.kind(), dy.device()));
        Ok((Some(zeros.index_add(0, rows, dy)), None))
    }
}

/// `y[index[i]] = x[index[i]] + s[i]`, in the last dimension.
struct ScatterAdd;

impl Function for ScatterAdd {
    type Inputs = (Tensor, Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, index, s): (&Tensor, &Tensor, &Tensor)) -> Result<Tensor> {
        anyhow::ensure!(index.size() == s.size(), "the index has another shape than the source");
        ctx.save_for_backward([index])?;
        Ok(x.f_scatter_add(-1, index, s)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads3 {
        let [index] = ctx.saved_tensors()?;
        Ok((Some(dy.shallow_clone()), None, Some(dy.gather(-1, index, false))))
    }
}

/// Convolution of `[batch, in, length]` with `[out, in, width]`, padded by
/// zeros, and an optional bias. The gradient of `x` is the transposed
/// convolution of `dy`; that of `w` the convolution of `x` with `dy`, batch and
/// channels exchanged (Dumoulin and Visin 2016, "A guide to convolution
/// arithmetic for deep learning").
struct Conv1d {
    padding: i64,
}

impl Conv1d {
    fn conv(&self, x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
        Ok(x.f_conv1d(w, b, 1, self.padding, 1, 1)?)
    }
}

impl Function for Conv1d {
    type Inputs = (Tensor, Tensor, Option<Tensor>);
    type Outputs = Tensor;
    fn forward(
        &self,
        ctx: &mut Ctx,
        (x, w, b): (&Tensor, &Tensor, Option<&Tensor>),
    ) -> Result<Tensor> {
        anyhow::ensure!(x.dim() == 3, "the input is not of shape [batch, channels, length]");
        ctx.save_for_backward([x, w])?;
        ctx.save(b.is_some())?;
        self.conv(x, w, b)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads3 {
        let [x, w] = ctx.saved_tensors()?;
        let swapped = |t: &Tensor| t.transpose(0, 1);
        let dx = dy.conv_transpose1d(w, None::<&Tensor>, 1, self.padding, 0, 1, 1);
        let dw = swapped(&self.conv(&swapped(x), &swapped(dy), None)?);
        let db = ctx.state::<bool>()?.then(|| dy.sum_dim_intlist(&[0i64, 2][..], false, None));
        Ok((Some(dx), Some(dw), db))
    }
}

/// Twice as many numbers, by linear interpolation between neighbours:
/// `3/4` of the near and `1/4` of the far, the ends repeated.
struct Upsample;

impl Function for Upsample {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        anyhow::ensure!(x.dim() > 0 && x.size()[x.dim() - 1] > 0, "there is nothing to repeat");
        let (left, right) = (neighbours(x, true), neighbours(x, false));
        let pairs = Tensor::stack(&[left + x * 3.0, right + x * 3.0], -1) / 4.0;
        Ok(pairs.flatten(-2, -1))
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Grad {
        let n = dy.size()[dy.dim() - 1] / 2;
        let pairs = dy.unflatten(-1, [n, 2]);
        let (left, right) = (pairs.select(-1, 0), pairs.select(-1, 1));
        // What the ends repeat comes back to them.
        let first = left.narrow(-1, 0, 1).constant_pad_nd([0, n - 1]);
        let last = right.narrow(-1, n - 1, 1).constant_pad_nd([n - 1, 0]);
        let from_left = left.narrow(-1, 1, n - 1).constant_pad_nd([0, 1]);
        let from_right = right.narrow(-1, 0, n - 1).constant_pad_nd([1, 0]);
        let near = (left + right) * 3.0;
        Ok(Some((near + first + last + from_left + from_right) / 4.0))
    }
}

/// Of each number the one on its left or right; of those at the ends themselves.
fn neighbours(x: &Tensor, left: bool) -> Tensor {
    let n = x.size()[x.dim() - 1];
    let parts = match left {
        true => [x.narrow(-1, 0, 1), x.narrow(-1, 0, n - 1)],
        false => [x.narrow(-1, 1, n - 1), x.narrow(-1, n - 1, 1)],
    };
    Tensor::cat(&parts, -1)
}

fn upsample(x: &Tensor) -> Tensor {
    let size = x.size();
    let y = x.reshape([1, -1, size[size.len() - 1]]).upsample_linear1d(
        [2 * size[size.len() - 1]],
        false,
        None,
    );
    y.reshape([&size[..size.len() - 1], &[-1]].concat())
}

fn signal() -> Tensor {
    (Tensor::arange(20, tch::kind::DOUBLE_CPU) * 1.3).sin().reshape([2, 2, 5])
}

fn kernel() -> Tensor {
    (Tensor::arange(18, tch::kind::DOUBLE_CPU) * 0.7).cos().reshape([3, 2, 3])
}

tch_function::check_tests! {
    transpose => Check::new(Transpose, [x()]).reference(|x| x.transpose(-2, -1));
    slice => Check::new(Slice, [x()]).reference(|x| x.slice(-1, 1, None, 1));
    identity => Check::new(Identity, [x()]).reference(|x| x.shallow_clone());
    flatten => Check::new(Flatten, [x()]).reference(|x| x.flatten(0, -1));
    sort => Check::new(Sort, [x()]).reference(|x| x.sort(-1, true)).domain(Domain::Draw(apart));
    top_two => Check::new(TopTwo, [x()])
        .reference(|x| x.topk(2, -1, true, true))
        .domain(Domain::Draw(apart));
    arg_max => Check::new(ArgMax, [x()]).reference(|x| x.argmax(-1, false));
    embedding => Check::new(Embedding, [(column_pair(), integers(&[2, 0, 2, 1]))])
        .reference(|(table, rows)| Tensor::embedding(table, rows, -1, false, false));
    scatter_add => Check::new(ScatterAdd, [
        (row(), integers(&[2, 0, 2, 1]), vector(&[0.5, 1.0, -2.0, 0.1])),
    ])
        .reference(|(x, index, s)| x.scatter_add(-1, index, s));
    conv1d => Check::new(Conv1d { padding: 1 }, [
        (signal(), kernel(), None),
        (signal(), kernel(), Some(row())),
    ])
        .reference(|(x, w, b)| x.conv1d(w, b, 1, 1, 1, 1));
    upsample => Check::new(Upsample, [x()]).reference(upsample);
}
