//! TorchScript modules that call registered ops.

use crate::error::torch;
use crate::{Error, Result};
use std::path::Path;
use tch::{CModule, Device, TchError, TrainableCModule, nn};

/// Loads a TorchScript module, as [`CModule::load_on_device`], with clear errors
/// where an op that it calls is not registered, and where the file is not there.
///
/// # Errors
/// [`Error::UnknownOp`], [`Error::Argument`] for a file that cannot be read,
/// [`Error::Torch`] for what else libtorch says.
pub fn load_module(file: impl AsRef<Path>, device: Device) -> Result<CModule> {
    load("load_module", file.as_ref(), |file| CModule::load_on_device(file, device))
}

/// Loads a TorchScript module to be trained, as [`TrainableCModule::load`]: its
/// parameters become variables of `path`'s
/// [`VarStore`](nn::VarStore).
///
/// # Errors
/// As [`load_module`].
pub fn load_trainable_module(
    file: impl AsRef<Path>,
    path: nn::Path<'_>,
) -> Result<TrainableCModule> {
    load("load_trainable_module", file.as_ref(), |file| TrainableCModule::load(file, path))
}

fn load<M>(
    op: &'static str,
    file: &Path,
    load: impl FnOnce(&Path) -> Result<M, TchError>,
) -> Result<M> {
    if let Err(problem) = std::fs::File::open(file) {
        let message = format!("{} cannot be read: {problem}", file.display());
        return Err(Error::Argument { op, message });
    }
    load(file).map_err(|error| match unknown_op(&error.to_string()) {
        Some((namespace, name)) => Error::UnknownOp {
            file: file.display().to_string(),
            op: format!("{namespace}::{name}"),
            namespace,
        },
        None => torch(op)(error),
    })
}

/// The namespace and the name in libtorch's "Unknown builtin op: ns::name.".
fn unknown_op(message: &str) -> Option<(String, String)> {
    let (_, rest) = message.split_once("Unknown builtin op: ")?;
    let op = rest.split_whitespace().next()?.trim_end_matches('.');
    let (namespace, name) = op.split_once("::")?;
    let is_libtorchs = matches!(namespace, "aten" | "prim");
    (!is_libtorchs).then(|| (namespace.to_owned(), name.to_owned()))
}
