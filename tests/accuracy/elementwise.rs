//! The shipped elementwise ops, and the functions of two numbers.

use crate::measure::{KINDS, joined, lines, points, sample, write};
use anyhow::{Context, Result};
use std::fmt::Write as _;
use tch::{Kind, Reduction, Tensor};
use tch_function::formula::{Derived, Formula, Scalar};
use tch_function::{Function, GradOptions, ops};

type Apply<const N: usize> = fn([&Tensor; N]) -> tch_function::Result<Tensor>;

/// Three results and libtorch's: of one number the value and two derivatives, of two the value
/// and the derivative in each.
type Case<const N: usize> = (&'static str, [Apply<N>; 2]);

macro_rules! pairs {
    ($($F:ident: |$a:ident, $b:ident| $y:expr;)+) => {$(
        #[derive(Clone)]
        struct $F;
        impl Formula<2> for $F {
            #[inline(always)]
            fn eval<S: Scalar>(&self, [$a, $b]: [S; 2]) -> [S; 1] {
                [$y]
            }
        }
    )+};
}
pairs! {
    PowF: |a, b| a.powf(b);
    Atan2: |a, b| a.atan2(b);
    Remainder: |a, b| a.remainder(b);
    Max: |a, b| a.max(b);
    Min: |a, b| a.min(b);
    Quotient: |a, b| a / b;
}

const HUBER: ops::HuberLoss = ops::HuberLoss { delta: 1.0, reduction: Reduction::None };

pub const OF_ONE: &[Case<1>] = &[
    ("Exp", [|[x]| ops::Exp.apply(x), |[x]| Ok(x.exp())]),
    ("Log", [|[x]| ops::Log.apply(x), |[x]| Ok(x.log())]),
    ("Sqrt", [|[x]| ops::Sqrt.apply(x), |[x]| Ok(x.sqrt())]),
    ("Tanh", [|[x]| ops::Tanh.apply(x), |[x]| Ok(x.tanh())]),
    ("Sigmoid", [|[x]| ops::Sigmoid.apply(x), |[x]| Ok(x.sigmoid())]),
    ("Log1pExp", [|[x]| ops::Log1pExp.apply(x), |[x]| Ok(x.softplus())]),
    ("Gelu", [|[x]| ops::Gelu.apply(x), |[x]| Ok(x.gelu("none"))]),
    ("GeluTanh", [|[x]| ops::GeluTanh.apply(x), |[x]| Ok(x.gelu("tanh"))]),
    ("Silu", [|[x]| ops::Silu.apply(x), |[x]| Ok(x.silu())]),
];

pub const OF_TWO: &[Case<2>] = &[
    ("Pow", [|[a, b]| ops::Pow.apply((a, b)), |[a, b]| Ok(a.pow(b))]),
    ("powf", [|[a, b]| Derived(PowF).apply((a, b)), |[a, b]| Ok(a.pow(b))]),
    ("atan2", [|[a, b]| Derived(Atan2).apply((a, b)), |[a, b]| Ok(a.atan2(b))]),
    ("remainder", [|[a, b]| Derived(Remainder).apply((a, b)), |[a, b]| Ok(a.remainder_tensor(b))]),
    ("max", [|[a, b]| Derived(Max).apply((a, b)), |[a, b]| Ok(a.maximum(b))]),
    ("min", [|[a, b]| Derived(Min).apply((a, b)), |[a, b]| Ok(a.minimum(b))]),
    ("quotient", [|[a, b]| Derived(Quotient).apply((a, b)), |[a, b]| Ok(a / b)]),
    (
        "HuberLoss",
        [|[a, b]| HUBER.apply((a, b)), |[a, b]| Ok(a.huber_loss(b, Reduction::None, 1.0))],
    ),
];

/// The value and two derivatives.
fn of_one(name: &str, is_ours: bool, x: &Tensor, f: Apply<1>) -> Result<Vec<Tensor>> {
    let x = x.detach().set_requires_grad(true);
    let y = f([&x])?;
    let ones = y.ones_like();
    let recorded = GradOptions::new().seeds(&ones).create_graph(true);
    let dx = recorded.grad(&y, &x)?.context("x was used")?;
    let ddx = GradOptions::new().seeds(&ones).grad(&dx, &x)?.context("x was used")?;
    let y_again = f([&x])?;
    let plain = GradOptions::new().seeds(&ones).grad(&y_again, &x)?.context("x was used")?;
    let same = plain.allclose(&dx, 0.0, 0.0, true);
    assert!(same || !is_ours, "plain and recorded slopes differ: {name}");
    Ok(vec![y.detach(), dx.detach(), ddx.detach()])
}

/// The value, and the derivative in each number.
fn of_two([a, b]: [&Tensor; 2], f: Apply<2>) -> Result<Vec<Tensor>> {
    let (a, b) = (a.detach().set_requires_grad(true), b.detach().set_requires_grad(true));
    let y = f([&a, &b])?;
    let found = Tensor::f_run_backward(&[y.sum(y.kind())], &[&a, &b], false, false)?;
    Ok(joined([vec![y.detach()], found]))
}

fn seconds(kind: Kind, name: &str, n: u64) -> [Tensor; 2] {
    let (a, b) = (sample(kind, n, 88_172_645_463_325_252), sample(kind, n, 0x9e37_79b9_7f4a_7c15));
    let n = a.size1().expect("flat").min(b.size1().expect("flat"));
    let (a, b) = (a.narrow(0, 0, n), b.narrow(0, 0, n));
    if matches!(name, "powf" | "Pow") { [a.abs(), b.clamp(-30.0, 30.0)] } else { [a, b] }
}

/// Writes each op and its derivatives, ours and libtorch's, for `scripts/accuracy`.
#[test]
#[ignore = "`make accuracy` runs it"]
fn write_what_is_measured() -> Result<()> {
    let mut ones = String::from("function,type,x,y,dy,ddy,torch y,torch dy,torch ddy\n");
    let mut twos = String::from("function,type,x,x2,y,dy,ddy,torch y,torch dy,torch ddy\n");
    for (kind, kind_name) in KINDS {
        let x = sample(kind, points(4000), 0x9e37_79b9_7f4a_7c15);
        for (name, [ours, torch]) in OF_ONE {
            let found = joined([
                vec![x.shallow_clone()],
                of_one(name, true, &x, *ours)?,
                of_one(name, false, &x, *torch)?,
            ]);
            lines(&mut ones, &format!("{name},{kind_name}"), &found);
        }
        for (name, [ours, torch]) in OF_TWO {
            let x = seconds(kind, name, points(4000));
            let [a, b] = &x;
            let (ours, torch) = (of_two([a, b], *ours)?, of_two([a, b], *torch)?);
            lines(&mut twos, &format!("{name},{kind_name}"), &joined([x.into(), ours, torch]));
        }
    }
    write("ops.csv", &ones);
    write("pairs.csv", &twos);
    Ok(())
}

/// The bound in units in the last place: in f16 and bf16 a result is that of f32, rounded once.
/// docs/accuracy.md says the exceptions.
fn bound(kind: &str, name: &str, order: usize) -> f64 {
    match (kind, name, order) {
        ("f16" | "bf16", ..) => 0.51,
        (_, name, 2) if OF_ONE.iter().any(|(one, _)| *one == name) => 4.0,
        _ => 2.0,
    }
}

/// Each line of the sample: function, type, order of the derivative, one or two numbers as
/// bits, and the exact value as its nearest f64 and what is left of it.
#[test]
fn the_sample_is_exact() -> Result<()> {
    let mut wrong = String::new();
    for line in include_str!("exact.csv").lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, kind_name, order, a, b, nearest, rest] = fields[..] else {
            anyhow::bail!("{line}");
        };
        let (kind, _) = KINDS.into_iter().find(|(_, k)| *k == kind_name).context("a type")?;
        let number = |bits: &str| -> Result<Tensor> {
            let x = f64::from_bits(u64::from_str_radix(bits, 16)?);
            Ok(Tensor::from(x).to_kind(kind))
        };
        let (order, a): (usize, _) = (order.parse()?, number(a)?);
        let found = match OF_ONE.iter().find(|(known, _)| *known == name) {
            Some((_, [ours, _])) => of_one(name, true, &a, *ours)?,
            None => {
                let (_, [ours, _]) = OF_TWO.iter().find(|(n, _)| *n == name).context("an op")?;
                of_two([&a, &number(b)?], *ours)?
            }
        };
        let found = found[order].to_kind(Kind::Double).double_value(&[]);
        let (nearest, rest): (f64, f64) = (nearest.parse()?, rest.parse()?);
        let off = ((found - nearest) - rest).abs() / crate::measure::ulp(kind, nearest);
        if off.is_nan() || off > bound(kind_name, name, order) {
            writeln!(wrong, "{line}: {found:e}, {off:.2} ulp")?;
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    Ok(())
}
