//! Faults of user code inside libtorch's autograd: nothing is lost, aborted or
//! leaked.
#![allow(unsafe_code)] // throws C++ exceptions

use anyhow::{Result, anyhow, bail};
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tch::Tensor;
use tch_function::{Ctx, Error, Function, Var, backward, grad, kernel, register_hook};
use test_support::{BackwardFn, Op, assert_error, number, vector};

fn leaf(values: &[f64]) -> Tensor {
    vector(values).set_requires_grad(true)
}

fn identity(backward: BackwardFn<Tensor, Tensor>) -> Op<Tensor, Tensor> {
    Op { forward: |_, x| Ok(x * 1.0), backward }
}

#[test]
fn faults_come_back_with_the_op_and_the_chain() -> Result<()> {
    let x = leaf(&[1.0]);
    let op = |backward| identity(backward).apply(&x).map(|y| y.exp());
    assert_error!(
        grad(&op(|_, _| Err(anyhow!("the file is missing").context("no table")))?, &x),
        Error::Backward { op: "Op", .. },
        "Op: backward failed: no table: the file is missing"
    );
    assert_error!(
        grad(&op(|_, _| panic!("at {}", 7))?, &x),
        Error::Panic { op: "Op", stage: "backward", .. },
        "Op: backward panicked: at 7"
    );
    let error = op(|_, _| bail!("seen by tch"))?.f_backward().unwrap_err();
    assert!(error.to_string().contains("Op: backward failed: seen by tch"), "{error}");
    let failing = Op::<Tensor, Tensor> { forward: |_, _| bail!("no"), backward: |_, _| Ok(None) };
    assert_error!(failing.apply(&x), Error::Forward { op: "Op", .. }, "Op: forward failed: no");
    assert!((&x * 1.0).requires_grad(), "grad mode is as it was");
    Ok(())
}

#[test]
fn an_error_whose_text_panics_aborts_nothing() -> Result<()> {
    #[derive(Debug)]
    struct Bad;
    impl std::fmt::Display for Bad {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no text")
        }
    }
    impl std::error::Error for Bad {}
    let x = leaf(&[1.0]);
    let y = identity(|_, _| Err(anyhow::Error::new(Bad))).apply(&x)?;
    assert!(matches!(grad(&y, &x), Err(Error::Backward { op: "Op", .. })));
    Ok(())
}

#[test]
fn nothing_leaks_after_ten_thousand_faults() -> Result<()> {
    struct Counted(Arc<()>);
    impl Function for Counted {
        type Inputs = Tensor;
        type Outputs = Tensor;
        fn forward(&self, ctx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
            ctx.save(self.0.clone())?;
            ctx.save_for_backward([x])?;
            if number(x) < 0.0 { bail!("negative") } else { Ok(x * 1.0) }
        }
        fn backward(&self, _: &Ctx, _: &Tensor) -> Result<Option<Tensor>> {
            bail!("never")
        }
    }
    let live = Arc::new(());
    for i in 0..10_000 {
        let x = leaf(&[if i % 2 == 0 { 1.0 } else { -1.0 }]);
        if let Ok(y) = Counted(live.clone()).apply(&x) {
            assert!(backward(&y).is_err());
        }
    }
    assert_eq!(Arc::strong_count(&live), 1);
    Ok(())
}

/// Does something when it is dropped.
struct Fuse(fn());
impl Drop for Fuse {
    fn drop(&mut self) {
        (self.0)()
    }
}
struct Fragile(#[allow(dead_code)] Fuse);
impl Function for Fragile {
    type Inputs = Tensor;
    type Outputs = Tensor;
    fn forward(&self, _: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        Ok(x * 1.0)
    }
    fn backward(&self, _: &Ctx, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.copy()))
    }
}

#[test]
fn a_panic_while_a_function_is_dropped_aborts_nothing() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = Fragile(Fuse(|| panic!("dropped"))).apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    drop(y);
    Ok(())
}

/// In a pass of libtorch's, and on two threads of a kernel at once.
#[test]
fn a_payload_that_panics_when_it_is_dropped_aborts_nothing() -> Result<()> {
    let bomb = || std::panic::panic_any(Fuse(|| panic!("dropped")));
    let x = leaf(&[1.0]);
    let y = identity(|_, _| std::panic::panic_any(Fuse(|| panic!("dropped")))).apply(&x)?;
    assert_error!(
        grad(&y, &x),
        Error::Panic { op: "Op", stage: "backward", .. },
        "Op: backward panicked: a payload that is not a string"
    );
    let (arrived, start) = (AtomicUsize::new(0), Instant::now());
    let together = |_: f64| -> f64 {
        let threads = tch::get_num_threads() as usize;
        arrived.fetch_add(1, Ordering::Relaxed);
        while arrived.load(Ordering::Relaxed) < threads && start.elapsed().as_secs() < 5 {
            std::thread::yield_now();
        }
        bomb()
    };
    let error = kernel::map(&vector(&[1.0; 1 << 20]), together).expect_err("a panic");
    assert!(matches!(error, Error::Panic { op: "kernel::map", .. }), "{error}");
    Ok(())
}

// C++ exceptions, as user code that calls C++ itself may let through.

unsafe extern "C-unwind" {
    fn __cxa_allocate_exception(size: usize) -> *mut c_void;
    fn __cxa_throw(
        exception: *mut c_void,
        kind: *const c_void,
        destructor: Option<extern "C" fn(*mut c_void)>,
    ) -> !;
    /// `std::__throw_runtime_error(char const*)`
    #[link_name = "_ZSt21__throw_runtime_errorPKc"]
    fn throw_runtime_error(what: *const c_char) -> !;
    /// `typeid(int)`
    #[link_name = "_ZTIi"]
    static TYPE_INT: c_void;
}

/// `throw std::runtime_error("from C++")`
fn throw_standard() -> ! {
    // SAFETY: the text is a C string; the exception unwinds as from C++.
    unsafe { throw_runtime_error(c"from C++".as_ptr()) }
}

/// `throw 42`
fn throw_int() -> ! {
    // SAFETY: what the C++ compiler emits for this: an exception object of an
    // int's size, written before it is thrown.
    unsafe {
        let exception = __cxa_allocate_exception(size_of::<i32>());
        exception.cast::<i32>().write(42);
        __cxa_throw(exception, &raw const TYPE_INT, None)
    }
}

#[test]
fn a_cpp_exception_in_forward_is_an_error() {
    let x = leaf(&[1.0]);
    let op = |forward| Op::<Tensor, Tensor> { forward, backward: |_, _| Ok(None) };
    let standard = op(|_, _| throw_standard());
    assert_error!(standard.apply(&x), Error::Forward { op: "Op", .. }, "forward failed: from C++");
    let int = op(|_, _| throw_int());
    let text = "forward failed: a C++ exception that is not a std::exception";
    assert_error!(int.apply(&x), Error::Forward { op: "Op", .. }, text);
    let v = Var::leaf(vector(&[1.0]));
    assert_error!(op(|_, _| throw_int()).apply(&v), Error::Forward { op: "Op", .. }, text);
    assert!((&x * 1.0).requires_grad(), "grad mode is as it was");
}

#[test]
fn a_cpp_exception_in_backward_is_an_error_on_any_thread() -> Result<()> {
    let check = || -> Result<()> {
        let x = leaf(&[1.0]);
        let throws = [identity(|_, _| throw_standard()), identity(|_, _| throw_int())];
        for (op, text) in throws.into_iter().zip(["from C++", "not a std::exception"]) {
            let y = op.apply(&x)?.exp();
            assert_error!(grad(&y, &x), Error::Backward { op: "Op", .. }, "backward failed", text);
            assert_eq!(number(&grad(&(&x * 2.0), &x)?), 2.0);
        }
        Ok(())
    };
    check()?;
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(check)).collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap())
}

#[test]
fn a_cpp_exception_in_a_hook_is_an_error() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = identity(|_, dy| Ok(Some(dy.copy()))).apply(&x)?;
    register_hook(&y, |_| throw_int())?;
    assert_error!(
        grad(&y.exp(), &x),
        Error::Hook { .. },
        "a hook on OpBackward failed: a C++ exception that is not a std::exception"
    );
    Ok(())
}

#[test]
fn a_cpp_exception_while_a_function_is_dropped_aborts_nothing() -> Result<()> {
    let x = leaf(&[1.0]);
    let y = Fragile(Fuse(|| throw_int())).apply(&x)?;
    assert_eq!(number(&grad(&y, &x)?), 1.0);
    drop(y);
    Ok(())
}
