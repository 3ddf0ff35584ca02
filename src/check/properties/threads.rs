use super::*;
use crate::Var;
use crate::check::layout::Layout;
use crate::check::subject::Subject;
use tch::Tensor;

const THREADS: usize = 8;

/// Every second thread works on other numbers: what they share by mistake shows.
pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let seeds = point.seeds(&mut kit.random(Property::Threads));
    let expected = Results::at::<Var>(kit, point, &seeds)?;
    let other = repeat::shrunk(&point.x);
    // If that is outside the domain, all threads work on the same numbers.
    let of_other = at(kit, point, &other, &seeds).ok();
    let shared = runs::apply::<Var>(kit.subject, point.given(&point.floating()))?;
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|i| {
                let is_other = i % 2 == 1 && of_other.is_some();
                let x = if is_other { &other } else { &point.x };
                let mine = Mine::new(point, x, &seeds, &shared);
                let subject = kit.subject;
                (is_other, scope.spawn(move || mine.run(subject)))
            })
            .collect();
        found.extend(threads.into_iter().map(|(is_other, thread)| (is_other, thread.join())));
    });
    let allowed = allowed(kit, Property::Threads, point);
    let message = "eight threads at once give other numbers than one";
    let mut tally = Tally::default();
    for (is_other, results) in found {
        let (own, of_shared) = results
            .map_err(|_| Stop::failed("a thread panicked"))?
            .map_err(|e| Stop::failed(format!("on eight threads at once: {e}")))?;
        let expected_own = of_other.as_ref().filter(|_| is_other).unwrap_or(&expected);
        for (expected, list) in [(expected_own, own), (&expected, of_shared)] {
            for results in list {
                tally.compared += expected.compare(&results, allowed, message)?.compared;
            }
        }
    }
    Ok(tally)
}

fn at(kit: &Kit<'_>, point: &Point, x: &Flat, seeds: &Flat) -> Result<Results> {
    let needs = point.floating();
    let given = runs::Given { x, ..point.given(&needs) };
    Results::of(&runs::apply::<Var>(kit.subject, given)?, seeds, &needs)
}

/// The numbers of one thread.
struct Mine {
    layout: usize,
    x: Flat,
    seeds: Flat,
    needs: Vec<bool>,
    /// A graph that all of them differentiate.
    shared: Applied<Var>,
}

impl Mine {
    /// Tensors are Send and not Sync: each thread gets its own.
    fn new(point: &Point, x: &Flat, seeds: &Flat, shared: &Applied<Var>) -> Mine {
        let (leaves, outputs) = (shared.leaves.clone(), shared.outputs.clone());
        Mine {
            layout: point.layout,
            x: copies(x),
            seeds: copies(seeds),
            needs: point.floating(),
            shared: Applied { leaves, inputs: Vec::new(), versions: Vec::new(), outputs },
        }
    }

    /// Differentiates the thread's numbers, and the graph that all threads share.
    fn run(self, subject: &dyn Subject) -> Result<(Vec<Results>, Vec<Results>)> {
        let lies = Layout::Contiguous;
        let given = runs::Given { layout: self.layout, x: &self.x, needs: &self.needs, lies };
        let (mut own, mut shared) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let here = runs::apply::<Var>(subject, given)?;
            own.push(Results::of(&here, &self.seeds, &self.needs)?);
            let torch = runs::apply::<Tensor>(subject, given)?;
            own.push(Results::of(&torch, &self.seeds, &self.needs)?);
            shared.push(Results::of(&self.shared, &self.seeds, &self.needs)?);
        }
        Ok((own, shared))
    }
}
