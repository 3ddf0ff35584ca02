//! Functions inside libtorch's autograd, on ordinary tensors.

mod support;

use anyhow::Result;
use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use support::{BackwardFn, ForwardFn, Op, assert_error, number, numbers, vector};
use tch::nn::{self, Module, OptimizerConfig};
use tch::{Device, Kind, Tensor};
use tch_function::{Ctx, DoubleBackward, Error, Function, GradOptions, backward, grad, ops};

fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

#[test]
fn an_ordinary_tensor_comes_back() -> Result<()> {
    let x = leaf(&[4.5]);
    let y = ops::Log1pExp.apply(&x)?;
    assert!(y.requires_grad() && !y.is_leaf());
    y.sum(Kind::Double).backward();
    assert!((number(&x.grad()) - 1.0 / (1.0 + (-4.5f64).exp())).abs() < 1e-15);
    Ok(())
}

#[test]
fn it_chains_with_libtorchs_own_ops() -> Result<()> {
    let x = leaf(&[0.5, -1.0, 3.0]);
    let y = (ops::Log1pExp.apply(&(x.sin() * 2.0))? * &x).exp();
    let z = ((x.sin() * 2.0).softplus() * &x).exp();
    assert_close(&y, &z);
    let dy = grad(&y.sum(Kind::Double), &x)?;
    let dz = grad(&z.sum(Kind::Double), &x)?;
    assert_close(&dy, &dz);
    Ok(())
}

fn assert_close(a: &Tensor, b: &Tensor) {
    for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
        approx::assert_relative_eq!(a, b, max_relative = 1e-14);
    }
}

#[test]
fn a_custom_activation_trains_with_adam_in_a_sequential() -> Result<()> {
    tch::manual_seed(3);
    let vs = nn::VarStore::new(Device::Cpu);
    let net = nn::seq()
        .add(nn::linear(vs.root() / "a", 2, 16, Default::default()))
        .add_fn(|x| ops::Log1pExp.apply(x).expect("finite inputs"))
        .add(nn::linear(vs.root() / "b", 16, 1, Default::default()));
    let mut adam = nn::Adam::default().build(&vs, 0.02)?;
    let x = Tensor::rand([64, 2], (Kind::Float, Device::Cpu));
    let target = x.prod_dim_int(1, true, Kind::Float);
    let loss =
        || Ok::<_, Error>(ops::SquaredError.apply((&net.forward(&x), &target))?.sum(Kind::Float));
    let first = number(&loss()?);
    for _ in 0..200 {
        adam.backward_step(&loss()?);
    }
    assert!(number(&loss()?) < 0.02 * first);
    Ok(())
}

// grad and backward with what tch's own lack.

#[test]
fn seeds_chosen_inputs_and_unused_ones() -> Result<()> {
    let (x, w, other) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 4.0]), leaf(&[1.0]));
    let y = &x * &w;
    assert_error!(grad(&y, &x), Error::SeedMissing { .. }, "shape [2]");
    let seed = vector(&[1.0, 10.0]);
    let keep = GradOptions::new().seeds(&seed).retain_graph(true);
    let [dx, dw] = keep.grad(&y, [&x, &w])?.map(Option::unwrap);
    assert_eq!((numbers(&dx), numbers(&dw)), (vec![3.0, 40.0], vec![1.0, 20.0]));
    assert!(!x.grad().defined(), "grad() adds to no leaf");
    assert_error!(keep.grad(&y, &other), Error::Unused { input: 0 }, "allow_unused");
    let keep = keep.allow_unused(true);
    assert!(keep.grad(&y, &other)?.is_none());
    keep.backward(&y)?;
    keep.backward(&y)?;
    assert_eq!(numbers(&x.grad()), [6.0, 80.0]);
    assert_error!(grad(&y, &vector(&[1.0])), Error::InputNoGrad { input: 0 }, "input 0");
    assert_error!(backward(&vector(&[1.0])), Error::NoGraph { output: 0 }, "output 0");
    let single = Tensor::ones([2], (Kind::Float, Device::Cpu));
    assert_error!(
        GradOptions::new().seeds(&single).grad(&y, &x),
        Error::Seed { .. },
        "dtype Float",
        "dtype Double"
    );
    Ok(())
}

// The rules of meaning, in this engine too.

fn identity(backward: BackwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    Op { forward: |_, x| Ok(x * 1.0), backward }
}

#[test]
fn gradients_must_be_exact() {
    let x = leaf(&[1.0, 2.0, 3.0]);
    let dy = |op: Op<Tensor, Tensor>| grad(&op.apply(&x)?.sum(Kind::Double), &x);
    assert_error!(
        dy(identity(|_, dy| Ok(Some(dy.sum_to_size([1]))))),
        Error::GradientShape { op: "Op", input: 0, .. },
        "shape [1] for input 0 of shape [3]"
    );
    assert_error!(
        dy(identity(|_, dy| Ok(Some(dy.to_kind(Kind::Float))))),
        Error::GradientDtype { op: "Op", input: 0, .. },
        "dtype Float for input 0 of dtype Double"
    );
    assert_error!(dy(identity(|_, _| Ok(Some(Tensor::new())))), Error::Undefined { .. }, "None");
    assert_error!(dy(identity(|_, _| Ok(None))), Error::Unused { input: 0 }, "input 0");
}

#[test]
fn backward_twice_is_an_error_also_where_nothing_was_saved() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = identity(|_, dy| Ok(Some(dy.copy()))).apply(&x)?;
    backward(&y)?;
    assert_error!(backward(&y), Error::GraphFreed { op: "Op" }, "retain_graph(true)");
    assert_eq!(number(&x.grad()), 1.0);
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

#[test]
fn a_saved_tensor_changed_in_place_is_named() -> Result<()> {
    let x = leaf(&[3.0]);
    let h = &x * 1.0;
    let y = square().apply(&h)?;
    let _ = tch::no_grad(|| h.shallow_clone().fill_(100.0));
    assert_error!(
        backward(&y),
        Error::SavedChanged { op: "Op", position: 1, .. },
        "saved tensor 1"
    );
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

#[test]
fn missing_gradients_are_zeros_unless_switched_off() -> Result<()> {
    let op = |forward| Op::<Tensor, (Tensor, Tensor)> {
        forward,
        backward: |_, (da, db)| Ok(Some(if db.defined() { da + db } else { da * 100.0 })),
    };
    let x = leaf(&[1.0]);
    let (a, _) = op(|_, x| Ok((x * 1.0, x * 2.0))).apply(&x)?;
    assert_eq!(number(&grad(&a, &x)?), 1.0);
    let (a, _) = op(|ctx, x| {
        ctx.set_materialize_grads(false);
        Ok((x * 1.0, x * 2.0))
    })
    .apply(&x)?;
    assert_eq!(number(&grad(&a, &x)?), 100.0);
    Ok(())
}

#[test]
fn marked_and_integer_outputs_have_no_gradient() -> Result<()> {
    let op = Op::<Tensor, (Tensor, Tensor, Tensor)> {
        forward: |ctx, x| {
            let marked = x * 2.0;
            ctx.mark_non_differentiable(&marked);
            Ok((x * 1.0, marked, x.to_kind(Kind::Int64)))
        },
        backward: |_, (dy, _, _)| Ok(Some(dy.copy())),
    };
    let x = leaf(&[1.0]);
    let (a, b, c) = op.apply(&x)?;
    assert_eq!([a.requires_grad(), b.requires_grad(), c.requires_grad()], [true, false, false]);
    assert_eq!(number(&grad(&(a * b), &x)?), 2.0);
    Ok(())
}

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

// Second derivatives.

/// y = x^3, saving what `save` says.
struct Cube {
    save: Save,
    double_backward: DoubleBackward,
}
#[derive(Clone, Copy, PartialEq)]
enum Save {
    Input,
    Intermediate,
    Constant,
}
impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let square = x * x;
        match self.save {
            Save::Input => ctx.save_for_backward([x])?,
            Save::Intermediate => ctx.save_for_backward([&square])?,
            Save::Constant => {
                ctx.save_for_backward([&square])?;
                ctx.mark_constant(&square);
            }
        }
        Ok(square * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [kept] = ctx.saved_tensors()?;
        let square = if self.save == Save::Input { kept * kept } else { kept.shallow_clone() };
        Ok(Some(dy * square * 3.0))
    }
    fn double_backward(&self) -> DoubleBackward {
        self.double_backward
    }
}

fn cube(save: Save, double_backward: DoubleBackward) -> Cube {
    Cube { save, double_backward }
}

fn create_graph<'a>() -> GradOptions<'a, Tensor> {
    GradOptions::new().create_graph(true)
}

#[test]
fn higher_derivatives_through_saved_inputs() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Input, DoubleBackward::ThroughSaved).apply(&x)?;
    let d1 = create_graph().grad(&y, &x)?.unwrap();
    let d2 = create_graph().grad(&d1, &x)?.unwrap();
    let d3 = create_graph().grad(&d2, &x)?.unwrap();
    assert_eq!([number(&d1), number(&d2), number(&d3)], [12.0, 12.0, 6.0]);
    Ok(())
}

#[test]
fn a_saved_intermediate_is_an_error_on_the_wrong_path_and_only_there() -> Result<()> {
    let x = leaf(&[2.0]);
    let op = || cube(Save::Intermediate, DoubleBackward::ThroughSaved);
    let y = op().apply(&x)?;
    let seed = leaf(&[1.0]);
    let first = create_graph().seeds(&seed).grad(&y, &x)?.unwrap();
    assert_eq!(number(&first), 12.0);
    // With respect to the seed the path is right: d(dy * 3 x^2)/d(dy).
    let keep = GradOptions::new().retain_graph(true);
    assert_eq!(number(&keep.grad(&first, &seed)?.unwrap()), 12.0);
    assert_error!(
        grad(&first, &x),
        Error::SavedIntermediate { op: "Cube", position: 0 },
        "Cube",
        "saved tensor 0",
        "Recompute",
        "mark_constant"
    );
    Ok(())
}

#[test]
fn recomputation_gives_every_order() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Intermediate, DoubleBackward::Recompute).apply(&x)?;
    let d1 = create_graph().grad(&y, &x)?.unwrap();
    let d2 = create_graph().grad(&d1, &x)?.unwrap();
    let d3 = create_graph().grad(&d2, &x)?.unwrap();
    assert_eq!([number(&d1), number(&d2), number(&d3)], [12.0, 12.0, 6.0]);
    let y = cube(Save::Intermediate, DoubleBackward::Recompute).apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 12.0);
    Ok(())
}

#[test]
fn a_declared_constant_has_no_second_path() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Constant, DoubleBackward::ThroughSaved).apply(&x)?;
    let first = create_graph().grad(&y, &x)?.unwrap();
    assert!(
        !first.requires_grad() || GradOptions::new().allow_unused(true).grad(&first, &x)?.is_none()
    );
    Ok(())
}

#[test]
fn once_differentiable_says_so() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = cube(Save::Input, DoubleBackward::Once).apply(&x)?;
    let first = create_graph().grad(&y, &x)?.unwrap();
    assert_eq!(number(&first), 12.0);
    assert_error!(
        grad(&first, &x),
        Error::OnceDifferentiable { op: "Cube" },
        "no second derivative"
    );
    Ok(())
}

#[test]
fn the_shipped_ops_have_right_second_derivatives() -> Result<()> {
    let x = leaf(&[0.3, 1.7]);
    let second = |y: Tensor| -> Result<Vec<f64>> {
        let d = create_graph().grad(&y.sum(Kind::Double), &x)?.unwrap();
        Ok(numbers(&grad(&d.sum(Kind::Double), &x)?))
    };
    let pairs = [
        (ops::Log1pExp.apply(&x)?, x.softplus()),
        (ops::Exp.apply(&x)?, x.exp()),
        (ops::Log.apply(&x)?, x.log()),
        (ops::Sqrt.apply(&x)?, x.sqrt()),
        (ops::Tanh.apply(&x)?, x.tanh()),
        (ops::Sigmoid.apply(&x)?, x.sigmoid()),
        (ops::Mul.apply((&x, &x))?, &x * &x),
        (ops::Div.apply((&x.sin(), &x))?, x.sin() / &x),
    ];
    for (i, (own, torch)) in pairs.into_iter().enumerate() {
        for (a, b) in second(own)?.into_iter().zip(second(torch)?) {
            assert!((a - b).abs() < 1e-13 * (1.0 + b.abs()), "pair {i}: {a} and {b}");
        }
    }
    Ok(())
}

// Threads.

#[test]
fn eight_threads_and_backward_on_another_thread() -> Result<()> {
    let threads: Vec<_> = (0..8)
        .map(|i| {
            std::thread::spawn(move || -> Result<()> {
                for _ in 0..50 {
                    let x = leaf(&[i as f64]);
                    let y = ops::Log1pExp.apply(&x)?;
                    let (x, y) = (x, y);
                    let slope = std::thread::spawn(move || grad(&y, &x)).join().unwrap()?;
                    let expected = 1.0 / (1.0 + (-f64::from(i)).exp());
                    approx::assert_relative_eq!(number(&slope), expected, max_relative = 1e-15);
                }
                Ok(())
            })
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap())
}

/// Freed nodes leave their memory to the thread that frees them; here there are
/// more than it keeps, and some are freed after it has given that up.
#[test]
fn graphs_are_freed_on_another_thread_and_at_its_very_end() -> Result<()> {
    struct Counted(#[expect(dead_code, reason = "it is counted")] Arc<()>);
    impl Function for Counted {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            Ok(x.shallow_clone())
        }
        fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
            Ok(Some(dy * 2.0))
        }
    }
    thread_local! { static HELD: RefCell<Vec<Tensor>> = RefCell::default() }
    let nodes = Arc::new(());
    let x = leaf(&[1.0]);
    let chain = |n| (0..n).try_fold(x.shallow_clone(), |y, _| Counted(nodes.clone()).apply(&y));
    for _ in 0..3 {
        let graphs = [chain(3000)?, chain(3000)?];
        std::thread::spawn(move || {
            HELD.with_borrow_mut(|held| *held = graphs.into());
            HELD.with_borrow_mut(Vec::pop);
        })
        .join()
        .unwrap();
        assert_eq!(Arc::strong_count(&nodes), 1, "every node is freed");
        let y = chain(10)?;
        drop(chain(3000)?);
        assert_eq!(number(&grad(&y, &x)?), 1024.0);
    }
    Ok(())
}

/// Its backward runs a backward pass of its own, `depth` deep.
struct Reentrant {
    depth: usize,
}
impl Function for Reentrant {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * 1.0)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        if self.depth == 0 {
            return Ok(Some(dy.copy()));
        }
        let [x] = ctx.saved_tensors()?;
        tch::with_grad(|| {
            let x = x.detach().set_requires_grad(true);
            let y = Reentrant { depth: self.depth - 1 }.apply(&x)?;
            Ok(Some(dy * grad(&y.sum(Kind::Double), &x)?))
        })
    }
}

#[test]
fn reentrant_backward_8000_deep() -> Result<()> {
    let x = leaf(&[2.0]);
    let y = Reentrant { depth: 8000 }.apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    Ok(())
}
