//! Where a Function is checked: the samples given, and random points like them.

use super::compare::{greatest, numbers};
use super::layout::Layout;
use super::random::Random;
use super::runs::{self, Given};
use super::subject::{Flat, Plain, Subject};
use crate::{Result, Var, ffi};
use tch::{Kind, Tensor};

/// The inputs of a check at one point, f64 where floating-point.
pub(super) struct Point {
    /// The sample that it has the form of.
    pub layout: usize,
    pub x: Flat,
    pub outputs: Vec<Option<Output>>,
    /// The inputs that the Function changes in place.
    pub dirty: Vec<bool>,
    pub origin: String,
    /// Whether the point has whole numbers, at which kinks and ties are.
    pub whole: bool,
    pub random: bool,
}

pub(super) struct Output {
    pub shape: Vec<i64>,
    pub kind: Kind,
    pub differentiable: bool,
}

impl Point {
    /// Runs the Function once to see its outputs.
    pub fn new(subject: &dyn Subject, layout: usize, x: Flat, origin: String) -> Result<Point> {
        let needs = floating(&x);
        let given = Given { layout, x: &x, needs: &needs, lies: Layout::Contiguous };
        let applied = runs::apply::<Var>(subject, given)?;
        let output = |y: &Var| Output {
            shape: y.value().size(),
            kind: y.value().kind(),
            differentiable: y.requires_grad(),
        };
        let outputs = applied.outputs.iter().map(|y| y.as_ref().map(output)).collect();
        let dirty = applied.dirty();
        Ok(Point { layout, x, outputs, dirty, origin, whole: false, random: false })
    }

    pub fn floating(&self) -> Vec<bool> {
        floating(&self.x)
    }

    pub fn given<'a>(&'a self, needs: &'a [bool]) -> Given<'a> {
        Given { layout: self.layout, x: &self.x, needs, lies: Layout::Contiguous }
    }

    /// Random seeds for the differentiable outputs.
    pub fn seeds(&self, random: &mut Random) -> Flat {
        let seed = |y: &Output| {
            y.differentiable.then(|| random.fill(&y.shape, Random::signed).to_kind(y.kind))
        };
        let mut seed = seed;
        self.outputs.iter().map(|y| y.as_ref().and_then(&mut seed)).collect()
    }

    pub fn is_differentiable(&self) -> bool {
        self.outputs.iter().flatten().any(|y| y.differentiable)
    }

    pub fn elements(&self) -> usize {
        self.x.iter().flatten().filter(|x| x.is_floating_point()).map(Tensor::numel).sum()
    }

    pub fn output_elements(&self) -> usize {
        let differentiable = self.outputs.iter().flatten().filter(|y| y.differentiable);
        differentiable.map(|y| y.shape.iter().product::<i64>() as usize).sum()
    }

    pub fn greatest(&self) -> f64 {
        let floats = self.x.iter().flatten().filter(|x| x.is_floating_point());
        floats.map(|x| greatest(&numbers(x))).fold(0.0, f64::max)
    }

    /// Writes one line per input.
    pub fn describe(&self) -> Vec<String> {
        let line = |(i, x): (usize, &Option<Tensor>)| match x {
            None => format!("input {i}: absent"),
            Some(x) => format!("input {i}: {:?} {:?} {}", x.kind(), x.size(), shown(x)),
        };
        self.x.iter().enumerate().map(line).collect()
    }
}

fn shown(x: &Tensor) -> String {
    const SHOWN: usize = 12;
    let all = numbers(x);
    let some: Vec<String> = all.iter().take(SHOWN).map(|x| format!("{x:?}")).collect();
    let more = if all.len() > SHOWN { ", .." } else { "" };
    format!("[{}{more}]", some.join(", "))
}

pub(super) fn floating(x: &Flat) -> Vec<bool> {
    x.iter().map(|x| x.as_ref().is_some_and(Tensor::is_floating_point)).collect()
}

/// The range of random points.
///
/// Whatever it says, points where an output is not finite, or where `forward`
/// returns an error, are left out; then the magnitudes of the same numbers are
/// tried, and numbers close to the samples.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum Domain {
    /// Anywhere: of several magnitudes and both signs, and whole numbers.
    #[default]
    All,
    /// Positive numbers.
    Positive,
    /// Numbers from the first to the second.
    Between(f64, f64),
    /// Close to the samples: each number within a hundredth of its own.
    NearSamples,
    /// Only the samples.
    Samples,
    /// Each floating-point input drawn by a function of its position and shape,
    /// such as one that makes positive definite matrices.
    Draw(fn(&mut Random, usize, &[i64]) -> Tensor),
}

/// The distribution of random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Unit,
    Small,
    Large,
    Whole,
    Near,
    Huge,
}

const STYLES: [Style; 5] = [Style::Unit, Style::Whole, Style::Large, Style::Small, Style::Huge];

/// The samples, and random points; with the number of those left out.
pub(super) fn points(
    subject: &dyn Subject,
    reference: Option<&Plain>,
    samples: &[Flat],
    domain: Domain,
    seed: u64,
) -> Result<(Vec<Point>, usize)> {
    let mut points = Vec::new();
    for (i, x) in samples.iter().enumerate() {
        points.push(Point::new(subject, i, x.clone_flat(), format!("sample {i}"))?);
    }
    let mut left_out = 0;
    for (i, sample) in samples.iter().enumerate() {
        let styles = match domain {
            Domain::Samples => &[][..],
            Domain::NearSamples => &[Style::Near][..],
            // All of them for the first, then one each.
            _ if i == 0 => &STYLES[..],
            _ => &STYLES[i % STYLES.len()..][..1],
        };
        for &style in styles {
            let mut random = Random::new(seed, (i * 8 + style as usize) as u64);
            match random_point((subject, reference), (i, sample), domain, style, &mut random) {
                Some(point) => points.push(point),
                None => left_out += 1,
            }
        }
    }
    Ok((points, left_out))
}

pub(super) trait CloneFlat {
    fn clone_flat(&self) -> Flat;
}

impl CloneFlat for Flat {
    fn clone_flat(&self) -> Flat {
        self.iter().map(|x| x.as_ref().map(Tensor::shallow_clone)).collect()
    }
}

fn random_point(
    (subject, reference): (&dyn Subject, Option<&Plain>),
    (i, sample): (usize, &Flat),
    domain: Domain,
    style: Style,
    random: &mut Random,
) -> Option<Point> {
    if floating(sample).iter().all(|floating| !floating) {
        return None;
    }
    let drawn = |random: &mut Random| -> Flat {
        let replaced = |(position, x): (usize, &Option<Tensor>)| {
            let x = x.as_ref()?;
            if !x.is_floating_point() {
                return Some(x.shallow_clone());
            }
            Some(draw(random, domain, style, position, x))
        };
        sample.iter().enumerate().map(replaced).collect()
    };
    let mut candidates = vec![(drawn(random), style)];
    if matches!(domain, Domain::All) {
        let magnitudes = candidates[0].0.iter().map(|x| x.as_ref().map(magnitude)).collect();
        candidates.push((magnitudes, style));
    }
    if !matches!(domain, Domain::Draw(_)) {
        let near = |x: &Tensor| draw(random, Domain::All, Style::Near, 0, x);
        let mut near = near;
        let near = sample.iter().map(|x| x.as_ref().map(&mut near)).collect();
        candidates.push((near, Style::Near));
    }
    candidates.into_iter().find_map(|(x, style)| {
        let origin = format!("random point ({style:?}) like sample {i}");
        let point = Point::new(subject, i, x, origin).ok()?;
        let whole = style == Style::Whole;
        is_inside(subject, reference, &point).then(|| Point { whole, random: true, ..point })
    })
}

fn magnitude(x: &Tensor) -> Tensor {
    if !x.is_floating_point() {
        return x.shallow_clone();
    }
    // Not 0, which is often outside a domain whose samples are negative.
    let magnitudes = x.abs();
    magnitudes.where_scalarother(&magnitudes.gt(0.0), 1.0)
}

fn draw(random: &mut Random, domain: Domain, style: Style, position: usize, x: &Tensor) -> Tensor {
    if !x.is_floating_point() {
        return x.shallow_clone();
    }
    let shape = x.size();
    match domain {
        Domain::Draw(draw) => draw(random, position, &shape),
        Domain::Between(low, high) => random.tensor(&shape, low, high),
        _ if style == Style::Near => x * (1.0 + random.tensor(&shape, -0.01, 0.01)),
        _ => {
            let numbers = random.fill(&shape, |random| number(random, style));
            if matches!(domain, Domain::Positive) { magnitude(&numbers) } else { numbers }
        }
    }
}

fn number(random: &mut Random, style: Style) -> f64 {
    match style {
        Style::Unit | Style::Near => random.between(-2.0, 2.0),
        Style::Small => random.between(-1e-3, 1e-3),
        Style::Large => random.between(-30.0, 30.0),
        // Starts at 800, since exp(x) overflows at 710.
        Style::Huge => 4000.0 * random.signed(),
        Style::Whole => random.between(-3.5, 3.5).round(),
    }
}

/// Returns whether the outputs are finite there, those of the reference if there is one.
fn is_inside(subject: &dyn Subject, reference: Option<&Plain>, point: &Point) -> bool {
    let needs = point.floating();
    let outputs = match reference {
        Some(f) => tch::no_grad(|| f(point.layout, &point.x.clone_flat())),
        None => runs::apply::<Var>(subject, point.given(&needs)).map(|applied| applied.values()),
    };
    let Ok(outputs) = outputs else { return false };
    let finite = |t: &Option<Tensor>| {
        t.as_ref()
            .is_none_or(|t| !t.is_floating_point() || numbers(t).iter().all(|x| x.is_finite()))
    };
    outputs.iter().all(finite)
}

/// The in-place counter of each.
pub(super) fn versions(tensors: &Flat) -> Vec<u32> {
    tensors.iter().map(|t| t.as_ref().map_or(0, ffi::version)).collect()
}
