//! A module that Python has scripted and saved, trained here. It needs Python, so
//! that tests/python/test_torchscript.py runs it, and compares what comes out.

use crate::ops;
use anyhow::{Context, Result};
use std::path::PathBuf;
use tch::nn::{Adam, OptimizerConfig, VarStore};
use tch::{CModule, Device, Reduction, Tensor};
use tch_function::{
    backward,
    dispatcher::{load_module, load_trainable_module},
};

/// The folder of module.pt, x.npy and target.npy, and of what is written here.
const FOLDER: &str = "TCH_FUNCTION_SCRIPT";

#[test]
#[ignore = "tests/python/test_torchscript.py runs it"]
fn trains_as_in_python() -> Result<()> {
    ops::register()?;
    let folder = PathBuf::from(std::env::var(FOLDER).context(FOLDER)?);
    let read = |name| Tensor::read_npy(folder.join(name));
    let (x, target) = (read("x.npy")?, read("target.npy")?);

    let vs = VarStore::new(Device::Cpu);
    let mut module = load_trainable_module(folder.join("module.pt"), vs.root())?;
    module.set_train();
    let mut out = vec![("y".to_owned(), module.forward_ts(&[&x])?)];
    let loss = || anyhow::Ok(module.forward_ts(&[&x])?.mse_loss(&target, Reduction::Mean));
    backward(&loss()?)?;
    out.extend(vs.variables().into_iter().map(|(name, t)| (format!("gradient {name}"), t.grad())));

    let mut adam = Adam::default().build(&vs, 0.05)?;
    let mut losses = Vec::new();
    for _ in 0..30 {
        let loss = loss()?;
        adam.backward_step(&loss);
        losses.push(f64::try_from(&loss)?);
    }
    out.push(("losses".to_owned(), Tensor::from_slice(&losses)));
    out.extend(vs.variables());
    let out: Vec<_> = out.into_iter().map(|(name, t)| (name, t.detach())).collect();
    Tensor::write_npz(&out, folder.join("out.npz"))?;
    module.save(folder.join("trained.pt"))?;
    let trained: CModule = load_module(folder.join("trained.pt"), Device::Cpu)?;
    assert_eq!(trained.forward_ts(&[&x])?, module.forward_ts(&[&x])?);
    Ok(())
}
