//! Kernels beside libtorch's operators: every dtype, layout and broadcast; what
//! they refuse; panics; threads.

use anyhow::Result;
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tch::{CModule, Device, Kind, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::{Ctx, Error, Function, Var, grad, kernel, ops};

/// Tensors of one shape that lie in memory in every way.
fn layouts(shape: &[i64]) -> Vec<Tensor> {
    let count: i64 = shape.iter().product();
    let x = ((Tensor::arange(count, DOUBLE_CPU) * 7.0).remainder(23.0) - 9.0).reshape(shape);
    let reversed: Vec<i64> = (0..shape.len() as i64).rev().collect();
    let mut all = vec![x.copy(), x.permute(&reversed).contiguous().permute(&reversed)];
    if let [.., last] = shape {
        let wide = Tensor::stack(&[&x, &x], -1);
        all.push(wide.select(-1, 1)); // stride 2
        let long = Tensor::cat(&[&x, &x], -1);
        all.push(long.narrow(-1, last / 2, *last)); // gaps between rows
        all.push(x.narrow(-1, 0, 1.min(*last)).expand(shape, false)); // stride 0
    }
    if shape.len() == 3 {
        all.push(x.permute([1, 0, 2]).contiguous().permute([1, 0, 2]));
    }
    all
}

const SHAPES: [&[i64]; 8] =
    [&[], &[1], &[0], &[3, 0, 2], &[17], &[5, 4], &[3, 5, 7], &[40, 30, 50]];

fn same(found: &Tensor, expected: &Tensor) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    assert!(found.equal(expected), "found\n{found}expected\n{expected}");
}

#[test]
fn map_on_every_layout() -> Result<()> {
    for shape in SHAPES {
        for x in layouts(shape) {
            same(&kernel::map(&x, |x: f64| x * x + 1.0)?, &(&x * &x + 1.0));
            for y in layouts(shape) {
                let product = kernel::map((&x, &y), |(x, y): (f64, f64)| x * y - x)?;
                same(&product, &(&x * &y - &x));
            }
        }
    }
    Ok(())
}

/// The dimensions of a new tensor lie in memory as those of its input.
#[test]
fn a_new_tensor_is_laid_out_like_its_input() -> Result<()> {
    let x = Tensor::rand([3, 4, 5], FLOAT_CPU).permute([2, 0, 1]);
    let y = kernel::map((&Tensor::from(1f32), &x), |(a, x): (f32, f32)| a + x)?;
    assert_eq!(y.stride(), x.stride());
    Ok(())
}

#[test]
fn broadcasting() -> Result<()> {
    let shapes: [&[i64]; 7] = [&[], &[1], &[4], &[3, 1], &[3, 4], &[2, 1, 4], &[2, 3, 1]];
    for a in shapes.iter().flat_map(|shape| layouts(shape)) {
        for b in shapes.iter().flat_map(|shape| layouts(shape)) {
            let c = Tensor::from(0.5);
            let found = kernel::map([&a, &b, &c], |[a, b, c]: [f64; 3]| a - b * c)?;
            same(&found, &(&a - &b * &c));
        }
    }
    Ok(())
}

#[test]
fn every_dtype() -> Result<()> {
    macro_rules! check {
        ($T:ty, $Kind:ident) => {
            for x in layouts(&[3, 5, 7]) {
                let x = x.abs().to_kind(Kind::$Kind);
                same(&kernel::map(&x, |x: $T| x + x)?, &(&x + &x));
            }
        };
    }
    check!(f32, Float);
    check!(f64, Double);
    check!(u8, Uint8);
    check!(i8, Int8);
    check!(i16, Int16);
    check!(i32, Int);
    check!(i64, Int64);
    check!(f32, Half);
    check!(f32, BFloat16);
    for x in layouts(&[3, 5, 7]) {
        let x = x.gt(0.0);
        same(&kernel::map(&x, |x: bool| !x)?, &x.logical_not());
        let mask = kernel::map((&x, &x), |(a, b): (bool, bool)| i64::from(a) + i64::from(b))?;
        same(&mask, &(x.to_kind(Kind::Int64) * 2));
    }
    Ok(())
}

/// f16 and bf16 are computed in f32 and rounded once; what they give with f32
/// is f32.
#[test]
fn narrow_floats() -> Result<()> {
    let x = Tensor::from_slice(&[1.0f32, 0.1, 3e4, -5.0]);
    let (half, brain) = (x.to_kind(Kind::Half), x.to_kind(Kind::BFloat16));
    for narrow in [&half, &brain] {
        let y = kernel::map(narrow, |x: f32| x * x * 0.3)?;
        let wide = narrow.to_kind(Kind::Float);
        let expected = (&wide * &wide * 0.3).to_kind(narrow.kind());
        same(&y, &expected);
    }
    let product = |(a, b): (f32, f32)| a * b;
    assert_eq!(kernel::map((&half, &brain), product)?.kind(), Kind::Float);
    assert_eq!(kernel::map((&half, &x), product)?.kind(), Kind::Float);
    assert_eq!(kernel::map((&half, &half), product)?.kind(), Kind::Half);
    Ok(())
}

/// A byte of a boolean tensor that is neither 0 nor 1 is `true`.
#[test]
fn strange_bytes_are_true() -> Result<()> {
    let x = Tensor::from_slice(&[0u8, 1, 2, 255]).view_dtype(Kind::Bool);
    let ones = kernel::map(&x, |x: bool| u8::from(x))?;
    assert_eq!(Vec::<u8>::try_from(ones)?, [0, 1, 1, 1]);
    Ok(())
}

/// Freed ones leave their memory to later ones; here there are more than a
/// thread keeps, some are freed by other threads, and some change their size.
#[test]
fn small_tensors_in_memory_used_again() -> Result<()> {
    let many = |n: i64| -> Result<Vec<Tensor>> {
        let made = (0..3000).map(|i| {
            let x = Tensor::full([1 + i % n], i, DOUBLE_CPU);
            kernel::map(&x, |x: f64| x + 1.0)
        });
        Ok(made.collect::<Result<_, _>>()?)
    };
    let check = |made: &[Tensor]| {
        for (y, i) in made.iter().zip(1..) {
            assert_eq!(
                (y.min(), y.max()),
                (Tensor::from(f64::from(i)), Tensor::from(f64::from(i)))
            );
            assert_eq!(y.data_ptr() as usize % 16, 0, "libtorch's complex numbers need that");
        }
    };
    for n in [1, 7, 100] {
        let (kept, mut sent) = (many(n)?, many(n)?);
        check(&sent);
        std::thread::spawn(move || drop(sent.split_off(1500))).join().expect("no panic");
        check(&many(n)?);
        check(&kept);
    }
    let mut y = kernel::map(&Tensor::arange(4, DOUBLE_CPU), |x: f64| x)?;
    let (z, _) = (y.view_([2, 2]), y.resize_([1000]));
    assert_eq!(Vec::<f64>::try_from(z.flatten(0, 1))?, [0.0, 1.0, 2.0, 3.0]);
    assert_eq!(Vec::<f64>::try_from(y.narrow(0, 0, 4))?, [0.0, 1.0, 2.0, 3.0]);
    Ok(())
}

/// The same for those that are large, on threads that free each other's.
#[test]
fn large_tensors_in_memory_used_again() {
    const MIB: i64 = (1 << 20) / 4; // f32 elements
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::channel::<Tensor>();
        scope.spawn(move || receive.into_iter().for_each(drop));
        for thread in 0..3 {
            let send = send.clone();
            scope.spawn(move || {
                for i in 0..20 {
                    let value = f64::from(thread * 100 + i);
                    let x = Tensor::full([(4 + i64::from(i % 5)) * MIB + 3], value, FLOAT_CPU);
                    let y = kernel::map(&x, |x: f32| x).expect("a plain tensor");
                    let z = kernel::map(&y, |y: f32| y + 1.0).expect("a plain tensor");
                    assert_eq!((y.min(), y.max()), (x.min(), x.max()));
                    assert_eq!((z.min(), z.max()), (x.min() + 1.0, x.max() + 1.0));
                    send.send(if i % 2 == 0 { y } else { z }).expect("it is received");
                }
            });
        }
    });
}

#[test]
fn several_outputs_of_several_types() -> Result<()> {
    for x in layouts(&[40, 30, 50]) {
        let (tanh, [slope, square], positive) =
            kernel::map(&x, |x: f64| (x.tanh(), [1.0 - x.tanh() * x.tanh(), x * x], x > 0.0))?;
        assert!(tanh.allclose(&x.tanh(), 1e-14, 1e-14, false));
        assert!(slope.allclose(&(1.0 - x.tanh() * x.tanh()), 1e-14, 1e-14, false));
        same(&square, &(&x * &x));
        same(&positive, &x.gt(0.0));
    }
    Ok(())
}

#[test]
fn into_given_tensors() -> Result<()> {
    for x in layouts(&[3, 5, 7]) {
        for mut y in layouts(&[3, 5, 7]).into_iter().filter(|y| !y.stride().contains(&0)) {
            let expected = &x * 3.0;
            kernel::map_into(&mut y, &x, |x: f64| x * 3.0)?;
            same(&y, &expected);
            kernel::update(&mut y, (&x, &Tensor::from(2i64)), |y: f64, (x, n): (f64, i64)| {
                y + x * n as f64
            })?;
            same(&y, &(&expected + &x * 2.0));
            let mut flags = Tensor::zeros([3, 5, 7], (Kind::Bool, Device::Cpu));
            kernel::map_into((&mut y, &mut flags), &x, |x: f64| (-x, x < 0.0))?;
            same(&y, &-&x);
            same(&flags, &x.lt(0.0));
        }
    }
    Ok(())
}

/// Half of a tensor from the other half, and a tensor from itself.
#[test]
fn memory_that_is_shared_in_the_right_way() -> Result<()> {
    let whole = Tensor::arange(2000, DOUBLE_CPU);
    let (mut low, high) = (whole.narrow(0, 0, 1000), whole.narrow(0, 1000, 1000));
    kernel::map_into(&mut low, &high, |x: f64| x + 0.5)?;
    same(&low, &(&high + 0.5));

    let expected = &whole * &whole;
    let alias = whole.shallow_clone();
    kernel::map_into(&mut whole.shallow_clone(), &alias, |x: f64| x * x)?;
    same(&whole, &expected);
    Ok(())
}

#[test]
fn a_change_counts() -> Result<()> {
    let x = Var::leaf(Tensor::from_slice(&[1.0, 2.0]));
    let y = ops::Exp.apply(&x)?;
    let sum = y.sum()?;
    let one = Tensor::from(1.0);
    kernel::update(&mut y.value().shallow_clone(), &one, |y: f64, x: f64| y + x)?;
    let error = grad(&sum, &x).expect_err("the saved output was changed");
    assert!(matches!(error, Error::SavedChanged { .. }), "{error}");
    Ok(())
}

fn refused(result: tch_function::Result<Tensor>, expected: &str) {
    let error = result.expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_refused() {
    let double = |x: &Tensor| kernel::map(x, |x: f64| x + x);
    let x = Tensor::from_slice(&[1.0, 2.0]);
    refused(double(&Tensor::new()), "input 0 is an undefined tensor");
    refused(double(&x.to_kind(Kind::Float)), "to_kind(Double), or write the kernel for Float");
    refused(double(&x.to_kind(Kind::ComplexDouble)), "has dtype ComplexDouble");
    refused(double(&x.to_sparse(None, None::<&[i64]>, None)), "call to_dense()");
    refused(double(&x.copy().set_requires_grad(true)), "forward of a Function");
    let without_data = Tensor::internal_efficientzerotensor([2], DOUBLE_CPU);
    assert!(kernel::runs_on(&x) && !kernel::runs_on(&without_data));
    refused(double(&without_data), "has no data");
    let complex = x.to_kind(Kind::ComplexDouble).conj();
    refused(double(&complex.imag()), "resolve_neg()");
    let quantised = x.to_kind(Kind::Float).quantize_per_tensor(0.1, 0, Kind::QInt8);
    refused(double(&quantised), "call dequantize()");
    let three = Tensor::from_slice(&[1.0, 2.0, 3.0]);
    let sum = kernel::map((&x, &three), |(a, b): (f64, f64)| a + b);
    refused(sum, "input 1 has shape [3], which does not broadcast to that of the others, [2]");
}

/// `y = 2x`, by a kernel alone.
struct Double;

impl Function for Double {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(kernel::map(x, |x: f64| x + x)?)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(kernel::map(dy, |dy: f64| dy + dy)?))
    }
}

#[test]
fn without_data_a_function_says_what_to_provide() -> Result<()> {
    let x = Tensor::internal_efficientzerotensor([2], DOUBLE_CPU);
    refused(Double.apply(&x), "Double: forward failed");
    refused(Double.apply(&x), "ask kernel::runs_on, and compute it with tch operators there");
    // Those of the crate do so.
    same(&ops::Log1pExp.apply(&x)?, &Tensor::from_slice(&[std::f64::consts::LN_2; 2]));
    same(&ops::Silu.apply(&x)?, &Tensor::from_slice(&[0.0, 0.0]));
    Ok(())
}

/// What a kernel makes would be a constant in the module.
#[test]
fn under_tracing() -> Result<()> {
    let x = || Tensor::from_slice(&[1.0, 2.0]);
    let mut log1p_exp = |x: &[Tensor]| vec![ops::Log1pExp.apply(&x[0]).expect("plain")];
    let module = CModule::create_by_tracing("Traced", "forward", &[x()], &mut log1p_exp)?;
    let other = Tensor::from_slice(&[3.0, -2.0]);
    assert!(module.forward_ts(&[&other])?.allclose(&other.softplus(), 1e-15, 0.0, false));

    let mut error = None;
    let mut double = |x: &[Tensor]| {
        error = Double.apply(&x[0]).err();
        vec![x[0].shallow_clone()]
    };
    CModule::create_by_tracing("Traced", "forward", &[x()], &mut double)?;
    refused(Err(error.expect("a kernel cannot be traced")), "input 0 is traced");
    same(&Double.apply(&x())?, &(x() * 2.0));
    Ok(())
}

#[test]
fn under_no_grad() -> Result<()> {
    let x = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
    let y = tch::no_grad(|| Double.apply(&x))?;
    assert!(!y.requires_grad());
    same(&y, &(x.detach() * 2.0));
    let y = tch::no_grad(|| kernel::map(&x, |x: f64| x + x))?;
    same(&y, &(x.detach() * 2.0));
    Ok(())
}

#[test]
fn outputs_that_are_refused() {
    let x = Tensor::arange(12, DOUBLE_CPU);
    let into = |y: &mut Tensor, x: &Tensor| {
        kernel::map_into(y, x, |x: f64| x + 1.0).map(|()| Tensor::new())
    };
    let overlap = "elements of output 0 share memory";
    refused(into(&mut Tensor::from(0.0).expand([12], false), &x), overlap);
    refused(into(&mut x.copy().as_strided([3, 4], [2, 1], None), &x.reshape([3, 4])), overlap);
    // Steps of 4 that meet after a step of 8.
    refused(
        into(&mut Tensor::zeros([17], DOUBLE_CPU).as_strided([2, 3], [8, 4], None), &x.get(0)),
        overlap,
    );
    let shifted = "input 0 shares memory with an output";
    refused(into(&mut x.narrow(0, 1, 10), &x.narrow(0, 0, 10)), shifted);
    refused(into(&mut x.reshape([3, 4]), &x.reshape([4, 3]).transpose(0, 1)), shifted);
    refused(into(&mut Tensor::zeros([5], DOUBLE_CPU), &x), "input 0 has shape [12]");
    let both =
        kernel::map_into((&mut x.narrow(0, 0, 6), &mut x.narrow(0, 5, 6)), &x.get(0), |x: f64| {
            (x, x + 1.0)
        });
    refused(both.map(|()| Tensor::new()), "output 1 shares memory");
    same(&x, &Tensor::arange(12, DOUBLE_CPU)); // nothing was changed
}

/// A dimension of one element has no next place, whatever its stride.
#[test]
fn strides_that_lead_nowhere() -> Result<()> {
    let mut y = Tensor::zeros([6], DOUBLE_CPU).as_strided([1, 3, 1], [0, 2, 1], None);
    kernel::map_into(&mut y, &Tensor::arange(3, DOUBLE_CPU).unsqueeze(1), |x: f64| x)?;
    assert_eq!(Vec::<f64>::try_from(y.flatten(0, 2))?, [0.0, 1.0, 2.0]);
    Ok(())
}

#[test]
fn a_panic_comes_back_as_an_error() -> Result<()> {
    for n in [4, 1_000_000] {
        let x = Tensor::arange(n, DOUBLE_CPU);
        let last = (n - 1) as f64;
        let panics = |x: f64| if x == last { panic!("at {x}") } else { x };
        let error = kernel::map(&x, panics).expect_err("a panic");
        assert_eq!(error.to_string(), format!("kernel::map: the closure panicked: at {last}"));
        same(&kernel::map(&x, |x: f64| x)?, &x);
        let folded = kernel::fold(&x, 0.0, |sum, _, x: f64| sum + panics(x), |a, b| a + b);
        assert!(matches!(folded, Err(Error::Panic { .. })));
    }
    Ok(())
}

/// For threads that are told to run, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

fn threads_of_a_fold(x: &Mutex<Tensor>) -> Result<usize> {
    let seen = Mutex::new(HashSet::<ThreadId>::new());
    let x = x.lock().expect("no panic");
    let step = |_: (), _: usize, x: f64| {
        if x % 1000.0 == 0.0 {
            seen.lock().expect("no panic").insert(std::thread::current().id());
            std::thread::sleep(Duration::from_micros(10));
        }
    };
    kernel::fold(&*x, (), step, |(), ()| ())?;
    Ok(seen.into_inner()?.len())
}

#[test]
fn threads_are_those_that_were_asked_for() -> Result<()> {
    let x = Tensor::arange(2_000_000, DOUBLE_CPU);
    let caller = std::thread::current().id();
    for threads in [1, 2, 3] {
        tch::set_num_threads(threads);
        let seen = Mutex::new(HashSet::<ThreadId>::new());
        let start = Instant::now();
        let come = || {
            let mut seen = seen.lock().expect("no panic");
            seen.insert(std::thread::current().id());
            seen.len()
        };
        let _y = kernel::map(&x, |x: f64| {
            // Nobody goes on alone, and takes the others' share.
            while x % 1000.0 == 0.0 && come() < threads as usize && start.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
            x
        })?;
        let seen = seen.into_inner()?;
        assert!(seen.contains(&caller) && seen.len() <= threads as usize, "{seen:?}");
        assert!(threads == 1 || seen.len() > 1, "one thread did it all");
        // A thread that libtorch has not seen before.
        let x = Mutex::new(x.shallow_clone());
        let seen = std::thread::scope(|scope| scope.spawn(|| threads_of_a_fold(&x)).join());
        let seen = seen.expect("no panic")?;
        assert!(seen <= threads as usize, "{seen} threads instead of {threads}");
    }
    Ok(())
}

#[test]
fn folds() -> Result<()> {
    for shape in SHAPES {
        for x in layouts(shape) {
            let sum = kernel::fold(&x, 0.0, |sum, _, x: f64| sum + x, |a, b| a + b)?;
            assert_eq!(sum, f64::try_from(x.sum(Kind::Double))?);
            let greatest = |a: (f64, usize), b: (f64, usize)| if b.0 > a.0 { b } else { a };
            let step = |max, i, x| greatest(max, (x, i));
            let (max, at) = kernel::fold(&x, (f64::NEG_INFINITY, 0), step, greatest)?;
            if x.numel() > 0 {
                assert_eq!(max, f64::try_from(x.max())?);
                assert_eq!(f64::try_from(x.flatten(0, -1).get(at as i64))?, max);
            }
        }
    }
    Ok(())
}

#[test]
fn rows_of_every_layout() -> Result<()> {
    let shapes: [&[i64]; 6] = [&[5], &[3, 4], &[3, 5, 7], &[0, 4], &[2, 0], &[400, 300]];
    for x in shapes.iter().flat_map(|shape| layouts(shape)) {
        let n = x.size()[x.dim() - 1];
        let (sorted, sum) = kernel::rows::<f64, (f64, f64)>(&x, &[n, 1], |x, (y, sum)| {
            y.copy_from_slice(x);
            y.sort_by(f64::total_cmp);
            sum[0] = x.iter().sum();
        })?;
        same(&sorted, &x.sort(-1, false).0);
        same(&sum, &x.sum_dim_intlist(-1, true, Kind::Double));
    }
    Ok(())
}

#[test]
fn rows_of_several_inputs() -> Result<()> {
    let x = Tensor::rand([4, 3, 6], FLOAT_CPU);
    let (weight, target) = (Tensor::rand([6], FLOAT_CPU), Tensor::from_slice(&[5i64, 0, 2]));
    let found = kernel::rows::<(f32, f32, i64), f32>(
        (&x, &weight, &target.unsqueeze(1)),
        &[1],
        |(x, w, t), y| y[0] = x[t[0] as usize] * w[t[0] as usize],
    )?;
    let index = target.reshape([1, 3, 1]).expand([4, 3, 1], false);
    same(&found, &(&x * &weight).gather(-1, &index, false));
    refused(kernel::rows::<f32, f32>(&Tensor::from(1f32), &[1], |_, _| {}), "unsqueeze it");
    refused(kernel::rows::<f32, f32>(&x, &[], |_, _| {}), "rows of lengths [] for 1 outputs");
    Ok(())
}
