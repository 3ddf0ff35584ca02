//! Log1pExp against exact values: `y` and `dy/dx` within 2 ulp over the whole
//! range, in every dtype and on every path through libtorch's kernels.

use anyhow::Result;
use dashu_float::{FBig, round::mode::HalfEven};
use tch::{Kind, Tensor, kind::DOUBLE_CPU};
use tch_function::{Ctx, Function, GradOptions, Var, gradcheck, ops::Log1pExp};

use test_support::compare::Random;

type Big = FBig<HalfEven, 2>;

/// Enough for `1 + e^-40` to keep 90 bits of `e^-40`.
const BITS: usize = 150;

fn big(x: f64) -> Big {
    Big::try_from(x).expect("a finite number").with_precision(BITS).value()
}

/// `log(1 + e^x)` and its derivative, to at least 90 bits.
fn exact(x: f64) -> [Big; 2] {
    let e = big(-x.abs()).exp();
    let one = big(1.0);
    let log1p = if x.abs() < 40.0 {
        (&one + &e).ln()
    } else {
        // The next term of the series is less than 2^-171 e.
        &e - &e * &e / big(2.0) + &e * &e * &e / big(3.0)
    };
    let slope = if x < 0.0 { &e / (&one + &e) } else { &one / (&one + &e) };
    [big(x.max(0.0)) + log1p, slope]
}

/// The same in f64, within 2 ulp: exact enough for narrower dtypes.
fn nearly_exact(x: f64) -> [f64; 2] {
    let e = (-x.abs()).exp();
    [x.max(0.0) + e.ln_1p(), if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }]
}

/// Values from mpmath at 400 digits.
#[test]
fn the_reference_is_right() {
    for (x, y, slope) in [
        (-9000.5, 0.0, 0.0),
        (-745.13, 5e-324, 5e-324),
        (-740.25, 3.26e-322, 3.26e-322),
        (-708.4, 2.217119081664265e-308, 2.217119081664265e-308),
        (-40.5, 2.576757109154981e-18, 2.576757109154981e-18),
        (-39.5, 7.004352026168645e-18, 7.004352026168645e-18),
        (-20.0, 2.061153620314381e-9, 2.0611536181902037e-9),
        (-1.25, 0.2519290813453729, 0.22270013882530885),
        (-1e-300, std::f64::consts::LN_2, 0.5),
        (0.0, std::f64::consts::LN_2, 0.5),
        (1e-9, 0.6931471810599453, 0.50000000025),
        (0.75, 1.1368710061148999, 0.679178699175393),
        (4.5, 4.511047744848594, 0.9890130573694068),
        (20.5, 20.500000001250153, 0.9999999987498471),
        (39.5, 39.5, 1.0),
        (709.8, 709.8, 1.0),
        (9999.5, 9999.5, 1.0),
    ] {
        let [y_exact, slope_exact] = exact(x);
        assert!(ulps_from_exact(y, &y_exact) <= 0.5, "y({x})");
        assert!(ulps_from_exact(slope, &slope_exact) <= 0.5, "dy/dx({x})");
        let [y_near, slope_near] = nearly_exact(x);
        assert!((y_near - y).abs() <= 1e-15 * y && (slope_near - slope).abs() <= 1e-15 * slope);
    }
}

/// The bits of the significand, the leading one included, and the exponent of
/// the least subnormal number.
fn format_of(kind: Kind) -> (i32, i32) {
    match kind {
        Kind::Double => (53, -1074),
        Kind::Float => (24, -149),
        Kind::Half => (11, -24),
        Kind::BFloat16 => (8, -133),
        _ => panic!("no format for {kind:?}"),
    }
}

/// The unit of the last place at `value`, as a power of 2.
fn last_place(kind: Kind, value: f64) -> i32 {
    let (bits, least) = format_of(kind);
    let exponent = match value.abs().to_bits() >> 52 {
        0 => -1074,
        biased => biased as i32 - 1023,
    };
    (exponent - bits + 1).max(least)
}

fn ulps_from_exact(found: f64, exact: &Big) -> f64 {
    if !found.is_finite() {
        return f64::INFINITY;
    }
    let unit = last_place(Kind::Double, exact.to_f64().value());
    ((big(found) - exact) >> unit as isize).to_f64().value().abs()
}

fn ulps_from(kind: Kind, found: f64, exact: f64) -> f64 {
    if !found.is_finite() {
        return f64::INFINITY;
    }
    (found - exact).abs() / 2f64.powi(last_place(kind, exact))
}

/// `y` and `dy/dx` at every sample.
type Found = [Vec<f64>; 2];

fn apply(x: &Tensor) -> Result<Found> {
    let x = Var::leaf(x);
    let y = Log1pExp.apply(&x)?;
    assert_eq!(y.value().kind(), x.value().kind());
    let seed = Var::constant(y.value().ones_like());
    let dx = GradOptions::new().seeds(&seed).grad(&y, &x)?.expect("x was used");
    assert_eq!(dx.value().kind(), x.value().kind());
    Ok([numbers(y.value())?, numbers(dx.value())?])
}

fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(Vec::try_from(t.to_kind(Kind::Double).reshape(-1))?)
}

/// As one long tensor, as many of 1 to 100 elements, and as a column of a
/// wider matrix: each takes another path through libtorch's kernels.
fn apply_on_every_path(x: &Tensor) -> Result<[(&'static str, Found); 3]> {
    let mut short = [Vec::new(), Vec::new()];
    let (mut start, mut length) = (0, 1);
    while start < x.size()[0] {
        length = length.min(x.size()[0] - start);
        let part = apply(&x.narrow(0, start, length))?;
        short.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
        (start, length) = (start + length, length % 100 + 1);
    }
    let column = Tensor::stack(&[x, x, x], 1).select(1, 1);
    Ok([("long", apply(x)?), ("short", short), ("strided", apply(&column)?)])
}

/// Prints and checks the greatest error, which `ulps(value, i, found)` gives
/// for `y` (0) and `dy/dx` (1) at sample `i`.
fn check(x: &Tensor, limit: f64, ulps: impl Fn(usize, usize, f64) -> f64) -> Result<()> {
    let samples = numbers(x)?;
    for (path, found) in apply_on_every_path(x)? {
        for (value, found) in found.into_iter().enumerate() {
            assert_eq!(found.len(), samples.len());
            let errors = found.iter().enumerate().map(|(i, found)| (ulps(value, i, *found), i));
            let (worst, i) = errors.max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are samples");
            let (name, kind) = (["y", "dy/dx"][value], x.kind());
            println!("{kind:?} {path:<7} {name:<5} {worst:.4} ulp at x = {:e}", samples[i]);
            assert!(worst < limit, "{kind:?} {path} {name}({:e}) = {:e}", samples[i], found[i]);
        }
    }
    Ok(())
}

/// From -1e4 to 1e4: evenly over several ranges, around every power of 2, and
/// next to the places where something ends.
fn samples() -> Vec<f64> {
    let mut random = Random::new("samples");
    let mut samples = vec![0.0, -0.0, 1e4, -1e4];
    for (from, to, count) in [
        (-1e4, 1e4, 1000),
        (-760.0, -700.0, 2000), // subnormal in f64
        (-105.0, -85.0, 2000),  // subnormal in f32
        (-100.0, 100.0, 3000),
        (-40.0, 40.0, 3000),
        (-3.0, 1.0, 6000),
    ] {
        samples.extend((0..count).map(|_| from + (to - from) * random.unit()));
    }
    for exponent in -1074..=13 {
        let power = 2f64.powi(exponent);
        let beside = power * (1.0 + random.unit());
        samples.extend([power, -power, beside, -beside].into_iter().filter(|x| x.abs() <= 1e4));
    }
    for edge in [-745.133, -744.44, -708.396, -103.972, -87.336, 20.0, 36.7, 88.723, 709.783] {
        samples.extend((-20..=20).map(|i| edge + f64::from(i) * 1e-3));
    }
    samples
}

#[test]
fn f64_within_2_ulp() -> Result<()> {
    let samples = samples();
    let exact: Vec<_> = samples.iter().map(|x| exact(*x)).collect();
    check(&Tensor::from_slice(&samples), 2.0, |value, i, found| {
        ulps_from_exact(found, &exact[i][value])
    })
}

#[test]
fn f32_within_2_ulp() -> Result<()> {
    // And every 5003rd number of all that are not greater than 1e4.
    let all = (0..=1e4f32.to_bits()).step_by(5003).map(f32::from_bits);
    let samples = samples().into_iter().map(|x| x as f32).chain(all.flat_map(|x| [x, -x]));
    check_f32(&samples.collect::<Vec<_>>())
}

fn check_f32(samples: &[f32]) -> Result<()> {
    let exact: Vec<_> = samples.iter().map(|x| nearly_exact(f64::from(*x))).collect();
    check(&Tensor::from_slice(samples), 2.0, |value, i, found| {
        ulps_from(Kind::Float, found, exact[i][value])
    })
}

/// `cargo test --release --test log1p_exp -- --ignored`: minutes, or with
/// `STRIDE=17` every 17th number.
#[test]
#[ignore = "all 2 x 1,176,256,512 numbers of f32 up to 1e4; minutes"]
fn every_f32_within_2_ulp() -> Result<()> {
    const STEP: u32 = 1 << 20;
    let stride = std::env::var("STRIDE").map_or(Ok(1), |stride| stride.parse())?;
    let mut greatest = [(0.0, 0.0); 2];
    for start in (0..=1e4f32.to_bits()).step_by(STEP as usize) {
        let all = (start..start + STEP).step_by(stride).map(f32::from_bits);
        let samples: Vec<f32> = all.flat_map(|x| [x, -x]).collect();
        for (value, found) in apply(&Tensor::from_slice(&samples))?.iter().enumerate() {
            for (x, found) in samples.iter().zip(found) {
                let exact = nearly_exact(f64::from(*x))[value];
                let error = ulps_from(Kind::Float, *found, exact);
                if error > greatest[value].0 {
                    greatest[value] = (error, *x);
                }
            }
        }
    }
    println!("every f32: y {:?}, dy/dx {:?}", greatest[0], greatest[1]);
    assert!(greatest.iter().all(|(error, _)| *error < 2.0));
    Ok(())
}

/// Rounded once from an f32 that is itself a little off: half an ulp and a bit.
#[test]
fn every_f16_and_bf16_to_its_own_rounding() -> Result<()> {
    let patterns = Tensor::arange(65536, (Kind::Int64, tch::Device::Cpu)) - 32768;
    for kind in [Kind::Half, Kind::BFloat16] {
        let x = patterns.to_kind(Kind::Int16).view_dtype(kind);
        let x = x.masked_select(&x.isfinite());
        let x = x.masked_select(&x.abs().to_kind(Kind::Double).le(1e4));
        let exact: Vec<_> = numbers(&x)?.into_iter().map(nearly_exact).collect();
        check(&x, 0.501, |value, i, found| ulps_from(kind, found, exact[i][value]))?;
    }
    Ok(())
}

#[test]
fn infinities_and_nan() -> Result<()> {
    for kind in [Kind::Double, Kind::Float, Kind::Half, Kind::BFloat16] {
        // Long enough for the vectorised path, too.
        let ends = Tensor::from_slice(&[f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
        for x in [ends.shallow_clone(), ends.repeat([33])] {
            let [y, slope] = apply(&x.to_kind(kind))?;
            for (y, slope) in y.chunks(3).zip(slope.chunks(3)) {
                assert_eq!((&y[..2], &slope[..2]), (&[f64::INFINITY, 0.0][..], &[1.0, 0.0][..]));
                assert!(y[2].is_nan() && slope[2].is_nan());
            }
        }
    }
    Ok(())
}

/// The textbook form, as one writes it first.
struct Textbook;

impl Function for Textbook {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let e = x.exp();
        ctx.save_for_backward([&e])?;
        Ok((e + 1.0).log())
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [e] = ctx.saved_tensors()?;
        Ok(Some(dy * (1.0 - 1.0 / (1.0 + e))))
    }
}

#[test]
fn where_the_textbook_form_and_softplus_fail() -> Result<()> {
    for (kind, overflows, vanishes) in [(Kind::Float, 89.0, -17.0), (Kind::Double, 710.0, -37.0)] {
        let at = |x: f64| Tensor::from(x).to_kind(kind);
        let textbook = Textbook.apply(&Var::leaf(at(overflows)))?;
        assert_eq!(numbers(textbook.value())?, [f64::INFINITY]);
        assert_eq!(apply(&at(overflows))?[0], [overflows]);

        let x = Var::leaf(at(vanishes));
        let textbook = Textbook.apply(&x)?;
        assert_eq!(numbers(textbook.value())?, [0.0]);
        assert_eq!(numbers(tch_function::grad(&textbook, &x)?.value())?, [0.0]);
        let [y, slope] = apply(&at(vanishes))?;
        assert!(y[0] > 0.0 && slope[0] > 0.0);
    }
    // Above its threshold of 20, softplus(x) = x.
    let x = Tensor::from(20.5);
    assert_eq!(numbers(&x.softplus())?, [20.5]);
    assert_eq!(apply(&x)?[0], [20.500000001250153]);
    Ok(())
}

#[test]
fn gradcheck_and_shapes() -> Result<()> {
    for x in [
        Tensor::from(0.5),
        Tensor::zeros([0, 2], DOUBLE_CPU),
        (Tensor::arange(12, DOUBLE_CPU) - 6).reshape([3, 4]).transpose(0, 1) * 1.7,
        Tensor::from_slice(&[-0.3, 2.0]).expand([3, 2], false),
    ] {
        gradcheck(Log1pExp, &x)?.assert();
    }
    Ok(())
}

#[test]
fn integers_give_floats_and_complex_numbers_an_error() -> Result<()> {
    let y = Var::constant(Tensor::from_slice(&[0i64, 100])).log1p_exp()?;
    assert_eq!(y.value().kind(), Kind::Float);
    assert_eq!(numbers(y.value())?, [f64::from(std::f32::consts::LN_2), 100.0]);
    let complex = Tensor::from_slice(&[1.0]).to_kind(Kind::ComplexDouble);
    let e = Var::leaf(complex).log1p_exp().expect_err("no order").to_string();
    assert!(e.starts_with("Log1pExp: input 0") && e.contains("real numbers"), "{e}");
    Ok(())
}
