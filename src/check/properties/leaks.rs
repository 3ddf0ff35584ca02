use super::*;
use crate::check::watch::Log;
use crate::{Var, ffi};
use std::sync::Arc;
use tch::Tensor;

/// Checks that no handle to a graph's tensors is left after the graph is dropped.
pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let owners = kit.subject.owners();
    let log = Arc::new(Log::default());
    let watched = log.clone();
    let layout = point.layout;
    let mut own = held::<Var>(kit, point, |x| kit.subject.watched(layout, x, watched))?;
    own.extend(log.take_saved().into_iter().enumerate().map(|(i, t)| ("saved tensor", i, t)));
    let torch = held::<Tensor>(kit, point, |x| kit.subject.on_tensors(layout, x))?;
    if kit.subject.owners() != owners {
        return Err(Stop::failed("the Function itself is still held by a graph that is gone"));
    }
    let mut compared = 1;
    for (what, i, tensor) in each_memory_once(own).into_iter().chain(each_memory_once(torch)) {
        compared += 1;
        if !ffi::is_unique(&tensor) {
            let message = format!("{what} {i} is still held by somebody after its graph is gone");
            return Err(Stop::failed(message));
        }
    }
    Ok(Tally { compared, kinks: 0 })
}

type Held = Vec<(&'static str, usize, Tensor)>;

/// Differentiates, once in vain and once for good; gives the tensors that went
/// in and came out, of which nothing else should be left.
fn held<V: Side>(
    kit: &Kit<'_>,
    point: &Point,
    f: impl FnOnce(&Flat<V>) -> Result<Flat<V>>,
) -> Result<Held, Stop> {
    let seeds = copies(&point.seeds(&mut kit.random(Property::Leaks)));
    let needs = point.floating();
    drop(runs::apply::<V>(kit.subject, point.given(&needs))?);
    let applied = runs::apply_with::<V>(point.given(&needs), f)?;
    drop(applied.gradients(&seeds, &needs, false)?);
    let mut held = Held::new();
    for (what, list) in [("input", &applied.inputs), ("output", &applied.outputs)] {
        for (i, v) in list.iter().enumerate() {
            // The memory alone: a view would hold what it is a view of.
            held.extend(v.as_ref().map(|v| (what, i, v.tensor().data())));
        }
    }
    held.extend(seeds.into_iter().enumerate().filter_map(|(i, s)| Some(("seed", i, s?))));
    drop(applied);
    Ok(held)
}

/// Removes tensors that share memory with one before them: views, inputs that
/// were changed in place, saved inputs and outputs.
fn each_memory_once(held: Held) -> Held {
    let mut once = Held::new();
    for (what, i, tensor) in held {
        if !once.iter().any(|(_, _, other)| ffi::shares_storage(&tensor, other)) {
            once.push((what, i, tensor));
        }
    }
    once
}
