//! First derivatives that are wrong.

use crate::fault::{One, pick, square, x};
use std::collections::HashMap;
use std::sync::Mutex;
use tch::Tensor;
use tch_function::check::Check;

faults! {
    wrong_sign: Gradcheck, |wrong| {
        Check::new(square(move |dy, x| dy * x * pick(wrong, -2.0, 2.0)), [x()]).run()
    };
    factor_of_2: Gradcheck, |wrong| {
        Check::new(square(move |dy, x| dy * x * pick(wrong, 4.0, 2.0)), [x()]).run()
    };
    factor_of_a_half: Gradcheck, |wrong| {
        Check::new(square(move |dy, x| dy * x * pick(wrong, 1.0, 2.0)), [x()]).run()
    };
    factor_of_12345: Gradcheck, |wrong| {
        Check::new(square(move |dy, x| dy * x * pick(wrong, 24690.0, 2.0)), [x()]).run()
    };
    relative_error_of_5e_4: Gradcheck, |wrong| {
        Check::new(square(move |dy, x| dy * x * pick(wrong, 2.001, 2.0)), [x()]).run()
    };
    /// What a cast to an integer does where the inputs are whole.
    cut_to_integers_at_integers: Gradcheck, |wrong| {
        let cut = move |slope: Tensor, x: &Tensor| {
            let whole = x.eq_tensor(&x.round());
            if wrong { slope.trunc().where_self(&whole, &slope) } else { slope }
        };
        let sample = Tensor::from_slice(&[0.5, -1.25, 2.3]);
        Check::new(One::of_input(Tensor::sin, move |dy, x| dy * cut(x.cos(), x)), [sample]).run()
    };
    shifted_mask_of_relu: Gradcheck, |wrong| {
        let f = One::of_input(Tensor::relu, move |dy, x| dy * x.gt(pick(wrong, 0.5, 0.0)));
        Check::new(f, [x()]).run()
    };
    mask_of_clamp_on_one_side: Gradcheck, |wrong| {
        let mask = move |x: &Tensor| {
            let below = x.lt(1.0);
            if wrong { below } else { below.logical_and(&x.gt(-1.0)) }
        };
        let f = One::of_input(|x| x.clamp(-1.0, 1.0), move |dy, x| dy * mask(x));
        Check::new(f, [x()]).run()
    };
    mean_without_dividing: Gradcheck, |wrong| {
        let f = One::of_input(|x| x.mean(x.kind()), move |dy, x| {
            dy.expand_as(x) / pick(wrong, 1.0, x.numel() as f64)
        });
        Check::new(f, [x()]).run()
    };
    sum_along_another_dimension: Gradcheck, |wrong| {
        let f = One::of_input(
            |x| x.sum_dim_intlist(0, false, x.kind()),
            move |dy, x| dy.unsqueeze(pick(wrong && x.size()[0] == x.size()[1], 1, 0)).expand_as(x),
        );
        Check::new(f, [crate::fault::square_matrix()]).run()
    };
    /// The input is changed in place, so what is saved is the output.
    in_place_output_taken_for_the_input: Gradcheck, |wrong| {
        let f = One::new(
            |ctx, x| {
                ctx.mark_dirty(x)?;
                let y = x.shallow_clone().exp_();
                ctx.save_for_backward([&y])?;
                Ok(y)
            },
            move |ctx, dy| {
                let [y] = ctx.saved_tensors()?;
                Ok(Some(if wrong { dy * y.exp() } else { dy * y }))
            },
        );
        Check::new(f, [x()]).run()
    };
    last_element_is_zero: Gradcheck, |wrong| {
        let f = square(move |dy, x| {
            let dx = (dy * x * 2.0).contiguous();
            if wrong && dx.numel() > 1 {
                let _ = dx.view(-1).get(-1).zero_();
            }
            dx
        });
        Check::new(f, [x()]).run()
    };
    /// 3 x |x| for 3 x^2, right where the sample is.
    wrong_at_negative_inputs: Gradcheck, |wrong| {
        let slope = move |x: &Tensor| if wrong { x * x.abs() } else { x * x };
        let f = One::of_input(|x| x * x * x, move |dy, x| dy * slope(x) * 3.0);
        Check::new(f, [x().abs()]).run()
    };
    not_a_number_at_zero: Gradcheck, |wrong| {
        let f = One::of_input(
            |x| x.sinc(),
            move |dy, x| {
                let t = x * std::f64::consts::PI;
                let slope = (t.cos() - x.sinc()) / x;
                dy * if wrong { slope } else { slope.where_scalarother(&x.ne(0.0), 0.0) }
            },
        );
        Check::new(f, [Tensor::from_slice(&[0.5, -1.25, 0.0])])
            .domain(tch_function::check::Domain::Samples)
            .skip(tch_function::check::Property::Gradgradcheck, "0 times infinity at 0")
            .skip(tch_function::check::Property::Dtypes, "cancels near 0")
            .run()
    };
    /// Only the first term of softmax's gradient, y (dy - sum of y dy).
    softmax_without_its_sum: Gradcheck, |wrong| {
        let f = One::new(
            |ctx, x| {
                let y = x.softmax(-1, x.kind());
                ctx.save_for_backward([&y])?;
                Ok(y)
            },
            move |ctx, dy| {
                let [y] = ctx.saved_tensors()?;
                let sum = (dy * y).sum_dim_intlist(-1, true, y.kind());
                Ok(Some(y * if wrong { dy.shallow_clone() } else { dy - sum }))
            },
        );
        Check::new(f, [x()]).run()
    };
    /// The mean is taken for a constant.
    centring_without_the_mean: Gradcheck, |wrong| {
        let mean = |x: &Tensor| x.mean_dim(-1, true, x.kind());
        let f = One::of_input(
            move |x| x - mean(x),
            move |dy, _| if wrong { dy.shallow_clone() } else { dy - mean(dy) },
        );
        Check::new(f, [x()]).run()
    };
    cumulative_sum_not_reversed: Gradcheck, |wrong| {
        let f = One::of_input(|x| x.cumsum(0, x.kind()), move |dy, _| match wrong {
            true => dy.cumsum(0, dy.kind()),
            false => dy.flip([0]).cumsum(0, dy.kind()).flip([0]),
        });
        Check::new(f, [x()]).run()
    };
    gradient_forgotten: Gradcheck, |wrong| {
        let f = One::new(
            |ctx, x| {
                ctx.save_for_backward([x])?;
                Ok(x * x)
            },
            move |ctx, dy| {
                let [x] = ctx.saved_tensors()?;
                Ok((!wrong).then(|| dy * x * 2.0))
            },
        );
        Check::new(f, [x()]).run()
    };
    /// What was computed for the first input of a shape serves all of it.
    stale_cache_by_shape: Gradcheck, |wrong| {
        static CACHE: Mutex<Option<HashMap<Vec<i64>, Vec<f64>>>> = Mutex::new(None);
        let f = One::of_input(|x| x * x, move |dy, x| {
            if !wrong {
                return dy * x * 2.0;
            }
            let mut cache = CACHE.lock().unwrap();
            let slopes = || Vec::try_from((x * 2.0).reshape(-1)).unwrap();
            let slopes = cache.get_or_insert_default().entry(x.size()).or_insert_with(slopes);
            dy * Tensor::from_slice(slopes).reshape(x.size())
        });
        Check::new(f, [x()]).run()
    };
}
