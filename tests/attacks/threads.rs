//! Several threads, and what runs when one ends.

use crate::leaf;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;
use tch::{Device, Kind, Tensor};
use tch_function::{Var, autocast, backward, grad, lift, register_hook};
use test_support::{number, numbers, vector};

/// Number of passes of each thread; minutes of them with TCH_FUNCTION_PASSES=1000000.
fn passes() -> usize {
    std::env::var("TCH_FUNCTION_PASSES").map_or(2000, |n| n.parse().expect("a number"))
}

/// Every way to add to one `.grad`, on two threads each.
#[test]
fn every_engine_adds_to_one_parameter() {
    let w = leaf(&[1.0]);
    let ways: [fn(&Tensor); 4] = [
        |w| Var::leaf(w).sum().unwrap().backward().unwrap(),
        |w| w.sum(Kind::Double).backward(),
        |w| backward(&(w * 1.0)).unwrap(),
        |w| lift(&Var::constant(vector(&[1.0])), |x| Ok(w * &x[0])).unwrap().backward().unwrap(),
    ];
    let n = passes();
    std::thread::scope(|scope| {
        for way in ways.into_iter().chain(ways) {
            let w = w.shallow_clone();
            scope.spawn(move || (0..n).for_each(|_| way(&w)));
        }
    });
    assert_eq!(number(&w.grad()), 8.0 * n as f64);
}

/// Reading and forgetting the gradient while others add to it gives a whole gradient or
/// none.
#[test]
fn a_gradient_is_read_and_forgotten_while_others_add() {
    let w = leaf(&[1.0, 1.0]);
    let n = passes();
    std::thread::scope(|scope| {
        for i in 0..2 {
            let w = w.shallow_clone();
            scope.spawn(move || {
                for _ in 0..n {
                    match i {
                        0 => Var::leaf(&w).sum().unwrap().backward().unwrap(),
                        _ => w.sum(Kind::Double).backward(),
                    }
                }
            });
        }
        let v = Var::leaf(&w);
        scope.spawn(move || {
            for i in 0..n {
                if let Some(grad) = v.grad() {
                    assert_eq!(grad.size(), [2]);
                }
                if i % 3 == 0 {
                    v.zero_grad();
                }
            }
        });
    });
}

/// Makes calls that fail, each with its own error.
fn fail() {
    let x = leaf(&[1.0]);
    let twice = &x * vector(&[1.0, 2.0]);
    assert!(backward(&twice).unwrap_err().to_string().contains("shape [2]"));
    let error = autocast(Device::Vulkan, Kind::Half, || ()).unwrap_err();
    assert!(error.to_string().contains("device type"), "{error}");
    assert!(grad(&(&x * 2.0), &vector(&[1.0])).is_err());
}

/// Thread-locals are dropped in the order in which they were first used, so this one is
/// dropped before or after anything that the first failure has made.
#[test]
fn calls_fail_while_a_thread_ends() {
    struct AtEnd;
    impl Drop for AtEnd {
        fn drop(&mut self) {
            (0..3).for_each(|_| fail());
        }
    }
    thread_local! {
        static AT_END: AtEnd = const { AtEnd };
    }
    for first in [true, false] {
        let thread = std::thread::spawn(move || {
            if first {
                fail();
            }
            AT_END.with(|_| ());
            fail();
        });
        thread.join().expect("no panic");
    }
}

/// A value whose drop runs a pass that meets the hook again.
struct PassOnDrop(Mutex<Tensor>);
impl Drop for PassOnDrop {
    fn drop(&mut self) {
        let y = self.0.get_mut().unwrap();
        y.f_backward().expect("a pass");
    }
}

#[test]
fn a_hook_that_runs_a_pass_when_it_is_dropped_does_not_hang() {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let x = leaf(&[2.0]);
        let y = &x * 3.0;
        let held = Arc::new(PassOnDrop(Mutex::new(&y * 5.0)));
        let hook = register_hook(&y, move |dy| Ok(Some(dy * number(&held.0.lock().unwrap()))));
        hook.unwrap().remove();
        done.send(numbers(&x.grad())).unwrap();
    });
    let grad = wait.recv_timeout(Duration::from_secs(60)).expect("a hang");
    assert_eq!(grad, [15.0]);
}

#[test]
fn a_library_that_registers_itself_inside_is_an_error() {
    use tch_function::dispatcher::Library;
    static LIBRARY: Library = Library::new("tf_inside_itself");
    static INNER: OnceLock<String> = OnceLock::new();
    let outer = LIBRARY.register(|_| {
        INNER.get_or_init(|| LIBRARY.register(|_| Ok(())).unwrap_err().to_string());
        Ok(())
    });
    outer.expect("no op is no error");
    assert!(INNER.get().unwrap().contains("registers it again"), "{INNER:?}");
    let panicking = Library::new("tf_panics").register(|_| panic!("at once"));
    assert!(panicking.unwrap_err().to_string().contains("panicked: at once"));
}
