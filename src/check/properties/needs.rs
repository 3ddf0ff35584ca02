use super::*;
use crate::Var;
use tch::Tensor;

/// Maximum number of the 2^n choices of inputs that are tried.
const MASKS: u64 = 32;

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    differentiable(point)?;
    let mut tally = in_engine::<Var>(kit, point)?;
    tally.compared += in_engine::<Tensor>(kit, point)?.compared;
    Ok(tally)
}

fn in_engine<V: Side>(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let needs = point.floating();
    let seeds = point.seeds(&mut kit.random(Property::NeedsInputGrad));
    let applied = runs::apply::<V>(kit.subject, point.given(&needs))?;
    let full = Results::of(&applied, &seeds, &needs)?;
    let allowed = allowed(kit, Property::NeedsInputGrad, point);
    let mut tally = Tally::default();
    for mask in masks(kit, &needs) {
        let wanted = |(g, wanted): (&Option<Tensor>, &bool)| {
            g.as_ref().filter(|_| *wanted).map(Tensor::shallow_clone)
        };
        let gradients = full.gradients.iter().zip(&mask).map(wanted).collect();
        let expected = Results { outputs: copies(&full.outputs), gradients };
        let positions: Vec<usize> = (0..mask.len()).filter(|&i| mask[i]).collect();
        let constant = runs::apply::<V>(kit.subject, point.given(&mask))?;
        let (constant, asked) =
            (Results::of(&constant, &seeds, &mask)?, Results::of(&applied, &seeds, &mask)?);
        for (found, how) in [(constant, "require a gradient"), (asked, "are asked for")] {
            let message =
                format!("the results change when only inputs {positions:?} {how} ({})", V::NAME);
            tally.compared += expected.compare(&found, allowed, &message)?.compared;
        }
    }
    Ok(tally)
}

/// Choices of the inputs that can have a gradient, all of them left out.
fn masks(kit: &Kit<'_>, needs: &[bool]) -> Vec<Vec<bool>> {
    let positions: Vec<usize> = (0..needs.len()).filter(|&i| needs[i]).collect();
    let chosen = |bits: u64| {
        let mut mask = vec![false; needs.len()];
        positions.iter().enumerate().for_each(|(k, &i)| mask[i] = bits >> k & 1 == 1);
        mask
    };
    match 1u64.checked_shl(positions.len() as u32) {
        Some(all) if all <= MASKS => (0..all - 1).map(chosen).collect(),
        _ => {
            let mut random = kit.random(Property::NeedsInputGrad);
            (0..MASKS).map(|_| chosen(random.bits())).collect()
        }
    }
}
