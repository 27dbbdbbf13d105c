//! Tests that cannot run everywhere say so where somebody sees it.

use std::io::Write as _;
use std::path::Path;

/// Names the file that collects what was skipped; `tests/all.sh` sets it, and shows the lines in its summary. Cargo shows
/// nothing of what a test that passes has printed.
const SKIPS_VARIABLE: &str = "XBPIPE_TEST_SKIPS";

/// Notes that the rest of the running test is left out, and why.
#[expect(clippy::print_stdout, reason = "for whoever runs the one test")]
pub(crate) fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("skipped: {why}");
    if let Some(file) = std::env::var_os(SKIPS_VARIABLE) {
        note(Path::new(&file), test, why);
    }
}

/// One line, written at once: many tests run at a time.
fn note(file: &Path, test: &str, why: &str) {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    file.write_all(format!("{test}: {why}\n").as_bytes())
        .unwrap();
}

#[test]
fn each_skip_is_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skips");
    note(&file, "a", "not root");
    note(&file, "b", "no mount");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, "a: not root\nb: no mount\n");
}
