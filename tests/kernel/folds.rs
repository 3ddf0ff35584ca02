//! Threads, folds and rows.

use super::map::{SHAPES, layouts, same};
use super::refused::refused;
use anyhow::Result;
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use tch::{Kind, Tensor, kind::DOUBLE_CPU, kind::FLOAT_CPU};
use tch_function::kernel;

/// For threads that are told to run, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held by a test that changes the number of threads.
pub static THREADS: Mutex<()> = Mutex::new(());

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
    let _alone = THREADS.lock();
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
