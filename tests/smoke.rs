use anyhow::Result;
use tch::Tensor;
use tch_function::{Ctx, Function, Var, grad};

struct Log1pExp;
impl Function for Log1pExp {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let e = x.exp();
        ctx.save_for_backward([&e])?;
        Ok((e + 1.0).log())
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        let [e] = ctx.saved_tensors()?;
        Ok(ctx.needs_input_grad(0).then(|| dy * (1.0 - 1.0 / (1.0 + e))))
    }
}

struct Fma { k: f64 }
impl Function for Fma {
    type Inputs = (Tensor, Tensor);
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, (a, b): (&Tensor, &Tensor)) -> Result<Tensor> {
        ctx.save_for_backward([a, b])?;
        Ok(a * b * self.k)
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = ctx.saved_tensors()?;
        Ok((Some(dy * b * self.k), Some(dy * a * self.k)))
    }
}
struct Cat;
impl Function for Cat {
    type Inputs = Vec<Tensor>;
    type Outputs = Tensor;
    fn forward(&self, ctx: &mut Ctx, x: &[Tensor]) -> Result<Tensor> {
        ctx.save(x.len())?;
        Ok(Tensor::stack(x, 0))
    }
    fn backward(&self, ctx: &Ctx, dy: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Ok((0..*ctx.state::<usize>()?).map(|i| Some(dy.select(0, i as i64))).collect())
    }
}

#[test]
fn smoke() -> Result<()> {
    let x = Var::leaf(Tensor::from(4.5));
    let y = Log1pExp.apply(&x)?;
    let dx = grad(&y, &x)?;
    println!("{:?} {:?}", y, dx);
    assert!((f64::try_from(dx.value())? - 0.98901305736).abs() < 1e-6);
    let z = Fma { k: 2.0 }.apply((&x, &x))?;
    let v = vec![x.clone(), z.clone()];
    let c = Cat.apply(&v)?;
    let s = Var::constant(Tensor::from_slice(&[1.0, 1.0]));
    let dx = tch_function::GradOptions::new().seeds(&s).grad(&c, &x)?.unwrap();
    assert_eq!(f64::try_from(dx.value())?, 1.0 + 2.0 * 2.0 * 4.5);
    Ok(())
}

struct Identity;
impl Function for Identity {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> { Ok(x.shallow_clone()) }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> { Ok(Some(dy.shallow_clone())) }
}
#[test]
fn timing() -> Result<()> {
    tch::set_num_threads(1);
    let n = 1000;
    for _ in 0..3 {
        let t = std::time::Instant::now();
        for _ in 0..200 {
            let x = Var::leaf(Tensor::ones([4], tch::kind::FLOAT_CPU));
            let mut y = x.clone();
            for _ in 0..n { y = Identity.apply(&y)?; }
            let s = Var::constant(Tensor::ones([4], tch::kind::FLOAT_CPU));
            tch_function::GradOptions::new().seeds(&s).backward(&y)?;
        }
        println!("own {} ns/op", t.elapsed().as_nanos() as f64 / (200 * n) as f64);
        let t = std::time::Instant::now();
        for _ in 0..20 {
            let x = Tensor::ones([4], tch::kind::FLOAT_CPU).set_requires_grad(true);
            let mut y = x.shallow_clone();
            for _ in 0..n { y = y.alias(); }
            let _ = Tensor::run_backward(&[&y], &[&x], false, false);
        }
        println!("alias {} ns/op", t.elapsed().as_nanos() as f64 / (20 * n) as f64);
    }
    Ok(())
}
