use super::*;
use crate::check::compare::{apart, numbers};
use crate::check::failure::Difference;
use crate::{DualLevel, Error, Var};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tch::Tensor;

/// `v . (J u)` from `jvp`, `(J^T v) . u` from `backward`, for random `u` and
/// for each `v` that chooses one output element, or random ones of many.
pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    if point.dirty.contains(&true) {
        return Err(Stop::Nothing("it works in place, which forward mode refuses".to_owned()));
    }
    let random = &mut kit.random(Property::ForwardMode);
    let direction =
        |x: &Tensor| x.is_floating_point().then(|| random.fill(&x.size(), |r| r.signed()));
    let mut direction = direction;
    let u: Flat = point.x.iter().map(|x| x.as_ref().and_then(&mut direction)).collect();
    let tangents = tangents(kit, point, &u)?;
    let needs = point.floating();
    let applied = runs::apply::<Var>(kit.subject, point.given(&needs))?;
    let allowed = allowed(kit, Property::ForwardMode, point);
    let mut compared = 0;
    for seeds in choices(point, random) {
        let gradients = applied.gradients(&seeds, &needs, true)?;
        let (found, _) = dot(&seeds, &tangents);
        let (expected, size) = dot(&gradients, &u);
        let most = allowed.rtol * size.max(found.abs()) + allowed.atol;
        if expected.is_finite() && apart(found, expected, most) {
            let (what, element) = chosen(&seeds);
            let difference = Difference { what, element, expected, found, form: None };
            return Err(Stop::differs("jvp and backward differ")(Box::new(difference)));
        }
        compared += 1;
    }
    Ok(Tally { compared, kinks: 0 })
}

fn tangents(kit: &Kit<'_>, point: &Point, u: &Flat) -> Result<Flat, Stop> {
    let _turn = Turn::take()?;
    let level = enter()?;
    let dual = |(x, u): (&Option<Tensor>, &Option<Tensor>)| match (x, u) {
        (Some(x), Some(u)) => level.dual(&x.copy(), u).map(Some),
        (x, _) => Ok(x.as_ref().map(Tensor::copy)),
    };
    let x = point.x.iter().zip(u).map(dual).collect::<Result<Flat>>()?;
    let y = match kit.subject.on_tensors(point.layout, &x) {
        Ok(y) => y,
        Err(Error::NoForwardMode { .. }) => {
            return Err(Stop::Nothing("it has no jvp".to_owned()));
        }
        Err(e) => return Err(e.into()),
    };
    Ok(y.iter().map(|y| y.as_ref().and_then(|y| Some(level.tangent(y)?.copy()))).collect())
}

/// The right to enter the level, of which a process has one.
struct Turn {
    _lock: MutexGuard<'static, ()>,
}

thread_local! {
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
}

impl Turn {
    /// Waits for the check kit's other threads.
    ///
    /// # Errors
    /// [`Error::Argument`] where the op that is checked checks one itself.
    fn take() -> Result<Turn> {
        static ONE: Mutex<()> = Mutex::new(());
        if HAS_TURN.replace(true) {
            let message = "forward mode is in use on this thread; check the inner op on its own";
            return Err(Error::Argument { op: "check", message: message.to_owned() });
        }
        Ok(Turn { _lock: ONE.lock().unwrap_or_else(PoisonError::into_inner) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HAS_TURN.set(false);
    }
}

/// Tests on other threads may be in it too.
fn enter() -> Result<DualLevel> {
    let started = Instant::now();
    loop {
        match DualLevel::enter() {
            Err(_) if started.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn choices(point: &Point, random: &mut crate::check::Random) -> Vec<Flat> {
    const ONE_BY_ONE: usize = 32;
    if point.output_elements() > ONE_BY_ONE {
        return (0..4).map(|_| point.seeds(random)).collect();
    }
    let zeros = point.seeds(random);
    let zeros = || zeros.iter().map(|s| s.as_ref().map(Tensor::zeros_like)).collect::<Flat>();
    let mut choices = Vec::new();
    for j in 0..point.outputs.len() {
        for element in 0..zeros()[j].as_ref().map_or(0, Tensor::numel) {
            let seeds = zeros();
            let _ = seeds[j].as_ref().map(|s| s.view(-1).get(element as i64).fill_(1.0));
            choices.push(seeds);
        }
    }
    choices
}

fn chosen(seeds: &Flat) -> (String, Vec<i64>) {
    let chosen = seeds.iter().enumerate().find_map(|(j, seed)| {
        let element = numbers(seed.as_ref()?).iter().position(|x| *x == 1.0)?;
        let shape = seed.as_ref()?.size();
        Some((format!("tangent of output {j}"), crate::check::failure::index(element, &shape)))
    });
    chosen.unwrap_or_else(|| ("tangent of the outputs along random weights".to_owned(), Vec::new()))
}

/// The sum of products, and of their magnitudes.
fn dot(a: &Flat, b: &Flat) -> (f64, f64) {
    let pairs = a.iter().zip(b).filter_map(|(a, b)| Some((a.as_ref()?, b.as_ref()?)));
    let products = pairs.flat_map(|(a, b)| {
        let products: Vec<f64> = numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).collect();
        products
    });
    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}
