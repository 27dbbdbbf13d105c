//! What scripts rely on: numbers, events, streams, lines.

use std::path::Path;

use xbpipe::base::error::Kind;
use xbpipe::cli::progress::EVENTS;

use crate::tool::{files, run, scratch, write_tree, xbpipe};

/// The rows of the one table of a document, cells trimmed.
pub(crate) fn table(document: &str, title: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("format-spec")
        .join(document);
    let text = std::fs::read_to_string(&path).unwrap();
    let (_, after) = text
        .split_once(&format!("\n{title}\n"))
        .unwrap_or_else(|| panic!("{document} has no line {title:?}"));
    after
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let line = line.trim().trim_start_matches('|').trim_end_matches('|');
            line.split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect()
}

#[test]
fn exit_statuses_are_those_of_the_document() {
    let mut code = vec![("0".to_owned(), "done".to_owned())];
    code.extend(
        Kind::ALL
            .iter()
            .map(|k| (k.exit_status().to_string(), k.word().to_owned())),
    );
    let document: Vec<_> = table("exit-status.md", "exit: Kind")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(document, code);
}

#[test]
fn events_are_those_of_the_document() {
    let code: Vec<_> = EVENTS
        .iter()
        .map(|(name, fields)| ((*name).to_owned(), fields.join(", ")))
        .collect();
    let document: Vec<_> = table("events.md", "events: Watcher")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(document, code);
}

#[test]
fn events_of_a_run_have_the_fields_of_the_document() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("a", &b"x"[..]), ("b", b"y")]));
    std::os::unix::fs::symlink("a", source.join("l")).unwrap();
    let create = |options: &[&str]| {
        let mut command = xbpipe(["create", "--progress", "json", "-v", "-C"]);
        command.arg(&source).args(options).arg(".");
        run(command, b"")
    };
    let good = create(&["--skip-special"]).expect(0);
    let bad = create(&[]).expect(1);
    let mut seen = std::collections::BTreeSet::new();
    for done in [&good, &bad] {
        for line in done.err.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let object = value.as_object().unwrap();
            let event = object["event"].as_str().unwrap();
            let (_, fields) = EVENTS.iter().find(|(name, _)| *name == event).unwrap();
            assert_eq!(object.len(), fields.len() + 2, "{line}");
            assert!(fields.iter().all(|f| object.contains_key(*f)), "{line}");
            assert!(object["elapsed_ms"].is_u64(), "{line}");
            seen.insert(event.to_owned());
        }
    }
    let expected = ["error", "file", "start", "summary", "warning"];
    assert!(seen.iter().map(String::as_str).eq(expected), "{seen:?}");
    assert!(good.last_line().contains("\"files\":2"), "{}", good.err);
    assert!(bad.last_line().contains("\"status\":1"), "{}", bad.err);
}

#[test]
fn help_is_short_and_help_of_a_verb_is_complete() {
    let help = run(xbpipe(["--help"]), b"").expect(0);
    assert!(
        help.err.is_empty() && help.text().lines().count() < 40,
        "{}",
        help.text()
    );
    for verb in ["create", "extract", "list", "verify", "cat"] {
        assert!(help.text().contains(verb));
        let help = run(xbpipe(["help", verb]), b"").expect(0);
        assert!(
            help.text().contains("Examples:") && help.text().contains("--memory"),
            "{verb}"
        );
        assert!(
            help.text().lines().all(|line| line.chars().count() <= 120),
            "{verb}"
        );
    }
    assert!(
        run(xbpipe(["--version"]), b"")
            .expect(0)
            .text()
            .starts_with("xbpipe ")
    );
}

#[test]
fn usage_errors_are_two_and_end_with_the_error() {
    for (args, word) in [
        (&["create", "--bogus", "x"][..], "--bogus"),
        (&["nonsense"], "nonsense"),
        (&[], "verb"),
        (&["create"], "PATH"),
        (&["create", "--memory", "1M", "."], "floor"),
        (&["create", "--memory", "lots", "."], "lots"),
        (&["create", "--compress", "zstd:99", "."], "zstd:99"),
        (&["create", "--compress", "gzip", "."], "gzip"),
        (&["create", "--parallel", "0", "."], "0"),
        (&["create", "-q", "-v", "."], "--quiet"),
        (&["list", "--long", "--json"], "--long"),
        (&["cat"], "SOURCE"),
    ] {
        let done = run(xbpipe(args), b"").expect(2);
        assert!(done.out.is_empty(), "{args:?}");
        let last = done.last_line();
        assert!(
            last.starts_with("xbpipe: error: ") && last.contains(word),
            "{args:?}: {}",
            done.err
        );
    }
}

#[test]
fn lines_stay_below_four_kibibytes_and_free_of_control_characters() {
    let root = scratch();
    // Many long hostile names, none of them ended.
    let mut archive = crate::tool::Chunks::new();
    for i in 0..40u8 {
        let name = format!("\u{1b}[2J\n{}{i:02}", "\u{1}".repeat(200));
        archive = archive.payload(&name, 0, b"x");
    }
    let mut command = xbpipe(["extract", "-v", "-C"]);
    command.arg(root.path());
    let done = run(command, &archive.0).expect(3);
    assert!(!done.err.contains(['\u{1b}', '\u{1}']), "{:?}", done.err);
    assert!(done.err.lines().all(|line| line.len() < 4096));
    assert!(done.last_line().contains("incomplete") && done.last_line().contains("more"));
}

#[test]
fn quiet_and_none_say_nothing_about_success() {
    let root = scratch();
    write_tree(root.path(), &files([("a", &b"x"[..])]));
    for option in [&["--quiet"][..], &["--progress", "none"]] {
        let mut command = xbpipe(["create", "-C"]);
        command.arg(root.path()).args(option).arg("a");
        let done = run(command, b"").expect(0);
        assert_eq!(done.err, "");
        assert!(done.out.starts_with(b"XBSTCK01"));
    }
    let mut command = xbpipe(["create", "-v", "-C"]);
    command.arg(root.path()).arg("a");
    let done = run(command, b"").expect(0);
    let lines: Vec<&str> = done.err.lines().collect();
    assert_eq!(lines[0], "xbpipe: a");
    assert!(
        lines[1].starts_with("xbpipe: create done: 1 files, "),
        "{}",
        done.err
    );
}

#[test]
fn list_and_verify_tell_in_text_and_json() {
    let archive = crate::tool::Chunks::new()
        .file("b\nb", b"12345")
        .raw(b"")
        .file("a", b"")
        .0;
    assert_eq!(
        run(xbpipe(["list"]), &archive).expect(0).text(),
        "a\nb\\nb\n"
    );
    let long = run(xbpipe(["list", "--long"]), &archive).expect(0);
    assert_eq!(
        long.text(),
        "f                0 a\nf                5 b\\nb\n"
    );
    let done = run(xbpipe(["list", "--json"]), &archive).expect(0);
    let values: Vec<serde_json::Value> = done
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(values[1]["path"], "b\nb");
    assert_eq!(values[2]["archive"]["end"], "unstated");
    let done = run(xbpipe(["verify"]), &archive).expect(0);
    assert_eq!(
        done.text(),
        "(standard input): whole: 2 files, 5 bytes verified, the archive does not state its end\n"
    );
    let cut = &archive[..archive.len() - 15];
    let done = run(xbpipe(["verify", "--json"]), cut).expect(3);
    let value: serde_json::Value = serde_json::from_str(done.text()).unwrap();
    assert_eq!(value["whole"], false);
    assert!(value["error"].as_str().unwrap().contains("incomplete") || cut.is_empty());
    // A listing tells what there is, and that it is not all.
    let open = crate::tool::Chunks::new().payload("x", 0, b"1").0;
    let done = run(xbpipe(["list", "--long"]), &open).expect(3);
    assert_eq!(done.text(), "!                0 x\n");
    let hex = crate::tool::Chunks::new().prefix(0, b'E', b"\xff").0;
    let done = run(xbpipe(["list", "--json"]), &hex).expect(0);
    assert!(done.text().contains("\"path_hex\":\"ff\""));
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    let mut archive = crate::tool::Chunks::new();
    for i in 0..20_000 {
        archive = archive.file(&format!("some/longer/name/{i}"), b"");
    }
    let root = scratch();
    let path = root.path().join("a.xb");
    std::fs::write(&path, &archive.0).unwrap();
    let mut list = xbpipe(["list"]);
    list.arg(&path);
    let mut head = std::process::Command::new("head");
    head.arg("-n1");
    let (list, head) = crate::tool::pipe(list, head);
    assert_eq!(head.expect(0).text(), "some/longer/name/0\n");
    let list = list.expect(0);
    assert_eq!(list.err, "");
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut list = xbpipe(["list"]);
    list.arg(&path)
        .stdout(full)
        .stderr(std::process::Stdio::piped());
    crate::tool::finish(list.spawn().unwrap()).expect(8);
}
