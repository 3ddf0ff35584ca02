//! Work on libtorch's own intra-op threads.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    safe fn tf_threads() -> usize;
    fn tf_parallel(body: extern "C" fn(*mut c_void), data: *mut c_void);
}

/// The payload of a panic.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Returns the number of threads that libtorch would use here.
pub(crate) fn threads() -> usize {
    tf_threads()
}

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    count: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Payload>>,
}

/// Calls `task(i)` once for each `i` below `count`, on libtorch's intra-op
/// threads, and waits for all. After a panic no more are begun, and its payload
/// comes back.
pub(crate) fn run(count: usize, task: &(dyn Fn(usize) + Sync)) -> Result<(), Payload> {
    let job = Job { task, count, next: AtomicUsize::new(0), panic: Mutex::new(None) };
    // SAFETY: `work` gets a `Job`, which outlives the region: the call returns
    // when every thread has left `work`. What the threads share is `Sync`.
    unsafe { tf_parallel(work, (&raw const job).cast_mut().cast()) };
    job.panic.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
}

extern "C" fn work(job: *mut c_void) {
    // SAFETY: `run` passes a `Job` that nobody changes but through its locks.
    let job = unsafe { &*job.cast::<Job<'_>>() };
    let body = || {
        loop {
            let i = job.next.fetch_add(1, Ordering::Relaxed);
            if i >= job.count {
                break;
            }
            (job.task)(i);
        }
    };
    if let Err(payload) = catch_unwind(AssertUnwindSafe(body)) {
        job.next.store(job.count, Ordering::Relaxed);
        let mut last = job.panic.lock().unwrap_or_else(|e| e.into_inner());
        super::drop_quietly(last.replace(payload));
    }
}
