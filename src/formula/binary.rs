//! The functions of two numbers, as `functions.rs` has those of one.

use super::Scalar;
use super::tensors::scalar_like;
use crate::ffi::WithScalar as _;
use crate::kernel::simd::Float;
use anyhow::Result;
use tch::{Kind, Tensor};

/// A function of two numbers.
pub trait Binary {
    fn lanes<V: Float>(a: V, b: V) -> V;
    /// `F(a, c)` with a constant, which is not rounded to the type of `a`.
    #[inline(always)]
    fn with_right<V: Float>(a: V, c: f64) -> V {
        Self::lanes(a, a.of(c))
    }
    /// `F(c, b)`
    #[inline(always)]
    fn with_left<V: Float>(c: f64, b: V) -> V {
        Self::lanes(b.of(c), b)
    }
    fn tensor(a: &Tensor, b: &Tensor) -> Result<Tensor>;
    /// `F(a, c)` of a tensor and a number.
    fn tensor_and(a: &Tensor, c: f64) -> Result<Tensor> {
        Self::tensor(a, &scalar_like(a, c)?)
    }
    /// `F(c, b)` of a number and a tensor.
    fn number_and(c: f64, b: &Tensor) -> Result<Tensor> {
        Self::tensor(&scalar_like(b, c)?, b)
    }
    fn constant(a: f64, b: f64) -> f64;
    /// The derivative in the direction (`da`, `db`) at (`a`, `b`), where the value is `y`.
    fn tangent<S: Scalar>(a: S, b: S, y: S, da: S, db: S) -> S;
}

/// Stamps types that implement [`Binary`].
macro_rules! binary {
    ($($F:ident: |$a:pat_param, $b:pat_param| $lanes:expr, $tensor:expr, $constant:expr,
       |$at:pat_param, $d:pat_param| $tangent:expr
       $(, right $right:path, $tensor_and:expr)? $(, left $left:path, $number_and:expr)?;)+) => {$(
        pub struct $F;
        impl $crate::formula::binary::Binary for $F {
            #[inline(always)]
            fn lanes<V: Float>(a: V, b: V) -> V {
                let ($a, $b) = (a, b);
                $lanes
            }
            $(
                #[inline(always)]
                fn with_right<V: Float>(a: V, c: f64) -> V {
                    $right(a, c)
                }
                fn tensor_and(a: &Tensor, c: f64) -> Result<Tensor> {
                    let f: fn(&Tensor, f64) -> Result<Tensor> = $tensor_and;
                    f(a, c)
                }
            )?
            $(
                #[inline(always)]
                fn with_left<V: Float>(c: f64, b: V) -> V {
                    $left(b, c)
                }
                fn number_and(c: f64, b: &Tensor) -> Result<Tensor> {
                    let f: fn(f64, &Tensor) -> Result<Tensor> = $number_and;
                    f(c, b)
                }
            )?
            fn tensor(a: &Tensor, b: &Tensor) -> Result<Tensor> {
                let f: fn(&Tensor, &Tensor) -> Result<Tensor> = $tensor;
                f(a, b)
            }
            fn constant(a: f64, b: f64) -> f64 {
                let f: fn(f64, f64) -> f64 = $constant;
                f(a, b)
            }
            #[inline(always)]
            fn tangent<S: Scalar>(a: S, b: S, y: S, da: S, db: S) -> S {
                let ($at, $d) = ([a, b, y], [da, db]);
                $tangent
            }
        }
    )+};
}

/// `$d $slope`; the slope is not computed, and cannot fail, where nothing moves.
macro_rules! along {
    ($d:ident, $slope:expr) => {
        if $d.is_none() { S::none() } else { $d * $slope }
    };
}

binary! {
    Add: |a, b| a + b, |a, b| Ok(a.f_add(b)?), |a, b| a + b, |_, [da, db]| da + db,
        right plus, |a, c| Ok(a.add_number(c)?), left plus, |c, b| Ok(b.add_number(c)?);
    Sub: |a, b| a - b, |a, b| Ok(a.f_sub(b)?), |a, b| a - b, |_, [da, db]| da - db,
        right minus, |a, c| Ok(a.sub_number(c)?), left minus_from, |c, b| Ok(b.rsub_number(c)?);
    Mul: |a, b| a * b, |a, b| Ok(a.f_mul(b)?), |a, b| a * b,
        |[a, b, _], [da, db]| da * b + db * a,
        right times, |a, c| Ok(a.mul_number(c)?), left times, |c, b| Ok(b.mul_number(c)?);
    Div: |a, b| a / b, |a, b| Ok(a.f_div(b)?), |a, b| a / b,
        |[_, b, y], [da, db]| da / b - along!(db, y / b),
        right divided, |a, c| Ok(a.div_number(c)?),
        left divide, divide_by;
    Max: |a, b| nan_of(a, b, a.max(b)), |a, b| Ok(a.f_maximum(b)?), maximum,
        |[a, b, _], [da, db]| kept(a.lt(b), b.lt(a), a.eq(b), da, db);
    Min: |a, b| nan_of(a, b, a.min(b)), |a, b| Ok(a.f_minimum(b)?), |a, b| -maximum(-a, -b),
        |[a, b, _], [da, db]| kept(b.lt(a), a.lt(b), a.eq(b), da, db);
    Atan2: |a, b| a.each_with(b, f64::atan2), |a, b| Ok(a.f_atan2(b)?), f64::atan2,
        |[a, b, _], [da, db]| along!(da, angle_slope(a, b)) - along!(db, angle_slope(b, a));
    Remainder: |a, b| a.each_with(b, remainder), |a, b| Ok(a.f_remainder_tensor(b)?), remainder,
        |[a, b, y], [da, db]| da - along!(db, whole_part(a, b, y));
}

/// `c` less the nearest number of the type of `x`.
#[inline(always)]
fn rest<V: Float>(_: V, c: f64) -> f64 {
    let near = f64::from(c as f32);
    if V::BITS == 24 && near.is_finite() { c - near } else { 0.0 }
}

/// `x + c`
#[inline(always)]
fn plus<V: Float>(x: V, c: f64) -> V {
    let rest = rest(x, c);
    let sum = x + c;
    if rest == 0.0 { sum } else { sum + rest }
}

/// `x - c`
#[inline(always)]
fn minus<V: Float>(x: V, c: f64) -> V {
    plus(x, -c)
}

/// `c - x`
#[inline(always)]
fn minus_from<V: Float>(x: V, c: f64) -> V {
    plus(-x, c)
}

/// `x / c`
#[inline(always)]
fn divided<V: Float>(x: V, c: f64) -> V {
    corrected(x / x.of(c), -rest(x, c) / c)
}

/// `c / x`
#[inline(always)]
pub(super) fn divide<V: Float>(x: V, c: f64) -> V {
    let rest = rest(x, c);
    corrected(x.of(c) / x, rest / (c - rest))
}

/// `x c`
#[inline(always)]
pub(super) fn times<V: Float>(x: V, c: f64) -> V {
    let rest = rest(x, c);
    let product = x * c;
    if rest == 0.0 {
        return product;
    }
    corrects(product, x.mul_add(x.of(rest), product))
}

/// `y (1 + relative)`
#[inline(always)]
fn corrected<V: Float>(y: V, relative: f64) -> V {
    if relative == 0.0 || !relative.is_finite() {
        return y;
    }
    corrects(y, y.mul_add(y.of(relative), y))
}

/// `nearer`, but for infinities and NaN, which it would lose, and for zeros, whose sign it would.
#[inline(always)]
fn corrects<V: Float>(y: V, nearer: V) -> V {
    let size = y.abs();
    V::select(size.lt(y.of(f64::INFINITY)) & y.of(0.0).lt(size), nearer, y)
}

/// `c / x`. Integers give floats; f16 and bf16 are rounded once.
fn divide_by(c: f64, x: &Tensor) -> Result<Tensor> {
    match x.kind() {
        kind @ (Kind::Half | Kind::BFloat16) => {
            Ok(divide_by(c, &x.f_to_kind(Kind::Float)?)?.f_to_kind(kind)?)
        }
        _ if x.is_floating_point() || x.is_complex() => Ok(scalar_like(x, c)?.f_div(x)?),
        _ => Ok(x.f_reciprocal()?.mul_number(c)?),
    }
}

/// NaN if one of the two is.
fn maximum(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// NaN if one of the two is, else `y`.
#[inline(always)]
fn nan_of<V: Float>(a: V, b: V, y: V) -> V {
    V::select(a.eq(a), V::select(b.eq(b), y, b), a)
}

/// The tangents of two numbers but for one that is left out; half of each at a tie.
#[inline(always)]
fn kept<S: Scalar>(no_a: S::Mask, no_b: S::Mask, tie: S::Mask, da: S, db: S) -> S {
    let (half_a, half_b) = (S::select(tie, da * 0.5, da), S::select(tie, db * 0.5, db));
    S::select(no_a, S::none(), half_a) + S::select(no_b, S::none(), half_b)
}

/// `b / (a^2 + b^2)`, of which no part over- or underflows alone; 0 at the origin.
#[inline(always)]
fn angle_slope<S: Scalar>(a: S, b: S) -> S {
    let a_is_less = a.abs().le(b.abs());
    let (less, greater) = (S::select(a_is_less, a, b), S::select(a_is_less, b, a));
    let (scale, _) = lifted(greater);
    let (less, greater) = (less * scale, greater * scale);
    let (lift, back) = lifted(less);
    let ratio = less * lift / greater;
    let sum = greater + less * (ratio * back);
    let slope = S::select(a_is_less, scale / sum, ratio / sum * (scale * back));
    S::select(greater.eq(S::zero()), S::none(), slope)
}

/// A power of 2 that makes a small number normal, and its inverse: the quotients and sums of
/// subnormal numbers lose digits.
#[inline(always)]
fn lifted<S: Scalar>(x: S) -> (S, S) {
    const SMALL: f64 = 1.0 / (1u64 << 60) as f64;
    let is_small = x.abs().lt(S::of(SMALL));
    let power = |c: f64| S::select(is_small, S::of(c), S::one());
    (power(1.0 / SMALL), power(SMALL))
}

/// `floor(a / b)` of numbers with the remainder `y`: a quotient that is rounded to an integer, or
/// to 0, has no floor to tell.
#[inline(always)]
fn whole_part<S: Scalar>(a: S, b: S, y: S) -> S {
    let whole = ((a - y) / b).round();
    S::select(whole.eq(whole), whole, (a / b).floor())
}

/// As Python's `%`, without an error of its own.
fn remainder(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

pub(super) use {along, binary};
