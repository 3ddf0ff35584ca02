//! What only Vars can do, or say.

use anyhow::{Result, bail};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tch::{Kind, Tensor};
use tch_function::{Ctx, Error, Function, GradOptions, Var, backward, grad};
use test_support::{BackwardFn, ForwardFn, Op, assert_error, number, numbers, vector};

/// y = x, one input and one output, with the backward under test.
fn identity(backward: BackwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    Op { forward: |_, x| Ok(x.shallow_clone()), backward }
}

pub(super) fn leaf(values: &[f64]) -> Var {
    Var::leaf(vector(values))
}

#[test]
fn a_gradient_changed_in_place_by_backward_is_an_error() {
    let (a, x) = (leaf(&[1.0]), leaf(&[1.0]));
    let op = identity(|_, dy| Ok(Some(dy.shallow_clone().g_mul_scalar_(2.0))));
    let y = &a + &op.apply(&x).unwrap();
    assert_error!(backward(&y), Error::SeedChanged { op: "Op", output: 0 }, "compute a new tensor");
    assert!(a.grad().is_none());
}

fn square() -> Op<Tensor, Tensor> {
    Op {
        forward: |ctx, x| {
            ctx.save_for_backward([&Tensor::zeros_like(x), x])?;
            Ok(x * x)
        },
        backward: |ctx, dy| {
            let [_, x] = ctx.saved_tensors()?;
            Ok(Some(dy * x * 2.0))
        },
    }
}

// Passes.

#[test]
fn a_second_pass_is_an_error_also_where_nothing_was_saved() {
    let x = leaf(&[1.0]);
    let y = identity(|_, dy| Ok(Some(dy.copy()))).apply(&x).unwrap();
    backward(&y).unwrap();
    assert_error!(backward(&y), Error::GraphFreed { op: "Op" }, "retain_graph(true)");
    assert_eq!(number(&x.grad().unwrap()), 1.0, "the failed pass added nothing");
}

#[test]
fn a_retained_graph_runs_again_and_adds_up() {
    let x = leaf(&[3.0]);
    let y = square().apply(&x).unwrap();
    let retain = GradOptions::new().retain_graph(true);
    retain.backward(&y).unwrap();
    retain.backward(&y).unwrap();
    backward(&y).unwrap();
    assert_eq!(number(&x.grad().unwrap()), 18.0);
    x.zero_grad();
    assert!(x.grad().is_none());
}

#[test]
fn needs_input_grad_is_what_the_pass_needs() {
    static SEEN: Mutex<Vec<(bool, bool)>> = Mutex::new(Vec::new());
    let op = || Op::<(Tensor, Tensor), Tensor> {
        forward: |ctx, (a, b)| {
            SEEN.lock().unwrap().push((ctx.needs_input_grad(0), ctx.needs_input_grad(1)));
            Ok(a + b)
        },
        backward: |ctx, dy| {
            SEEN.lock().unwrap().push((ctx.needs_input_grad(0), ctx.needs_input_grad(1)));
            Ok((Some(dy.copy()), Some(dy.copy())))
        },
    };
    let (a, b) = (leaf(&[1.0]), leaf(&[2.0]));
    grad(&op().apply((&a, &b)).unwrap(), &b).unwrap();
    backward(&op().apply((&a, &Var::constant(b.value()))).unwrap()).unwrap();
    tch::no_grad(|| op().apply((&a, &b)).map(drop)).unwrap();
    let seen = SEEN.lock().unwrap();
    assert_eq!(*seen, [(true, true), (false, true), (true, false), (true, false), (false, false)]);
}

fn two_outputs(forward: ForwardFn<Tensor, (Tensor, Tensor)>) -> Op<Tensor, (Tensor, Tensor)> {
    Op {
        forward,
        backward: |_, (da, db)| {
            assert!(da.defined());
            Ok(Some(if db.defined() { da + db } else { da * 100.0 }))
        },
    }
}

// Marks.

#[test]
fn a_marked_output_has_no_gradient() {
    let x = leaf(&[1.0]);
    let op = two_outputs(|ctx, x| {
        let (a, b) = (x * 1.0, x * 2.0);
        ctx.mark_non_differentiable(&b);
        Ok((a, b))
    });
    let (a, b) = op.apply(&x).unwrap();
    assert!(a.requires_grad() && !b.requires_grad());
    assert_error!(backward(&b), Error::NotDifferentiable { op: "Op" }, "Op has no gradient");
    assert_error!(
        backward(&(&b * 2.0)),
        Error::NotDifferentiable { op: "Op" },
        "Op has no gradient"
    );
    assert_eq!(number(grad(&(&a * &b), &x).unwrap().value()), 2.0);
}

/// y = 2 x, in place.
fn double_in_place() -> Op<Tensor, Tensor> {
    Op {
        forward: |ctx, x| {
            ctx.mark_dirty(x)?;
            Ok(x.shallow_clone().g_mul_scalar_(2.0))
        },
        backward: |_, dy| Ok(Some(dy * 2.0)),
    }
}

#[test]
fn an_op_may_change_its_input_in_place() {
    let x = leaf(&[3.0]);
    let y = &x * 5.0;
    let z = double_in_place().apply(&y).unwrap();
    assert_eq!(number(z.value()), 30.0);
    assert_eq!(number(grad(&z, &x).unwrap().value()), 10.0);
}

#[test]
fn the_old_handle_names_the_op_whose_output_to_use() {
    let x = leaf(&[3.0]);
    let y = &x * 5.0;
    let copy = y.clone();
    double_in_place().apply(&y).unwrap();
    for old in [&y, &copy] {
        assert_error!(
            old.exp(),
            Error::Superseded { op: "Exp", input: 0, by: "Op" },
            "changed in place by Op; use the output of Op"
        );
    }
}

#[test]
fn the_old_handle_of_a_constant_is_refused_too() {
    let c = Var::constant(vector(&[3.0]));
    let other = Var::constant(c.value());
    let op = Op::<(Tensor, Tensor), Tensor> {
        forward: |ctx, (c, w)| {
            ctx.mark_dirty(c)?;
            Ok(c.shallow_clone().g_mul_(w))
        },
        backward: |_, _| Ok((None, None)),
    };
    op.apply((&c, &leaf(&[2.0]))).unwrap();
    assert_error!(c.exp(), Error::Superseded { by: "Op", .. }, "by Op");
    assert_error!(other.exp(), Error::ValueChanged { op: "Exp", .. }, "changed in place");
}

#[test]
fn a_view_of_a_leaf_stays_untouched_too() {
    let parameter = vector(&[3.0]).set_requires_grad(true);
    for x in [leaf(&[3.0]), Var::leaf(&parameter)] {
        let same = identity(|_, dy| Ok(Some(dy.copy()))).apply(&x).unwrap();
        let unrecorded = tch::no_grad(|| x.reshape(&[1])).unwrap();
        for view in [x.reshape(&[1, 1]).unwrap(), same, x.detach(), unrecorded] {
            assert_error!(
                double_in_place().apply(&view.reshape(&[1]).unwrap()),
                Error::DirtyLeaf { op: "Op", input: 0 },
                "shares the memory"
            );
        }
        assert_eq!(number(x.value()), 3.0);
    }
}

#[test]
fn a_value_changed_behind_the_graph_is_refused_and_update_is_the_way() {
    let x = leaf(&[3.0]);
    let _ = x.value().shallow_clone().fill_(4.0);
    assert_error!(x.exp(), Error::ValueChanged { op: "Exp", input: 0 }, "Var::update");
    x.update(|t| {
        let _ = t.fill_(5.0);
    })
    .unwrap();
    assert_eq!(number(grad(&(&x * &x), &x).unwrap().value()), 10.0);
    assert_error!((&x * 2.0).update(|_| ()), Error::Argument { .. }, "only a leaf");
    // It would change nothing.
    assert_error!(x.update(|t| *t = &*t - 1.0), Error::Argument { .. }, "in place", "copy_");
    assert_error!(x.update(|_| panic!("stop")), Error::Panic { .. }, "stop");
}

// What a pass starts from and is asked for.

#[test]
fn seeds_must_fit_their_outputs() {
    let x = leaf(&[1.0, 2.0]);
    let y = &x * &x;
    assert_error!(grad(&y, &x), Error::SeedMissing { .. }, "Mul", "shape [2]", "seed");
    let wrong = Var::constant(Tensor::ones([2, 2], (Kind::Double, tch::Device::Cpu)));
    assert_error!(
        GradOptions::new().seeds(&wrong).grad(&y, &x),
        Error::Seed { output: 0, .. },
        "shape [2, 2]",
        "shape [2]"
    );
    let single = Var::constant(Tensor::ones([2], (Kind::Float, tch::Device::Cpu)));
    assert_error!(
        GradOptions::new().seeds(&single).grad(&y, &x),
        Error::Seed { .. },
        "dtype Float",
        "dtype Double"
    );
    let good = Var::constant(vector(&[1.0, 10.0]));
    assert_error!(
        GradOptions::new().seeds([&good, &good]).grad(&y, &x),
        Error::SeedCount { expected: 1, found: 2 },
        "2 seeds"
    );
    let dx = GradOptions::new().seeds(&good).grad(&y, &x).unwrap().unwrap();
    assert_eq!(numbers(dx.value()), [2.0, 40.0]);
    // Of a complex number, one of two directions would be a guess.
    let z = Var::leaf(vector(&[1.0]).to_kind(Kind::ComplexDouble));
    assert_error!(grad(&(&z * &z), &z), Error::SeedMissing { .. }, "single real number");
}

#[test]
fn what_has_no_graph_says_so() {
    let (x, c) = (leaf(&[1.0]), Var::constant(vector(&[1.0])));
    assert_error!(backward(&c), Error::NoGraph { output: 0 }, "output 0");
    let y = tch::no_grad(|| &x * &x);
    assert_error!(backward(&y), Error::NoGraph { output: 0 }, "no_grad");
    assert_error!(backward(&(&x * &x).detach()), Error::NoGraph { .. }, "detached");
    assert_error!(grad(&(&x * &x), &c), Error::InputNoGrad { input: 0 }, "Var::leaf");
    assert_error!(grad(&(&x * &x), [&x, &leaf(&[1.0])]), Error::Unused { input: 1 }, "input 1");
}

#[test]
fn asking_for_the_gradient_of_a_comparison_names_it() {
    let (x, y) = (leaf(&[1.0]), leaf(&[2.0]));
    let greater = x.gt(&y).unwrap();
    assert_error!(
        backward(&greater),
        Error::NotDifferentiable { op: "Greater" },
        "Greater has no gradient"
    );
}

#[test]
fn a_failed_pass_to_some_inputs_takes_no_gradient_from_the_next() {
    static FAILS: AtomicUsize = AtomicUsize::new(1);
    let op = Op::<(Tensor, Tensor), Tensor> {
        forward: |_, (a, b)| Ok(a + b),
        backward: |ctx, dy| {
            if FAILS.swap(0, SeqCst) > 0 {
                bail!("once")
            }
            let of = |i| ctx.needs_input_grad(i).then(|| dy.copy());
            Ok((of(0), of(1)))
        },
    };
    let (a, b) = (leaf(&[1.0]), leaf(&[2.0]));
    let y = op.apply((&a, &b)).unwrap();
    assert!(grad(&y, &a).is_err());
    backward(&y).unwrap();
    assert_eq!(number(&b.grad().unwrap()), 1.0);
}

#[test]
fn backward_is_not_recorded_by_libtorch() {
    struct Scale(Mutex<Tensor>);
    impl Function for Scale {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            Ok(x * &*self.0.lock().unwrap())
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * &*self.0.lock().unwrap()))
        }
    }
    let (x, k) = (leaf(&[1.0]), vector(&[3.0]).set_requires_grad(true));
    backward(&Scale(Mutex::new(k)).apply(&x).unwrap()).unwrap();
    assert!(!x.grad().unwrap().requires_grad());
}
