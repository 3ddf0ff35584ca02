//! Values, dtypes and shapes.

use crate::fault::{One, pick, square, x};
use tch::{Kind, Tensor};
use tch_function::check::{Check, Property};

fn coarse(wrong: bool, x: Tensor) -> Tensor {
    if wrong { x.to_kind(Kind::Float).to_kind(x.kind()) } else { x }
}

/// `y = f(x)`, `dx = dy * slope(x)`
fn elementwise(
    f: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
    slope: impl Fn(&Tensor) -> Tensor + Send + Sync + 'static,
) -> One {
    One::of_input(f, move |dy, x| dy * slope(x))
}

faults! {
    /// The gradient is of what is computed, and that is not what it should be.
    another_function: Value, |wrong| {
        let k = pick(wrong, 1.0 + 1e-6, 1.0);
        let f = elementwise(move |x| (x * k).tanh(), move |x| k * (1.0 - (x * k).tanh().square()));
        Check::new(f, [x()]).reference(|x| x.tanh()).run()
    };
    population_for_sample_variance: Value, |wrong| {
        let variance = move |x: &Tensor| {
            let n = x.numel() as f64 - pick(wrong, 0.0, 1.0);
            (x - x.mean(x.kind())).square().sum(x.kind()) / n
        };
        let f = elementwise(variance, move |x| {
            (x - x.mean(x.kind())) * 2.0 / (x.numel() as f64 - pick(wrong, 0.0, 1.0))
        });
        Check::new(f, [x()])
            .reference(|x| x.var(true))
            .skip(Property::Shapes, "of nothing it is -0 here, and NaN in tch")
            .run()
    };
    overflows: Value, |wrong| {
        let f = move |x: &Tensor| if wrong { (x.exp() + 1.0).log() } else { x.softplus() };
        Check::new(elementwise(f, Tensor::sigmoid), [x()]).reference(|x| x.softplus()).run()
    };
    /// A polynomial in place of the function, with the function's own slope.
    approximate_forward: Gradcheck, |wrong| {
        let sine = move |x: &Tensor| match wrong {
            true => x.sin() + (x * 3.0).sin() * 1e-6,
            false => x.sin(),
        };
        Check::new(elementwise(sine, Tensor::cos), [x()]).run()
    };
    f32_in_forward: Dtypes, |wrong| {
        let f = elementwise(move |x| coarse(wrong, x.exp()), Tensor::exp);
        Check::new(f, [x()]).run()
    };
    f32_in_backward: Dtypes, |wrong| {
        let f = square(move |dy, x| coarse(wrong, dy * x * 2.0));
        Check::new(f, [x()]).run()
    };
    overflows_in_f16: Dtypes, |wrong| {
        let f = move |x: &Tensor| if wrong { (x.exp() + 1.0).log() } else { x.softplus() };
        let sample = Tensor::from_slice(&[-3.0, 0.5, 25.0]);
        Check::new(elementwise(f, Tensor::sigmoid), [sample]).run()
    };
    overflows_in_f32: Dtypes, |wrong| {
        let f = move |x: &Tensor| if wrong { (x.exp() + 1.0).log() } else { x.softplus() };
        let sample = Tensor::from_slice(&[-3.0, 0.5, 100.0]);
        Check::new(elementwise(f, Tensor::sigmoid), [sample]).run()
    };
    /// (1 - cos x) / x^2, where 2 sin^2(x / 2) / x^2 has all digits.
    cancels_near_zero: Dtypes, |wrong| {
        let f = move |x: &Tensor| match wrong {
            true => (1.0 - x.cos()) / x.square(),
            false => (x / 2.0).sin().square() * 2.0 / x.square(),
        };
        let slope = move |x: &Tensor| x.sin() / x.square() - f(x) * 2.0 / x;
        let sample = Tensor::from_slice(&[0.5, -1.25, 3.0]);
        let claim = move |x: &Tensor| (x / 2.0).sin().square() * 2.0 / x.square();
        Check::new(elementwise(f, slope), [sample]).reference(claim).run()
    };
    dtype_of_a_constant: Dtypes, |wrong| {
        let pi = move |x: &Tensor| Tensor::from(std::f64::consts::PI).to_kind(
            pick(wrong && x.kind() == Kind::Float, Kind::BFloat16, x.kind()),
        );
        let f = elementwise(move |x| (x * pi(x)).sin(), move |x| (x * pi(x)).cos() * pi(x));
        Check::new(f, [x()]).run()
    };
    panics_on_empty_input: Shapes, |wrong| {
        let f = square(move |dy, x| {
            let numbers = Vec::<f64>::try_from(x.to_kind(Kind::Double).reshape(-1)).unwrap();
            let first = if wrong { numbers[0] } else { numbers.first().copied().unwrap_or(1.0) };
            dy * x * 2.0 * (first / first)
        });
        let sample = Tensor::from_slice(&[0.5, -1.25, 2.0]);
        Check::new(f, [sample])
            .domain(tch_function::check::Domain::Positive)
            .run()
    };
    vector_for_a_scalar: Shapes, |wrong| {
        let f = One::of_input(
            move |x| if wrong && x.dim() == 0 { x.exp().unsqueeze(0) } else { x.exp() },
            |dy, x| dy.view_as(x) * x.exp(),
        );
        Check::new(f, [x()]).reference(|x| x.exp()).run()
    };
    /// What is left after vectors of 16.
    tail_of_the_vectors_forgotten: Shapes, |wrong| {
        let f = square(move |dy, x| {
            let dx = (dy * x * 2.0).contiguous();
            let (n, flat) = (dx.numel() as i64, dx.view(-1));
            if wrong && n > 16 {
                let _ = flat.narrow(0, n / 16 * 16, n % 16).zero_();
            }
            dx
        });
        Check::new(f, [x()]).run()
    };
    /// Right for lists of one row, as the sample is.
    rows_mixed_up: Shapes, |wrong| {
        let f = One::of_input(
            |x| x.softmax(-1, x.kind()),
            move |dy, x| {
                let y = x.softmax(-1, x.kind());
                let dims = if wrong { (0..x.dim() as i64).collect() } else { vec![-1] };
                &y * (dy - (dy * &y).sum_dim_intlist(dims, true, y.kind()))
            },
        );
        Check::new(f, [Tensor::from_slice(&[0.5, -1.25, 2.0]).unsqueeze(0)]).run()
    };
}
