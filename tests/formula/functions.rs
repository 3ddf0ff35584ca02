//! Each function of `Scalar` as a formula of its own: every check, with libtorch's op as the
//! reference.

use super::x;
use tch::Tensor;
use tch_function::check::{Check, Domain};
use tch_function::formula::{Derived, Formula, Scalar};
use tch_function::{Function, GradOptions, Result};

/// Returns a function and its first two derivatives at each number.
type Derivatives = fn(&Tensor) -> Result<[Tensor; 3]>;

fn derivatives(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<[Tensor; 3]> {
    let x = x.detach().set_requires_grad(true);
    let y = f(&x)?;
    let ones = y.ones_like();
    let options = GradOptions::new().seeds(&ones).create_graph(true);
    let dx = options.grad(&y, &x)?.expect("x was used");
    let second = GradOptions::new().seeds(&ones).allow_unused(true);
    let ddx = if dx.requires_grad() { second.grad(&dx, &x)? } else { None };
    let ddx = ddx.unwrap_or_else(|| x.zeros_like());
    Ok([y, dx, ddx].map(|t| t.detach()))
}

/// Numbers in the domain.
fn samples(domain: &Domain) -> Tensor {
    match domain {
        Domain::Positive => x().abs(),
        _ => x() * 0.3,
    }
}

/// Stamps formulas of one function, and their tests.
macro_rules! functions {
    ($($name:ident $F:ident: $eval:expr, $domain:expr, $reference:expr;)+) => {
        $(
            #[derive(Clone)]
            struct $F;
            impl Formula<1> for $F {
                #[inline(always)]
                fn eval<S: Scalar>(&self, [x]: [S; 1]) -> [S; 1] {
                    fn typed<S: Scalar>(f: impl FnOnce(S) -> S) -> impl FnOnce(S) -> S {
                        f
                    }
                    [typed::<S>($eval)(x)]
                }
            }
        )+
        /// Each function, with libtorch's own.
        pub const ALL: &[(&str, [Derivatives; 2])] = &[$(
            (stringify!($name), [
                |x| derivatives(x, |x| Derived($F).apply(x)),
                |x| derivatives(x, |x| {
                    let reference: fn(&Tensor) -> Tensor = $reference;
                    Ok(reference(x))
                }),
            ]),
        )+];

        tch_function::check_tests! {$(
            $name => {
                let reference: fn(&Tensor) -> Tensor = $reference;
                Check::new(Derived($F), [samples(&$domain)]).domain($domain).reference(reference)
            };
        )+}
    };
}

functions! {
    abs Abs: |x| x.abs(), Domain::All, |x| x.abs();
    signum Signum: |x| x.signum() * x, Domain::All, |x| x.sign() * x;
    neg Neg: |x| -x, Domain::All, |x| -x;
    sqrt Sqrt: |x| x.sqrt(), Domain::Positive, |x| x.sqrt();
    rsqrt Rsqrt: |x| x.rsqrt(), Domain::Positive, |x| x.rsqrt();
    cbrt Cbrt: |x| x.cbrt(), Domain::Positive, |x| x.pow_tensor_scalar(1.0 / 3.0);
    exp Exp: |x| x.exp(), Domain::All, |x| x.exp();
    exp2 Exp2: |x| x.exp2(), Domain::All, |x| x.exp2();
    exp_m1 ExpM1: |x| x.exp_m1(), Domain::All, |x| x.expm1();
    ln Ln: |x| x.ln(), Domain::Positive, |x| x.log();
    log2 Log2: |x| x.log2(), Domain::Positive, |x| x.log2();
    log10 Log10: |x| x.log10(), Domain::Positive, |x| x.log10();
    ln_1p Ln1p: |x| x.ln_1p(), Domain::Positive, |x| x.log1p();
    sin Sin: |x| x.sin(), Domain::All, |x| x.sin();
    cos Cos: |x| x.cos(), Domain::All, |x| x.cos();
    tan Tan: |x| x.tan(), Domain::Between(-1.2, 1.2), |x| x.tan();
    asin Asin: |x| x.asin(), Domain::Between(-0.9, 0.9), |x| x.asin();
    acos Acos: |x| x.acos(), Domain::Between(-0.9, 0.9), |x| x.acos();
    atan Atan: |x| x.atan(), Domain::All, |x| x.atan();
    sinh Sinh: |x| x.sinh(), Domain::All, |x| x.sinh();
    cosh Cosh: |x| x.cosh(), Domain::All, |x| x.cosh();
    tanh Tanh: |x| x.tanh(), Domain::All, |x| x.tanh();
    sigmoid Sigmoid: |x| x.sigmoid(), Domain::All, |x| x.sigmoid();
    ln_1p_exp Ln1pExp: |x| x.ln_1p_exp(), Domain::All, |x| x.logaddexp(&x.zeros_like());
    erf Erf: |x| x.erf(), Domain::All, |x| x.erf();
    erfc Erfc: |x| x.erfc(), Domain::Between(-3.0, 3.0), |x| x.erfc();
    normal_cdf NormalCdf: |x| x.normal_cdf(), Domain::All, |x| x.special_ndtr();
    normal_pdf NormalPdf: |x| x.normal_pdf(), Domain::All,
        |x| (x.square() * -0.5).exp() / (2.0 * std::f64::consts::PI).sqrt();
    floor Floor: |x| x.floor() + x, Domain::All, |x| x.floor() + x;
    ceil Ceil: |x| x.ceil() + x, Domain::All, |x| x.ceil() + x;
    trunc Trunc: |x| x.trunc() + x, Domain::All, |x| x.trunc() + x;
    round Round: |x| x.round() + x, Domain::All, |x| x.round() + x;
    relu Relu: |x| x.relu(), Domain::All, |x| x.relu();
    clamp Clamp: |x| x.clamp(-0.5, 0.75), Domain::All, |x| x.clamp(-0.5, 0.75);
    powi PowI: |x| x.powi(3), Domain::All, |x| x.pow_tensor_scalar(3);
    powf PowF: |x| x.powf(S::of(2.5)), Domain::Positive, |x| x.pow_tensor_scalar(2.5);
    constants Constants: |x| (x + 0.1) * 0.3 / 0.7 - 0.2, Domain::All,
        |x| (x + 0.1) * 0.3 / 0.7 - 0.2;
}
