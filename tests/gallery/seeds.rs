//! What backward does with its seed.

use crate::fault::{Fork, One, pick, square, x};
use tch::Tensor;
use tch_function::check::Check;

/// What a loop over the memory of `t` sees, if it takes `t` for contiguous.
fn blind(t: &Tensor) -> Tensor {
    t.as_strided(t.size(), t.contiguous().stride(), None)
}

faults! {
    sign_of_the_seed: Linearity, |wrong| {
        Check::new(square(move |dy, x| pick(wrong, dy.sign(), dy * 1.0) * x * 2.0), [x()]).run()
    };
    clipped_seed: Linearity, |wrong| {
        let clip = move |dy: &Tensor| if wrong { dy.clamp(-1.0, 1.0) } else { dy * 1.0 };
        Check::new(square(move |dy, x| clip(dy) * x * 2.0), [x()]).run()
    };
    /// `dy > 0` where `x > 0` is meant.
    mask_of_the_seed: Linearity, |wrong| {
        let f = One::of_input(Tensor::relu, move |dy, x| dy * pick(wrong, dy, x).gt(0.0));
        Check::new(f, [x()]).run()
    };
    small_seeds_flushed: Linearity, |wrong| {
        let flush = move |dy: &Tensor| dy * dy.abs().gt(pick(wrong, 0.01, -1.0));
        Check::new(square(move |dy, x| flush(dy) * x * 2.0), [x()]).run()
    };
    seed_ignored: ZeroSeed, |wrong| {
        let f = square(move |dy, x| pick(wrong, dy.ones_like(), dy * 1.0) * x * 2.0);
        Check::new(f, [x()]).run()
    };
    constant_added: ZeroSeed, |wrong| {
        Check::new(square(move |dy, x| dy * x * 2.0 + pick(wrong, 1e-9, 0.0)), [x()]).run()
    };
    strides_of_the_seed_ignored: Layouts, |wrong| {
        let seen = move |dy: &Tensor| if wrong { blind(dy) } else { dy.shallow_clone() };
        let f = square(move |dy, x| seen(dy) * x * 2.0);
        Check::new(f, [x()]).run()
    };
    strides_of_the_input_ignored: Layouts, |wrong| {
        let seen = move |x: &Tensor| if wrong { blind(x) } else { x.shallow_clone() };
        let f = One::of_input(move |x| seen(x).exp(), move |dy, x| dy * seen(x).exp());
        Check::new(f, [x()]).run()
    };
    /// One number stands for all, and is taken for the sum.
    wrong_for_a_seed_of_stride_0: Layouts, |wrong| {
        let f = square(move |dy, x| {
            let expanded = dy.numel() > 1 && dy.stride().iter().all(|stride| *stride == 0);
            dy * x * pick(wrong && expanded, 2.0 * dy.numel() as f64, 2.0)
        });
        Check::new(f, [x()]).run()
    };
    offset_of_the_input_ignored: Layouts, |wrong| {
        let seen = move |x: &Tensor| match wrong {
            true => x.as_strided(x.size(), x.stride(), Some(0)),
            false => x.shallow_clone(),
        };
        let f = One::of_input(move |x| seen(x).exp(), move |dy, x| dy * seen(x).exp());
        Check::new(f, [x()]).run()
    };
    seeds_swapped: Gradcheck, |wrong| {
        let f = Fork::new(move |dy, dz, x| {
            let (dy, dz) = pick(wrong, (dz, dy), (dy, dz));
            dy * x.cos() + dz * x * 2.0
        });
        Check::new(f, [x()]).run()
    };
    second_seed_dropped: Gradcheck, |wrong| {
        let f = Fork::new(move |dy, dz, x| {
            let dx = dy * x.cos();
            if wrong { dx } else { dx + dz * x * 2.0 }
        });
        Check::new(f, [x()]).run()
    };
    undefined_seed_taken_for_a_tensor: UndefinedSeeds, |wrong| {
        let f = Fork::new(move |dy, dz, x| {
            let zeros = |d: &Tensor| match d.defined() || wrong {
                true => d.shallow_clone(),
                false => x.zeros_like(),
            };
            zeros(dy) * x.cos() + zeros(dz) * x * 2.0
        });
        Check::new(f.unmaterialized(), [x()]).run()
    };
    undefined_seed_taken_for_no_gradient: UndefinedSeeds, |wrong| {
        let f = Fork::new(move |dy, dz, x| match (dy.defined(), dz.defined()) {
            (true, true) => dy * x.cos() + dz * x * 2.0,
            _ if wrong => x.zeros_like(),
            (true, _) => dy * x.cos(),
            _ => dz * x * 2.0,
        });
        Check::new(f.unmaterialized(), [x()]).run()
    };
}
