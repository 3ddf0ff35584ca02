//! The error function, within 2 ulp.
//!
//! In f64 the rational functions of FreeBSD's msun (compared one by one with
//! `s_erf.c` of freebsd/freebsd-src): Copyright (C) 1993 by Sun Microsystems,
//! Inc. All rights reserved. Developed at SunPro, a Sun Microsystems, Inc.
//! business. Permission to use, copy, modify, and distribute this software is
//! freely granted, provided that this notice is preserved. In f32 the polynomials
//! of the `erff` at stackoverflow.com/a/35148199 (compared with the copy in
//! MLX's `erf.h`).
#![expect(clippy::excessive_precision, reason = "constants as in their sources")]

use super::Float;
use super::math::polynomial;

// erf(x) = x + x P(x^2) / Q(x^2) below 0.84375.
const P: [f64; 5] = [
    1.28379167095512558561e-01,
    -3.25042107247001499370e-01,
    -2.84817495755985104766e-02,
    -5.77027029648944159157e-03,
    -2.37630166566501626084e-05,
];
const Q: [f64; 6] = [
    1.0,
    3.97917223959155352819e-01,
    6.50222499887672944485e-02,
    5.08130628187576562776e-03,
    1.32494738004321644526e-04,
    -3.96022827877536812320e-06,
];
// erf(x) = ONE + A(x - 1) / B(x - 1) below 1.25.
const ONE: f64 = 8.45062911510467529297e-01;
const A: [f64; 7] = [
    -2.36211856075265944077e-03,
    4.14856118683748331666e-01,
    -3.72207876035701323847e-01,
    3.18346619901161753674e-01,
    -1.10894694282396677476e-01,
    3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
];
const B: [f64; 7] = [
    1.0,
    1.06420880400844228286e-01,
    5.40397917702171048937e-01,
    7.18286544141962662868e-02,
    1.26171219808761642112e-01,
    1.36370839120290507362e-02,
    1.19844998467991074170e-02,
];
// erf(x) = 1 - e^(-x^2 - 0.5625 + C(1/x^2) / D(1/x^2)) / x below 1 / 0.35,
const C: [f64; 8] = [
    -9.86494403484714822705e-03,
    -6.93858572707181764372e-01,
    -1.05586262253232909814e+01,
    -6.23753324503260060396e+01,
    -1.62396669462573470355e+02,
    -1.84605092906711035994e+02,
    -8.12874355063065934246e+01,
    -9.81432934416914548592e+00,
];
const D: [f64; 9] = [
    1.0,
    1.96512716674392571292e+01,
    1.37657754143519042600e+02,
    4.34565877475229228821e+02,
    6.45387271733267880336e+02,
    4.29008140027567833386e+02,
    1.08635005541779435134e+02,
    6.57024977031928170135e+00,
    -6.04244152148580987438e-02,
];
// and with E and F above.
const E: [f64; 7] = [
    -9.86494292470009928597e-03,
    -7.99283237680523006574e-01,
    -1.77579549177547519889e+01,
    -1.60636384855821916062e+02,
    -6.37566443368389627722e+02,
    -1.02509513161107724954e+03,
    -4.83519191608651397019e+02,
];
const F: [f64; 8] = [
    1.0,
    3.03380607434824582924e+01,
    3.25792512996573918826e+02,
    1.53672958608443695994e+03,
    3.19985821950859553908e+03,
    2.55305040643316442583e+03,
    4.74528541206955367215e+02,
    -2.24409524465858183362e+01,
];

/// erf(x) = x + x S(x^2) below 0.9277, in f32.
const S: [f64; 6] =
    [1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4];
/// erf(x) = 1 - e^(x T(x) - x) above, in f32.
const T: [f64; 7] = [
    -1.28717512e-1,
    -6.34846687e-1,
    -1.06777877e-1,
    2.42546219e-2,
    -3.88396438e-3,
    3.83197126e-4,
    -1.72853470e-5,
];

#[inline(always)]
pub(super) fn erf<V: Float>(x: V) -> V {
    let y = if V::BITS == 24 { erf_f32(x) } else { erf_f64(x) };
    V::select(x.eq(x), y.copysign(x), x)
}

#[inline(always)]
fn erf_f32<V: Float>(x: V) -> V {
    let (a, square) = (x.abs(), x * x);
    let near = polynomial(square, &S).mul_add(a, a);
    // Above 4 it is 1 in f32.
    let b = a.min(x.of(4.0));
    let far = -polynomial(b, &T).mul_add(b, -b).exp() + 1.0;
    V::select(a.le(x.of(0.927734375)), near, far)
}

#[inline(always)]
fn erf_f64<V: Float>(x: V) -> V {
    let a = x.abs();
    let square = x * x;
    let near = (polynomial(square, &P) / polynomial(square, &Q)).mul_add(a, a);
    let s = a - 1.0;
    let middle = polynomial(s, &A) / polynomial(s, &B) + ONE;
    // Above 6 it is 1.
    let a = a.min(x.of(6.0));
    let square = a * a;
    let s = x.of(1.0) / square;
    let low = a.lt(x.of(1.0 / 0.35));
    let c = V::select(low, polynomial(s, &C), polynomial(s, &E));
    let d = V::select(low, polynomial(s, &D), polynomial(s, &F));
    let far = -((c / d - 0.5625 - square).exp() / a) + 1.0;
    let y = V::select(a.lt(x.of(1.25)), middle, far);
    V::select(x.abs().lt(x.of(0.84375)), near, y)
}
