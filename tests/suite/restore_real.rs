//! Prepared backups become data directories that a real server starts on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::monitor::{Counters, Event, Monitor};
use xbpipe::base::run::Run;
use xbpipe::restore::{INCOMPLETE_MARKER, Owner, RestoreOptions, copy_back, move_back};

use crate::raw_backup::{check_tables, copy_of, prepared, raw_backup, snapshot, unwatched};
use crate::server::TestServer;
use crate::skip::skipped;
use crate::tool::{run, xbpipe};

const DIR_VARIABLE: &str = "XBPIPE_TEST_RESTORE_DIR";
const MOVE_VARIABLE: &str = "XBPIPE_TEST_RESTORE_MOVE";

/// Not a test of its own: the process that others start in order to kill it.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else {
        return;
    };
    let options = RestoreOptions::new(dir.join("backup"), dir.join("data"));
    if std::env::var_os(MOVE_VARIABLE).is_some() {
        move_back(&options, &unwatched()).unwrap();
    } else {
        copy_back(&options, &unwatched()).unwrap();
    }
}

/// A prepared backup with some tables, in a server's scratch directory; the server is stopped.
fn prepared_backup(more: &str, install: &[&str]) -> (TestServer, PathBuf) {
    let mut server = TestServer::start_installed(install, &[]);
    server.sql(&format!(
        "CREATE DATABASE d; USE d; CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(100)); \
         INSERT INTO t SELECT seq, MD5(seq) FROM seq_1_to_5000; \
         CREATE TABLE aria_t (v INT) ENGINE=Aria; INSERT INTO aria_t VALUES (1), (2); \
         CREATE DATABASE nothing_in_it; {more}"
    ));
    let dir = raw_backup(&server, "backup");
    prepared(&dir);
    server.shutdown();
    (server, dir)
}

fn check(datadir: &Path, options: &[&str]) {
    assert!(!datadir.join(INCOMPLETE_MARKER).exists());
    let restored = TestServer::start_on(datadir, options);
    check_tables(&restored);
    let rows =
        "SELECT COUNT(*) FROM d.t; SELECT COUNT(*) FROM d.aria_t; SHOW DATABASES LIKE 'nothing%'";
    assert_eq!(restored.sql(rows), "5000\n2\nnothing_in_it\n");
}

#[track_caller]
fn assert_refused(result: Result<xbpipe::restore::RestoreSummary, Error>, words: &str) {
    let error = result.unwrap_err();
    let story = format!("{error} hint: {:?}", error.hint_text());
    assert_eq!(error.kind(), Kind::Usage, "{story}");
    assert!(story.contains(words), "{story}");
}

#[test]
fn copy_back_leaves_the_backup_and_fills_the_directory() {
    let (server, dir) = prepared_backup("", &[]);
    let sparse = std::fs::File::create(dir.join("d/sparse.MYD")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    let before = snapshot(&dir);
    let data = server.scratch().join("new/data");
    let mut options = RestoreOptions::new(&dir, &data);
    if rustix::process::geteuid().is_root() {
        options.owner = Some(Owner::parse("daemon:2").unwrap());
    }
    let summary = copy_back(&options, &unwatched()).unwrap();
    assert!(
        !summary.resumed && summary.files > 50 && summary.bytes < 64 << 20,
        "{summary:?}"
    );
    assert_eq!(snapshot(&dir), before);
    let after = snapshot(&data);
    for (path, (uid, mode, size, hash)) in &after {
        let (_, mode_before, size_before, hash_before) = before[path];
        assert_eq!(
            (*mode, *size, *hash),
            (mode_before, size_before, hash_before),
            "{path:?}"
        );
        assert_eq!(
            *uid,
            summary
                .owner
                .map_or(rustix::process::geteuid().as_raw(), |o| o.uid)
        );
    }
    let missing: Vec<_> = before.keys().filter(|p| !after.contains_key(*p)).collect();
    let left_out = [
        "backup-my.cnf",
        "xbpipe_prepare.log",
        "xtrabackup_checkpoints",
    ];
    assert_eq!(missing, left_out.map(Path::new).iter().collect::<Vec<_>>());
    assert!(
        std::fs::metadata(data.join("d/sparse.MYD"))
            .unwrap()
            .blocks()
            < 64
    );
    check(&data, &[]);
}

#[test]
fn move_back_renames_and_leaves_only_metadata() {
    let (server, dir) = prepared_backup("", &[]);
    // Renames have no speed.
    let other = copy_of(&dir, "other");
    let mut command = xbpipe(["move-back", "--progress", "plain"]);
    command.arg(&other).arg("--datadir");
    command.arg(server.scratch().join("moved"));
    let done = run(command, b"").expect(0);
    let last = done.last_line();
    assert!(
        last.contains("move-back done: ") && last.contains(", by renames"),
        "{last}"
    );
    assert!(!last.contains("MB/s"), "{last}");
    let inode = |path: PathBuf| std::fs::metadata(path).unwrap().ino();
    let names = ["ibdata1", "d/t.ibd", "mysql/db.MAD"];
    let before = names.map(|name| inode(dir.join(name)));
    let data = server.scratch().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(data.join("lost+found")).unwrap();
    let options = RestoreOptions::new(&dir, &data);
    move_back(&options, &unwatched()).unwrap();
    assert_eq!(names.map(|name| inode(data.join(name))), before);
    assert!(snapshot(&dir).len() < 6, "{:?}", snapshot(&dir).keys());
    check(&data, &[]);
    let again = RestoreOptions::new(&dir, server.scratch().join("again"));
    assert_eq!(
        move_back(&again, &unwatched()).unwrap_err().kind(),
        Kind::Incomplete
    );
}

#[test]
fn files_go_to_their_configured_directories() {
    let far = tempfile::tempdir().unwrap();
    let table = format!(
        "CREATE TABLE far (v INT) DATA DIRECTORY='{}'; INSERT INTO far VALUES (7);",
        far.path().display()
    );
    let install = ["--innodb-undo-tablespaces=2"];
    let (server, dir) = prepared_backup(&table, &install);
    let root = server.scratch();
    let mut options = RestoreOptions::new(&dir, root.join("data"));
    options.innodb_data_home_dir = Some(root.join("ib"));
    options.innodb_log_group_home_dir = Some(root.join("log"));
    options.innodb_undo_directory = Some(root.join("undo"));
    options.aria_log_dir_path = Some(root.join("aria"));

    let refused = copy_back(&options, &unwatched());
    let hint = refused.as_ref().unwrap_err().hint_text();
    assert!(hint.is_some_and(|hint| hint.contains("d/far.isl")));
    assert_refused(refused, "belongs where one exists");
    assert!(!root.join("data").exists());
    // As the hint says: without the link the table comes into the data directory.
    let home = copy_of(&dir, "home");
    std::fs::remove_file(home.join("d/far.isl")).unwrap();
    let mut beside = options.clone();
    (beside.dir, beside.datadir) = (home, root.join("beside"));
    beside.innodb_data_home_dir = None;
    beside.innodb_log_group_home_dir = None;
    beside.innodb_undo_directory = None;
    beside.aria_log_dir_path = None;
    copy_back(&beside, &unwatched()).unwrap();
    {
        let restored = TestServer::start_on(&beside.datadir, &install);
        assert_eq!(restored.sql("SELECT * FROM d.far"), "7\n");
    }
    std::fs::remove_file(far.path().join("d/far.ibd")).unwrap();
    copy_back(&options, &unwatched()).unwrap();
    for name in [
        "ib/ibdata1",
        "log/ib_logfile0",
        "undo/undo001",
        "aria/aria_log_control",
    ] {
        assert!(root.join(name).exists(), "{name}");
        assert!(
            !root
                .join("data")
                .join(Path::new(name).file_name().unwrap())
                .exists(),
            "{name}"
        );
    }
    assert!(far.path().join("d/far.ibd").exists() && root.join("data/d/far.isl").exists());
    let arg = |name: &str, dir: &str| format!("--{name}={}", root.join(dir).display());
    let args = [
        arg("innodb-data-home-dir", "ib"),
        arg("innodb-log-group-home-dir", "log"),
        arg("innodb-undo-directory", "undo"),
        arg("aria-log-dir-path", "aria"),
        install[0].to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    check(&root.join("data"), &args);
    let restored = TestServer::start_on(&root.join("data"), &args);
    assert_eq!(restored.sql("SELECT * FROM d.far"), "7\n");
}

#[test]
fn what_is_not_restored() {
    let server = TestServer::start(&[]);
    let dir = raw_backup(&server, "backup");
    let data = server.scratch().join("data");
    let options = RestoreOptions::new(&dir, &data);
    assert_refused(copy_back(&options, &unwatched()), "xbpipe prepare");
    assert!(!data.exists());
    prepared(&dir);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("ibdata1"), "old").unwrap();
    for restore in [copy_back, move_back] {
        assert_refused(restore(&options, &unwatched()), "not empty");
    }
    assert_eq!(std::fs::read(data.join("ibdata1")).unwrap(), b"old");
    let inside = RestoreOptions::new(&dir, dir.join("data"));
    assert_refused(copy_back(&inside, &unwatched()), "in one another");
    let empty = server.scratch().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let nothing = RestoreOptions::new(&empty, server.scratch().join("x"));
    assert_refused(copy_back(&nothing, &unwatched()), "not a backup");
    let mut link = copy_of(&dir, "link");
    std::fs::create_dir_all(link.join("d")).unwrap();
    std::fs::write(link.join("d/t.ibd"), "").unwrap();
    std::fs::write(link.join("d/t.isl"), "/etc/cron.d/other.ibd").unwrap();
    let wrong = RestoreOptions::new(&link, server.scratch().join("y"));
    assert_eq!(
        copy_back(&wrong, &unwatched()).unwrap_err().kind(),
        Kind::Checksum
    );
    link.push("d/t.isl");
    std::fs::write(link, "/etc/../srv/d/t.ibd").unwrap();
    assert_eq!(
        copy_back(&wrong, &unwatched()).unwrap_err().kind(),
        Kind::Checksum
    );
}

/// Ends the run when a phase begins.
struct EndsAt(&'static str, Cancel, Counters);

impl Monitor for EndsAt {
    fn counters(&self) -> &Counters {
        &self.2
    }

    fn event(&self, event: Event) {
        if event == Event::Phase(self.0.to_owned()) {
            self.1.cancel(Kind::Interrupted, "stop");
        }
    }
}

#[test]
fn a_restore_that_was_cut_off_says_so_and_is_finished() {
    let (server, dir) = prepared_backup("", &[]);
    let data = server.scratch().join("data");
    let options = RestoreOptions::new(&dir, &data);
    let cancel = Cancel::new();
    let monitor = EndsAt("copying files", cancel.clone(), Counters::default());
    let run = Run {
        cancel,
        monitor: Arc::new(monitor),
    };
    assert_eq!(
        copy_back(&options, &run).unwrap_err().kind(),
        Kind::Interrupted
    );
    assert!(data.join(INCOMPLETE_MARKER).exists() && !data.join("ibdata1").exists());
    // Everything but the file that comes last: still no server starts.
    let (almost, options_almost) = {
        let almost = server.scratch().join("almost");
        let cancel = Cancel::new();
        let monitor = EndsAt("syncing", cancel.clone(), Counters::default());
        let run = Run {
            cancel,
            monitor: Arc::new(monitor),
        };
        let options = RestoreOptions::new(&dir, &almost);
        assert!(copy_back(&options, &run).is_err());
        (almost, options)
    };
    std::fs::remove_file(almost.join("ibdata1")).unwrap();
    let started = std::panic::catch_unwind(|| TestServer::start_on(&almost, &[]));
    assert!(started.is_err());
    assert!(copy_back(&options_almost, &unwatched()).unwrap().resumed);
    check(&almost, &[]);
    assert_refused(move_back(&options, &unwatched()), "xbpipe copy-back");
    let other = copy_of(&dir, "other");
    let other = RestoreOptions::new(other, &data);
    assert_refused(copy_back(&other, &unwatched()), "broken off");
    assert!(copy_back(&options, &unwatched()).unwrap().resumed);
    check(&data, &[]);
}

/// Kills restores at moments spread over their run and finishes them, between `from` and `to`.
fn kill_and_finish(backup: &Path, from: &Path, to: &Path, moving: bool, rounds: u32) {
    let mut time = std::time::Duration::ZERO;
    for round in 0..=rounds {
        for dir in [from, to] {
            std::fs::remove_dir_all(dir).ok();
            std::fs::create_dir_all(dir).unwrap();
        }
        let status = Command::new("cp")
            .arg("-a")
            .args([backup, &from.join("backup")])
            .status();
        assert!(status.unwrap().success());
        // The child finds both in one directory.
        let data = from.join("data");
        std::os::unix::fs::symlink(to, &data).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "restore_real::child_process"])
            .env(DIR_VARIABLE, from)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if moving {
            command.env(MOVE_VARIABLE, "1");
        }
        let begin = Instant::now();
        let mut child = command.spawn().unwrap();
        if round == 0 {
            assert!(child.wait().unwrap().success());
            time = begin.elapsed();
            check(to, &[]);
            continue;
        }
        std::thread::sleep(time * round / (rounds + 1));
        child.kill().unwrap();
        child.wait().unwrap();
        let whole = !to.join(INCOMPLETE_MARKER).exists() && to.join("ibdata1").exists();
        if !whole {
            let options = RestoreOptions::new(from.join("backup"), &data);
            let restore = if moving { move_back } else { copy_back };
            restore(&options, &unwatched()).unwrap();
        }
        check(to, &[]);
    }
}

#[test]
fn killed_restores_are_finished_and_nothing_is_lost() {
    let (server, dir) = prepared_backup("", &[]);
    let root = server.scratch();
    let (from, to) = (root.join("from"), root.join("to"));
    kill_and_finish(&dir, &from, &to, false, 4);
    kill_and_finish(&dir, &from, &to, true, 3);
    // Between file systems, where there are two.
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        skipped("no second file system");
        return;
    };
    kill_and_finish(&dir, &from, &other.path().join("to"), true, 5);
}
