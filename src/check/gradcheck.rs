//! [`gradcheck`]: a Function's `backward` against differences of its `forward`.

use super::{jacobian, report::Report};
use crate::function::Shape;
use crate::{Error, Function, Refs, Result, Var};
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Compares every derivative that `backward` gives with central differences
/// of `forward`, in f64: `torch.autograd.gradcheck`.
///
/// The derivative of each output element by each input element is
/// `(f(x + eps) - f(x - eps)) / (2 eps)` on one side, and comes from a seed
/// that is 1 at that output element and 0 elsewhere on the other. Integer and
/// boolean inputs are passed on as they are; outputs that are not
/// differentiable are left out. The inputs are copied, never changed.
///
/// ```
/// use tch::{Tensor, kind::DOUBLE_CPU};
/// use tch_function::{check::gradcheck, ops::Mul};
///
/// let (a, b) = (Tensor::randn([2, 3], DOUBLE_CPU), Tensor::randn([3], DOUBLE_CPU));
/// gradcheck(Mul, (&a, &b))?.assert();
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// What `forward` or `backward` returns; [`Error::Argument`] for inputs that
/// are not f64 ([`Gradcheck`] takes tolerances for others), and where there is
/// nothing to compare.
pub fn gradcheck<F: Function>(function: F, inputs: Refs<'_, F::Inputs>) -> Result<Report> {
    Gradcheck::new().check(function, inputs)
}

/// Does what [`gradcheck`] does, for a computation on Vars.
///
/// ```
/// use tch::Tensor;
/// use tch_function::check::gradcheck_fn;
///
/// let x = Tensor::from_slice(&[0.3, 1.0, 4.5]);
/// gradcheck_fn(|[x]| (x.log()? * x).sum(), [&x])?.assert();
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`gradcheck`].
pub fn gradcheck_fn<const N: usize>(
    f: impl Fn([&Var; N]) -> Result<Var>,
    inputs: [&Tensor; N],
) -> Result<Report> {
    Gradcheck::new().check_fn(f, inputs)
}

/// Options of [`gradcheck`], named as PyTorch's and with its defaults.
///
/// ```
/// use tch::{Kind, Tensor};
/// use tch_function::{check::Gradcheck, ops::Exp};
///
/// let x = Tensor::from_slice(&[0.5f32, 1.0]);
/// Gradcheck::new().eps(1e-2).atol(1e-2).rtol(1e-2).check(Exp, &x)?.assert();
/// # anyhow::Ok(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Gradcheck {
    eps: Option<f64>,
    atol: Option<f64>,
    rtol: Option<f64>,
}

impl Gradcheck {
    /// Every option at its default.
    pub fn new() -> Gradcheck {
        Gradcheck::default()
    }

    /// Sets how far an input element is moved to each side; the default is 1e-6.
    pub fn eps(mut self, eps: f64) -> Gradcheck {
        self.eps = Some(eps);
        self
    }

    /// The absolute part of `|analytic - numeric| <= atol + rtol |numeric|`; 1e-5.
    pub fn atol(mut self, atol: f64) -> Gradcheck {
        self.atol = Some(atol);
        self
    }

    /// The relative part; 1e-3.
    pub fn rtol(mut self, rtol: f64) -> Gradcheck {
        self.rtol = Some(rtol);
        self
    }

    /// Does what [`gradcheck`] does, with these options. Inputs and outputs of less precision than f64 need
    /// `eps`, `atol` and `rtol` given.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn check<F: Function>(&self, function: F, inputs: Refs<'_, F::Inputs>) -> Result<Report> {
        let layout = F::Inputs::layout(inputs);
        let mut flat = Vec::new();
        F::Inputs::visit(inputs, &mut |x: Option<&Tensor>| flat.push(x));
        let function = Arc::new(function);
        self.compare(function.name(), &flat, &|x| {
            let mut x = x.iter().cloned();
            let x = F::Inputs::build(&layout, &mut || x.next().flatten());
            let y = function.clone().apply(F::Inputs::borrow(&x))?;
            let mut flat = Vec::new();
            F::Outputs::take(y, &mut |y| flat.push(y));
            Ok(flat)
        })
    }

    /// Does what [`gradcheck_fn`] does, with these options.
    ///
    /// # Errors
    /// As [`gradcheck`].
    pub fn check_fn<const N: usize>(
        &self,
        f: impl Fn([&Var; N]) -> Result<Var>,
        inputs: [&Tensor; N],
    ) -> Result<Report> {
        self.compare("gradcheck_fn", &inputs.map(Some), &|x| {
            let x = std::array::from_fn(|i| x[i].as_ref().expect("none is optional here"));
            Ok(vec![Some(f(x)?)])
        })
    }

    fn compare(
        &self,
        op: &'static str,
        inputs: &[Option<&Tensor>],
        f: &Evaluate<'_>,
    ) -> Result<Report> {
        let named = |(i, x): (usize, &Option<&Tensor>)| x.map(|x| (format!("input {i}"), x.kind()));
        inputs.iter().enumerate().filter_map(named).try_for_each(|(x, k)| self.allow(op, &x, k))?;
        let analytic = jacobian::analytic(op, inputs, f)?;
        for (j, y) in analytic.outputs.iter().enumerate().filter(|(_, y)| y.differentiable) {
            self.allow(op, &format!("output {j}"), y.kind)?;
        }
        let tolerances = self.tolerances();
        let numeric = jacobian::numeric(op, inputs, f, &analytic.outputs, tolerances.eps)?;
        let mut report = Report::new(op, tolerances);
        for slope in numeric {
            report.compare(&slope, analytic.at(&slope), || {
                let input = inputs[slope.input].map(Tensor::size).unwrap_or_default();
                [input, analytic.outputs[slope.output].shape.clone()]
            });
        }
        Ok(report)
    }

    /// Refuses dtypes in which a comparison would say nothing.
    fn allow(&self, op: &'static str, what: &str, kind: Kind) -> Result<()> {
        use Kind::*;
        let refuse = |message| Err(Error::Argument { op, message });
        match kind {
            ComplexHalf | ComplexFloat | ComplexDouble => refuse(format!(
                "gradcheck: {what} is {kind:?}; only real numbers are checked: \
                 wrap the op in one that takes and returns real and imaginary parts"
            )),
            Double | Uint8 | Int8 | Int16 | Int | Int64 | Bool => Ok(()),
            _ if self.eps.is_some() && self.atol.is_some() && self.rtol.is_some() => Ok(()),
            _ => refuse(format!(
                "gradcheck: {what} is {kind:?}, too coarse for the default tolerances; use \
                 to_kind(Kind::Double), or give eps, atol and rtol (see Gradcheck)"
            )),
        }
    }

    fn tolerances(&self) -> Tolerances {
        Tolerances {
            eps: self.eps.unwrap_or(1e-6),
            atol: self.atol.unwrap_or(1e-5),
            rtol: self.rtol.unwrap_or(1e-3),
        }
    }
}

/// The options with their defaults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerances {
    pub eps: f64,
    pub atol: f64,
    pub rtol: f64,
}

/// The function that is checked: from the inputs, one per position, to the outputs.
pub(super) type Evaluate<'a> = dyn Fn(&[Option<Var>]) -> Result<Vec<Option<Var>>> + 'a;
