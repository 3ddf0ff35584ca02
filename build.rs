//! Compiles the C++ shim against the libtorch that torch-sys found, and makes
//! what this package builds find that libtorch when it runs.

use anyhow::{Context, Result, bail};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
#[cfg(unix)]
use std::os::unix::fs::symlink as link_folder;
#[cfg(windows)]
use std::os::windows::fs::symlink_dir as link_folder;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The major and the minors of libtorch whose internals the shim is written for.
const LIBTORCH: (u32, RangeInclusive<u32>) = (2, 11..=13);

const WAYS_OUT: &str = "Ways out:
  - `make libtorch` in tch-function's repository fetches a CPU-only one (x86_64 Linux);
  - LIBTORCH=/path/to/libtorch names one that you have (the folder of include/ and lib/);
  - LIBTORCH_USE_PYTORCH=1 takes the one of `pip install torch==2.13.0`;
  - the feature `doc-only` builds the documentation without any.";

fn main() {
    if let Err(problem) = run() {
        // cargo shows these lines and nothing else.
        for line in format!("{problem:#}").lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    // Without optimisation, code that is called compiles faster than code that is inlined.
    println!("cargo:rustc-check-cfg=cfg(quick_build)");
    if matches!(env::var("OPT_LEVEL")?.as_str(), "0" | "1") {
        println!("cargo:rustc-cfg=quick_build");
    }
    if cfg!(feature = "doc-only") {
        return Ok(());
    }
    let target = env::var("CARGO_CFG_TARGET_OS")?;
    if target != "linux" {
        bail!("tch-function runs on Linux only so far, not on {target}.\n{WAYS_OUT}");
    }
    let lib = env_var("DEP_TCH_LIBTORCH_LIB")
        .map(PathBuf::from)
        .with_context(|| format!("torch-sys names no libtorch.\n{WAYS_OUT}"))?;
    // The headers lie beside the library, unless torch-sys was told otherwise.
    let include = match env_var("LIBTORCH_INCLUDE") {
        Some(dir) => PathBuf::from(dir).join("include"),
        None => lib.with_file_name("include"),
    };
    check_version(&include)?;
    compile_shim(&include)?;
    link(&lib)
}

/// An environment variable, which when it changes makes this script run again.
fn env_var(name: &str) -> Option<String> {
    println!("cargo:rerun-if-env-changed={name}");
    env::var(name).ok()
}

fn check_version(include: &Path) -> Result<()> {
    let header = include.join("torch/headeronly/version.h");
    println!("cargo:rerun-if-changed={}", header.display());
    let text = fs::read_to_string(&header).unwrap_or_default();
    let number = |part: &str| -> Option<u32> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(part))?;
        line.trim().parse().ok()
    };
    let found = number("MAJOR").zip(number("MINOR"));
    let (major, minors) = LIBTORCH;
    if found.is_some_and(|(m, minor)| m == major && minors.contains(&minor)) {
        return Ok(());
    }
    let found = match found {
        Some((major, minor)) => format!("version {major}.{minor}"),
        None => "no version (it is missing, or says none)".to_owned(),
    };
    bail!(
        "tch-function needs libtorch {major}.{} to {major}.{}; {} has {found}.\n{WAYS_OUT}",
        minors.start(),
        minors.end(),
        header.display()
    )
}

/// The files that are compiled together: most of the time goes into libtorch's headers, which
/// the files of a unit have in common.
const UNITS: [(&str, &[&str]); 2] = [
    (
        "autograd",
        &[
            "tensor",
            "engine",
            "forward_ad",
            "node",
            "hooks",
            "dispatch_node",
            "grads_batched",
            "scalar",
        ],
    ),
    (
        "others",
        &[
            "errors",
            "python",
            "dispatcher",
            "op",
            "batched",
            "memory",
            "pin",
            "modes",
            "parallel",
            "rng",
        ],
    ),
];

/// A file that includes the others.
fn unit(name: &str, files: &[&str]) -> Result<PathBuf> {
    let path = PathBuf::from(env::var("OUT_DIR")?).join(format!("{name}.cpp"));
    let includes: String = files.iter().map(|file| format!("#include \"{file}.cpp\"\n")).collect();
    fs::write(&path, includes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Writes `layout.h`, which asserts for C++ what src/ffi/layout.rs asserts for Rust.
fn write_layout_header(out: &Path) -> Result<()> {
    let text = fs::read_to_string("src/ffi/layout.rs").context("src/ffi/layout.rs")?;
    let mut header = String::new();
    let mut check = |what: String| header += &format!("static_assert({what}, \"{what}\");\n");
    let (_, lists) = text.split_once("\nstructs! {").context("structs! of src/ffi/layout.rs")?;
    let (structs, numbers) = lists.split_once("\nnumbers! {").context("numbers!")?;
    for one in structs.split('}') {
        let Some((head, fields)) = one.split_once('{') else { continue };
        let (_, name) = head.split_once(" as ").context("a struct's name in C++")?;
        let (name, size) = name.trim().split_once(", ").context("a struct's size")?;
        check(format!("sizeof({name}) == {size}"));
        for field in fields.split(',').filter(|field| !field.trim().is_empty()) {
            let (field, offset) = field.trim().split_once(": ").context("a field's offset")?;
            check(format!("offsetof({name}, {field}) == {offset}"));
        }
    }
    for number in numbers.split(';').filter_map(|number| number.split_once(" as ")) {
        check(number.1.replace(" = ", " == "));
    }
    fs::write(out.join("layout.h"), header).context("cannot write layout.h")
}

/// A name that no other version of the shim has.
fn build_name() -> Result<String> {
    let folder = fs::read_dir("src/ffi").context("src/ffi")?;
    let mut files = folder.map(|file| Ok(file?.path())).collect::<Result<Vec<PathBuf>>>()?;
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        fs::read(&file).with_context(|| file.display().to_string())?.hash(&mut hasher);
    }
    Ok(format!("build_{:016x}", hasher.finish()))
}

fn compile_shim(include: &Path) -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    write_layout_header(&out)?;
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        // Also in a dev build: it runs once or more for every node.
        .opt_level(2)
        // Debug information would double the compile time.
        .debug(false)
        .define("_GLIBCXX_USE_CXX11_ABI", "1")
        .define("TF_BUILD", build_name()?.as_str())
        .flag("-fvisibility=hidden")
        .extra_warnings(true)
        .include("src/ffi")
        .include(&out)
        // System headers, so that their warnings are not ours.
        .flag("-isystem")
        .flag(include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"));
    for (name, files) in UNITS {
        build.file(unit(name, files)?);
    }
    // Set by .ci/run: a warning of another compiler must not break a user's build.
    if env_var("TCH_FUNCTION_DENY_WARNINGS").is_some() {
        build.warnings_into_errors(true);
    }
    // Set by `make valgrind`: see src/ffi/small_memory.h.
    if env_var("TCH_FUNCTION_PLAIN_MEMORY").is_some() {
        build.define("TCH_FUNCTION_PLAIN_MEMORY", None);
    }
    println!("cargo:rerun-if-changed=src/ffi");
    build.compile("tch_function_shim");
    Ok(())
}

/// Link arguments reach this package's tests, examples and benches, but not its
/// doctests nor the programs of packages that depend on it. For those: cargo
/// puts link paths that lie in its target folder on `LD_LIBRARY_PATH` of what it
/// runs, hence a link to libtorch there.
fn link(lib: &Path) -> Result<()> {
    // Found for libtorch's own needs too, which the newer RUNPATH is not.
    println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{}", lib.display());
    // Keeps libtorch's CUDA part, which no symbol asks for.
    println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-ltorch,--as-needed");

    let inside = PathBuf::from(env::var("OUT_DIR")?).join("libtorch");
    fs::remove_file(&inside).ok();
    link_folder(lib, &inside).with_context(|| format!("cannot link to {}", lib.display()))?;
    println!("cargo:rustc-link-search=native={}", inside.display());
    Ok(())
}
