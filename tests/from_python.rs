//! The Rust of docs/from-python.md, compiled and run.

mod support;

use anyhow::{Result, bail, ensure};
use support::{number, numbers, vector};
use tch::{Device, Kind, Reduction, Tensor, nn};
use tch_function::ops::Log1pExp;
use tch_function::{
    Ctx, DoubleBackward, Error, Function, GradOptions, Gradcheck, Var, Vmap, autocast, backward,
    dispatcher, grad, grad_fn, gradcheck, inference_mode, register_hook,
};

/// Every block of Rust on the page, and every piece of code in the Rust column
/// of its tables, stands in this file, whatever the indentation.
#[test]
fn the_page_says_what_is_tested_here() {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let page = include_str!("../docs/from-python.md");
    let here = flat(include_str!("from_python.rs"));
    let blocks = page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let cells =
        page.lines().filter_map(|l| l.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | "));
    // Tables escape a bar.
    let spans = cells.flat_map(|(_, rust)| rust.split('`').skip(1).step_by(2));
    let code = blocks.chain(spans).map(|code| code.replace(r"\|", "|"));
    let missing: Vec<String> = code.filter(|code| !here.contains(&flat(code))).collect();
    assert!(missing.is_empty(), "not in tests/from_python.rs: {missing:#?}");
}

fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

struct ScaledSquare {
    k: f64,
}

impl Function for ScaledSquare {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(self.k * x * x)
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * 2.0 * self.k * x))
    }
}

#[test]
fn the_pattern_in_both_engines() -> Result<()> {
    let x = leaf(&[5.0]);
    let y = ScaledSquare { k: 3.0 }.apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 30.0);
    let x = Var::leaf(vector(&[5.0]));
    let y = ScaledSquare { k: 3.0 }.apply(&x)?;
    assert_eq!(number(grad(&y, &x)?.value()), 30.0);
    Ok(())
}

struct Mul;
impl Function for Mul {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, w): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, w])?;
        Ok(x * w)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, w] = ctx.saved_tensors()?;
        let dx = ctx.needs_input_grad(0).then(|| dy * w);
        let dw = ctx.needs_input_grad(1).then(|| dy * x);
        Ok((dx, dw))
    }
}

struct Square;
impl Function for Square {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy * 2.0 * x))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Once
    }
}

/// The tensors of a list on top of each other, times their number.
struct Stack;
impl Function for Stack {
    type Inputs = Vec<Tensor>;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, xs: &[Tensor]) -> Result<Tensor> {
        if xs.iter().any(|x| number(&x.min()) < 0.0) {
            bail!("x must not be negative");
        }
        let n = xs.len() as f64;
        ctx.save(n)?;
        ctx.save_for_backward(xs)?;
        Ok(Tensor::stack(xs, 0) * n)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        let n = *ctx.state::<f64>()?;
        let xs = ctx.saved_tensors_vec()?;
        ensure!(ctx.input_size(0)? == xs[0].size());
        Ok((0..xs.len() as i64).map(|i| Some(dy.select(0, i) * n)).collect())
    }
}

struct Shift;
impl Function for Shift {
    type Inputs = (Tensor, Option<Tensor>);
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, (x, bias): (&Tensor, Option<&Tensor>)) -> Result<Tensor> {
        Ok(bias.map_or_else(|| x.copy(), |bias| x + bias))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let db = ctx.needs_input_grad(1).then(|| dy.copy());
        Ok((Some(dy.copy()), db))
    }
}

#[test]
fn signatures() -> Result<()> {
    let (x, w) = (leaf(&[2.0]), leaf(&[3.0]));
    let y = Mul.apply((&x, &w))?;
    let [dx, dw] = grad(&y, [&x, &w])?;
    assert_eq!([number(&dx), number(&dw)], [3.0, 2.0]);

    let xs = vec![leaf(&[1.0]), leaf(&[2.0])];
    let y = Stack.apply(&xs)?;
    let dxs = grad(&y.sum(Kind::Double), &xs)?;
    assert_eq!([number(&dxs[0]), number(&dxs[1])], [2.0, 2.0]);
    let error = Stack.apply(&[leaf(&[-1.0])]).unwrap_err();
    assert!(matches!(error, Error::Forward { op: "Stack", .. }));

    let scores = vector(&[0.3, 0.5, 0.1, -2.0]).view([2, 2]);
    gradcheck(CrossEntropy, (&scores, &Tensor::from_slice(&[1i64, 0])))?.assert();

    let b = leaf(&[1.0]);
    let y = Shift.apply((&x, None))?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    let y = Shift.apply((&x, Some(&b)))?;
    assert_eq!(number(&grad(&y, &b)?), 1.0);
    Ok(())
}

/// Cross entropy of scores and classes; classes have no gradient.
struct CrossEntropy;
impl Function for CrossEntropy {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (x, class): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([x, class])?;
        Ok(x.cross_entropy_loss::<Tensor>(class, None, Reduction::Mean, -100, 0.0))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [x, class] = ctx.saved_tensors()?;
        let wanted = class.one_hot(x.size()[1]);
        let dx = dy * (x.softmax(1, None) - wanted) / x.size()[0] as f64;
        Ok((Some(dx), None))
    }
}

/// The largest element, and where it is.
struct Largest;
impl Function for Largest {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (y, i) = x.max_dim(0, false);
        let i = i.to_kind(Kind::Double);
        ctx.mark_non_differentiable(&i);
        ctx.save_for_backward([&i])?;
        let z = i;
        Ok((y, z))
    }
    fn backward(&self, ctx: &Ctx, (dy, _): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        let [i] = ctx.saved_tensors()?;
        let dx = Tensor::zeros(ctx.input_size(0)?, (Kind::Double, dy.device()));
        Ok(Some(dx.index_fill_int_tensor(0, &i.to_kind(Kind::Int64), dy)))
    }
}

struct Twins;
impl Function for Twins {
    type Inputs = Tensor;
    type Outputs = (Tensor, Tensor);
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<(Tensor, Tensor)> {
        ctx.set_materialize_grads(false);
        Ok((x * 1.0, x * 2.0))
    }
    fn backward(&self, _: &Ctx, (dy, dz): (&Tensor, &Tensor)) -> Result<Option<Tensor>> {
        if !dz.defined() {
            return Ok(Some(dy.copy()));
        }
        Ok(Some(dz * 2.0))
    }
}

struct ExpInPlace;
impl Function for ExpInPlace {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.mark_dirty(x)?;
        Ok(x.shallow_clone().exp_())
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.copy()))
    }
}

#[test]
fn marks() -> Result<()> {
    let x = leaf(&[1.0, 7.0]);
    let (y, i) = Largest.apply(&x)?;
    assert!(!i.requires_grad());
    assert_eq!(numbers(&grad(&y, &x)?), [0.0, 1.0]);
    let x = leaf(&[1.0]);
    assert_eq!(number(&grad(&Twins.apply(&x)?.0, &x)?), 1.0);
    let h = &x * 0.0;
    let _ = ExpInPlace.apply(&h)?;
    assert_eq!(number(&h), 1.0);
    Ok(())
}

/// y = x^3 with x^2 saved.
struct Cube;
impl Function for Cube {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let square = x * x;
        ctx.save_for_backward([&square])?;
        Ok(square * x)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [square] = ctx.saved_tensors()?;
        Ok(Some(dy * 3.0 * square))
    }
    fn double_backward(&self) -> DoubleBackward {
        DoubleBackward::Recompute
    }
}

struct Dropout;
impl Function for Dropout {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let mask = x.empty_like().bernoulli_float_(0.5) * 2.0;
        ctx.mark_constant(&mask);
        ctx.save_for_backward([&mask])?;
        Ok(x * mask)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [mask] = ctx.saved_tensors()?;
        Ok(Some(dy * mask))
    }
}

#[test]
fn second_derivatives() -> Result<()> {
    let second = |y: Tensor, x: &Tensor| {
        let dy = GradOptions::new().create_graph(true).grad(&y, x)?.unwrap();
        grad(&dy, x)
    };
    let x = leaf(&[2.0]);
    assert_eq!(number(&second(Cube.apply(&x)?, &x)?), 12.0);
    let error = second(Square.apply(&x)?, &x).unwrap_err();
    assert!(matches!(error, Error::OnceDifferentiable { op: "Square" }));
    let y = Dropout.apply(&(&x * &x))?;
    assert_eq!(number(&second(y.copy(), &x)?), number(&(y / (&x * &x) * 2.0)));
    Ok(())
}

#[test]
fn asking_for_gradients() -> Result<()> {
    let (x, w, b) = (leaf(&[2.0]), leaf(&[3.0]), leaf(&[1.0]));
    let v = vector(&[10.0]);
    let y = Mul.apply((&x, &w))?;
    let options = GradOptions::new().seeds(&v).create_graph(true).allow_unused(true);
    let [dx, db] = options.grad(&y, [&x, &b])?;
    assert_eq!((dx.map(|dx| number(&dx)), db.is_none()), (Some(30.0), true));

    let y = Mul.apply((&x, &w))?;
    GradOptions::new().seeds(&v).backward(&y)?;
    let loss = Mul.apply((&x, &w))?;
    backward(&loss)?;
    assert_eq!(number(&x.grad()), 33.0);
    let loss = Mul.apply((&x, &w))?;
    loss.backward();
    let loss = Mul.apply((&x, &w))?;
    let dx = GradOptions::new().retain_graph(true).grad(&loss, &x)?;
    assert_eq!(number(&dx.unwrap()), 3.0);
    let dx = grad(&loss, &x)?;
    assert_eq!(number(&dx), 3.0);
    let loss = Mul.apply((&x, &w))?;
    let [dx, dw] = grad(&loss, [&x, &w])?;
    assert_eq!([number(&dx), number(&dw)], [3.0, 2.0]);
    assert!(!tch::no_grad(|| Mul.apply((&x, &w)))?.requires_grad());

    gradcheck(Mul, (&x, &w))?.assert();
    Gradcheck::new().eps(1e-4).atol(1e-3).check(Square, &x)?.assert();
    Ok(())
}

#[test]
fn hooks_and_modes() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = ScaledSquare { k: 1.0 }.apply(&x)?;
    let handle = register_hook(&y, |g| Ok(Some(g * 2.0)))?;
    assert_eq!(number(&grad(&y, &x)?), 4.0);
    handle.remove();
    let node = grad_fn(&y).expect("y was computed");
    assert_eq!(node.name(), "ScaledSquareBackward");
    let f = || Log1pExp.apply(&x);
    let y = inference_mode(f)?;
    assert!(!y.requires_grad());
    let x = Tensor::ones([2, 2], (Kind::BFloat16, Device::Cpu));
    let f = || Full.apply(&x);
    let y = autocast(Device::Cpu, Kind::BFloat16, f)?;
    assert_eq!(y?.kind(), Kind::Float);
    let model = nn::seq().add(Log1pExp.into_module());
    assert_eq!(x.apply(&model).size(), [2, 2]);
    Ok(())
}

/// Sees f32 under autocast.
struct Full;
impl Function for Full {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ensure!(x.kind() == Kind::Float);
        Ok(x * 0.5)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy * 0.5))
    }
    fn cast_inputs(&self) -> Option<Kind> {
        Some(Kind::Float)
    }
}

/// Breaks the rule that it is told to break.
struct Wrong(&'static str);
impl Function for Wrong {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        match self.0 {
            "saved twice" => {
                ctx.save_for_backward([x])?;
                ctx.save_for_backward([x])?;
            }
            "changed" => drop(x.shallow_clone().exp_()),
            "intermediate" => ctx.save_for_backward([&(x * 1.0)])?,
            _ => {}
        }
        Ok(x * 1.0)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let dx = dy.copy();
        Ok(Some(match self.0 {
            "shape" => dx.sum(Kind::Double),
            "dtype" => dx.to_kind(Kind::Float),
            "reduced" => ctx.reduce_to_input(0, &dx)?,
            "intermediate" => dx * ctx.saved_tensors::<1>()?[0],
            _ => dx,
        }))
    }
}

#[test]
fn errors() -> Result<()> {
    let x = leaf(&[1.0, 2.0]);
    let found = |rule| {
        let y = Wrong(rule).apply(&(&x * 1.0))?.sum(Kind::Double);
        let dx = GradOptions::new().create_graph(rule == "intermediate").grad(&y, &x)?;
        let dx = dx.unwrap().sum(Kind::Double);
        match rule {
            "twice" => grad(&y, &x),
            "intermediate" => grad(&dx, &x),
            _ => Ok(dx),
        }
    };
    assert!(matches!(found("shape"), Err(Error::GradientShape { .. })));
    assert!(matches!(found("dtype"), Err(Error::GradientDtype { .. })));
    assert!(matches!(found("saved twice"), Err(Error::SavedTwice { .. })));
    assert!(matches!(found("changed"), Err(Error::InputChanged { .. })));
    assert!(matches!(found("twice"), Err(Error::GraphFreed { .. })));
    assert!(matches!(found("intermediate"), Err(Error::SavedIntermediate { .. })));
    assert_eq!(number(&found("reduced")?), 2.0);
    assert_eq!(number(&found("none")?), 2.0);
    Ok(())
}

struct Leaky {
    slope: f64,
}

impl Function for Leaky {
    type Inputs = Tensor;
    type Outputs = Tensor;

    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.maximum(&(x * self.slope)))
    }

    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [x] = ctx.saved_tensors()?;
        Ok(Some(dy.where_self(&x.gt(0.0), &(dy * self.slope))))
    }

    fn fake(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        ctx.save_for_backward([x])?;
        Ok(x.empty_like())
    }

    fn jvp(&self, ctx: &Ctx, x: &Tensor, dx: &Tensor) -> Result<Tensor> {
        ensure!(ctx.input_size(0)? == dx.size());
        Ok(dx.where_self(&x.gt(0.0), &(dx * self.slope)))
    }

    fn vmap(&self) -> Vmap {
        Vmap::Formulas
    }
}

tch_function::library! {
    /// Registers the op.
    pub fn register() for "my_ops" {
        "leaky(Tensor x, float slope=0.01) -> Tensor" => |slope| Leaky { slope },
    }
}

#[test]
fn ops_with_a_name() -> Result<()> {
    register()?;
    let file = "no such file";
    let load = || -> Result<_> { Ok(dispatcher::load_module(file, Device::Cpu)?) };
    assert!(load().unwrap_err().to_string().contains(file));
    assert_ne!(Leaky { slope: 0.0 }.vmap(), Vmap::Loop);
    gradcheck(Leaky { slope: 0.2 }, &vector(&[-1.0, 2.0]))?.assert();
    Ok(())
}
