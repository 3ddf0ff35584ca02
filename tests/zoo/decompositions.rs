//! Decompositions of matrices. Giles 2008 is "An extended collection of matrix
//! derivative results for forward and reverse mode algorithmic
//! differentiation".

use super::linear_algebra::{dominant, regular};
use super::*;
use anyhow::{Result, ensure};
use tch_function::check::{Check, Domain};
use tch_function::{Ctx, DoubleBackward, Function};

fn symmetric(a: &Tensor) -> Tensor {
    (a + a.mt()) / 2.0
}

/// `L L' = A` of the symmetric part of `A`: `dA = L^-T phi(L' dL) L^-1`, made
/// symmetric, where `phi` takes the lower triangle and half of the diagonal
/// (Murray 2016, "Differentiation of the Cholesky decomposition").
struct Cholesky;

impl Function for Cholesky {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let l = symmetric(a).f_linalg_cholesky(false)?;
        ctx.save_for_backward([&l])?;
        Ok(l)
    }
    fn backward(&self, ctx: &Ctx, dl: &Tensor) -> Grad {
        let [l] = ctx.saved_tensors()?;
        let p = l.mt().matmul(dl).tril(0);
        let phi = (&p + p.tril(-1)) / 2.0;
        // Of upper triangles from the left, then from the right.
        let left = l.mt().f_linalg_solve_triangular(&phi, true, true, false)?;
        Ok(Some(symmetric(&l.f_linalg_solve_triangular(&left, false, false, false)?)))
    }
}

/// Eigenvalues of the symmetric part of `A`: `dA = V diag(dw) V'`, of the
/// eigenvectors that it saves, an intermediate (Giles 2008, eigenvalues).
struct Eigenvalues;

impl Function for Eigenvalues {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let (w, v) = symmetric(a).f_linalg_eigh("L")?;
        ctx.save_for_backward([&v])?;
        Ok(w)
    }
    fn backward(&self, ctx: &Ctx, dw: &Tensor) -> Grad {
        let [v] = ctx.saved_tensors()?;
        Ok(Some((v * dw).matmul(&v.mt())))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// Singular values: `dA = U diag(ds) V'` (Giles 2008, singular value
/// decomposition).
struct SingularValues;

impl Function for SingularValues {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<Tensor> {
        let (u, s, v) = a.f_svd(true, true)?;
        ctx.save_for_backward([&u, &v])?;
        Ok(s)
    }
    fn backward(&self, ctx: &Ctx, ds: &Tensor) -> Grad {
        let [u, v] = ctx.saved_tensors()?;
        Ok(Some((u * ds).matmul(&v.mt())))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}

/// `Q R = A` with as many rows as columns or more; saves both outputs.
/// `dA = (dQ + Q sym) R^-T`, where `sym` is the lower triangle of
/// `R dR' - dQ' Q`, mirrored (Walter and Lehmann 2013; Seeger et al. 2017,
/// "Auto-differentiating linear algebra").
struct Qr;

impl Function for Qr {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, a: &Tensor) -> Result<(Tensor, Tensor)> {
        ensure!(a.dim() == 2 && a.size()[0] >= a.size()[1], "the matrix is not tall");
        let (q, r) = Tensor::f_linalg_qr(a, "reduced")?;
        ctx.save_for_backward([&q, &r])?;
        Ok((q, r))
    }
    fn backward(&self, ctx: &Ctx, (dq, dr): (&Tensor, &Tensor)) -> Grad {
        let [q, r] = ctx.saved_tensors()?;
        let m = r.matmul(&dr.mt()) - dq.mt().matmul(q);
        let mirrored = m.tril(0) + m.tril(-1).mt();
        let right = dq + q.matmul(&mirrored);
        Ok(Some(r.mt().f_linalg_solve_triangular(&right, false, false, false)?))
    }
}

fn definite() -> Tensor {
    regular().matmul(&regular().mt())
}

tch_function::check_tests! {
    cholesky => Check::new(Cholesky, [definite()])
        .reference(|a| symmetric(a).linalg_cholesky(false))
        .domain(Domain::Draw(dominant));
    eigenvalues => Check::new(Eigenvalues, [definite()])
        .reference(|a| symmetric(a).linalg_eigvalsh("L"))
        .domain(Domain::Draw(dominant));
    singular_values => Check::new(SingularValues, [regular(), x()])
        .reference(|a| a.svd(true, true).1)
        .domain(Domain::Draw(dominant));
    qr => Check::new(Qr, [regular(), column_pair()])
        .reference(|a| Tensor::linalg_qr(a, "reduced"))
        .domain(Domain::Draw(dominant));
}
