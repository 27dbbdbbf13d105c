//! Raw backups made by the real `mariadb-backup`, to be prepared and restored by us.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::monitor::Collector;
use xbpipe::base::run::Run;
use xbpipe::prepare::{PrepareOptions, PrepareSummary, prepare};

use crate::server::{TestServer, run};

/// What a run needs, and who collected its events.
pub(crate) fn collected() -> (Run, Arc<Collector>) {
    let monitor = Arc::new(Collector::default());
    let run = Run {
        cancel: Cancel::new(),
        monitor: Arc::clone(&monitor) as _,
    };
    (run, monitor)
}

/// A run nobody watches.
pub(crate) fn unwatched() -> Run {
    collected().0
}

/// A backup of `server` in a new directory beside its data. The tool fails when tables swap their names while it opens
/// them, so it has a few attempts.
pub(crate) fn raw_backup(server: &TestServer, name: &str) -> PathBuf {
    let target = server.scratch().join(name);
    let mut command = Command::new("mariadb-backup");
    command
        .args(["--no-defaults", "--backup", "--user=root"])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(format!("--target-dir={}", target.display()));
    for _ in 0..6 {
        if command.output().unwrap().status.success() {
            return target;
        }
        std::fs::remove_dir_all(&target).unwrap();
    }
    run(&mut command);
    target
}

/// A copy of a directory, beside it.
pub(crate) fn copy_of(dir: &Path, name: &str) -> PathBuf {
    let target = dir.with_file_name(name);
    run(Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([dir, &target]));
    target
}

/// Prepares, and insists on success.
#[track_caller]
pub(crate) fn prepared(dir: &Path) -> PrepareSummary {
    let (run, monitor) = collected();
    match prepare(&PrepareOptions::new(dir), &run) {
        Ok(summary) => summary,
        Err(e) => panic!("{e}\n{:?}\n{:#?}", e.hint_text(), monitor.events()),
    }
}

/// Prepares, and insists on an error of `kind` that says `words`, and on a directory that is as it was.
#[track_caller]
pub(crate) fn refused(options: &PrepareOptions, kind: Kind, words: &str) -> Error {
    let before = snapshot(&options.dir);
    let error = prepare(options, &unwatched()).unwrap_err();
    let story = format!("{error} hint: {:?}", error.hint_text());
    assert!(error.kind() == kind, "{:?}: {story}", error.kind());
    assert!(story.contains(words), "{story}");
    assert_eq!(snapshot(&options.dir), before, "{story}");
    error
}

/// Every name below `dir` with owner, mode, size and a hash of the content.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u64, u64)> {
    let mut found = BTreeMap::new();
    walk(dir, Path::new(""), &mut found);
    found
}

fn walk(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, (u32, u32, u64, u64)>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        let meta = entry.metadata().unwrap();
        let mut hash = DefaultHasher::new();
        if meta.is_dir() {
            walk(root, &path, found);
        } else if meta.is_file() {
            std::fs::read(entry.path()).unwrap().hash(&mut hash);
        }
        let size = if meta.is_file() { meta.len() } else { 0 };
        found.insert(path, (meta.uid(), meta.mode(), size, hash.finish()));
    }
}

/// `CHECK TABLE ... EXTENDED` of every table of database `d`; all must be OK.
#[track_caller]
pub(crate) fn check_tables(server: &TestServer) {
    let tables = server.sql(
        "SELECT GROUP_CONCAT(CONCAT('`', table_schema, '`.`', table_name, '`')) \
         FROM information_schema.tables WHERE table_schema IN ('d', 'e') AND table_type = 'BASE TABLE'",
    );
    let answer = server.sql(&format!("CHECK TABLE {} EXTENDED", tables.trim()));
    for line in answer.lines() {
        assert!(line.ends_with("check\tstatus\tOK"), "{answer}");
    }
}
