//! Closures of kernels that misbehave, and tensors whose numbers overflow.

use anyhow::Result;
use std::sync::Mutex;
use tch::{Device, Kind, Tensor};
use tch_function::kernel::{self, simd};
use tch_function::{Error, Var};
use test_support::assert_error;

const SIZES: [i64; 3] = [10, 1000, 100_000];

fn ones(n: i64) -> Tensor {
    Tensor::ones([n], (Kind::Float, Device::Cpu))
}

/// Number of kernels that `run` knows.
const KERNELS: usize = 6;

struct Meddling<'a>(&'a (dyn Fn() + Sync));
impl simd::Lanes<1, 1> for Meddling<'_> {
    fn call<V: simd::Float>(&self, [x]: [V; 1]) -> [V; 1] {
        (self.0)();
        [x]
    }
}

/// Runs one of the kernels on a tensor of which `meddle` has another handle.
fn run(i: usize, x: &Tensor, meddle: &(dyn Fn() + Sync)) -> tch_function::Result<Tensor> {
    let seen = |x: f32| {
        meddle();
        x
    };
    let mut y = Tensor::zeros(x.size(), (Kind::Float, Device::Cpu));
    match i {
        0 => kernel::map(x, seen),
        1 => kernel::map_into(&mut y, x, seen).map(|()| y),
        2 => kernel::update(&mut y, x, |_: f32, x: f32| seen(x)).map(|()| y),
        3 => kernel::fold(x, 0.0, |sum: f64, _, x: f32| sum + f64::from(seen(x)), |a, b| a + b)
            .map(|sum| Tensor::from(sum / y.numel() as f64)),
        4 => kernel::rows::<f32, f32>(x, &[y.numel() as i64], |x, y| {
            meddle();
            y.copy_from_slice(x);
        }),
        _ => simd::map(&Meddling(meddle), [x]).map(|[y]| y),
    }
}

/// Resizes, frees, replaces or shrinks through another handle, once.
#[test]
fn a_closure_that_resizes_its_tensor_reads_on() {
    let meddlers: [fn(&mut Tensor); 5] = [
        |t| drop(t.f_resize_([10_000_000])),
        |t| drop(t.f_resize_([1])),
        |t| drop(t.f_set_()),
        |t| t.set_data(&ones(1)),
        |t| drop(t.f_resize_as_(&ones(5_000_000))),
    ];
    for n in SIZES {
        for meddler in meddlers {
            for i in 0..KERNELS {
                let x = ones(n);
                let other = Mutex::new(Some(x.shallow_clone()));
                let meddle = || {
                    let other = other.lock().unwrap().take();
                    other.into_iter().for_each(|mut t| meddler(&mut t));
                };
                let found = run(i, &x, &meddle).expect("what was there").mean(Kind::Float);
                assert_eq!(f64::try_from(found).unwrap(), 1.0, "kernel {i}");
            }
        }
    }
}

#[test]
fn a_tensor_can_be_resized_after_its_kernel() -> Result<()> {
    let mut x = ones(10);
    for _ in 0..2 {
        let _ = kernel::map(&x, |x: f32| x)?;
        let _ = x.f_resize_([20_000])?;
        x = x.fill_(1.0);
    }
    Ok(())
}

/// Two threads work on one storage: it is free again after the second one.
#[test]
fn pins_of_several_threads() {
    let x = ones(1000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let x = x.shallow_clone();
            scope.spawn(move || {
                for _ in 0..500 {
                    // A failed resize_ leaves its tensor with the wrong size.
                    let other = Mutex::new(x.alias());
                    let meddle = |x: f32| {
                        assert!(other.lock().unwrap().f_resize_([1 << 20]).is_err());
                        x
                    };
                    let _ = kernel::map(&x.narrow(0, 0, 1), meddle).unwrap();
                }
            });
        }
    });
    assert!(x.shallow_clone().f_resize_([2000]).is_ok());
}

const HUGE: i64 = 1 << 62;

/// Sizes and strides whose products overflow, with elements and without.
#[test]
fn numbers_that_overflow_are_refused() -> Result<()> {
    let x = ones(16);
    let cases: [(&[i64], &[i64]); 6] = [
        (&[2, 2], &[64, HUGE - 64]),
        (&[2, 2, 2], &[HUGE, HUGE, HUGE]),
        (&[0, 3, 5], &[1, HUGE, HUGE]),
        (&[1, 4], &[HUGE, 1]),
        (&[0], &[HUGE]),
        (&[3, 1, 0], &[i64::MAX, i64::MAX, 1]),
    ];
    for (size, stride) in cases {
        let Ok(t) = x.f_internal_reshape_alias(size, stride) else { continue };
        let is_small = t.numel() <= 16;
        let two = kernel::map((&t, &x.narrow(0, 0, 1)), |(a, _): (f32, f32)| a);
        for found in (0..KERNELS).map(|i| run(i, &t, &|| ())).chain([two]) {
            match found {
                Ok(y) => assert!(is_small && (y.numel() == t.numel() || y.dim() == 0)),
                Err(Error::NoKernel { .. } | Error::Argument { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
        // The shipped ops take their formulas there.
        if t.numel() == 0 {
            assert_eq!(Var::leaf(&t).gelu()?.value().size(), t.size());
        }
    }
    Ok(())
}

#[test]
fn a_kernel_without_tensors_is_an_error() {
    let none: [&Tensor; 0] = [];
    let text = "has no input";
    assert_error!(kernel::map::<[f32; 0], f32>(none, |_| 1.0), Error::Argument { .. }, text);
    let sum = kernel::fold::<[f32; 0], f64>(none, 0.0, |sum, _, _| sum, |a, b| a + b);
    assert_error!(sum, Error::Argument { .. }, text);
    let none = kernel::map::<f32, [f32; 0]>(&ones(3), |_| []);
    assert_error!(none, Error::Argument { .. }, "has no output");
    let none = kernel::rows::<f32, [f32; 0]>(&ones(3), &[], |_, _| ());
    assert_error!(none, Error::Argument { .. }, "give one for each");
    let many = ones(1).expand([1 << 50], false);
    let sum = kernel::fold(&many, 0u8, |a, _, _: f32| a, |a, _| a);
    assert_error!(sum, Error::Argument { .. }, "too many to fold");
}

/// A copy on write inside the closure moves the tensor away from the memory that is read.
#[test]
fn a_closure_that_writes_to_shared_memory() -> Result<()> {
    let x = ones(1000);
    let clone = x.internal_lazy_clone();
    let other = Mutex::new(Some(clone.shallow_clone()));
    let rest = Mutex::new(Some(x));
    let y = kernel::map(&clone, |x: f32| {
        if let Some(mut t) = other.lock().unwrap().take() {
            let _ = t.fill_(2.0);
            rest.lock().unwrap().take();
        }
        x
    })?;
    assert_eq!(f64::try_from(y.mean(Kind::Float))?, 1.0);
    Ok(())
}
