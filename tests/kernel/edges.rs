//! Kernels at their edges: numbers as libtorch rounds and orders them, memory
//! that is shared, sizes beyond all memory, and calls from within kernels and
//! from libtorch's threads.
#![allow(unsafe_code)] // tensors of memory that is not aligned

use anyhow::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::{Ctx, Error, Function, kernel, ops};

fn same(found: &Tensor, expected: &Tensor) {
    assert_eq!((found.size(), found.kind()), (expected.size(), expected.kind()));
    assert!(found.allclose(expected, 0.0, 0.0, true), "found\n{found}expected\n{expected}");
}

fn refused(result: tch_function::Result<Tensor>, expected: &str) {
    let error = result.expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

/// Every f16 and every bf16, and f32s on and beside the middle between two.
#[test]
fn narrow_floats_round_as_libtorchs() -> Result<()> {
    let bits: Vec<i16> = (i16::MIN..=i16::MAX).collect();
    for kind in [Kind::Half, Kind::BFloat16] {
        let all = Tensor::from_slice(&bits).view_dtype(kind);
        let wide = all.to_kind(Kind::Float);
        same(&kernel::map(&all, |x: f32| x)?, &all);
        same(&kernel::map((&all, &wide), |(x, _): (f32, f32)| x)?, &wide);
        let below = Tensor::from_slice(&bits[..bits.len() - 1]).view_dtype(kind);
        let above = Tensor::from_slice(&bits[1..]).view_dtype(kind);
        let middle = (below.to_kind(Kind::Float) + above.to_kind(Kind::Float)) / 2.0;
        for nudge in [-1, 0, 1] {
            let x = (middle.view_dtype(Kind::Int) + nudge).view_dtype(Kind::Float);
            let mut found = Tensor::empty_like(&below);
            kernel::map_into(&mut found, &x, |x: f32| x)?;
            same(&found, &x.to_kind(kind));
        }
    }
    Ok(())
}

/// The greatest element and its place: the first of equals, and of NaNs.
#[test]
fn the_place_of_the_greatest_is_libtorchs() -> Result<()> {
    let nothing = (f64::NEG_INFINITY, usize::MAX);
    let greater = |a: (f64, usize), b: (f64, usize)| {
        let first = a.1 <= b.1;
        let keep = a.0 > b.0 || (a.0.is_nan() && (first || !b.0.is_nan())) || (a.0 == b.0 && first);
        if keep { a } else { b }
    };
    let argmax = |x: &Tensor| kernel::fold(x, nothing, |m, i, x| greater(m, (x, i)), greater);
    let (nan, inf) = (f64::NAN, f64::INFINITY);
    for n in [7, 1000, 32_768, 32_769, 200_000] {
        let base = Tensor::arange(n, DOUBLE_CPU).remainder(5.0);
        for (value, places) in [(0.0, vec![0]), (nan, vec![n / 2, n - 1]), (inf, vec![n - 1, 1])] {
            let x = base.copy();
            for at in places {
                let _ = x.get(at).fill_(value);
            }
            for x in [&x, &Tensor::stack(&[&x, &x], 1).select(1, 0)] {
                let (found, at) = argmax(x)?;
                assert_eq!(at as i64, i64::try_from(x.argmax(None, false))?, "{n} {value}");
                same(&Tensor::from(found), &x.max());
            }
        }
    }
    Ok(())
}

#[test]
fn inputs_of_four_dtypes_broadcast() -> Result<()> {
    let a = Tensor::rand([2, 1, 4], FLOAT_CPU).to_kind(Kind::Half);
    let b = Tensor::arange(3, (Kind::Int64, Device::Cpu)).unsqueeze(1);
    let c = Tensor::from_slice(&[true, false, true, true]);
    let d = Tensor::from(7u8);
    let found = kernel::map((&a, &b, &c, &d), |(a, b, c, d): (f32, i64, bool, u8)| {
        (a * if c { b as f32 } else { f32::from(d) }, b - i64::from(d), c && a > 0.5)
    })?;
    let wide = a.to_kind(Kind::Float);
    let factor = b.to_kind(Kind::Float).where_self(&c, &d.to_kind(Kind::Float));
    same(&found.0, &(wide * factor).to_kind(Kind::Half));
    same(&found.1, &(&b - &d).expand([2, 3, 4], false));
    same(&found.2, &a.gt(0.5).logical_and(&c).expand([2, 3, 4], false));
    Ok(())
}

#[test]
fn in_place_in_every_dtype() -> Result<()> {
    macro_rules! check {
        ($T:ty, $Kind:ident, $f:expr) => {
            let start = Tensor::arange(2000, FLOAT_CPU).remainder(60.0);
            for x in [start.to_kind(Kind::$Kind), start.reshape([40, 50]).to_kind(Kind::$Kind).tr()]
            {
                let expected = kernel::map(&x, $f)?;
                kernel::map_into(&mut x.shallow_clone(), &x, $f)?;
                same(&x, &expected);
                kernel::update(
                    &mut x.shallow_clone(),
                    &x,
                    |a: $T, b: $T| if a == b { $f(a) } else { b },
                )?;
                same(&x, &kernel::map(&expected, $f)?);
            }
        };
    }
    check!(f32, Float, |x: f32| x + 1.0);
    check!(f64, Double, |x: f64| x + 1.0);
    check!(f32, Half, |x: f32| x + 1.0);
    check!(f32, BFloat16, |x: f32| x + 1.0);
    check!(u8, Uint8, |x: u8| x + 1);
    check!(i8, Int8, |x: i8| x + 1);
    check!(i16, Int16, |x: i16| x + 1);
    check!(i32, Int, |x: i32| x + 1);
    check!(i64, Int64, |x: i64| x + 1);
    check!(bool, Bool, |x: bool| !x);
    Ok(())
}

/// Rows and columns beside each other, elements that take turns, and nothing.
#[test]
fn parts_of_one_tensor() -> Result<()> {
    let whole = Tensor::zeros([50, 4], DOUBLE_CPU);
    let x = Tensor::arange(100, DOUBLE_CPU).reshape([50, 2]);
    let halves = (&mut whole.narrow(1, 0, 2), &mut whole.narrow(1, 2, 2));
    kernel::map_into(halves, &x, |x: f64| (x, -x))?;
    same(&whole, &Tensor::cat(&[&x, &-&x], 1));
    kernel::map_into(&mut whole.select(1, 1), &whole.select(1, 2), |x: f64| x * 2.0)?;
    same(&whole.select(1, 1), &(x.select(1, 0) * -2.0));
    for (next, n) in [(25, 25), (1, 1)] {
        kernel::map_into(&mut whole.narrow(0, next, n), &whole.narrow(0, 0, n), |x: f64| x)?;
        same(&whole.narrow(0, next, n), &whole.narrow(0, 0, n));
    }
    let before = whole.copy();
    let nothing = whole.narrow(0, 5, 0);
    kernel::map_into(&mut whole.narrow(0, 5, 0), &whole.narrow(0, 5, 1), |x: f64| x)?;
    kernel::map_into(
        (&mut nothing.select(1, 0), &mut nothing.select(1, 1)),
        &nothing.select(1, 2),
        |x: f64| (x, x),
    )?;
    same(&whole, &before);
    Ok(())
}

/// Copied on write, the output's memory moves, and with it that of an input
/// which is another part of the same tensor.
#[test]
fn memory_that_is_copied_on_write() -> Result<()> {
    let x = kernel::map(&Tensor::arange(20, DOUBLE_CPU), |x: f64| x)?;
    let lazy = x.internal_lazy_clone();
    let (input, mut output) = (lazy.narrow(0, 0, 10), lazy.narrow(0, 1, 10));
    let shifted = kernel::map_into(&mut output, &input, |x: f64| x);
    refused(shifted.map(|()| Tensor::new()), "input 0 overlaps an output");
    for n in [20, 1000, 100_000, 3_000_000] {
        let (before, after) = (Tensor::arange(n, DOUBLE_CPU), Tensor::arange(n, DOUBLE_CPU) + 1);
        let x = kernel::map(&before, |x: f64| x)?;
        let mut lazy = x.internal_lazy_clone();
        kernel::update(&mut lazy, &x, |y: f64, _: f64| y + 1.0)?;
        same(&x, &before);
        same(&lazy, &after);
        let mut last = lazy.internal_lazy_clone();
        drop(lazy);
        kernel::update(&mut last, &x, |y: f64, x: f64| y + x)?;
        same(&last, &(&before + &after));
    }
    Ok(())
}

/// As that of a packed NumPy array may be.
#[test]
fn memory_that_is_not_aligned() -> Result<()> {
    let numbers = [1f64, 2.0, 3.0];
    // SAFETY: three f32s lie in the 24 bytes, from the second one on; libtorch
    // reads them byte by byte, and the tensor does not outlive them.
    let x = unsafe {
        let start = numbers.as_ptr().cast::<u8>().add(1);
        Tensor::from_blob(start, &[3], &[1], Kind::Float, Device::Cpu)
    };
    assert!(!kernel::runs_on(&x));
    refused(kernel::map(&x, |x: f32| x), "call copy() on it first");
    same(&kernel::map(&x.copy(), |x: f32| x)?, &x.copy());
    same(&ops::Silu.apply(&x)?, &x.copy().silu());
    Ok(())
}

/// Whose numbers of elements or bytes do not fit 64 bits, or the memory.
#[test]
fn sizes_beyond_all_memory() {
    let one = Tensor::from(1f32).reshape([1, 1]);
    let sized = |rows: i64, columns: i64| one.expand([rows, columns], false);
    let outer = |rows: u32, columns: u32| {
        let (a, b) = (sized(1 << rows, 1), sized(1, 1 << columns));
        kernel::map((&a, &b), |(a, b): (f32, f32)| a + b)
    };
    refused(outer(40, 40), "has more elements than memory can");
    refused(outer(30, 31), "has more elements than memory can");
    refused(outer(30, 20), "no memory for a new tensor of 4503599627370496 bytes");
    refused(ops::Log1pExp.apply(&sized(1, 1 << 50)), "no memory for a new tensor of");
    let rows = |length| kernel::rows::<f32, f32>(&sized(4, 2), &[length], |_, _| {});
    refused(rows(i64::MAX), "has more elements than memory can");
    refused(rows(1 << 60), "has more elements than memory can");
    refused(rows(1 << 45), "no memory for a new tensor of");
    let (wide, tall) = (sized(1, 1 << 40), sized(1 << 24, 1));
    let both = kernel::rows::<(f32, f32), f32>((&wide, &tall), &[0], |_, _| {});
    refused(both, "has more elements than memory can");
}

/// Places that 32 bits cannot hold, read from one element expanded.
#[test]
fn more_elements_than_32_bits_count() -> Result<()> {
    let n = (1 << 32) + 7;
    let x = Tensor::from(1u8).expand([n], false);
    let step = |(sum, _), place, x: u8| (sum + u64::from(x), place);
    let (sum, last) = kernel::fold(&x, (0, 0), step, |a, b| (a.0 + b.0, a.1.max(b.1)))?;
    assert_eq!((sum, last), (n as u64, n as usize - 1));
    Ok(())
}

/// The same, written and read at places of their own.
#[test]
#[ignore = "needs 13 GB"]
fn more_bytes_than_32_bits_count() -> Result<()> {
    let (rows, columns) = (3, (1 << 31) + 5);
    let row = Tensor::arange(rows, (Kind::Uint8, Device::Cpu)).unsqueeze(1);
    let y = kernel::map(&row.expand([rows, columns], false), |x: u8| x + 1)?;
    let mut column = y.select(1, columns - 1);
    assert_eq!(Vec::<u8>::try_from(&column)?, [1, 2, 3]);
    kernel::update(&mut column, &row.squeeze(), |y: u8, x: u8| y * 10 + x)?;
    let sums = kernel::rows::<u8, i64>(&y, &[1], |y, sum| {
        sum[0] = y.iter().map(|&y| i64::from(y)).sum();
    })?;
    let expected = (1..=rows).map(|value| value * (columns + 9) + value - 1).collect::<Vec<_>>();
    assert_eq!(Vec::<i64>::try_from(sums.flatten(0, 1))?, expected);
    Ok(())
}

/// The closure panics on another thread than the caller's, which waits for it.
#[test]
fn a_panic_on_a_thread_of_libtorchs() -> Result<()> {
    let x = Tensor::zeros([1_000_000], DOUBLE_CPU);
    let (caller, panicked) = (std::thread::current().id(), AtomicBool::new(false));
    let start = Instant::now();
    let panics = |x: f64| {
        if std::thread::current().id() != caller {
            panicked.store(true, Ordering::Relaxed);
            panic!("far away");
        }
        while !panicked.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        x
    };
    if tch::get_num_threads() == 1 {
        return Ok(());
    }
    let error = kernel::map(&x, panics).expect_err("a panic");
    assert_eq!(error.to_string(), "kernel::map: the closure panicked: far away");
    panicked.store(false, Ordering::Relaxed);
    let error = kernel::fold(&x, 0.0, |sum, _, x| sum + panics(x), |a, b| a + b);
    assert!(matches!(error, Err(Error::Panic { .. })), "{error:?}");
    same(&kernel::map(&x, |x: f64| x + 1.0)?, &x.ones_like());
    Ok(())
}

#[test]
fn kernels_in_a_closure_of_a_kernel() -> Result<()> {
    let x = Tensor::arange(200_000, DOUBLE_CPU);
    let inner = Mutex::new(Tensor::ones([100_000], DOUBLE_CPU));
    let y = kernel::map(&x, |x: f64| {
        if x % 40_000.0 != 0.0 {
            return x;
        }
        let inner = inner.lock().expect("no panic");
        let twice = kernel::map(&*inner, |x: f64| x + x).expect("plain");
        x + kernel::fold(&twice, 0.0, |sum, _, x: f64| sum + x, |a, b| a + b).expect("plain")
    })?;
    same(&y, &(&x + x.remainder(40_000.0).eq(0.0).to_kind(Kind::Double) * 200_000.0));
    Ok(())
}

/// `y = 2x`; its backward runs another one's. Below some depth libtorch does
/// so on a thread of its own.
struct Deep {
    depth: usize,
    seen: Arc<Mutex<Vec<ThreadId>>>,
}

impl Function for Deep {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(kernel::map(x, |x: f64| x + x)?)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        self.seen.lock().expect("no panic").push(std::thread::current().id());
        let sum = kernel::fold(dy, 0.0, |sum, _, x: f64| sum + x, |a, b| a + b)?;
        assert_eq!(sum, dy.numel() as f64);
        if self.depth > 0 {
            let next = Deep { depth: self.depth - 1, seen: self.seen.clone() };
            let x = dy.detach().set_requires_grad(true);
            let y = tch::with_grad(|| next.apply(&x).map(|y| y.sum(Kind::Double)))?;
            let dx = Tensor::f_run_backward(&[y], &[&x], false, false)?;
            return Ok(Some(dx[0].shallow_clone()));
        }
        Ok(Some(kernel::map(dy, |dy: f64| dy + dy)?))
    }
}

#[test]
fn on_a_thread_of_libtorchs_engine() -> Result<()> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let x = Tensor::ones([100_000], DOUBLE_CPU).set_requires_grad(true);
    let y = Deep { depth: 130, seen: seen.clone() }.apply(&x)?;
    y.sum(Kind::Double).backward();
    same(&x.grad(), &(x.ones_like() * 2.0).detach());
    let caller = std::thread::current().id();
    assert!(seen.lock().expect("no panic").iter().any(|id| *id != caller), "one thread");
    Ok(())
}

/// From 4 MiB on a block that is kept is taken, whatever malloc adds to its size,
/// so that none pile up. (That they are kept is for `tests/scale.rs`.)
#[test]
fn large_memory_is_used_again() -> Result<()> {
    for mib in [4, 5, 6, 8, 10, 12, 16, 20, 32, 64] {
        let x = Tensor::ones([mib << 18], FLOAT_CPU);
        let (mut again, mut last) = (0, std::ptr::null_mut());
        for _ in 0..20 {
            let y = kernel::map(&x, |x: f32| x)?;
            again += u32::from(y.data_ptr() == last);
            last = y.data_ptr();
        }
        // Tests beside this one may take it now and then.
        assert!(again >= 5, "{again} of 20 at {mib} MiB");
    }
    Ok(())
}
