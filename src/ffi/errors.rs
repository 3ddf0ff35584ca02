//! Errors on their way across the border: C++ exceptions, panics, and errors of
//! this crate in C++'s hands.

use crate::error::{Error, without_cpp_stack};
use std::any::Any;
use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};

unsafe extern "C-unwind" {
    /// Runs `body`; a panic in it passes through.
    fn tf_try(body: extern "C-unwind" fn(*mut c_void), data: *mut c_void) -> bool;
}

unsafe extern "C" {
    fn tf_last_error() -> *const c_char;
    fn tf_take_error() -> *mut c_void;
    safe fn tf_forget_error();
    fn tf_take_python_error(
        take: extern "C" fn(*mut c_void, *const c_char, usize),
        data: *mut c_void,
    );
}

/// Takes the error behind this thread's last failure in the shim.
#[cold]
pub(crate) fn last_error(op: &'static str) -> Error {
    // SAFETY: gives up the error that it returns.
    let error = take_error(unsafe { tf_take_error() }).unwrap_or_else(|| {
        // SAFETY: the shim keeps the text of this thread's last failure, always
        // nul-terminated, until it is told to forget it.
        let text = unsafe { CStr::from_ptr(tf_last_error()) };
        let text = text.to_string_lossy();
        Error::Torch { op, message: without_cpp_stack(&text).to_owned() }
    });
    tf_forget_error();
    error
}

/// Takes the exception that Python code left pending on this thread, as text: tch turns it
/// into an error without one.
pub(crate) fn take_python_error() -> Option<String> {
    extern "C" fn take(data: *mut c_void, text: *const c_char, len: usize) {
        // SAFETY: `data` is the Option below; the text has `len` bytes.
        unsafe {
            let text = std::slice::from_raw_parts(text.cast::<u8>(), len);
            *data.cast::<Option<String>>() = Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    let mut text = None::<String>;
    // SAFETY: `take` gets the Option during the call alone.
    unsafe { tf_take_python_error(take, (&raw mut text).cast()) };
    text
}

pub(super) fn check(op: &'static str, done: bool) -> Result<(), Error> {
    if done { Ok(()) } else { Err(last_error(op)) }
}

/// Runs `body`; `None` if it let a C++ exception through, which [`last_error`]
/// then returns. (Rust's own `catch_unwind` aborts on one.)
#[inline(always)]
pub(crate) fn catch_cpp<T, F: FnOnce() -> T>(body: F) -> Option<T> {
    struct Call<F, T> {
        body: ManuallyDrop<F>,
        value: MaybeUninit<T>,
    }
    extern "C-unwind" fn run<T, F: FnOnce() -> T>(call: *mut c_void) {
        // SAFETY: `call` is the Call below, which nobody else uses meanwhile; it
        // is run once, so that its body is taken once.
        unsafe {
            let call = &mut *call.cast::<Call<F, T>>();
            call.value.write(ManuallyDrop::take(&mut call.body)());
        }
    }
    let mut call = Call { body: ManuallyDrop::new(body), value: MaybeUninit::uninit() };
    // SAFETY: `run` gets the Call that it is made for, during the call alone, and
    // has written the value if the shim returns true.
    unsafe { tf_try(run::<T, F>, (&raw mut call).cast()).then(|| call.value.assume_init()) }
}

/// Returns the text of a panic's payload.
pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => without_cpp_stack(&text).to_owned(),
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(payload) => {
                drop_quietly(payload); // its Drop may panic itself
                "a payload that is not a string".to_owned()
            }
        },
    }
}

/// Drops `value`, and with it whatever its Drop panics with or throws: neither may
/// reach C++, and no caller is left to report it to. The panic hook has printed it.
pub(crate) fn drop_quietly<T>(value: T) {
    let _ = catch_unwind(AssertUnwindSafe(|| catch_cpp(|| drop(value))));
}

/// Runs a callback's body; the error or panic in it becomes an error in C++'s
/// hands, null if there is none.
pub(super) fn call_back(
    op: &'static str,
    stage: &'static str,
    body: impl FnOnce() -> Result<(), Error>,
) -> *mut c_void {
    let done = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|payload| Err(Error::Panic { op, stage, message: panic_message(payload) }));
    done.err().map_or(std::ptr::null_mut(), into_raw)
}

/// An error in C++'s hands.
struct Failure {
    text: CString,
    error: Error,
}

pub(super) fn into_raw(error: Error) -> *mut c_void {
    // The text may come from user code (an error's Display), which may panic.
    let text = catch_unwind(AssertUnwindSafe(|| error.to_string().replace('\0', " ")));
    let text = text.unwrap_or_else(|_| "an error whose text panicked".to_owned());
    let text = CString::new(text).unwrap_or_default();
    Box::into_raw(Box::new(Failure { text, error })).cast()
}

/// Takes back an error that the shim gives up; `None` for null.
fn take_error(failure: *mut c_void) -> Option<Error> {
    // SAFETY: null, or made by `into_raw` and given up by the shim.
    (!failure.is_null()).then(|| unsafe { Box::from_raw(failure.cast::<Failure>()) }.error)
}

pub(super) extern "C" fn error_text(failure: *mut c_void) -> *const c_char {
    // SAFETY: the shim passes a failure that it owns.
    unsafe { &*failure.cast::<Failure>() }.text.as_ptr()
}

pub(super) extern "C" fn drop_error(failure: *mut c_void) {
    drop_quietly(take_error(failure));
}
