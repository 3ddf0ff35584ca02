//! Modules are loaded after their ops are registered, or the error says what to do.

use anyhow::Result;
use tch::nn::VarStore;
use tch::{Device, Tensor};
use tch_function::{
    Error,
    dispatcher::{Library, forward_only, load_module, load_trainable_module},
};
use test_support::archive::Script;
use test_support::{assert_error, number, vector};

const ONE: &str = "x: Tensor -> Tensor";

#[test]
fn a_missing_registration_says_what_to_call() -> Result<()> {
    let file = Script::returning(ONE, "ops.tf_late.double(x)")
        .save(env!("CARGO_TARGET_TMPDIR"), "missing.pt");
    let unknown = load_module(&file, Device::Cpu);
    assert_error!(
        unknown,
        Error::UnknownOp { op, namespace, .. } if op == "tf_late::double" && namespace == "tf_late",
        "missing.pt calls tf_late::double, which is not registered: before loading, call",
        "tch_function::library!",
        "crate of namespace \"tf_late\"; if it returns Ok"
    );
    let vs = VarStore::new(Device::Cpu);
    assert_error!(
        load_trainable_module(&file, vs.root()),
        Error::UnknownOp { op, .. } if op == "tf_late::double",
        "usually register()"
    );

    // Then it is called.
    static LATE: Library = Library::new("tf_late");
    LATE.register(|ops| {
        ops.define("double(Tensor x) -> Tensor", || {
            forward_only::<Tensor, Tensor>("tf_late::double", |x| Ok(x * 2.0))
        })
    })?;
    let y = load_module(&file, Device::Cpu)?.forward_ts(&[vector(&[2.0])])?;
    assert_eq!(number(&y), 4.0);
    load_trainable_module(&file, vs.root())?;

    // The namespace is there, the op is not.
    let file = Script::returning(ONE, "ops.tf_late.doubled(x)")
        .save(env!("CARGO_TARGET_TMPDIR"), "another_version.pt");
    assert_error!(
        load_module(&file, Device::Cpu),
        Error::UnknownOp { op, .. } if op == "tf_late::doubled",
        "that crate does not define this op"
    );
    Ok(())
}

#[test]
fn a_file_that_is_not_there() {
    assert_error!(
        load_module("no/such.pt", Device::Cpu),
        Error::Argument { op: "load_module", .. },
        "no/such.pt cannot be read: No such file"
    );
    assert_error!(
        load_trainable_module("no/such.pt", VarStore::new(Device::Cpu).root()),
        Error::Argument { op: "load_trainable_module", .. },
        "no/such.pt cannot be read: No such file"
    );
}

#[test]
fn a_file_that_is_no_module() -> Result<()> {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_module.pt");
    std::fs::write(&file, "plain text")?;
    let text = match load_module(&file, Device::Cpu) {
        Err(Error::Torch { op: "load_module", message }) => message,
        other => panic!("{other:?}"),
    };
    assert!(text.contains("zip archive") && !text.contains("Exception raised from"), "{text}");
    // libtorch's own ops are not the business of any register().
    let file = Script::returning(ONE, "ops.aten.doubled(x)")
        .save(env!("CARGO_TARGET_TMPDIR"), "unknown_aten.pt");
    assert_error!(
        load_module(&file, Device::Cpu),
        Error::Torch { op: "load_module", .. },
        "Unknown builtin op: aten::doubled"
    );
    Ok(())
}
