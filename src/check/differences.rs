//! Derivatives from differences, each with an estimate of its own error:
//! Ridders' method (C. Ridders, Adv. Eng. Software 4, 1982), which extrapolates
//! central differences of halved steps to a step of 0.

/// A derivative, and about how wrong it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub value: f64,
    pub error: f64,
}

const UNKNOWN: Estimate = Estimate { value: f64::NAN, error: f64::INFINITY };

/// Number of times that the step is halved.
const LEVELS: usize = 5;

/// The derivative at 0 of each number that `f` gives, from steps of `h` and less.
pub(super) fn derivatives<E>(
    h: f64,
    f: &mut dyn FnMut(f64) -> Result<Vec<f64>, E>,
) -> Result<Vec<Estimate>, E> {
    let mut tableaus: Vec<Tableau> = Vec::new();
    for level in 0..LEVELS {
        let step = h / f64::from(1 << level);
        let (above, below) = (f(step)?, f(-step)?);
        tableaus.resize_with(above.len(), Tableau::default);
        for (tableau, (above, below)) in tableaus.iter_mut().zip(above.iter().zip(&below)) {
            tableau.add(step, *above, *below);
        }
    }
    Ok(tableaus.into_iter().map(|t| t.best.unwrap_or(UNKNOWN)).collect())
}

/// The extrapolations of one number's differences.
#[derive(Default)]
struct Tableau {
    last: Vec<f64>,
    best: Option<Estimate>,
}

impl Tableau {
    fn add(&mut self, step: f64, above: f64, below: f64) {
        let mut row = vec![(above - below) / (2.0 * step)];
        let rounding = 2.0 * f64::EPSILON * above.abs().max(below.abs()) / step;
        let mut factor = 1.0;
        for (i, before) in self.last.iter().enumerate() {
            // Each column takes the next even power of the step away.
            factor *= 4.0;
            let better = (row[i] * factor - before) / (factor - 1.0);
            let error = (better - row[i]).abs().max((better - before).abs()) + rounding;
            if error.is_finite() && self.best.is_none_or(|best| error < best.error) {
                self.best = Some(Estimate { value: better, error });
            }
            row.push(better);
        }
        self.last = row;
    }
}

/// Returns for each number that `f` returns whether its slope jumps at 0: the slopes on
/// both sides stay apart as the step becomes smaller.
pub(super) fn jumps<E>(
    h: f64,
    f: &mut dyn FnMut(f64) -> Result<Vec<f64>, E>,
) -> Result<Vec<bool>, E> {
    let here = f(0.0)?;
    let mut steepest = 0f64;
    let mut gap = |h: f64| -> Result<Vec<f64>, E> {
        let (above, below) = (f(h)?, f(-h)?);
        let slopes = above.iter().zip(&below).map(|(above, below)| (above - below).abs() / h);
        steepest = slopes.filter(|s| s.is_finite()).fold(steepest, f64::max);
        let gap = |i: usize| (above[i] - 2.0 * here[i] + below[i]).abs() / h;
        Ok((0..here.len()).map(gap).collect())
    };
    let (wide, narrow) = (gap(h)?, gap(h / 16.0)?);
    let noise = |y: f64| 64.0 * f64::EPSILON * y.abs() / (h / 16.0) + 1e-6 * steepest;
    let jump = |i: usize| !(narrow[i] <= 0.4 * wide[i] || narrow[i] <= noise(here[i]));
    Ok((0..here.len()).map(jump).collect())
}

/// Steps to try at `x`, the likeliest first. Wide ones are the most accurate
/// where the function is smooth, narrow ones stay clear of kinks and poles.
pub(super) fn steps(x: f64) -> [f64; 4] {
    let size = x.abs();
    let own = if size > 1e-6 { size } else { 1e-2 };
    [0.03 * size.max(1.0), 0.03 * own.min(1.0), 1e-3 * own, 1e-5 * size.max(1.0)]
}

#[test]
fn derivatives_are_right_within_their_error() {
    type F = fn(f64) -> f64;
    let cases: [(F, f64, f64); 6] = [
        (f64::exp, 1.0, 1f64.exp()),
        (f64::ln, 0.5, 2.0),
        (f64::sin, 30.0, 30f64.cos()),
        (|x| x * x * x, 2.0, 12.0),
        (f64::sqrt, 9.0, 1.0 / 6.0),
        (|x| 1.0 / x, 0.7, -1.0 / 0.49),
    ];
    for (f, x, exact) in cases {
        let mut at = |t: f64| Ok::<_, ()>(vec![f(x + t)]);
        let found = derivatives(steps(x)[0], &mut at).expect("f gives no error")[0];
        assert!((found.value - exact).abs() <= 1e-9 * exact.abs(), "{found:?} for {exact}");
        assert!((found.value - exact).abs() <= 10.0 * found.error, "{found:?} for {exact}");
    }
}

#[test]
fn a_jump_of_the_slope_is_seen_and_curvature_is_not() {
    let mut f =
        |t: f64| Ok::<_, ()>(vec![t.abs(), t.max(0.0), t * t, t.exp(), 3.0, t.sin(), t.powi(3)]);
    let found = jumps(1e-3, &mut f).expect("f gives no error");
    assert_eq!(found, [true, true, false, false, false, false, false]);
}

#[test]
fn an_infinite_slope_has_a_large_error() {
    let mut f = |t: f64| Ok::<_, ()>(vec![t.cbrt()]);
    let found = derivatives(steps(0.0)[0], &mut f).expect("f gives no error")[0];
    assert!(found.error > 0.1 * found.value, "{found:?}");
}
