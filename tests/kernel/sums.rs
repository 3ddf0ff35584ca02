//! Sums of any length: within 3 epsilon of the sum of magnitudes, and the same bits for any
//! threads, strides and places in memory.

use super::folds::THREADS;
use anyhow::Result;
use tch::{Device, Kind, Tensor, kind};
use tch_function::kernel;
use tch_function::kernel::simd::{self, Float, Lanes};

struct Itself;

impl Lanes<1, 1> for Itself {
    #[inline(always)]
    fn call<V: Float>(&self, x: [V; 1]) -> [V; 1] {
        x
    }
}

/// A sum of f64 numbers in twice their digits, and the sum of their magnitudes.
fn exact(x: &[f64]) -> (f64, f64) {
    let (mut sum, mut lost, mut all) = (0.0, 0.0, 0.0);
    for x in x {
        let next: f64 = sum + x;
        let seen = next - sum;
        lost += (sum - (next - seen)) + (x - seen);
        (sum, all) = (next, all + x.abs());
    }
    (sum + lost, all)
}

const LENGTHS: [usize; 14] =
    [0, 1, 2, 3, 15, 17, 511, 512, 1000, 32_768, 32_769, 100_003, 1 << 20, 5_000_011];

/// One number again and again; a large one and small ones; both signs; growing ones.
const NUMBERS: [fn(usize) -> f64; 4] = [
    |_| 0.1,
    |i| if i == 0 { 1.0 } else { 6.1e-8 },
    |i| (i as f64 * 0.7).sin() * 1e3,
    |i| (i as f64 * 1e-6).exp(),
];

#[test]
fn sums_of_any_length() -> Result<()> {
    let mut worst = [0.0f64; 4];
    for n in LENGTHS {
        for numbers in NUMBERS {
            let x: Vec<f64> = (0..n).map(numbers).collect();
            let narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let seen: Vec<f64> = narrow.iter().map(|x| f64::from(*x)).collect();
            let (epsilon, wide) = (f64::from(f32::EPSILON), f64::EPSILON);
            let (of, of_narrow) = (exact(&x), exact(&seen));
            let found = [
                (simd::sum(&Itself, [&x[..]]), of, wide),
                (simd::sum_of(&Itself, [&Tensor::from_slice(&x)])?, of, wide),
                (simd::sum(&Itself, [&narrow[..]]), of_narrow, epsilon),
                (simd::sum_of(&Itself, [&Tensor::from_slice(&narrow)])?, of_narrow, epsilon),
            ];
            for (i, ([found], (exact, all), epsilon)) in found.into_iter().enumerate() {
                let error = (found - exact).abs() / (all * epsilon).max(f64::MIN_POSITIVE);
                assert!(error < 3.0, "{n}, {i}: {error} epsilon");
                worst[i] = worst[i].max(error);
            }
        }
    }
    println!("slices and tensors of f64, of f32: {worst:.2?} epsilon");
    Ok(())
}

#[test]
fn sums_of_a_hundred_million() -> Result<()> {
    for kind in [Kind::Double, Kind::Float] {
        let x = Tensor::from(0.1).to_kind(kind);
        let each = f64::try_from(&x)?;
        let [sum] = simd::sum_of(&Itself, [&x.expand([100_000_000], false)])?;
        let epsilon = if kind == Kind::Double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let error = (sum / (each * 1e8) - 1.0) / epsilon;
        assert!(error.abs() < 3.0, "{kind:?}: {error} epsilon");
    }
    Ok(())
}

/// Bits.
fn sum_of(x: &Tensor) -> Result<u64> {
    Ok(simd::sum_of(&Itself, [x])?[0].to_bits())
}

#[test]
fn a_sum_is_the_same_wherever_it_is_made() -> Result<()> {
    let _alone = THREADS.lock();
    tch::manual_seed(7);
    for kind in [Kind::Double, Kind::Float, Kind::BFloat16] {
        for n in [5, 700, 40_003, 1_000_001] {
            let x = Tensor::randn([n], kind::DOUBLE_CPU).to_kind(kind);
            tch::set_num_threads(1);
            let one = sum_of(&x)?;
            for threads in [2, 3, 5] {
                tch::set_num_threads(threads);
                assert_eq!(sum_of(&x)?, one, "{kind:?} {n} on {threads} threads");
            }
            let column = Tensor::stack(&[&x, &x], 1).select(1, 1);
            assert_eq!(sum_of(&column)?, one, "{kind:?} {n} strided");
            for off in 1..8 {
                let room = Tensor::zeros([n + off], (kind, Device::Cpu));
                let mut moved = room.narrow(0, off, n);
                moved.copy_(&x);
                assert_eq!(sum_of(&moved)?, one, "{kind:?} {n} elsewhere");
            }
        }
    }
    Ok(())
}

#[test]
fn infinities_are_kept() -> Result<()> {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for n in [2, 700, 40_000] {
        for kind in [Kind::Double, Kind::Float] {
            for (a, b, sum) in
                [(inf, 1.0, inf), (-inf, 1.0, -inf), (inf, -inf, nan), (nan, 1.0, nan)]
            {
                let x = Tensor::ones([n], (kind, Device::Cpu));
                let _ = x.narrow(0, 0, 1).fill_(a);
                let _ = x.narrow(0, n - 1, 1).fill_(b);
                let [found] = simd::sum_of(&Itself, [&x])?;
                assert!(found == sum || found.is_nan() && sum.is_nan(), "{a} and {b}: {found}");
            }
        }
    }
    Ok(())
}

/// The pieces of a fold are merged in order, each with its neighbour.
#[test]
fn folds_are_merged_in_pairs() -> Result<()> {
    let pieces = 45;
    let x = Tensor::zeros([pieces * 32_768 - 5], kind::DOUBLE_CPU);
    // The first and the last place, and how often they were merged.
    type Span = Option<(usize, usize, usize)>;
    let step = |span: Span, i, _: f64| {
        let (first, last, depth) = span.unwrap_or((i, i, 0));
        assert!(last == i || last + 1 == i);
        Some((first, i, depth))
    };
    let merge = |a: Span, b: Span| {
        let (Some(a), Some(b)) = (a, b) else { return a.or(b) };
        assert_eq!(a.1 + 1, b.0, "out of order");
        Some((a.0, b.1, 1 + a.2.max(b.2)))
    };
    let span = kernel::fold(&x, None, step, merge)?;
    assert_eq!(span, Some((0, x.numel() - 1, 6)));
    Ok(())
}
