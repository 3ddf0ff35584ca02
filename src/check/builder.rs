//! [`Check`]: every property of one Function.

use super::kit::Kit;
use super::points::{self, CloneFlat};
use super::progress::Progress;
use super::quiet::quietly;
use super::subject::{Flat, Plain, PlainFn, Typed, plain};
use super::{CheckReport, Domain, Outcome, Property};
use crate::function::{Of, Refs, Shape};
use crate::{Error, Function, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Kind, Tensor};

/// Checks a Function in every way there is: [`Check`] with its defaults.
///
/// `samples` are inputs to check it at, such as `[x]` or `[(a, b), (c, d)]`;
/// points like them are drawn besides.
///
/// ```
/// use tch::{Tensor, kind::DOUBLE_CPU};
/// use tch_function::{check::check, ops::Mul};
///
/// let (a, b) = (Tensor::randn([2, 3], DOUBLE_CPU), Tensor::randn([3], DOUBLE_CPU));
/// check(Mul, [(a, b)])?.assert();
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// As [`Check::run`].
pub fn check<F: Function>(
    function: F,
    samples: impl IntoIterator<Item = Of<F::Inputs, Tensor>>,
) -> Result<CheckReport> {
    Check::new(function, samples).run()
}

/// Every check of a Function, with options.
///
/// ```
/// use tch::Tensor;
/// use tch_function::check::{Check, Domain, Property};
/// use tch_function::ops::Log;
///
/// let report = Check::new(Log, [Tensor::from_slice(&[0.5, 2.0])])
///     .reference(|x| x.log())
///     .domain(Domain::Positive)
///     .tolerance(Property::Value, 1e-12)
///     .skip(Property::Threads, "slow on this machine")
///     .run()?;
/// report.assert();
/// # anyhow::Ok(())
/// ```
pub struct Check<F: Function> {
    function: Arc<F>,
    layouts: Arc<Vec<<F::Inputs as Shape>::Layout>>,
    samples: Vec<Flat>,
    reference: Option<Arc<PlainFn<F>>>,
    claim: Option<Arc<PlainFn<F>>>,
    domain: Domain,
    tolerances: BTreeMap<Property, f64>,
    skipped: BTreeMap<Property, String>,
    only: Option<Property>,
    seed: Option<u64>,
    fast: bool,
}

impl<F: Function> Check<F> {
    /// Makes a check of `function` at `samples` and points like them. It runs in f64:
    /// floating-point samples of other dtypes are converted.
    pub fn new(function: F, samples: impl IntoIterator<Item = Of<F::Inputs, Tensor>>) -> Check<F> {
        let (mut layouts, mut flat) = (Vec::new(), Vec::new());
        for sample in samples {
            layouts.push(F::Inputs::layout(F::Inputs::borrow(&sample)));
            let mut tensors = Flat::new();
            F::Inputs::take(sample, &mut |t| tensors.push(t));
            flat.push(tensors);
        }
        Check {
            function: Arc::new(function),
            layouts: Arc::new(layouts),
            samples: flat,
            reference: None,
            claim: None,
            domain: Domain::All,
            tolerances: BTreeMap::new(),
            skipped: BTreeMap::new(),
            only: None,
            seed: None,
            fast: false,
        }
    }

    /// Plain tch code that computes the same outputs. Its values are compared,
    /// and where tch differentiates it, its gradients.
    pub fn reference(
        mut self,
        f: impl Fn(Refs<'_, F::Inputs>) -> Of<F::Outputs, Tensor> + 'static,
    ) -> Check<F> {
        self.reference = Some(Arc::new(f));
        self
    }

    /// Plain tch code of which `backward` is the gradient, where that is not
    /// `forward`: the identity for a straight-through estimator, `-x` for a
    /// gradient reversal.
    pub fn claims_gradient_of(
        mut self,
        f: impl Fn(Refs<'_, F::Inputs>) -> Of<F::Outputs, Tensor> + 'static,
    ) -> Check<F> {
        self.claim = Some(Arc::new(f));
        self
    }

    /// Sets where random points may lie; the default is [`Domain::All`].
    pub fn domain(mut self, domain: Domain) -> Check<F> {
        self.domain = domain;
        self
    }

    /// Sets how much numbers may differ for this property, in place of
    /// [`Property::default_tolerance`].
    pub fn tolerance(mut self, property: Property, tolerance: f64) -> Check<F> {
        self.tolerances.insert(property, tolerance);
        self
    }

    /// Leaves a property out, for a reason that the report tells.
    pub fn skip(mut self, property: Property, reason: impl Into<String>) -> Check<F> {
        self.skipped.insert(property, reason.into());
        self
    }

    /// Checks one property alone.
    pub fn only(mut self, property: Property) -> Check<F> {
        self.only = Some(property);
        self
    }

    /// Sets the random seed: the same seed gives the same points. The default is the
    /// environment variable `TCH_FUNCTION_CHECK_SEED` (a number or `random`), else a
    /// constant.
    pub fn seed(mut self, seed: u64) -> Check<F> {
        self.seed = Some(seed);
        self
    }

    /// Checks derivatives along random directions even of small inputs; of
    /// large ones it always does.
    pub fn fast(mut self, fast: bool) -> Check<F> {
        self.fast = fast;
        self
    }

    /// Runs the checks.
    ///
    /// # Errors
    /// [`Error::Argument`] without samples, for complex or undefined ones, and
    /// for a seed that is no number; what the Function itself returns at a
    /// sample. What it does wrong is in the report.
    pub fn run(self) -> Result<CheckReport> {
        quietly(|| self.run_aloud())
    }

    fn run_aloud(self) -> Result<CheckReport> {
        let op = self.function.name();
        let samples = self.samples(op)?;
        let seed = self.seed.map_or_else(|| environment_seed(op), Ok)?;
        let closure = |f: &Option<Arc<PlainFn<F>>>, what| -> Option<Box<Plain>> {
            Some(plain::<F>(op, what, self.layouts.clone(), f.clone()?))
        };
        let reference = closure(&self.reference, "the reference");
        let claim = closure(&self.claim, "the claimed function");
        let subject = Typed { f: self.function.clone(), layouts: self.layouts.clone() };
        let kit = Kit {
            op,
            subject: &subject,
            reference: reference.as_deref(),
            claim: claim.as_deref(),
            tolerances: &self.tolerances,
            seed,
            fast: self.fast,
        };
        let chosen: Vec<Property> = match self.only {
            Some(property) => vec![property],
            None => Property::ALL.to_vec(),
        };
        let mut progress = Progress::new(op, chosen.len());
        let (points, left_out) =
            points::points(&subject, kit.reference, &samples, self.domain, seed)?;
        let mut outcomes = Vec::new();
        for property in chosen {
            let outcome = match self.skipped.get(&property) {
                Some(reason) => Outcome::Skipped(reason.clone()),
                None => kit.run(property, &points, &mut progress),
            };
            outcomes.push((property, outcome));
            progress.property_done();
        }
        let elapsed = progress.elapsed();
        Ok(CheckReport { op, outcomes, points: points.len(), left_out, seed, elapsed })
    }

    /// Runs the checks, for tests.
    ///
    /// # Panics
    /// With the report where a property fails, and where [`run`](Check::run)
    /// returns an error.
    #[track_caller]
    pub fn assert(self) {
        match self.run() {
            Ok(report) => report.assert(),
            Err(e) => panic!("{e}"),
        }
    }

    fn samples(&self, op: &'static str) -> Result<Vec<Flat>> {
        let refuse = |message: &str| {
            let message = format!("check: {message}");
            Err(Error::Argument { op, message })
        };
        if self.samples.is_empty() {
            return refuse("there are no samples; give at least one set of inputs");
        }
        let mut samples = Vec::new();
        for sample in &self.samples {
            if sample.iter().flatten().any(|t| !t.defined()) {
                return refuse("a sample has an undefined tensor");
            }
            if sample.iter().flatten().any(Tensor::is_complex) {
                return refuse(
                    "a sample is complex; only real numbers are checked: wrap the op in one that \
                     takes and returns real and imaginary parts",
                );
            }
            let to_f64 = |t: &Tensor| match t.is_floating_point() {
                true => t.detach().to_kind(Kind::Double),
                false => t.shallow_clone(),
            };
            let converted = sample.iter().map(|t| t.as_ref().map(to_f64)).collect::<Flat>();
            samples.push(converted.clone_flat());
        }
        Ok(samples)
    }
}

/// The seed that the environment asks for.
fn environment_seed(op: &'static str) -> Result<u64> {
    const NAME: &str = "TCH_FUNCTION_CHECK_SEED";
    match std::env::var(NAME) {
        Err(_) => Ok(0x5eed),
        Ok(text) if text == "random" => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            Ok(now.map_or(0, |now| now.as_nanos() as u64) & 0xffff_ffff)
        }
        Ok(text) => text.parse().map_err(|_| {
            let message = format!("check: {NAME} is {text:?}; give a number, or `random`");
            Error::Argument { op, message }
        }),
    }
}
