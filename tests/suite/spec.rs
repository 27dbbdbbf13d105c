//! `format-spec/` against the code: tables both ways, and every rule cited.
//!
//! The grammar of rules, tables and exceptions is written down in `format-spec/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use xbpipe::SPEC_TABLES;
use xbpipe::base::spec::{Enum, Layout, Limit, Tables};

use crate::vec_file::{files_below, load, root, text};

/// A typed table of a document: the words after its marker, and its cells.
#[derive(Debug, Clone)]
struct Table {
    /// `layout`, `enum` or `limits`.
    kind: &'static str,
    name: String,
    rows: Vec<Vec<String>>,
}

const HEADERS: &[(&str, &[&str])] = &[
    ("layout", &["offset", "size", "field", "type", "meaning"]),
    ("enum", &["value", "name", "meaning"]),
    ("limits", &["limit", "value", "unit", "why"]),
];

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    let cell = |c: &str| c.trim().trim_matches('`').to_owned();
    Some(inner.split('|').map(cell).collect())
}

fn tables(document: &str) -> Result<Vec<Table>, String> {
    let mut found = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let marker = HEADERS.iter().find_map(|(kind, header)| {
            let name = line.strip_prefix(kind)?.strip_prefix(": ")?;
            Some((*kind, *header, name.trim().to_owned()))
        });
        let Some((kind, header, name)) = marker else {
            continue;
        };
        let mut rows = lines
            .by_ref()
            .skip_while(|l| l.trim().is_empty())
            .map_while(cells);
        let head = rows.next().ok_or(format!("{name}: no table follows"))?;
        if head != header {
            return Err(format!("{name}: columns are {head:?}, not {header:?}"));
        }
        rows.next()
            .ok_or(format!("{name}: no rule under the head"))?;
        let rows: Vec<_> = rows.collect();
        if let Some(row) = rows.iter().find(|row| row.len() != header.len()) {
            return Err(format!("{name}: row {row:?}"));
        }
        found.push(Table { kind, name, rows });
    }
    Ok(found)
}

fn layout_rows(layout: &Layout) -> Vec<Vec<String>> {
    let row = |f: &xbpipe::base::spec::Field| {
        vec![
            f.offset.to_string(),
            f.size.to_string(),
            f.name.to_owned(),
            f.kind.to_owned(),
        ]
    };
    layout.fields.iter().map(row).collect()
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The first `columns` cells, numbers of the first or second column in decimal.
fn normal(rows: &[Vec<String>], columns: usize, number_at: usize) -> Vec<Vec<String>> {
    let row = |row: &Vec<String>| {
        let mut row = row[..columns].to_vec();
        if let Some(value) = number(&row[number_at]) {
            row[number_at] = value.to_string();
        }
        row
    };
    rows.iter().map(row).collect()
}

/// What the code says, in the words of the document.
fn code_tables(tables: &Tables) -> Vec<Table> {
    let enum_rows = |e: &Enum| {
        let row = |(value, name): &(u64, &str)| vec![value.to_string(), (*name).to_owned()];
        e.values.iter().map(row).collect()
    };
    let limit_row = |l: &Limit| vec![l.name.to_owned(), l.value.to_string(), l.unit.to_owned()];
    let mut out = Vec::new();
    for layout in tables.layouts {
        out.push(Table {
            kind: "layout",
            name: layout.name.to_owned(),
            rows: layout_rows(layout),
        });
    }
    for e in tables.enums {
        out.push(Table {
            kind: "enum",
            name: e.name.to_owned(),
            rows: enum_rows(e),
        });
    }
    if !tables.limits.is_empty() {
        out.push(Table {
            kind: "limits",
            name: tables.document.trim_end_matches(".md").to_owned(),
            rows: tables.limits.iter().map(limit_row).collect(),
        });
    }
    out
}

/// What differs between a document and the code that declares its tables.
fn table_differences(document: &str, code: &Tables) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut written = BTreeMap::new();
    match tables(document) {
        Err(error) => wrong.push(error),
        Ok(found) => {
            for table in found {
                let columns = if table.kind == "layout" {
                    4
                } else {
                    table.rows.first().map_or(0, |r| r.len() - 1)
                };
                let number_at = usize::from(table.kind == "limits");
                let rows = normal(&table.rows, columns, number_at);
                if written
                    .insert((table.kind, table.name.clone()), rows)
                    .is_some()
                {
                    wrong.push(format!("{} {} stands twice", table.kind, table.name));
                }
            }
        }
    }
    for table in code_tables(code) {
        match written.remove(&(table.kind, table.name.clone())) {
            None => wrong.push(format!("{} {} is only in the code", table.kind, table.name)),
            Some(rows) if rows != table.rows => wrong.push(format!(
                "{} {}:\n  document {rows:?}\n  code     {:?}",
                table.kind, table.name, table.rows
            )),
            Some(_) => {}
        }
    }
    wrong.extend(
        written
            .keys()
            .map(|(kind, name)| format!("{kind} {name} is only in the document")),
    );
    wrong
}

fn documents() -> Vec<PathBuf> {
    files_below(&root().join("format-spec"), ".md")
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "README.md"))
        .collect()
}

#[test]
fn tables_agree_with_the_code() {
    let mut failures = Vec::new();
    let mut claimed = BTreeSet::new();
    for code in SPEC_TABLES {
        claimed.insert(code.document);
        let document = text(&root().join("format-spec").join(code.document));
        for wrong in table_differences(&document, code) {
            failures.push(format!("{}: {wrong}", code.document));
        }
    }
    for path in documents() {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !claimed.contains(name.as_str()) && !tables(&text(&path)).unwrap().is_empty() {
            failures.push(format!("{name} has tables that no code declares"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The net itself: each kind of difference is noticed.
#[test]
fn a_wrong_table_is_noticed() {
    let code = SPEC_TABLES
        .iter()
        .find(|t| t.document == "xbstream.md")
        .unwrap();
    let good = text(&root().join("format-spec/xbstream.md"));
    for (from, to) in [
        (
            "| 10 | 4 | `path_len` | u32le |",
            "| 10 | 4 | `path_len` | u32be |",
        ),
        ("| 0x45 | `end` |", "| 0x46 | `end` |"),
        ("| `PATH_LEN_MAX` | 511 |", "| `PATH_LEN_MAX` | 512 |"),
        ("layout: SeekFields", "layout: SeekField"),
        ("enum: ChunkFlags", "enumeration: ChunkFlags"),
    ] {
        assert!(good.contains(from), "{from}");
        let bad = good.replacen(from, to, 1);
        assert_ne!(table_differences(&bad, code), Vec::<String>::new(), "{to}");
    }
}

/// Rule ids in `r[...]`, dots required, so that an index expression is none.
fn ids(text: &str) -> impl Iterator<Item = String> {
    text.split("r[").skip(1).filter_map(|rest| {
        let (id, _) = rest.split_once(']')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
        (id.contains('.') && !id.contains("..") && id.chars().all(plain)).then(|| id.to_owned())
    })
}

fn rules() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for path in documents() {
        for line in text(&path).lines().filter(|l| l.starts_with("r[")) {
            let id = ids(line).next().unwrap_or_else(|| panic!("{line}"));
            assert!(rules.insert(id), "{line} stands twice");
        }
    }
    rules
}

/// Ids in the comments of Rust files below a directory.
fn cited(directory: &str) -> BTreeSet<String> {
    files_below(&root().join(directory), ".rs")
        .iter()
        .flat_map(|path| {
            let text = text(path);
            let comments: Vec<_> = text
                .lines()
                .filter_map(|line| line.split_once("//").map(|(_, comment)| comment.to_owned()))
                .collect();
            comments
                .into_iter()
                .flat_map(|c| ids(&c).collect::<Vec<_>>())
        })
        .collect()
}

/// `"rule.id" = "reason"` lines of `exceptions.toml`.
fn exceptions() -> BTreeMap<String, String> {
    text(&root().join("format-spec/exceptions.toml"))
        .lines()
        .filter(|line| line.starts_with('"'))
        .map(|line| {
            let (id, reason) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let bare = |part: &str| part.trim().trim_matches('"').to_owned();
            assert!(bare(reason).len() > 10, "{line} gives no reason");
            (bare(id), bare(reason))
        })
        .collect()
}

#[test]
fn rules_and_citations_meet() {
    let rules = rules();
    let (code, tests) = (cited("src"), cited("tests"));
    let areas = ["codecs", "encryption", "repository", "xbcrypt", "xbstream"];
    let vectors = areas.into_iter().flat_map(load);
    let vectors: BTreeSet<String> = vectors.flat_map(|v| v.rules).collect();
    let exceptions = exceptions();
    let mut failures = Vec::new();
    println!("{:<40} code vector test", "rule");
    for rule in &rules {
        let mark = |set: &BTreeSet<String>| if set.contains(rule) { "x" } else { "-" };
        println!(
            "{rule:<40} {:<4} {:<6} {}",
            mark(&code),
            mark(&vectors),
            mark(&tests)
        );
        let covered = code.contains(rule) || tests.contains(rule);
        match (covered, exceptions.contains_key(rule)) {
            (false, false) => failures.push(format!("{rule} is cited nowhere")),
            (true, true) => failures.push(format!("{rule} is cited: drop its exception")),
            _ => {}
        }
    }
    let all = code
        .iter()
        .chain(&tests)
        .chain(&vectors)
        .chain(exceptions.keys());
    let dangling: BTreeSet<_> = all.filter(|id| !rules.contains(*id)).collect();
    for id in dangling {
        failures.push(format!("{id} is cited but no document has it"));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
