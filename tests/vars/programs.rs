//! The course's programs, step by step against libtorch's autograd on the same
//! numbers: gradient descent, least squares, and backpropagation with its
//! delta formulas.

use anyhow::Result;
use tch::{Kind, Tensor};
use tch_function::{Var, backward, grad};
use test_support::{number, numbers, vector};

fn assert_close(a: &Tensor, b: &Tensor, what: &str) {
    assert_eq!(a.size(), b.size(), "{what}");
    for (a, b) in numbers(a).into_iter().zip(numbers(b)) {
        assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{what}: {a} and {b}");
    }
}

/// Runs x_{n+1} = x_n - gamma grad F(x_n) with both, side by side.
fn descend(
    what: &str,
    start: &Tensor,
    (gamma, steps): (f64, usize),
    own: impl Fn(&Var) -> Result<Var>,
    torch: impl Fn(&Tensor) -> Tensor,
) -> Result<Tensor> {
    let x = Var::leaf(start.copy());
    let mut t = start.copy().set_requires_grad(true);
    for n in 0..steps {
        let slope = grad(&own(&x)?, &x)?;
        let y = torch(&t);
        let expected = Tensor::run_backward(&[&y], &[&t], false, false).remove(0);
        assert_close(slope.value(), &expected, &format!("{what}, step {n}"));
        x.update(|x| drop(x.g_sub_(&(slope.value() * gamma))))?;
        tch::no_grad(|| drop(t.g_sub_(&(expected * gamma))));
    }
    assert_close(x.value(), &t.detach(), what);
    Ok(x.value().copy())
}

#[test]
fn gradient_descent_on_rosenbrock() -> Result<()> {
    let (i, j) = (Tensor::from_slice(&[0i64]), Tensor::from_slice(&[1i64]));
    let (u, v) = (Var::constant(&i), Var::constant(&j));
    let own = |x: &Var| -> Result<Var> {
        let (a, b) = (x.index_select(0, &u)?, x.index_select(0, &v)?);
        Ok(((1.0 - &a).pow_scalar(2.0)? + (b - &a * &a).pow_scalar(2.0)? * 100.0).sum()?)
    };
    let torch = |x: &Tensor| {
        let (a, b): (Tensor, Tensor) = (x.index_select(0, &i), x.index_select(0, &j));
        let valley: Tensor = &b - &a * &a;
        let rest: Tensor = 1.0 - &a;
        (rest.square() + valley.square() * 100.0).sum(Kind::Double)
    };
    let start = vector(&[-1.2, 1.0]);
    let end = descend("Rosenbrock", &start, (1e-3, 200), own, torch)?;
    assert!(number(&torch(&end)) < 0.2 * number(&torch(&start)), "{:?}", numbers(&end));
    Ok(())
}

#[test]
fn gradient_descent_on_least_squares_reaches_the_closed_form() -> Result<()> {
    let a = vector(&[1.0, 0.0, 1.0, 1.0, 1.0, 2.0, 1.0, 3.0]).view([4, 2]);
    let b = vector(&[1.1, 2.9, 5.2, 6.8]).view([4, 1]);
    let (c, d) = (Var::constant(&a), Var::constant(&b));
    let own = |w: &Var| -> Result<Var> { Ok(c.matmul(w)?.squared_error(&d)?) };
    let torch = |w: &Tensor| (a.matmul(w) - &b).square().sum(Kind::Double) / 2.0;
    let start = Tensor::zeros([2, 1], (Kind::Double, tch::Device::Cpu));
    let w = descend("least squares", &start, (0.05, 800), own, torch)?;
    let gram = a.tr().matmul(&a).inverse().matmul(&a.tr()).matmul(&b);
    for (found, exact) in numbers(&w).into_iter().zip(numbers(&gram)) {
        assert!((found - exact).abs() < 1e-9, "{found} and {exact}");
    }
    Ok(())
}

/// y = s(W2 s(W1 x + b1) + b2) with the logistic s, E = (t - y)^2 / 2.
#[test]
fn backpropagation_in_a_network_with_its_delta_formulas() -> Result<()> {
    tch::manual_seed(1);
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, tch::Device::Cpu));
    let shapes: [&[i64]; 4] = [&[4, 7], &[7], &[7, 3], &[3]];
    let weights: Vec<Tensor> = shapes.map(random).into();
    let (x, t) = (random(&[5, 4]), random(&[5, 3]).sigmoid());

    // The own engine.
    let w: Vec<Var> = weights.iter().map(Var::leaf).collect();
    let input = Var::constant(&x);
    let net1 = input.matmul(&w[0])? + &w[1];
    let hidden = net1.sigmoid()?;
    let net2 = hidden.matmul(&w[2])? + &w[3];
    let y = net2.sigmoid()?;
    let error = y.squared_error(&Var::constant(&t))?;

    // libtorch.
    let leaves: Vec<Tensor> = weights.iter().map(|w| w.copy().set_requires_grad(true)).collect();
    let z = (x.matmul(&leaves[0]) + &leaves[1]).sigmoid();
    let out = (z.matmul(&leaves[2]) + &leaves[3]).sigmoid();
    let distance: Tensor = &t - &out;
    let torch: Tensor = distance.square().sum(Kind::Double) / 2.0;
    torch.backward();
    assert!((number(error.value()) - number(&torch.detach())).abs() < 1e-12);

    // The deltas by hand: output (y - t) y (1 - y), hidden h (1 - h) (delta W2^T).
    let (h, o) = (hidden.value(), y.value());
    let delta2: Tensor = (o - &t) * o * (1.0 - o);
    let delta1: Tensor = delta2.matmul(&weights[2].tr()) * h * (1.0 - h);
    let gradients = tch_function::GradOptions::new().retain_graph(true).gradients(&error)?;
    assert_close(&gradients[&net2], &delta2, "output deltas");
    assert_close(&gradients[&net1], &delta1, "hidden deltas");

    backward(&error)?;
    let by_hand = [
        x.tr().matmul(&delta1),
        delta1.sum_to_size([7]),
        h.tr().matmul(&delta2),
        delta2.sum_to_size([3]),
    ];
    for (i, ((own, leaf), hand)) in w.iter().zip(&leaves).zip(&by_hand).enumerate() {
        let own = own.grad().expect("a gradient");
        assert_close(&own, &leaf.grad(), &format!("weight {i} against libtorch"));
        assert_close(&own, &hand.view(own.size().as_slice()), &format!("weight {i} by hand"));
    }
    Ok(())
}
