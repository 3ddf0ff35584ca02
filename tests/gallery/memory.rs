//! What belongs to others, changed, shared or kept.

use crate::fault::{One, square, x};
use std::sync::{Mutex, PoisonError};
use tch::Tensor;
use tch_function::check::Check;

fn keep(list: &Mutex<Vec<Tensor>>, t: &Tensor) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(t.shallow_clone());
}

faults! {
    seed_changed_in_place: Unchanged, |wrong| {
        let f = square(move |dy, x| {
            let slope = x * 2.0;
            if wrong { dy.shallow_clone().g_mul_(&slope) } else { dy * slope }
        });
        Check::new(f, [x()]).run()
    };
    /// Past the in-place counter.
    seed_changed_through_data: Unchanged, |wrong| {
        let f = square(move |dy, x| {
            let slope = x * 2.0;
            if wrong { dy.data().g_mul_(&slope) } else { dy * slope }
        });
        Check::new(f, [x()]).run()
    };
    saved_tensor_changed: Unchanged, |wrong| {
        let f = square(move |dy, x| {
            if wrong { dy * x.data().g_mul_scalar_(2.0) } else { dy * x * 2.0 }
        });
        Check::new(f, [x()]).run()
    };
    input_changed_through_data: Unchanged, |wrong| {
        let clip = move |x: &Tensor| match wrong {
            true => x.data().clamp_(-1.0, 1.0).copy(),
            false => x.clamp(-1.0, 1.0),
        };
        let slope = |x: &Tensor| x.gt(-1.0).logical_and(&x.lt(1.0));
        Check::new(One::of_input(clip, move |dy, x| dy * slope(x)), [x()]).run()
    };
    output_in_the_memory_of_the_input: Aliasing, |wrong| {
        let f = One::of_input(
            move |x| if wrong { x.data() } else { x.copy() },
            |dy, _| dy.shallow_clone(),
        );
        Check::new(f, [x()]).run()
    };
    view_that_libtorch_does_not_know: Aliasing, |wrong| {
        let f = One::of_input(
            move |x| if wrong { x.data().reshape(-1) } else { x.reshape(-1).copy() },
            |dy, x| dy.reshape(x.size()),
        );
        Check::new(f, [x()]).run()
    };
    one_buffer_for_all_calls: Aliasing, |wrong| {
        static BUFFER: Mutex<Option<Tensor>> = Mutex::new(None);
        let f = One::of_input(
            move |x| {
                let y = x * x;
                if !wrong {
                    return y;
                }
                let mut buffer = BUFFER.lock().unwrap_or_else(PoisonError::into_inner);
                match buffer.as_ref().filter(|t| t.size() == y.size() && t.kind() == y.kind()) {
                    Some(t) => {
                        t.data().copy_(&y);
                        t.shallow_clone()
                    }
                    None => buffer.insert(y).shallow_clone(),
                }
            },
            |dy, x| dy * x * 2.0,
        );
        Check::new(f, [x()]).run()
    };
    saved_tensor_leaked: Leaks, |wrong| {
        let f = square(move |dy, x| {
            if wrong {
                Box::leak(Box::new(x.shallow_clone()));
            }
            dy * x * 2.0
        });
        Check::new(f, [x()]).run()
    };
    output_kept_in_a_list: Leaks, |wrong| {
        static KEPT: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
        let f = One::of_input(
            move |x| {
                let y = x * x;
                if wrong {
                    keep(&KEPT, &y);
                }
                y
            },
            |dy, x| dy * x * 2.0,
        );
        Check::new(f, [x()]).run()
    };
    seed_kept_in_a_list: Leaks, |wrong| {
        static KEPT: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());
        let f = square(move |dy, x| {
            if wrong {
                keep(&KEPT, dy);
            }
            dy * x * 2.0
        });
        Check::new(f, [x()]).run()
    };
    /// A saved intermediate, in a handle that is forgotten.
    intermediate_leaked: Leaks, |wrong| {
        let f = One::new(
            move |ctx, x| {
                let y = x.exp();
                let slope = &y * 1.0;
                if wrong {
                    std::mem::forget(slope.shallow_clone());
                }
                ctx.save_for_backward([&slope])?;
                Ok(y)
            },
            |ctx, dy| {
                let [slope] = ctx.saved_tensors()?;
                Ok(Some(dy * slope))
            },
        );
        Check::new(f, [x()]).run()
    };
}
