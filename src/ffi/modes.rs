//! Modes of libtorch's that belong to a thread.

use super::check;
use crate::error::Result;
use std::ffi::{CString, c_char, c_void};
use std::marker::PhantomData;

/// `tf_autocast` of the shim.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RawAutocast {
    pub(super) device_type: i8,
    pub(super) dtype: i8,
    pub(super) enabled: bool,
}

unsafe extern "C" {
    safe fn tf_grad_enabled() -> bool;
    safe fn tf_set_grad_enabled(enabled: bool) -> bool;
    fn tf_enter_autocast(device_type: i8, dtype: i8, was: *mut RawAutocast) -> bool;
    safe fn tf_exit_autocast(was: RawAutocast);
    fn tf_autocast_knows(op: *const c_char, device_type: i8) -> bool;
    safe fn tf_autocast_dtype(device_type: i8) -> i8;
    safe fn tf_is_autocast_on() -> bool;
    safe fn tf_is_mode_on() -> bool;
    safe fn tf_autocast_state() -> u64;
    safe fn tf_set_autocast_state(state: u64);
    safe fn tf_begin_autocast();
    safe fn tf_end_autocast();
    safe fn tf_is_inference_mode() -> bool;
    safe fn tf_enter_inference_mode(enabled: bool) -> *mut c_void;
    fn tf_exit_inference_mode(mode: *mut c_void);
}

/// Sets libtorch's grad mode on this thread, while it lives.
pub(crate) struct GradMode {
    /// The mode before, which comes back on drop.
    pub was: bool,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl GradMode {
    #[inline]
    pub fn set(enabled: bool) -> GradMode {
        GradMode { was: tf_set_grad_enabled(enabled), _not_send: PhantomData }
    }
}

impl Drop for GradMode {
    #[inline]
    fn drop(&mut self) {
        tf_set_grad_enabled(self.was);
    }
}

/// Returns whether libtorch records gradients on this thread.
#[inline]
pub(crate) fn grad_enabled() -> bool {
    tf_grad_enabled()
}

/// Turns autocast on for one type of device on this thread, while it lives.
pub(crate) struct Autocast {
    was: RawAutocast,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl Autocast {
    pub fn enter(device_type: i8, dtype: i8) -> Result<Autocast> {
        let mut was = RawAutocast::default();
        // SAFETY: `was` is written during the call alone.
        check("autocast", unsafe { tf_enter_autocast(device_type, dtype, &mut was) })?;
        Ok(Autocast { was, _not_send: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        tf_exit_autocast(self.was);
    }
}

/// Returns whether libtorch converts the inputs of its op of this name under autocast for
/// this type of device.
pub(crate) fn autocast_knows(op: &str, device_type: i8) -> bool {
    let Ok(op) = CString::new(op) else { return false };
    // SAFETY: the name is read during the call alone.
    unsafe { tf_autocast_knows(op.as_ptr(), device_type) }
}

/// Returns the dtype of autocast for this type of device.
pub(crate) fn autocast_dtype(device_type: i8) -> i8 {
    tf_autocast_dtype(device_type)
}

/// Returns whether autocast is on for some device on this thread.
#[inline]
pub(crate) fn is_autocast_on() -> bool {
    tf_is_autocast_on()
}

/// Returns whether a mode of Python's sees every op of this thread.
pub(crate) fn is_mode_on() -> bool {
    tf_is_mode_on()
}

/// Whether autocast is on for each type of device on a thread, and its dtypes:
/// `tf_autocast_state` of the shim.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct AutocastState(u64);

impl AutocastState {
    /// Autocast is off for each type of device.
    pub const OFF: AutocastState = AutocastState(0);

    /// The bits that say for which types of devices it is on.
    const DEVICES: u64 = 0xffff_ffff;

    /// Reads what it is on this thread.
    pub fn now() -> AutocastState {
        AutocastState(tf_autocast_state())
    }

    /// Returns whether it is on for this type of device.
    pub fn is_on(self, device_type: i8) -> bool {
        let devices = self.0 & Self::DEVICES;
        u32::try_from(device_type).is_ok_and(|d| devices.checked_shr(d).unwrap_or(0) & 1 != 0)
    }

    /// Returns whether it is on for some type of device.
    pub fn is_on_somewhere(self) -> bool {
        self.0 & Self::DEVICES != 0
    }

    /// Returns this as a number that is not negative, for [`of_code`](Self::of_code).
    pub fn code(self) -> i64 {
        self.0 as i64
    }

    /// Returns the state whose code this is. Dtypes that do not exist are left out.
    pub fn of_code(code: i64) -> AutocastState {
        AutocastState(code as u64)
    }
}

/// Turns autocast off for every device on this thread, while it lives.
pub(crate) struct NoAutocast {
    was: AutocastState,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl NoAutocast {
    pub fn enter() -> NoAutocast {
        let was = AutocastState::now();
        tf_set_autocast_state(0);
        NoAutocast { was, _not_send: PhantomData }
    }

    /// Returns what autocast was before.
    pub fn was(&self) -> AutocastState {
        self.was
    }
}

impl Drop for NoAutocast {
    fn drop(&mut self) {
        tf_set_autocast_state(self.was.0);
    }
}

/// Makes autocast what it was at another time, on this thread, while it lives.
pub(crate) struct AutocastAgain {
    was: AutocastState,
    /// The mode belongs to this thread.
    _not_send: PhantomData<*const ()>,
}

impl AutocastAgain {
    pub fn enter(state: AutocastState) -> AutocastAgain {
        let was = AutocastState::now();
        tf_set_autocast_state(state.0);
        tf_begin_autocast();
        AutocastAgain { was, _not_send: PhantomData }
    }
}

impl Drop for AutocastAgain {
    fn drop(&mut self) {
        tf_set_autocast_state(self.was.0);
        tf_end_autocast();
    }
}

/// Puts this thread into libtorch's inference mode, or out of it, while it lives.
pub(crate) struct InferenceMode {
    /// An owned C++ guard that belongs to this thread, as raw pointers do.
    mode: *mut c_void,
}

impl InferenceMode {
    pub fn enter() -> InferenceMode {
        InferenceMode { mode: tf_enter_inference_mode(true) }
    }

    /// Leaves the mode, if the thread is in it.
    pub fn leave() -> Option<InferenceMode> {
        tf_is_inference_mode().then(|| InferenceMode { mode: tf_enter_inference_mode(false) })
    }
}

impl Drop for InferenceMode {
    fn drop(&mut self) {
        // SAFETY: made by `enter` or `leave` on this thread, given back once.
        unsafe { tf_exit_inference_mode(self.mode) }
    }
}
