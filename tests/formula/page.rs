//! docs/formula.md: its two ops here, as formulas and by hand, and the lines that it counts.

use super::{row, x};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::Tensor;
use tch_function::check::{Check, Domain};
use tch_function::formula::Derived;
use tch_function::{Function, GradOptions, grad};
use test_support::{number, vector};

#[path = "../../docs/formula/by_hand.rs"]
mod by_hand;
#[path = "../../docs/formula/formula.rs"]
mod formula;

/// The gate's inputs, of three shapes.
fn inputs() -> (Tensor, Tensor, Tensor) {
    (x(), row(), vector(&[0.6, -1.3]).reshape([2, 1]))
}

fn gate((a, b, c): &(Tensor, Tensor, Tensor)) -> Tensor {
    (a * b + c).tanh() * (a - c).sigmoid() + (-b * b).exp() * c * 0.7
}

tch_function::check_tests! {
    softplus => Check::new(Derived(formula::Softplus), [x()])
        .domain(Domain::NearSamples) // not at the kink
        .reference(|x| x.logaddexp(&x.zeros_like()));
    softplus_by_hand => Check::new(by_hand::Softplus, [x()])
        .reference(|x| x.logaddexp(&x.zeros_like()));
    the_gate => Check::new(Derived(formula::Gate { scale: 0.7 }), [inputs()])
        .reference(|(a, b, c)| gate(&(a.shallow_clone(), b.shallow_clone(), c.shallow_clone())));
    the_gate_by_hand => Check::new(by_hand::Gate { scale: 0.7 }, [inputs()])
        .reference(|(a, b, c)| gate(&(a.shallow_clone(), b.shallow_clone(), c.shallow_clone())));
}

/// Where tanh rounds to 1, `1 - tanh^2` has lost every digit; the formula's slope has them.
#[test]
fn a_small_slope_is_right() -> Result<()> {
    let [a, b, c] = [4f32, 2.5, 0.0].map(|x| Tensor::from(x).set_requires_grad(true));
    let db = grad(&Derived(formula::Gate { scale: 0.7 }).apply((&a, &b, &c))?, &b)?;
    assert!((number(&db) / 3.23853e-8 - 1.0).abs() < 1e-4, "{db}");
    let db = grad(&by_hand::Gate { scale: 0.7 }.apply((&a, &b, &c))?, &b)?;
    assert_eq!(number(&db), 0.0);
    Ok(())
}

/// What the page says of Softplus at 0, where it is written with kinks: 1/2 and 0, not 1/4.
#[test]
fn softplus_at_its_kink() -> Result<()> {
    let x = vector(&[0.0]).set_requires_grad(true);
    let y = Derived(formula::Softplus).apply(&x)?;
    let dx = GradOptions::new().create_graph(true).grad(&y, &x)?.context("used")?;
    assert_eq!(number(&dx.detach()), 0.5);
    assert_eq!(number(&grad(&dx, &x)?), 0.0);
    Ok(())
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// The lines of code of each part of a source: what stands under `// op: NAME`, without blank
/// lines and comments.
fn lines(file: &str) -> Result<BTreeMap<String, usize>> {
    let text = fs::read_to_string(docs().join("formula").join(file)).context(file.to_owned())?;
    let mark = if file.ends_with(".py") { "#" } else { "//" };
    let (mut found, mut part) = (BTreeMap::new(), None);
    for line in text.lines().map(str::trim) {
        let comment = line.strip_prefix(mark);
        if let Some(name) = comment.and_then(|comment| comment.trim().strip_prefix("op: ")) {
            part = Some(name.to_owned());
        } else if let (Some(part), None, false) = (&part, comment, line.is_empty()) {
            *found.entry(part.clone()).or_insert(0) += 1;
        }
    }
    Ok(found)
}

/// Each row of the page's table begins with a link to the source, and ends in the lines of
/// Softplus, of the gate and of what both need.
#[test]
fn the_page_counts_the_lines() -> Result<()> {
    let page = fs::read_to_string(docs().join("formula.md"))?;
    let rows: Vec<&str> = page.lines().filter(|line| line.contains("](formula/")).collect();
    let mut counted = 0;
    for row in rows.iter().filter(|row| row.starts_with('|')) {
        let file = row.split("](formula/").nth(1).and_then(|rest| rest.split(')').next());
        let file = file.context("a link")?;
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let found = lines(file)?;
        let of = |part: &str| found.get(part).copied().unwrap_or(0);
        let expected = [of("softplus"), of("gate"), of("both")].map(|n| n.to_string());
        assert_eq!(cells[1..4], expected, "{file} in docs/formula.md: Softplus, gate, both");
        counted += 1;
    }
    assert_eq!(counted, 8, "rows of docs/formula.md that link to a source");
    Ok(())
}
