//! The plan of `src`, as docs/architecture.md draws it, read from the imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// For each room, the rooms that its files import.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files of a folder, with their paths inside it, without comments.
fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    let files = files(folder, &["rs"]).into_iter();
    files.map(|(path, text)| (path, code(&text))).collect()
}

/// The files of a folder that have one of the extensions, with their paths inside it.
fn files(folder: &Path, extensions: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(folder).unwrap().to_owned(), text));
            }
        }
    }
    found
}

/// The text without its comments.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The room of a file: `graph` for `graph.rs` and for `graph/node.rs`.
fn room(file: &Path) -> String {
    let first = file.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The first names of the items of `{a, b::{c, d}, e}`, whose opening brace is gone.
fn heads(text: &str) -> Vec<String> {
    let (mut depth, mut item, mut found) = (1, String::new(), Vec::new());
    for c in text.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 || depth == 1 && c == ',' {
            found.push(word(item.trim()).to_owned());
            item.clear();
        } else {
            item.push(c);
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// What stands behind `crate::`, wherever that is in the text.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, path) in text.match_indices("crate::") {
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue; // another crate
        }
        let rest = &text[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => found.extend(heads(list)),
            None => found.extend([word(rest).to_owned()]),
        }
    }
    found.remove("");
    found
}

/// The room behind each name that `src/lib.rs` exports.
fn exports() -> BTreeMap<String, String> {
    let lib = code(&fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let mut found = BTreeMap::new();
    for (at, start) in lib.match_indices("pub use ") {
        let path = &lib[at + start.len()..];
        let room = word(path);
        let names = path[room.len()..].strip_prefix("::").expect("pub use room::names");
        let names = match names.strip_prefix('{') {
            Some(list) => heads(list),
            None => vec![word(names).to_owned()],
        };
        found.extend(names.into_iter().map(|name| (name, room.to_owned())));
    }
    found
}

fn imports() -> Imports {
    let exports = exports();
    let mut imports = Imports::new();
    for (file, text) in rust_files(&root().join("src")) {
        let here = room(&file);
        if here == "lib" {
            continue;
        }
        let rooms = imports.entry(here.clone()).or_default();
        for name in crate_paths(&text) {
            let to = exports.get(&name).unwrap_or(&name);
            // Macros are in no room.
            if *to != here && !text.contains(&format!("crate::{to}!")) {
                rooms.insert(to.clone());
            }
        }
    }
    imports
}

/// The rooms that docs/architecture.md lists, from the ground up.
fn listed() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split('`').next()?.strip_prefix("src/"));
    names.map(|name| room(Path::new(name.trim_end_matches('/')))).collect()
}

#[test]
fn the_page_lists_every_room_and_imports_go_down() {
    let (imports, listed) = (imports(), listed());
    let rooms: BTreeSet<&String> = imports.keys().collect();
    assert_eq!(rooms, listed.iter().collect(), "rooms in src, and in docs/architecture.md");
    for (room, imported) in &imports {
        let floor = |room: &String| listed.iter().position(|r| r == room);
        for other in imported {
            assert!(
                floor(other) < floor(room),
                "src/{room} imports src/{other}, which docs/architecture.md lists above it"
            );
        }
    }
}

#[test]
fn the_border_imports_only_errors() {
    assert_eq!(imports()["ffi"], BTreeSet::from(["error".to_owned()]));
    assert_eq!(imports()["error"], BTreeSet::new());
}

#[test]
fn the_engines_do_not_know_each_other() {
    const ENGINES: [&str; 3] = ["graph", "libtorch", "dispatcher"];
    for engine in ENGINES {
        for other in ENGINES {
            assert!(!imports()[engine].contains(other), "src/{engine} imports src/{other}");
        }
    }
}

#[test]
fn unsafe_code_is_at_the_border_and_in_the_view_of_memory() {
    for (file, text) in rust_files(&root().join("src")) {
        let allowed = file.starts_with("ffi") || file.starts_with("kernel/view");
        let uses = |what: &str| text.contains(what);
        let has_unsafe = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"];
        // `library!` puts a static into the program's list of initialisers.
        let has_unsafe = has_unsafe.iter().any(|what| uses(what))
            || uses("allow(unsafe_code)") && !file.ends_with("dispatcher/mod.rs");
        assert!(allowed || !has_unsafe, "unsafe code in src/{}", file.display());
    }
}

#[test]
fn no_file_is_longer_than_350_lines() {
    for folder in ["src", "tests", "examples", "benches"] {
        for (file, text) in files(&root().join(folder), &["rs", "cpp", "h", "py"]) {
            let lines = text.lines().count();
            assert!(lines <= 350, "{folder}/{} has {lines} lines", file.display());
        }
    }
}

#[test]
fn imports_are_read() {
    let text = "use crate::{Error, graph::{Var, node}, ops};\nlet x = crate::ffi::version(t);";
    let found: Vec<String> = crate_paths(text).into_iter().collect();
    assert_eq!(found, ["Error", "ffi", "graph", "ops"]);
    assert_eq!(exports()["Var"], "graph");
    assert_eq!(room(Path::new("graph/node.rs")), "graph");
}
