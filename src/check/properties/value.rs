use super::*;

pub(super) fn check(kit: &Kit<'_>, point: &Point) -> Result<Tally, Stop> {
    let Some(reference) = kit.reference else {
        return Err(Stop::Nothing("no reference was given".to_owned()));
    };
    let expected = tch::no_grad(|| reference(point.layout, &copies(&point.x)))?;
    let needs = point.floating();
    let found = runs::apply::<crate::Var>(kit.subject, point.given(&needs))?.values();
    let compared = same(Are::Outputs, &expected, &found, allowed(kit, Property::Value, point))
        .map_err(Stop::differs("forward and the reference differ"))?;
    Ok(Tally { compared, kinks: 0 })
}
