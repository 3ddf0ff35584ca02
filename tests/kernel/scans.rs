//! Scans along every dimension of every layout, in both directions.

use super::folds::THREADS;
use super::map::{SHAPES, layouts, same};
use super::refused::refused;
use anyhow::Result;
use tch::{Device, Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::Error;
use tch_function::kernel::{self, Along};

fn add(sum: f64, x: f64) -> (f64, f64) {
    (sum + x, sum + x)
}

/// libtorch's cumulative sum, from the last element on if `reverse`.
fn cumsum(x: &Tensor, Along { dim, reverse }: Along) -> Tensor {
    match reverse && x.dim() > 0 {
        true => x.flip([dim]).cumsum(dim, None).flip([dim]),
        false => x.cumsum(dim, None),
    }
}

fn both_ways(dim: i64) -> [Along; 2] {
    [Along::from(dim), Along::from(dim).reversed()]
}

/// Of whole numbers, so that sums are exact.
#[test]
fn sums_along_every_dimension_of_every_layout() -> Result<()> {
    let more: [&[i64]; 5] = [&[3, 0], &[0, 3], &[7, 1100], &[1100, 7], &[3, 70, 33]];
    for shape in SHAPES.into_iter().chain(more) {
        for x in layouts(shape) {
            let rank = (shape.len() as i64).max(1);
            for along in (-rank..rank).flat_map(both_ways) {
                let found = kernel::scan(&x, along, 0.0, add)?;
                same(&found, &cumsum(&x, along));
                assert!(found.is_contiguous());
            }
        }
    }
    Ok(())
}

#[test]
fn every_dtype_and_several_outputs() -> Result<()> {
    let x = Tensor::arange(2000, DOUBLE_CPU).remainder(3.0).reshape([40, 50]);
    for (along, kind) in both_ways(0)
        .into_iter()
        .chain(both_ways(1))
        .flat_map(|along| [Kind::Float, Kind::Half, Kind::BFloat16].map(|kind| (along, kind)))
    {
        let narrow = x.to_kind(kind);
        let found = kernel::scan(&narrow, along, 0f32, |sum, x: f32| (sum + x, sum + x))?;
        same(&found, &cumsum(&x, along).to_kind(kind));
    }
    let flags = x.gt(0.0);
    let (count, any) = kernel::scan(&flags, -1, 0i64, |count, x: bool| {
        let count = count + i64::from(x);
        (count, (count, count > 0))
    })?;
    same(&count, &flags.to_kind(Kind::Int64).cumsum(-1, None));
    same(&any, &count.gt(0));
    Ok(())
}

/// With inputs that broadcast, along the dimension too, and a first state for each row.
#[test]
fn recurrences_from_a_first_state() -> Result<()> {
    let step = |h: f64, (a, b): (f64, f64)| (a * h + b, a * h + b);
    let shapes: [(&[i64], &[i64], &[i64]); 6] = [
        (&[4, 5, 3], &[4, 5, 3], &[4, 3]),
        (&[3], &[4, 5, 3], &[3]),
        (&[5, 1], &[4, 1, 3], &[]),
        (&[], &[4, 5, 40], &[4, 1]),
        (&[4, 5, 40], &[], &[40]),
        (&[4, 5, 1], &[4, 5, 1], &[1, 1]),
    ];
    for (a, b, first) in shapes {
        let [a, b, first] = [a, b, first].map(|shape| Tensor::randn(shape, DOUBLE_CPU));
        for along in both_ways(1) {
            let found = kernel::scan_from((&a, &b), along, &first, |h: f64| h, step)?;
            let (a, b) = (a.expand(found.size(), false), b.expand(found.size(), false));
            let mut h = first.expand(found.select(1, 0).size(), false);
            for t in 0..5 {
                let t = if along.reverse { 4 - t } else { t };
                h = a.select(1, t) * h + b.select(1, t);
                assert!(found.select(1, t).allclose(&h, 1e-14, 1e-14, false));
            }
        }
    }
    Ok(())
}

/// Rows beside each other and one after the other are shared out to threads in other ways.
#[test]
fn a_scan_is_the_same_on_any_number_of_threads() -> Result<()> {
    let _alone = THREADS.lock();
    for shape in [[3000i64, 70], [5, 70_000], [70_000, 5], [300, 1500]] {
        let x = Tensor::rand(shape, DOUBLE_CPU);
        for along in both_ways(0).into_iter().chain(both_ways(1)) {
            tch::set_num_threads(1);
            let one = kernel::scan(&x, along, 0.0, add)?;
            assert!(one.allclose(&cumsum(&x, along), 1e-12, 0.0, false));
            for threads in [2, 3, 5] {
                tch::set_num_threads(threads);
                same(&kernel::scan(&x, along, 0.0, add)?, &one);
            }
        }
    }
    Ok(())
}

/// A single row that is longer than memory for a copy should be.
#[test]
fn a_long_row_of_narrow_numbers() -> Result<()> {
    let n = 3_000_001;
    let x = Tensor::ones([n], (Kind::BFloat16, Device::Cpu));
    let y = kernel::scan(&x, 0, 0i64, |count, x: f32| {
        let count = count + x as i64;
        (count, count)
    })?;
    same(&y, &(Tensor::arange(n, (Kind::Int64, Device::Cpu)) + 1));
    Ok(())
}

#[test]
fn what_scans_refuse() {
    let x = Tensor::ones([2, 3], DOUBLE_CPU);
    let scan = |x: &Tensor, dim: i64| kernel::scan(x, dim, 0.0, add);
    refused(scan(&x, 2), "kernel::scan: dimension 2 of 2; give one from -2 to 1");
    refused(scan(&x, -3), "dimension -3 of 2");
    refused(scan(&x.to_kind(Kind::Int), 0), "has dtype Int, the kernel is written for Double");
    let from = |first: &Tensor| kernel::scan_from(&x, 0, first, |h: f64| h, add);
    refused(from(&Tensor::ones([2], DOUBLE_CPU)), "input 1 has shape [2]");
    refused(from(&Tensor::ones([1, 3], DOUBLE_CPU)), "input 1 has shape [1, 3]");
    refused(from(&Tensor::from(1i64)), "input 1 has dtype Int64");
    let huge = Tensor::from(1.0).expand([1 << 30, 1 << 31], false);
    refused(scan(&huge, 0), "has more elements than memory can");
    let none = Tensor::from(1.0).expand([1 << 40, 0, 1 << 40], false);
    for dim in 0..3 {
        assert_eq!(scan(&none, dim).expect("no elements").size(), none.size());
    }
}

#[test]
fn a_panic_in_a_scan_comes_back() -> Result<()> {
    for shape in [[4i64, 3], [1000, 1000]] {
        let x = Tensor::arange(shape[0] * shape[1], DOUBLE_CPU).reshape(shape);
        let last = (x.numel() - 1) as f64;
        for dim in [0, 1] {
            let panics = |sum, x| if x == last { panic!("at {x}") } else { add(sum, x) };
            let error = kernel::scan(&x, dim, 0.0, panics).expect_err("a panic");
            assert_eq!(error.to_string(), format!("kernel::scan: the closure panicked: at {last}"));
            let start = |_: f64| -> f64 { panic!("at the start") };
            let first = Tensor::from(1.0);
            let error = kernel::scan_from(&x, dim, &first, start, add).expect_err("a panic");
            assert!(matches!(error, Error::Panic { .. }));
        }
    }
    Ok(())
}
