//! Second derivatives that are wrong, of first ones that are right.

use crate::fault::{One, x};
use tch::Tensor;
use tch_function::check::Check;

faults! {
    /// The slope depends on x, and is declared not to.
    intermediate_declared_constant: Gradgradcheck, |wrong| {
        let f = One::new(
            move |ctx, x| {
                let slope = x.cos();
                if wrong {
                    ctx.mark_constant(&slope);
                }
                ctx.save_for_backward([if wrong { &slope } else { x }])?;
                Ok(x.sin())
            },
            move |ctx, dy| {
                let [saved] = ctx.saved_tensors()?;
                Ok(Some(if wrong { dy * saved } else { dy * saved.cos() }))
            },
        );
        Check::new(f, [x()]).run()
    };
    detached_in_backward: Gradgradcheck, |wrong| {
        let f = One::of_input(Tensor::sin, move |dy, x| {
            dy * if wrong { x.detach().cos() } else { x.cos() }
        });
        Check::new(f, [x()]).run()
    };
    /// A number taken out of a tensor has no history.
    through_a_number: Gradgradcheck, |wrong| {
        let sum_of_squares = |x: &Tensor| (x * x).sum(x.kind());
        let f = One::of_input(
            move |x| sum_of_squares(x) * sum_of_squares(x),
            move |dy, x| match wrong {
                true => dy * x * (4.0 * f64::try_from(sum_of_squares(x)).unwrap()),
                false => dy * x * sum_of_squares(x) * 4.0,
            },
        );
        Check::new(f, [x()]).run()
    };
    no_grad_in_backward: Gradgradcheck, |wrong| {
        let f = One::of_input(Tensor::exp, move |dy, x| {
            dy * if wrong { tch::no_grad(|| x.exp()) } else { x.exp() }
        });
        Check::new(f, [x()]).run()
    };
}
