//! What a person sees while a run goes on: on a terminal, without one, and when nothing is wanted.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::tool::{Done, files, need, noise, on_a_terminal, scratch, status_of, write_tree};

const MIB: usize = 1 << 20;

/// Runs a line of shell on a terminal of its own, and returns what that showed.
fn shown(line: &str) -> Done {
    let output = on_a_terminal(line).output().unwrap();
    Done {
        status: status_of(output.status),
        out: output.stdout.clone(),
        err: String::from_utf8(output.stdout).unwrap(),
    }
}

/// The text without control sequences; what overwrites the line begins a new one.
fn frames(text_shown: &str) -> Vec<String> {
    let mut text = String::new();
    let mut chars = text_shown.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // A control sequence ends with its first letter.
                chars.by_ref().find(char::is_ascii_alphabetic);
            }
            '\r' => text.push('\n'),
            c => text.push(c),
        }
    }
    let lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
    lines.map(str::to_owned).collect()
}

/// `create` into a consumer that takes 10 MiB in a second, as a line of bash; `options` go to `create`.
fn slowly(source: &Path, options: &str) -> String {
    need("pv", "pv");
    format!(
        "set -o pipefail; '{}' create {options} -C '{}' . | pv --quiet --rate-limit 10M > /dev/null",
        env!("CARGO_BIN_EXE_xbpipe"),
        source.display()
    )
}

/// A bar's line in parts: percent, bytes, megabytes in a second, what is left.
fn bar(frame: &str) -> Option<(u64, &str)> {
    let (percent, rest) = frame.trim_start().split_once("% [")?;
    let (bar, rest) = rest.split_once("] ")?;
    assert_eq!(bar.chars().count(), 30, "{frame}");
    let (bytes, rest) = rest.split_once(" eta ")?;
    assert!(bytes.contains("MiB/30.00 MiB "), "{frame}");
    assert!(bytes.ends_with("B/s"), "{frame}");
    assert!(rest.ends_with(" files"), "{frame}");
    Some((percent.parse().ok()?, rest.split(' ').next()?))
}

#[test]
fn a_terminal_shows_a_bar_that_grows() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(30 * MIB, 1)[..])]));
    let done = shown(&slowly(&source, "--memory 8M")).expect(0);
    let frames = frames(&done.err);
    let bars: Vec<_> = frames.iter().filter_map(|frame| bar(frame)).collect();
    let percents: BTreeSet<u64> = bars.iter().map(|bar| bar.0).collect();
    let between = percents.iter().filter(|p| (1..100).contains(*p)).count();
    assert!(between >= 3, "{frames:#?}");
    assert!(bars.is_sorted_by_key(|bar| bar.0), "{frames:#?}");
    let later = |eta: &str| eta.ends_with('s') && eta != "0s";
    assert!(bars.iter().any(|bar| later(bar.1)), "{frames:#?}");
    assert!(
        bars.iter()
            .any(|_| frames.iter().any(|f| f.contains("MB/s eta "))),
        "{frames:#?}"
    );
    let last = frames.last().unwrap();
    assert!(
        last.starts_with("xbpipe: create done: 1 files"),
        "{frames:#?}"
    );
    // The bar is gone at the end: its line is erased before the last words.
    let (_, end) = done.err.rsplit_once(" files").unwrap_or_default();
    assert!(!end.contains("eta"), "{frames:#?}");
}

#[test]
fn an_error_stands_below_the_bar() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(30 * MIB, 1)[..])]));
    let line = slowly(&source, "").replace("> /dev/null", "| head -c 10000000 > /dev/null");
    let done = shown(&line);
    assert_ne!(done.status, 0);
    let frames = frames(&done.err);
    assert!(
        frames.iter().any(|frame| bar(frame).is_some()),
        "{frames:#?}"
    );
    let last = frames.last().unwrap();
    assert!(last.contains("the reader went away"), "{frames:#?}");
}

#[test]
fn without_a_terminal_there_are_lines_and_on_wish_nothing() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("big", &noise(70 * MIB, 1)[..])]));
    let run = |options| {
        let line = slowly(&source, options);
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        assert!(output.status.success());
        assert!(output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let story = run("");
    let line = story.lines().find(|l| l.contains("%)"));
    let line = line.unwrap_or_else(|| panic!("no line in several seconds: {story}"));
    assert!(line.starts_with("xbpipe: create: "), "{line}");
    for part in [" of 70.0 MiB (", " files, ", " MB/s, ", " left"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!story.contains(['\r', '\u{1b}']), "{story:?}");
    assert_eq!(run("--progress none"), "");
    let done = shown(&slowly(&source, "--progress none")).expect(0);
    assert_eq!(done.err, "");
}
