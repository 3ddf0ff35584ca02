use super::*;
use crate::Var;
use tch::Tensor;

const THREADS: usize = 8;

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let needs = point.floating();
    let seeds = point.seeds(&mut kit.random(Property::Threads));
    let expected = Results::at::<Var>(kit, point, &seeds)?;
    let allowed = allowed(kit, Property::Threads, point);
    let shared = runs::apply::<Var>(kit.subject, point.given(&needs))?;
    let mut found = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                // Tensors are Send and not Sync: each thread gets its own.
                let mine = Mine {
                    layout: point.layout,
                    x: copies(&point.x),
                    seeds: copies(&seeds),
                    needs: needs.clone(),
                    shared: Applied {
                        leaves: shared.leaves.clone(),
                        inputs: Vec::new(),
                        versions: Vec::new(),
                        outputs: shared.outputs.clone(),
                    },
                };
                let subject = kit.subject;
                scope.spawn(move || mine.run(subject))
            })
            .collect();
        found.extend(threads.into_iter().map(|thread| thread.join()));
    });
    let mut tally = Tally::default();
    for results in found {
        let results = results
            .map_err(|_| Stop::failed("a thread panicked"))?
            .map_err(|e| Stop::failed(format!("on eight threads at once: {e}")))?;
        for results in results {
            let message = "eight threads at once give other numbers than one";
            tally.compared += expected.compare(&results, allowed, message)?.compared;
        }
    }
    Ok(tally)
}

/// What one thread works on.
struct Mine {
    layout: usize,
    x: Flat,
    seeds: Flat,
    needs: Vec<bool>,
    /// A graph that all of them differentiate.
    shared: Applied<Var>,
}

impl Mine {
    fn run(self, subject: &dyn crate::check::subject::Subject) -> Result<Vec<Results>> {
        let lies = crate::check::layout::Layout::Contiguous;
        let given = runs::Given { layout: self.layout, x: &self.x, needs: &self.needs, lies };
        let mut results = Vec::new();
        for _ in 0..3 {
            let own = runs::apply::<Var>(subject, given)?;
            results.push(Results::of(&own, &self.seeds, &self.needs)?);
            let torch = runs::apply::<Tensor>(subject, given)?;
            results.push(Results::of(&torch, &self.seeds, &self.needs)?);
            results.push(Results::of(&self.shared, &self.seeds, &self.needs)?);
        }
        Ok(results)
    }
}
