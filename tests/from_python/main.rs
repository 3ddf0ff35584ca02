//! The Rust of docs/from-python.md, compiled and run.

mod derivatives;
mod functions;
mod held;

/// Every block of Rust on the page, and every piece of code in the Rust column
/// of its tables, stands in these files, whatever the indentation.
#[test]
fn the_page_says_what_is_tested_here() {
    // The page has one file, in which nothing need be public.
    let flat =
        |text: &str| text.replace("pub ", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let page = include_str!("../../docs/from-python.md");
    let files =
        [include_str!("functions.rs"), include_str!("derivatives.rs"), include_str!("held.rs")];
    let here = flat(&files.concat());
    let blocks = page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let cells =
        page.lines().filter_map(|l| l.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | "));
    // Tables escape a bar.
    let spans = cells.flat_map(|(_, rust)| rust.split('`').skip(1).step_by(2));
    let code = blocks.chain(spans).map(|code| code.replace(r"\|", "|"));
    let missing: Vec<String> = code.filter(|code| !here.contains(&flat(code))).collect();
    assert!(missing.is_empty(), "not in tests/from_python: {missing:#?}");
}
