//! [`Generators`]: the states of libtorch's random number generators.

use super::{Meta, check};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};

const OP: &str = "random numbers";
const CPU: (i8, i8) = (0, -1);
const CUDA: i8 = 1;
/// Bytes of a CUDA generator's state: the seed and the offset.
const CUDA_STATE: usize = 16;

unsafe extern "C" {
    fn tf_rng_state(
        device_type: i8,
        device_index: i8,
        take: extern "C" fn(*mut c_void, *const u8, usize),
        data: *mut c_void,
    ) -> bool;
    fn tf_set_rng_state(device_type: i8, device_index: i8, bytes: *const u8, n: usize) -> bool;
}

/// The states of the generators that an op on some tensors can draw from: the CPU's, and
/// those of the tensors' CUDA devices.
#[derive(PartialEq)]
pub(crate) struct Generators(Vec<((i8, i8), Vec<u8>)>);

/// The states before and after a run.
pub(crate) struct Drawn {
    before: Generators,
    /// Tells the states after the run from others.
    after: u64,
}

impl Generators {
    /// Reads the states.
    pub fn now<'a>(inputs: impl Iterator<Item = &'a Meta>) -> Result<Generators> {
        let mut devices = vec![CPU];
        for device in inputs.map(Meta::device_code).filter(|device| device.0 == CUDA) {
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        Generators::of(devices.into_iter())
    }

    /// Reads the same generators again.
    pub fn again(&self) -> Result<Generators> {
        Generators::of(self.0.iter().map(|(device, _)| *device))
    }

    fn of(devices: impl Iterator<Item = (i8, i8)>) -> Result<Generators> {
        let states = devices.map(|device| Ok((device, state(device)?)));
        states.collect::<Result<_>>().map(Generators)
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    /// Returns what was drawn from these states to later ones.
    pub fn until(self, after: &Generators) -> Drawn {
        Drawn { before: self, after: after.digest() }
    }

    /// Reads what [`Drawn::padded_bytes`] wrote, for the same generators.
    ///
    /// # Errors
    /// [`Error::Argument`] for a list that is too short.
    pub fn of_bytes(&self, bytes: &[u8]) -> Result<Drawn> {
        let message = "the state of the random number generators does not fit this machine's";
        let misfit = || Error::Argument { op: OP, message: message.to_owned() };
        let (after, mut bytes) = bytes.split_first_chunk().ok_or_else(misfit)?;
        let after = u64::from_le_bytes(*after);
        let mut states = Vec::new();
        for (device, state) in &self.0 {
            let (own, rest) = bytes.split_at_checked(state.len()).ok_or_else(misfit)?;
            states.push((*device, own.to_vec()));
            bytes = rest;
        }
        Ok(Drawn { before: Generators(states), after })
    }

    fn set(&self) -> Result<()> {
        for ((device_type, index), state) in &self.0 {
            // SAFETY: the bytes are read during the call alone.
            check(OP, unsafe {
                tf_set_rng_state(*device_type, *index, state.as_ptr(), state.len())
            })?;
        }
        Ok(())
    }
}

impl Drawn {
    /// Runs `f` with the generators as they were before the first run.
    ///
    /// # Errors
    /// [`Error::Argument`] if the two runs do not draw the same: another thread drew during
    /// one of them, or `f` itself draws something else.
    pub fn again<T>(&self, op: &'static str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let _was = Replay(self.before.again()?);
        self.before.set()?;
        let done = f()?;
        if self.before.again()?.digest() == self.after {
            return Ok(done);
        }
        let message = "forward draws other random numbers when it runs again; let no other \
                       thread draw from libtorch's generators meanwhile, and draw the same in \
                       both runs, whatever ctx.is_recomputation() says";
        Err(Error::Argument { op, message: message.to_owned() })
    }

    /// Returns the states of the CPU's generator and of one device's as one list of bytes,
    /// of the same length whether there is a device or not.
    pub fn padded_bytes(&self) -> Vec<u8> {
        let states = &self.before.0;
        let mut bytes = self.after.to_le_bytes().to_vec();
        let length = bytes.len() + states[0].1.len() + CUDA_STATE;
        bytes.extend(states.iter().take(2).flat_map(|(_, state)| state));
        bytes.resize(length, 0);
        bytes
    }
}

extern "C" fn take(data: *mut c_void, bytes: *const u8, n: usize) {
    // SAFETY: `data` is the Vec of the caller; there are `n` bytes.
    unsafe { (*data.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(bytes, n)) }
}

/// The states that come back on drop.
struct Replay(Generators);

impl Drop for Replay {
    fn drop(&mut self) {
        // They were read from these generators, so they fit.
        let _ = self.0.set();
    }
}

fn state((device_type, index): (i8, i8)) -> Result<Vec<u8>> {
    let mut state = Vec::<u8>::new();
    // SAFETY: `take` gets the Vec during the call alone.
    check(OP, unsafe { tf_rng_state(device_type, index, take, (&raw mut state).cast()) })?;
    Ok(state)
}
