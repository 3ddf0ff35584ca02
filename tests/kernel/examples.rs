//! The Functions of the kernel examples in README.md and in the crate's docs, as they stand
//! there, under every check: in f64, f32, f16 and bf16.

use anyhow::Result;
use tch::Tensor;
use tch_function::check::Check;
use tch_function::{Ctx, DoubleBackward, Function, kernel};

/// Of the README.
struct Softplus;

impl Function for Softplus {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let both = kernel::floats!(T of x => kernel::map(x, |x: T| {
            (x.max(0.0) + (-x.abs()).exp().ln_1p(), 1.0 / (1.0 + (-x).exp()))
        }));
        let (y, slope) = kernel::or_formula(both, || Ok((x.softplus(), x.sigmoid())))?;
        ctx.save_for_backward([&slope])?;
        Ok(y)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [slope] = ctx.saved_tensors()?;
        let dx = kernel::floats!(T of dy => {
            kernel::map((dy, slope), |(dy, slope): (T, T)| dy * slope)
        });
        kernel::or_formula(dx, || Ok(dy * slope)).map(Some)
    }

    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

/// Of the module `kernel`; that of `or_formula` is the same.
struct Cube;

impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        let y = kernel::floats!(T of x => kernel::map(x, |x: T| x * x * x));
        kernel::or_formula(y, || Ok(x * x * x))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        let dx = kernel::floats!(T of x => {
            kernel::map((x, dy), |(x, dy): (T, T)| 3.0 * x * x * dy)
        });
        kernel::or_formula(dx, || Ok(x * x * dy * 3.0)).map(Some)
    }
}

/// Whose derivative is a Function, of the module `kernel`.
struct Sine;
struct Cosine;

impl Function for Sine {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x.sin()))?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * Cosine.apply(x)?))
    }
}

impl Function for Cosine {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(kernel::floats!(T of x => kernel::map(x, |x: T| x.cos()))?)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(-dy * Sine.apply(x)?))
    }
}

fn samples() -> [Tensor; 2] {
    [
        Tensor::from_slice(&[-30.0, 0.0, 4.5]),
        Tensor::from_slice(&[0.5, -1.25, 2.0, 1.0]).reshape([2, 2]),
    ]
}

tch_function::check_tests! {
    softplus => Check::new(Softplus, samples()).reference(|x| x.softplus());
    cube => Check::new(Cube, samples()).reference(|x| x * x * x);
    sine => Check::new(Sine, samples()).reference(|x| x.sin());
    cosine => Check::new(Cosine, samples()).reference(|x| x.cos());
}

/// The code of `impl Function for name`, without comments and the docs' `mark`.
fn body(text: &str, mark: &str, name: &str) -> Vec<String> {
    let head = format!("impl Function for {name} {{");
    let lines = text.lines().map(|line| line.strip_prefix(mark).unwrap_or(line));
    let body = lines.skip_while(|line| line.trim() != head).take_while(|line| *line != "}");
    let code = body.map(|line| line.split("//").next().unwrap_or_default().trim().to_owned());
    code.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_functions_above_are_those_of_the_docs() {
    let readme = include_str!("../../README.md");
    let module = include_str!("../../src/kernel/mod.rs");
    let choice = include_str!("../../src/kernel/choice.rs");
    for (name, docs, mark) in [
        ("Softplus", readme, ""),
        ("Sine", module, "//! "),
        ("Cosine", module, "//! "),
        ("Cube", choice, "/// "),
    ] {
        let own = body(include_str!("examples.rs"), "", name);
        assert!(own.len() > 10);
        // In the README the name stands more than once: the last one is the kernel.
        let last = docs.rmatch_indices(&format!("impl Function for {name} ")).next();
        let from = docs[..last.expect("in the docs").0].rfind('\n').expect("not the first line");
        assert_eq!(own, body(&docs[from + 1..], mark, name), "{name}");
    }
}
