//! Outputs that are inputs, views, duplicates, dirty; lists and options.

use super::models::leaf;
use super::second_order::create_graph;
use anyhow::Result;
use std::sync::Mutex;
use tch::{Kind, Tensor};
use tch_function::{Ctx, Error, Function, GradOptions, backward, grad};
use test_support::{ForwardFn, Op, assert_error, number, numbers};

// Outputs that are inputs, views, duplicates, dirty.

#[test]
fn inputs_views_and_duplicates_as_outputs() -> Result<()> {
    let op = Op::<Tensor, (Tensor, Tensor, Tensor, Tensor)> {
        forward: |_, x| {
            let double = x * 2.0;
            Ok((x.shallow_clone(), x.view([1, 2]), double.shallow_clone(), double))
        },
        backward: |_, (a, b, c, d)| Ok(Some(a + b.view([2]) + (c + d) * 2.0)),
    };
    let x = leaf(&[1.0, 2.0]);
    let (a, b, c, d) = op.apply(&x)?;
    let y = (a * 10.0 + b.view([2]) * 100.0 + c * 1000.0 + d * 10000.0).sum(Kind::Double);
    assert_eq!(numbers(&grad(&y, &x)?), [22110.0, 22110.0]);
    Ok(())
}

#[test]
fn a_dirty_input_is_rebased_as_in_pytorch() -> Result<()> {
    let op = || Op::<Tensor, Tensor> {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            Ok(x.shallow_clone().g_mul_scalar_(2.0))
        },
        backward: |_, dy| Ok(Some(dy * 2.0)),
    };
    let x = leaf(&[3.0]);
    let h = &x * 5.0;
    let y = op().apply(&h)?;
    assert_eq!(number(&y), 30.0);
    let keep = GradOptions::new().retain_graph(true);
    assert_eq!(number(&keep.grad(&y, &x)?.unwrap()), 10.0);
    assert_eq!(number(&keep.grad(&(&h * 1.0), &x)?.unwrap()), 10.0, "the old handle is rebased");
    assert_error!(op().apply(&x), Error::DirtyLeaf { op: "Op", input: 0 }, "nothing was changed");
    assert_error!(op().apply(&x.view([1, 1])), Error::DirtyLeaf { input: 0, .. }, "the memory");
    assert_eq!(number(&x), 3.0);
    let undeclared = Op::<Tensor, Tensor> {
        forward: |_, x| Ok(x.shallow_clone().g_mul_scalar_(2.0)),
        backward: |_, _| Ok(None),
    };
    assert_error!(undeclared.apply(&(&x * 1.0)), Error::InputChanged { .. }, "mark_dirty");
    Ok(())
}

fn same(forward: ForwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    Op { forward, backward: |_, dy| Ok(Some(dy * 3.0)) }
}

fn returns_its_input() -> Op<Tensor, Tensor> {
    same(|_, x| Ok(x.shallow_clone()))
}

/// Changes `y` in place, as libtorch's autograd sees it.
fn change(y: &Tensor) -> Result<Tensor, tch::TchError> {
    y.shallow_clone().f_exp_()
}

#[test]
fn an_input_returned_as_it_is_becomes_a_view_of_itself() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let h = &x * 1.0;
    let y = returns_its_input().apply(&h)?;
    let z = returns_its_input().apply(&y)?;
    assert!(!y.is_leaf() && y.data_ptr() == h.data_ptr());
    assert_eq!(numbers(&grad(&(&z * &h).sum(Kind::Double), &x)?), [1.0 + 9.0, 2.0 + 18.0]);
    Ok(())
}

#[test]
fn an_output_that_is_a_view_of_an_input_cannot_change_in_place() -> Result<()> {
    let h = leaf(&[1.0, 2.0]) * 1.0;
    let ops = [returns_its_input(), same(|_, x| Ok(x.alias())), same(|_, x| Ok(x.view([2])))];
    for (i, op) in ops.into_iter().enumerate() {
        let error = change(&op.apply(&h)?).expect_err(&format!("op {i}")).to_string();
        // Of Op or OpBackward, which differs between versions of libtorch.
        let refused =
            error.contains("of Op") && error.contains("is a view and is being modified inplace");
        assert!(refused, "{error}");
    }
    assert_eq!(numbers(&h), [1.0, 2.0]);
    Ok(())
}

#[test]
fn a_returned_input_shares_its_version() -> Result<()> {
    let h = leaf(&[3.0]) * 1.0;
    let y = returns_its_input().apply(&h)?;
    let z = square().apply(&y)?;
    let _ = tch::no_grad(|| change(&h))?;
    assert_error!(backward(&z), Error::SavedChanged { op: "Op", position: 1, .. }, "saved tensor");
    Ok(())
}

#[test]
fn second_derivatives_go_through_a_returned_input() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = returns_its_input().apply(&x)?;
    let first = create_graph().grad(&(&y * &y * &x), &x)?.unwrap();
    // d/dx = 6 x y + y^2 = 28, and again 3 (6 x + 2 y) + 6 y = 60
    assert_eq!(number(&first), 28.0);
    assert_eq!(number(&grad(&first, &x)?), 60.0);
    Ok(())
}

#[test]
fn marked_views_and_inputs_require_no_gradient() -> Result<()> {
    let op = Op::<Tensor, (Tensor, Tensor, Tensor)> {
        forward: |ctx, x| {
            let (whole, view) = (x.shallow_clone(), x.view([1, 2]));
            ctx.mark_non_differentiable(&whole);
            ctx.mark_non_differentiable(&view);
            Ok((x * 1.0, whole, view))
        },
        backward: |_, (dy, _, _)| Ok(Some(dy.copy())),
    };
    let x = leaf(&[1.0, 2.0]);
    let (a, b, c) = op.apply(&x)?;
    assert_eq!([a.requires_grad(), b.requires_grad(), c.requires_grad()], [true, false, false]);
    assert!(x.requires_grad() && x.is_leaf());
    Ok(())
}

#[test]
fn a_node_that_gets_no_gradient_passes_none_on() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = same(|_, x| Ok(x * 1.0)).apply(&x)?;
    let z = Op::<Tensor, Tensor> { forward: |_, x| Ok(x * 1.0), backward: |_, _| Ok(None) };
    let dx = GradOptions::new().allow_unused(true).grad(&z.apply(&y)?, &x)?;
    assert!(dx.is_none());
    Ok(())
}

/// Larger alignment than malloc's, for what a node keeps of it.
#[repr(align(64))]
struct Aligned([u64; 8]);
impl Function for Aligned {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 1.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        assert_eq!((&raw const *self).addr() % 64, 0);
        Ok(Some(dy * self.0[7] as f64))
    }
}

#[test]
fn a_function_keeps_its_alignment() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = (0..4).try_fold(x.shallow_clone(), |y, _| Aligned([2; 8]).apply(&y))?;
    assert_eq!(number(&grad(&y, &x)?), 16.0);
    Ok(())
}

#[test]
fn an_input_returned_under_no_grad_requires_no_gradient() -> Result<()> {
    let x = leaf(&[3.0]);
    let op = Op::<Tensor, Tensor> {
        forward: |_, x| Ok(x.shallow_clone()),
        backward: |_, dy| Ok(Some(dy.copy())),
    };
    assert!(!tch::no_grad(|| op.apply(&x))?.requires_grad());
    assert!(x.requires_grad());
    Ok(())
}

#[test]
fn lists_and_options() -> Result<()> {
    let op = || Op::<(Vec<Tensor>, Option<Tensor>), Vec<Tensor>> {
        forward: |ctx, (x, scale)| {
            ctx.save(scale.is_some())?;
            ctx.save_for_backward(x.iter().chain(scale))?;
            Ok(x.iter().map(|x| scale.map_or_else(|| x * 3.0, |s| x * s)).collect())
        },
        backward: |ctx, dy| {
            let saved = ctx.saved_tensors_vec()?;
            let scale = ctx.state::<bool>()?.then(|| saved[saved.len() - 1]);
            let dx = dy.iter().map(|dy| Some(scale.map_or_else(|| dy * 3.0, |s| dy * s))).collect();
            let dots = dy.iter().zip(&saved).map(|(dy, x)| dy * *x);
            Ok((dx, scale.map(|_| dots.sum())))
        },
    };
    let x = [leaf(&[1.0]), leaf(&[2.0])];
    let s = leaf(&[5.0]);
    let y = op().apply((&x, Some(&s)))?;
    let total: Tensor = &y[0] + &y[1] * 10.0;
    let [a, b, ds] = grad(&total, [&x[0], &x[1], &s])?;
    assert_eq!([number(&a), number(&b), number(&ds)], [5.0, 50.0, 21.0]);
    let y = op().apply((&x, None))?;
    assert_eq!(number(&grad(&y[1], &x[1])?), 3.0);
    Ok(())
}

#[test]
fn needs_input_grad_is_what_the_pass_needs() -> Result<()> {
    static SEEN: Mutex<Vec<[bool; 2]>> = Mutex::new(Vec::new());
    let op = Op::<(Tensor, Tensor), Tensor> {
        forward: |_, (a, b)| Ok(a + b),
        backward: |ctx, dy| {
            SEEN.lock().unwrap().push([ctx.needs_input_grad(0), ctx.needs_input_grad(1)]);
            Ok((Some(dy.copy()), Some(dy.copy())))
        },
    };
    let (a, b) = (leaf(&[1.0]), leaf(&[2.0]));
    let y = op.apply((&a, &b))?;
    GradOptions::new().retain_graph(true).grad(&y, &b)?;
    backward(&y)?;
    assert_eq!(*SEEN.lock().unwrap(), [[false, true], [true, true]]);
    Ok(())
}

fn square() -> Op<Tensor, Tensor> {
    Op {
        forward: |ctx, x| {
            ctx.save_for_backward([&x.zeros_like(), x])?;
            Ok(x * x)
        },
        backward: |ctx, dy| {
            let [_, x] = ctx.saved_tensors()?;
            Ok(Some(dy * x * 2.0))
        },
    }
}
