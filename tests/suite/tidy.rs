//! Reads the repository as a test: layers, forgotten files, words that must not be there, documents that must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::vec_file::{files_below, root, text};

/// Lines of the longest source file that somebody may be asked to read.
const FILE_LINES_MAX: usize = 900;

/// Rust files of the crate and its tests, with their paths relative to the root.
fn sources(directories: &[&str]) -> Vec<(String, String)> {
    let files = directories
        .iter()
        .flat_map(|d| files_below(&root().join(d), ".rs"));
    files
        .filter(|path| !path.components().any(|c| c.as_os_str() == "target"))
        .map(|path| (relative(&path), text(&path)))
        .collect()
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The room of a file below `src/`; `None` for the crate's own two files.
fn room(path: &str) -> Option<&str> {
    path.strip_prefix("src/")?.split_once('/').map(|(r, _)| r)
}

/// Words in backticks.
fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// A table of ARCHITECTURE.md by the words in its first column.
fn table(head: &str) -> BTreeMap<String, BTreeSet<String>> {
    let document = text(&root().join("ARCHITECTURE.md"));
    let rows = document
        .lines()
        .skip_while(|line| *line != head)
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let rows = rows.map(|row| {
        let mut cells = row.split('|').skip(1);
        let name = quoted(cells.next().unwrap()).pop_first().unwrap();
        (name, quoted(cells.next().unwrap()))
    });
    let table: BTreeMap<_, _> = rows.collect();
    assert!(!table.is_empty(), "ARCHITECTURE.md has no table {head}");
    table
}

/// Every `crate::ROOM` of a file, in its tests and its documentation, too.
fn uses(source: &str) -> BTreeSet<String> {
    let names = source.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn an_arrow_only_points_down() {
    let allowed = table("| room | may use | what it is |");
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, source) in sources(&["src"]) {
        let Some(room) = room(&path) else { continue };
        let used = used.entry(room.to_owned()).or_default();
        for other in uses(&source) {
            if other != room && !allowed.get(room).is_some_and(|a| a.contains(&other)) {
                wrong.push(format!("{path} uses {other}"));
            }
            used.insert(other);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (room, allowed) in &allowed {
        let used = used.get(room).unwrap_or_else(|| panic!("no room {room}"));
        for other in allowed {
            assert!(used.contains(other), "{room} may use {other} and does not");
        }
    }
    // Rows of the table must not go round in circles: each room stands below those that use it.
    let mut placed = BTreeSet::new();
    while placed.len() < allowed.len() {
        let next = allowed
            .iter()
            .find(|(room, below)| !placed.contains(*room) && below.is_subset(&placed));
        let (next, _) = next.unwrap_or_else(|| panic!("a circle above {placed:?}"));
        placed.insert(next.clone());
    }
}

#[test]
fn the_codemap_names_every_file() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, _) in sources(&["src"]) {
        let Some(room) = room(&path) else { continue };
        let name = path[..path.len() - ".rs".len()].to_owned();
        let name = name.strip_prefix(&format!("src/{room}/")).unwrap();
        let files = found.entry(room.to_owned()).or_default();
        if name != "mod" && !name.ends_with("/mod") {
            files.insert(name.to_owned());
        }
    }
    assert_eq!(table("| room | files |"), found);
}

#[test]
fn every_file_is_compiled() {
    let mut forgotten = Vec::new();
    let main = text(&root().join("tests/suite/main.rs"));
    let demo = text(&root().join("tests/demo/main.rs"));
    for (path, _) in sources(&["src", "tests"]) {
        let directory = Path::new(&path).parent().unwrap();
        // A directory is a module by its mod.rs.
        let module = match path.strip_suffix("/mod.rs") {
            Some(_) => directory,
            None => Path::new(&path),
        };
        let name = module.file_stem().unwrap().to_str().unwrap();
        let declaration = format!("mod {name};");
        let declared = match directory.to_str().unwrap() {
            _ if name == "main" || name == "lib" => true,
            "tests/suite" => main.contains(&declaration),
            "tests/demo" => demo.contains(&declaration),
            "tests/support" => {
                let attribute = format!("#[path = \"../support/{name}.rs\"]");
                main.contains(&attribute) || demo.contains(&attribute)
            }
            _ => text(&parent(&path)).contains(&declaration),
        };
        if !declared {
            forgotten.push(path);
        }
    }
    assert!(forgotten.is_empty(), "{forgotten:#?}");
}

/// The file that has to declare the module at `path`.
fn parent(path: &str) -> PathBuf {
    let directory = root().join(path);
    let directory = directory.parent().unwrap();
    let inside = if path.ends_with("/mod.rs") {
        directory.parent().unwrap()
    } else {
        directory
    };
    if inside.ends_with("src") {
        inside.join("lib.rs")
    } else {
        inside.join("mod.rs")
    }
}

/// Words put together here, so that this file does not contain them.
#[test]
fn nothing_unfinished_or_silenced() {
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("#[", "ignore"),
        concat!("#[", "allow("),
        concat!("#![", "allow("),
        concat!("FIX", "ME"),
    ];
    assert_without(&sources(&["src", "tests", "fuzz"]), &banned);
}

#[test]
fn side_effects_stay_in_their_rooms() {
    // Unit tests stand last in a file, and make and damage what they test.
    let production = |source: String| match source.split_once("#[cfg(test)]") {
        Some((before, _)) => before.to_owned(),
        None => source,
    };
    let src = sources(&["src"]).into_iter();
    let src: Vec<_> = src
        .map(|(path, source)| (path, production(source)))
        .collect();
    let outside = |home: &str| -> Vec<(String, String)> {
        let files = src.iter().filter(|(path, _)| !path.starts_with(home));
        files.cloned().collect()
    };
    assert_without(&outside("src/base/fsx.rs"), &[concat!("std", "::fs")]);
    // The driver: whoever has it can send statements.
    assert_without(&outside("src/server/"), &["mysql_async"]);
    assert_without(&src, &["unbounded(", "mpsc::channel", "unbounded_channel"]);
}

fn assert_without(files: &[(String, String)], banned: &[&str]) {
    let mut wrong = Vec::new();
    for (path, source) in files {
        for (number, line) in source.lines().enumerate() {
            let found = banned.iter().find(|word| line.contains(**word));
            wrong.extend(found.map(|word| format!("{path} line {}: {word}", number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_too_long() {
    for (path, source) in sources(&["src", "tests", "fuzz"]) {
        let lines = source.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines");
    }
}

#[test]
fn no_path_of_a_developer() {
    let mut files = sources(&["src", "tests", "fuzz", "benches"]);
    for (directory, suffix) in [
        ("", ".md"),
        ("format-spec", ".md"),
        ("format-spec", ".vec"),
        ("tests", ".sh"),
        (".ci", "run"),
        ("", ".toml"),
    ] {
        let below = files_below(&root().join(directory), suffix);
        let own = below.into_iter().filter(|path| {
            let name = relative(path);
            !name.starts_with("target") && !name.starts_with("fuzz/target")
        });
        files.extend(own.map(|path| (relative(&path), text(&path))));
    }
    let banned = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/tmp", "/wt"),
        concat!("/wo", "rk/"),
    ];
    assert_without(&files, &banned);
}

#[test]
fn the_changelog_has_its_shape() {
    let document = text(&root().join("CHANGELOG.md"));
    assert!(document.starts_with("# Changelog\n"), "the heading");
    let version = concat!("## ", env!("CARGO_PKG_VERSION"), " (");
    let mut sections = 0;
    let mut after_blank = true;
    for line in document.lines().skip(1) {
        if let Some(title) = line.strip_prefix("## ") {
            sections += 1;
            let dated = title.split_once(" (").is_some_and(|(number, date)| {
                number.split('.').count() == 3 && date.len() == "2026-01-01)".len()
            });
            assert!(dated || (title == "Unreleased" && sections == 1), "{line}");
        } else if sections > 0 && !line.is_empty() {
            let entry = ["New: ", "Changed: ", "Fixed: ", "Removed: "]
                .iter()
                .any(|kind| line.strip_prefix("- ").is_some_and(|l| l.starts_with(kind)));
            assert!(entry || (line.starts_with("  ") && !after_blank), "{line}");
        }
        after_blank = line.is_empty();
    }
    let told = document.contains("## Unreleased\n") || document.contains(version);
    assert!(told, "nothing about {}", env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_document_is_linked_and_every_link_leads_somewhere() {
    let spec = root().join("format-spec");
    let index = text(&spec.join("README.md"));
    for path in files_below(&spec, ".md") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let linked = name == "README.md" || index.contains(name);
        assert!(linked, "format-spec/README.md does not name {name}");
    }
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let document = text(&root().join(name));
        for link in document.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            assert!(root().join(link).exists(), "{name}: {link}");
        }
        // Files named in backticks are there, too.
        for path in quoted(&document.replace("```", "")) {
            let is_ours = ["src/", "tests/", ".ci/", "fuzz/", "format-spec/"]
                .iter()
                .any(|d| path.starts_with(d));
            let there = || {
                let path = root().join(&path);
                path.exists() || path.with_extension("rs").exists()
            };
            assert!(!is_ours || there(), "{name}: {path}");
        }
    }
}

#[test]
fn the_readme_knows_every_exit_status() {
    let rows = |name: &str| -> Vec<(String, String)> {
        let document = text(&root().join(name));
        let rows = document
            .lines()
            .skip_while(|line| !line.starts_with("| status | kind |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let mut cells = row.split('|').skip(1).map(|c| c.trim().to_owned());
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect()
    };
    let normative = rows("format-spec/exit-status.md");
    assert_eq!(normative.len(), 10);
    assert_eq!(rows("README.md"), normative);
}
