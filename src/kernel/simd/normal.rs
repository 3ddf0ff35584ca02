//! The tail of the normal distribution.

use super::Float;
use super::math::polynomial;
use super::two::Two;

// P(q) = (1 + a) R(a) with q = (a - 4) / (a + 4), for a up to 15 in f32 and up to 40 in f64:
// scripts/fit-normal makes them, with relative errors of 2^-30 and 2^-58. (The substitution is
// that of M. M. Shepherd and J. G. Laframboise, Chebyshev Approximation of (1 + 2x) exp(x^2)
// erfc x, 1981.)
const F32: [f64; 12] = [
    0.4720532068075036,
    -0.09670347773655595,
    0.01399959750028406,
    0.028600363359463435,
    -0.0321970806416123,
    0.01793654171855119,
    -0.005007796943343265,
    -0.00029121407394817173,
    0.0007100668996000508,
    -7.128397644136341e-05,
    -9.787171719975481e-05,
    -1.080716714701524e-05,
];
const F64: [f64; 25] = [
    0.47205320650984467,
    -0.09670347732652575,
    0.013999634724424644,
    0.028600364053543405,
    -0.03219783742804189,
    0.017936097479934982,
    -0.0050023785920066755,
    -0.0002856231022908247,
    0.0006948971151771745,
    -9.443021368786957e-05,
    -8.785325026942807e-05,
    2.1249817348631183e-05,
    1.3627120508991197e-05,
    -3.4313278898586758e-06,
    -2.613474358077429e-06,
    4.023159185698272e-07,
    5.526888726885186e-07,
    5.017314918544702e-09,
    -1.1119663003695587e-07,
    -2.3585016390667925e-08,
    1.7074179574235033e-08,
    8.425453905074397e-09,
    -8.302534825756703e-10,
    -1.3547923942817101e-09,
    -2.621368395602489e-10,
];
/// What the first coefficient was rounded by.
const REST: [f64; 2] = [0.0, 1.356_908_228_909_516e-17];

/// `R(a)` of `F(-a) = R(a) e^(-a^2 / 2)`, for `a` that is not negative.
#[inline(always)]
pub(super) fn scaled_tail<V: Float>(a: V) -> Two<V> {
    let q = (a - 4.0) / (a + 4.0);
    let (first, series) = match V::BITS {
        24 => (Two::constant(a, [F32[0], REST[0]]), polynomial(q, &F32[1..])),
        _ => (Two::constant(a, [F64[0], REST[1]]), polynomial(q, &F64[1..])),
    };
    let p = Two::ordered_sum(first.high, q * series);
    let p = Two { high: p.high, low: p.low + first.low };
    let one = a.of(1.0);
    let (greater, lesser) = (a.max(one), a.min(one));
    p.over(Two::ordered_sum(greater, lesser))
}
