//! Functions of matrices, with their known gradients. Giles 2008 is "An
//! extended collection of matrix derivative results for forward and reverse
//! mode algorithmic differentiation".

use super::*;
use anyhow::{Result, ensure};
use tch::{Kind, kind::DOUBLE_CPU};
use tch_function::check::{Check, Domain, Random};
use tch_function::{Ctx, Function};

/// `Y = A B`: `dA = dY B'`, `dB = A' dY` (Giles 2008, multiplication).
struct Product;

impl Function for Product {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok(a.f_mm(b)?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grads2 {
        let [a, b] = ctx.saved_tensors()?;
        let da = ctx.needs_input_grad(0).then(|| dy.mm(&b.mt()));
        Ok((da, ctx.needs_input_grad(1).then(|| a.mt().mm(dy))))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (a, b): (&Tensor, &Tensor),
        (da, db): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        Ok(da.mm(b) + a.mm(db))
    }
}

/// `Y = A^-1`: `dA = -Y' dY Y'` (Giles 2008, inverse).
struct Inverse;

impl Function for Inverse {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let y = Tensor::f_linalg_inv(a)?;
        ctx.save_for_backward([&y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [y] = ctx.saved_tensors()?;
        Ok(Some(-y.mt().matmul(dy).matmul(&y.mt())))
    }
}

/// `y = det A`: `dA = dy y A^-T` (Jacobi; Giles 2008, determinant).
struct Determinant;

impl Function for Determinant {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let y = Tensor::f_linalg_det(a)?;
        ctx.save_for_backward([a, &y])?;
        Ok(y)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [a, y] = ctx.saved_tensors()?;
        Ok(Some(dy * y * Tensor::f_linalg_inv(&a.mt())?))
    }
}

/// `(sign, log |det A|)`: `dA = dy A^-T`. The sign is marked: it is constant.
struct LogDeterminant;

impl Function for LogDeterminant {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<(Tensor, Tensor)> {
        let (sign, y) = Tensor::f_linalg_slogdet(a)?;
        ctx.mark_non_differentiable(&sign);
        ctx.save_for_backward([a])?;
        Ok((sign, y))
    }
    fn backward(&self, ctx: &Ctx, (_, dy): (&Tensor, &Tensor)) -> Grad {
        let [a] = ctx.saved_tensors()?;
        Ok(Some(dy * Tensor::f_linalg_inv(&a.mt())?))
    }
}

/// `X = A^-1 B`: `dB = A^-T dX`, `dA = -dB X'` (Giles 2008, matrix inverse
/// product).
struct Solve;

impl Function for Solve {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        let x = Tensor::f_linalg_solve(a, b, true)?;
        ctx.save_for_backward([a, &x])?;
        Ok(x)
    }
    fn backward(&self, ctx: &Ctx, dx: &Tensor) -> Grads2 {
        let [a, x] = ctx.saved_tensors()?;
        let db = Tensor::f_linalg_solve(&a.mt(), dx, true)?;
        Ok((Some(-db.f_mm(&x.mt())?), Some(db)))
    }
    fn jvp(
        &self,
        _: &Ctx,
        (a, b): (&Tensor, &Tensor),
        (da, db): (&Tensor, &Tensor),
    ) -> Result<Tensor> {
        let x = Tensor::f_linalg_solve(a, b, true)?;
        Ok(Tensor::f_linalg_solve(a, &(db - da.f_mm(&x)?), true)?)
    }
}

/// As `Solve` with the lower triangle of `A`, which alone has a gradient.
struct SolveTriangular;

impl Function for SolveTriangular {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        let x = a.f_tril(0)?.f_linalg_solve_triangular(b, false, true, false)?;
        ctx.save_for_backward([a, &x])?;
        Ok(x)
    }
    fn backward(&self, ctx: &Ctx, dx: &Tensor) -> Grads2 {
        let [a, x] = ctx.saved_tensors()?;
        let db = a.tril(0).mt().f_linalg_solve_triangular(dx, true, true, false)?;
        Ok((Some(-db.f_mm(&x.mt())?.tril(0)), Some(db)))
    }
}

/// `Y = e^A`: `dA` is the upper right block of `e^[[A', dY], [0, A']]` (Mathias
/// 1996, "A chain rule for matrix functions").
struct MatrixExp;

impl Function for MatrixExp {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let half = matches!(a.kind(), Kind::Half | Kind::BFloat16);
        ensure!(!half, "libtorch's e^A overflows in half precision");
        ctx.save_for_backward([a])?;
        Ok(a.f_linalg_matrix_exp()?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Grad {
        let [a] = ctx.saved_tensors()?;
        Ok(Some(frechet(&a.mt(), dy)))
    }
    fn jvp(&self, _: &Ctx, a: &Tensor, da: &Tensor) -> Result<Tensor> {
        Ok(frechet(a, da))
    }
}

/// The derivative of `e^A` in direction `E`.
fn frechet(a: &Tensor, e: &Tensor) -> Tensor {
    let n = a.size()[0];
    let upper = Tensor::cat(&[a, e], 1);
    let lower = Tensor::cat(&[&a.zeros_like(), a], 1);
    let y = Tensor::cat(&[upper, lower], 0).linalg_matrix_exp();
    y.narrow(0, 0, n).narrow(1, n, n)
}

/// 3 x 3, well conditioned, and not symmetric.
pub fn regular() -> Tensor {
    vector(&[2.0, 0.5, -0.3, 0.1, 1.5, 0.4, -0.6, 0.2, 3.0]).reshape([3, 3])
}

/// Matrices with a diagonal that dominates; others as they come.
pub fn dominant(random: &mut Random, _: usize, shape: &[i64]) -> Tensor {
    let t = random.tensor(shape, -0.3, 0.3);
    if shape.len() != 2 || shape[0] != shape[1] {
        return t * 3.0;
    }
    let steps = Tensor::arange(shape[0], DOUBLE_CPU);
    t + (steps + 1.5).diag(0)
}

tch_function::check_tests! {
    product => Check::new(Product, [(x(), column_pair()), (column_pair(), x())])
        .reference(|(a, b)| a.mm(b));
    inverse => Check::new(Inverse, [regular()])
        .reference(Tensor::linalg_inv)
        .domain(Domain::Draw(dominant));
    determinant => Check::new(Determinant, [regular()])
        .reference(Tensor::linalg_det)
        .domain(Domain::Draw(dominant));
    log_determinant => Check::new(LogDeterminant, [regular(), -regular()])
        .reference(Tensor::linalg_slogdet)
        .domain(Domain::Draw(dominant));
    solve => Check::new(Solve, [(regular(), column_pair())])
        .reference(|(a, b)| Tensor::linalg_solve(a, b, true))
        .domain(Domain::Draw(dominant));
    solve_triangular => Check::new(SolveTriangular, [(regular(), column_pair())])
        .reference(|(a, b)| a.tril(0).linalg_solve_triangular(b, false, true, false))
        .domain(Domain::Draw(dominant));
    matrix_exp => Check::new(MatrixExp, [regular() * 0.3])
        .reference(|a| a.linalg_matrix_exp())
        .domain(Domain::Draw(dominant));
}
