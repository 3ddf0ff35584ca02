use super::*;
use crate::check::compare::same_bits;
use crate::check::layout::Layout;
use crate::check::points::versions;
use crate::check::watch::Log;
use crate::{Var, ffi};
use std::sync::Arc;
use tch::Tensor;

pub(super) fn unchanged(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let log = Arc::new(Log::default());
    let needs = point.floating();
    // The inputs are what `forward` really gets, not the leaves.
    let applied = runs::apply_with::<Var>(point.given(&needs), |x| {
        kit.subject.watched(point.layout, x, log.clone())
    })?;
    let values: Flat =
        applied.inputs.iter().map(|x| x.as_ref().map(|x| x.value().shallow_clone())).collect();
    for (i, x) in values.iter().enumerate().filter(|(i, _)| !point.dirty[*i]) {
        let given = point.x[i].as_ref().map(|x| Layout::Contiguous.arrange(x));
        let changed = matches!((x, &given), (Some(x), Some(given)) if !same_bits(x, given));
        if changed {
            return Err(Stop::failed(format!("forward changed input {i}")));
        }
    }
    let seeds = point.seeds(&mut kit.random(Property::Unchanged));
    let outputs = applied.values();
    let all = [("input", values), ("output", outputs), ("seed", copies(&seeds))];
    let seeds = &all[2].1;
    let before: Vec<_> = all.iter().map(|(_, list)| (copies(list), versions(list))).collect();
    for retain in [true, false] {
        applied.gradients(seeds, &needs, retain)?;
        if let Some(changed) = log.changed() {
            return Err(Stop::failed(changed));
        }
        for ((what, now), (bits, old)) in all.iter().zip(&before) {
            unchanged_list(what, now, bits, old)?;
        }
    }
    Ok(Tally { compared: all.iter().map(|(_, list)| list.len()).sum(), kinks: 0 })
}

fn unchanged_list(what: &str, now: &Flat, bits: &Flat, old: &[u32]) -> Result<(), Stop> {
    for (i, (now, bits)) in now.iter().zip(bits).enumerate() {
        let (Some(now), Some(bits)) = (now, bits) else { continue };
        if !same_bits(now, bits) {
            return Err(Stop::failed(format!("backward changed {what} {i}")));
        }
        if ffi::version(now) != old[i] {
            let message = format!("backward wrote to {what} {i}, if the same numbers");
            return Err(Stop::failed(message));
        }
    }
    Ok(())
}

pub(super) fn aliasing(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let needs = vec![false; point.x.len()];
    let first = runs::apply::<Var>(kit.subject, point.given(&needs))?;
    let second = runs::apply::<Var>(kit.subject, point.given(&needs))?;
    let values = |list: &Flat<Var>| -> Vec<(usize, Tensor)> {
        let present = list.iter().enumerate();
        present.filter_map(|(i, v)| Some((i, v.as_ref()?.value().shallow_clone()))).collect()
    };
    let mut compared = 0;
    for (j, y) in values(&first.outputs) {
        for (k, other) in values(&second.outputs) {
            compared += 1;
            if ffi::shares_storage(&y, &other) {
                return Err(Stop::failed(format!(
                    "output {j} of one call lies in the memory of output {k} of the next, which \
                     will write over it"
                )));
            }
        }
        for (i, x) in values(&first.inputs) {
            compared += 1;
            if ffi::shares_storage(&x, &y) && !share_version(&x, &y) {
                return Err(Stop::failed(format!(
                    "output {j} lies in the memory of input {i} and libtorch does not know: \
                     return a view (view, narrow, ..), a copy, or mark_dirty the input"
                )));
            }
        }
    }
    Ok(Tally { compared, kinks: 0 })
}

/// Returns whether a change of one is seen in the other's in-place counter.
fn share_version(x: &Tensor, y: &Tensor) -> bool {
    let before = ffi::version(x);
    ffi::bump_version("check", y).is_ok() && ffi::version(x) != before
}
