//! Numbers that depend on more than the inputs.

use crate::fault::{One, pick, square, x};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;
use tch::{Tensor, kind::DOUBLE_CPU};
use tch_function::check::Check;

/// `y = x^2` by `dx = dy * slope(x, state)`, where `forward` makes the state.
fn with_state<T: Send + Sync + 'static>(
    state: impl Fn() -> T + Send + Sync + 'static,
    slope: impl Fn(&Tensor, &T) -> Tensor + Send + Sync + 'static,
) -> One {
    One::new(
        move |ctx, x| {
            ctx.save_for_backward([x])?;
            ctx.save(state())?;
            Ok(x * x)
        },
        move |ctx, dy| {
            let [x] = ctx.saved_tensors()?;
            Ok(Some(dy * slope(x, ctx.state::<T>()?)))
        },
    )
}

fn put(place: &Mutex<Option<Tensor>>, t: Tensor) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(t);
}

fn copy_of(place: &Mutex<Option<Tensor>>) -> Tensor {
    let place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.as_ref().expect("it was put there").copy()
}

faults! {
    noise_in_backward: Determinism, |wrong| {
        let noise = |x: &Tensor| Tensor::randn(x.size(), DOUBLE_CPU).to_kind(x.kind()) * 1e-3;
        let f = square(move |dy, x| {
            let slope = x * 2.0;
            if wrong { dy * (&slope + noise(&slope)) } else { dy * slope }
        });
        Check::new(f, [x()]).run()
    };
    noise_in_forward: Determinism, |wrong| {
        let noise = |x: &Tensor| Tensor::randn(x.size(), DOUBLE_CPU).to_kind(x.kind()) * 1e-3;
        let f = One::of_input(
            move |x| if wrong { x * x + noise(x) } else { x * x },
            |dy, x| dy * x * 2.0,
        );
        Check::new(f, [x()]).run()
    };
    counts_its_calls: Determinism, |wrong| {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let f = square(move |dy, x| {
            let calls = if wrong { CALLS.fetch_add(1, Relaxed) } else { 0 };
            dy * x * (2.0 + 1e-12 * calls as f64)
        });
        Check::new(f, [x()]).run()
    };
    /// Every fifth call is wrong.
    wrong_now_and_then: Determinism, |wrong| {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let f = square(move |dy, x| {
            let fifth = wrong && CALLS.fetch_add(1, Relaxed) % 5 == 4;
            dy * x * pick(fifth, 3.0, 2.0)
        });
        Check::new(f, [x()]).run()
    };
    /// The input that was seen last, whichever call backward is of.
    stale_input_in_a_global: Determinism, |wrong| {
        static LAST: Mutex<Option<Tensor>> = Mutex::new(None);
        let f = One::new(
            move |ctx, x| {
                ctx.save_for_backward([x])?;
                if wrong {
                    put(&LAST, x.copy());
                }
                Ok(x * x)
            },
            move |ctx, dy| {
                let [x] = ctx.saved_tensors()?;
                Ok(Some(dy * if wrong { copy_of(&LAST) } else { x.shallow_clone() } * 2.0))
            },
        );
        Check::new(f, [x()]).run()
    };
    /// A running statistic that every forward moves.
    running_mean: Determinism, |wrong| {
        static MEAN: Mutex<f64> = Mutex::new(0.0);
        let f = One::of_input(
            move |x| {
                if !wrong || x.numel() == 0 {
                    return x * 1.0;
                }
                let mut mean = MEAN.lock().unwrap_or_else(PoisonError::into_inner);
                *mean = 0.9 * *mean + 0.1 * x.mean(x.kind()).double_value(&[]);
                x - *mean
            },
            |dy, _| dy.shallow_clone(),
        );
        Check::new(f, [x()]).run()
    };
    /// A scratch buffer that another thread may have written meanwhile.
    scratch_buffer_of_all_threads: Threads, |wrong| {
        static SCRATCH: Mutex<Option<Tensor>> = Mutex::new(None);
        let f = One::of_input(
            move |x| {
                if !wrong {
                    return x * x;
                }
                put(&SCRATCH, x * x);
                std::thread::sleep(Duration::from_micros(20));
                copy_of(&SCRATCH)
            },
            |dy, x| dy * x * 2.0,
        );
        Check::new(f, [x()]).run()
    };
    works_on_its_own_thread_alone: Threads, |wrong| {
        let f = with_state(|| std::thread::current().id(), move |x, made_on: &ThreadId| {
            let elsewhere = std::thread::current().id() != *made_on;
            x * pick(wrong && elsewhere, 0.0, 2.0)
        });
        Check::new(f, [x()]).run()
    };
    panics_if_two_run_at_once: Threads, |wrong| {
        static BUSY: Mutex<()> = Mutex::new(());
        let f = square(move |dy, x| {
            let one = wrong.then(|| BUSY.try_lock().expect("nobody else runs"));
            std::thread::sleep(Duration::from_micros(20));
            drop(one);
            dy * x * 2.0
        });
        Check::new(f, [x()]).run()
    };
    second_pass_counts_on: SecondPass, |wrong| {
        let f = with_state(|| AtomicU64::new(0), move |x, passes: &AtomicU64| {
            let passes = if wrong { passes.fetch_add(1, Relaxed) } else { 0 };
            x * 2.0 * (1.0 + passes as f64)
        });
        Check::new(f, [x()]).run()
    };
    /// The first pass takes what the second would need.
    taken_by_the_first_pass: SecondPass, |wrong| {
        let f = with_state(|| Mutex::new(Some(2.0)), move |x, factor: &Mutex<Option<f64>>| {
            let mut factor = factor.lock().unwrap_or_else(PoisonError::into_inner);
            x * if wrong { factor.take().expect("the first pass") } else { factor.unwrap_or(2.0) }
        });
        Check::new(f, [x()]).run()
    };
    looks_at_requires_grad: Engines, |wrong| {
        let f = One::of_input(
            move |x| x * x * pick(wrong && x.requires_grad(), 1.001, 1.0),
            |dy, x| dy * x * 2.0,
        );
        Check::new(f, [x()]).run()
    };
    /// A straight-through slope that is not the one of the claimed function.
    not_what_it_claims: Engines, |wrong| {
        let f = One::of_input(Tensor::round, move |dy, _| dy * pick(wrong, 2.0, 1.0));
        Check::new(f, [x()])
            .reference(|x| x.round())
            .claims_gradient_of(|x| x.shallow_clone())
            .run()
    };
}
