//! Everything that must end a backup: with the right exit status, a plain sentence, and nothing that looks like a backup.

#![expect(
    clippy::disallowed_methods,
    reason = "tests break files with plain std"
)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::backup_support::{Streamed, backup, backup_to_dir, fails, restores, story, xbpipe};
use crate::server::{TestServer, run};
use crate::skip::skipped;

/// A server with some 20 MB of tables.
fn filled(options: &[&str]) -> TestServer {
    let server = TestServer::start(options);
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b CHAR(250)) ENGINE=InnoDB;
         INSERT INTO d.t SELECT seq, MD5(seq) FROM d.seq_1_to_40000",
    );
    server
}

fn is_no_backup(target: &Path) {
    assert!(!target.join("xtrabackup_checkpoints").exists());
}

/// DDL and commits go through at once: nobody holds a backup lock.
fn is_unlocked(server: &TestServer) {
    server.sql(
        "SET lock_wait_timeout=2; CREATE TABLE d.unlocked (a INT); INSERT INTO d.unlocked VALUES (1);
         DROP TABLE d.unlocked",
    );
}

fn signal(id: u32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

#[test]
fn before_anything_is_copied() {
    let server = filled(&["--log-bin"]);
    let target = server.scratch().join("target");
    let to_target = |user: &str| {
        let mut command = xbpipe();
        command
            .args(["backup", "--no-defaults", "--progress=plain", "--to"])
            .arg(&target)
            .arg(format!("--socket={}", server.socket().display()))
            .arg(format!("--user={user}"))
            .stdin(Stdio::null());
        command
    };
    server.sql(
        "CREATE USER pw IDENTIFIED BY 'secret'; CREATE USER weak; CREATE USER blind;
         GRANT RELOAD ON *.* TO pw, blind; GRANT PROCESS ON *.* TO weak;",
    );
    let output = to_target("pw")
        .env("XBPIPE_PASSWORD", "wrong")
        .output()
        .unwrap();
    let text = fails(&output, 6, &["pw"]);
    assert!(!text.contains("wrong"), "{text}");
    fails(&to_target("weak").output().unwrap(), 6, &["RELOAD"]);
    fails(
        &to_target("blind").output().unwrap(),
        6,
        &["BINLOG MONITOR"],
    );
    assert!(!target.exists());

    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("mine"), "precious").unwrap();
    fails(&to_target("root").output().unwrap(), 1, &["is not empty"]);
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);

    let output = to_target("root").args(["--memory", "1M"]).output().unwrap();
    fails(&output, 2, &["floor"]);
}

#[test]
fn a_datadir_that_cannot_be_read() {
    if !rustix::process::geteuid().is_root() {
        skipped("not root");
        return;
    }
    let server = filled(&[]);
    let chmod = |mode: &str, path: &Path| {
        run(Command::new("chmod").args(["-R", mode]).arg(path));
    };
    let parent = server.datadir().parent().unwrap();
    run(Command::new("chmod").arg("755").arg(parent));
    run(Command::new("chmod").arg("777").arg(server.socket()));
    // The build directory may be closed to others: the program comes along.
    let program = parent.join("xbpipe");
    std::fs::copy(env!("CARGO_BIN_EXE_xbpipe"), &program).unwrap();
    run(Command::new("chmod").arg("755").arg(&program));
    let as_nobody = || {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .args(["backup", "--no-defaults", "--user=root", "--progress=plain"])
            .args(["--memory=8M", "--tmpdir=/tmp"])
            .arg(format!("--socket={}", server.socket().display()))
            .current_dir("/");
        command.output().unwrap()
    };
    let remedy = "run it on the server's host, as the server's user or root";
    for (closed, verb, before_the_lock) in [
        ("", "cannot list", true),
        ("ib_logfile0", "cannot open", true),
        ("aria_log_control", "cannot open", true),
        ("d/t.ibd", "cannot open", false),
        ("d/t.frm", "cannot open", false),
        ("d", "cannot list", false),
    ] {
        chmod("a+rX", server.datadir());
        let place = server.datadir().join(closed);
        run(Command::new("chmod").arg("go-rwx").arg(&place));
        let output = as_nobody();
        let text = fails(&output, 1, &[verb, remedy]);
        let last = text.lines().last().unwrap();
        assert!(last.contains(closed), "{text}");
        let waited = text.contains("BACKUP STAGE START");
        assert_eq!(waited, !before_the_lock, "{closed}: {text}");
        assert!(!before_the_lock || output.stdout.is_empty());
    }
    chmod("a+rX", server.datadir());
    let output = as_nobody();
    assert!(output.status.success(), "{}", story(&output));
}

#[test]
fn a_lock_that_is_not_to_be_had() {
    let server = filled(&[]);
    let mut holder = server.sql_in_background("LOCK TABLES d.t WRITE; DO SLEEP(1000)");
    let locked = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DO SLEEP%'";
    while server.sql(locked).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let target = server.scratch().join("target");
    let output = backup(&server)
        .args(["--lock-wait=1", "--to"])
        .arg(&target)
        .output();
    fails(
        &output.unwrap(),
        6,
        &["BACKUP STAGE START got no lock within 1s"],
    );
    is_no_backup(&target);

    let waiting = Streamed::start(&mut backup(&server));
    let waits = "SELECT 1 FROM information_schema.PROCESSLIST WHERE INFO LIKE 'BACKUP STAGE%'";
    while server.sql(waits).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let begin = Instant::now();
    signal(waiting.id(), rustix::process::Signal::TERM);
    let (output, _) = waiting.end();
    fails(&output, 9, &["SIGTERM"]);
    assert!(begin.elapsed() < Duration::from_secs(3));
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_damaged_page() {
    let mut server = filled(&["--innodb-fast-shutdown=0"]);
    server.shutdown();
    damage(&server, "d/t.ibd", 7);
    server.start_again();
    let target = server.scratch().join("target");
    let output = backup(&server).arg("--to").arg(&target).output().unwrap();
    let at = format!("byte offset {}", 7 * PAGE_LEN);
    let text = fails(&output, 4, &["hint"]);
    let last = text.lines().last().unwrap();
    for part in ["error: page 7 ", "d/t.ibd", &at] {
        assert!(last.contains(part), "no {part:?} in: {text}");
    }
    is_no_backup(&target);
    is_unlocked(&server);
    assert!(!target.join("d/t.ibd").exists());
    // What is left is called what it is.
    let leftover = ["did not come to its end", "remove the directory"];
    let prepared = xbpipe().arg("prepare").arg(&target).output().unwrap();
    fails(&prepared, 3, &leftover);
    let data = server.scratch().join("data");
    let mut copy = xbpipe();
    copy.arg("copy-back").arg(&target).arg("--datadir");
    fails(&copy.arg(&data).output().unwrap(), 3, &leftover);
    let again = backup(&server).arg("--to").arg(&target).output().unwrap();
    fails(&again, 1, &["is not empty", "may be removed"]);
}

const PAGE_LEN: u64 = 16384;

/// Spoils a page of a stopped server.
fn damage(server: &TestServer, name: &str, page: u64) {
    let path = server.datadir().join(name);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damage", page * PAGE_LEN + 5000)
        .unwrap();
}

/// r[page.damage.all]
#[test]
fn every_damaged_page_is_told() {
    let mut server = filled(&["--innodb-fast-shutdown=0"]);
    server.sql(
        "CREATE TABLE d.u LIKE d.t; INSERT INTO d.u SELECT * FROM d.t LIMIT 10000;
         CREATE TABLE d.v LIKE d.t; CREATE TABLE d.w LIKE d.t",
    );
    server.shutdown();
    let pages = [
        ("d/t.ibd", 7),
        ("d/t.ibd", 8),
        ("d/t.ibd", 300),
        ("d/u.ibd", 6),
    ];
    for (name, page) in pages {
        damage(&server, name, page);
    }
    // One whose other pages cannot be judged.
    damage(&server, "d/w.ibd", 0);
    server.start_again();
    let target = server.scratch().join("target");
    let output = backup(&server).arg("--to").arg(&target).output().unwrap();
    let text = fails(&output, 4, &["5 damaged pages in 3 files", "hint"]);
    for (name, page) in pages.into_iter().chain([("d/w.ibd", 0)]) {
        let told = |line: &str| {
            line.contains("warning: ")
                && line.contains(&format!("page {page} is damaged"))
                && line.contains(name)
                && line.contains(&format!("byte offset {}", page * PAGE_LEN))
        };
        assert!(text.lines().any(told), "{name} {page}: {text}");
    }
    assert!(!text.contains("BLOCK_DDL"), "{text}");
    is_no_backup(&target);
    for (name, whole) in [("t", false), ("u", false), ("w", false), ("v", true)] {
        let exists = target.join(format!("d/{name}.ibd")).exists();
        assert_eq!(exists, whole, "{name}: {text}");
    }
    is_unlocked(&server);
    // Nor does a stream look whole.
    let output = backup(&server).output().unwrap();
    fails(&output, 4, &["5 damaged pages in 3 files"]);
    let archive = server.scratch().join("a.xb");
    std::fs::write(&archive, &output.stdout).unwrap();
    let verified = xbpipe().arg("verify").arg(&archive).output().unwrap();
    fails(&verified, 3, &["d/t.ibd"]);
}

#[test]
fn a_consumer_that_goes_away_or_stands_still() {
    let server = filled(&[]);
    let begin = Instant::now();
    let mut short = backup(&server)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = Command::new("head")
        .args(["-c", "1M"])
        .stdin(short.stdout.take().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    head.wait().unwrap();
    fails(
        &short.wait_with_output().unwrap(),
        1,
        &["the reader went away"],
    );
    assert!(begin.elapsed() < Duration::from_secs(10));

    // One that stands still holds no lock up, and ends with the signal.
    let mut still = Streamed::start(&mut backup(&server));
    still.read_until("ibdata1");
    is_unlocked(&server);
    signal(still.id(), rustix::process::Signal::INT);
    let (output, _) = still.end();
    fails(&output, 9, &["SIGINT"]);
    is_unlocked(&server);
}

#[test]
fn files_read_under_the_lock_do_not_wait_for_the_consumer() {
    let server = filled(&[]);
    server.sql(
        "CREATE TABLE d.my (a INT PRIMARY KEY, b CHAR(250)) ENGINE=MyISAM;
         INSERT INTO d.my SELECT seq, MD5(seq) FROM d.seq_1_to_80000",
    );
    let mut still = Streamed::start(&mut backup(&server));
    still.read_until("d/my.MYD");
    is_unlocked(&server);
    let target = server.scratch().join("target");
    still.extract(&target);
    restores(&server, &target, &[]);
}

#[test]
fn a_server_that_dies() {
    let mut server = filled(&[]);
    for polite in [true, false] {
        let mut streamed = Streamed::start(&mut backup(&server));
        streamed.read_until("ibdata1");
        if polite {
            server.shutdown();
        } else {
            server.kill();
        }
        let (output, stream) = streamed.end();
        let text = fails(&output, 6, &[]);
        assert!(
            text.lines().last().unwrap().starts_with("xbpipe: error: "),
            "{text}"
        );
        // Such a stream is no archive either.
        let archive = server.scratch().join("cut.xb");
        std::fs::write(&archive, stream).unwrap();
        let verified = xbpipe().arg("verify").arg(&archive).output().unwrap();
        assert_eq!(verified.status.code(), Some(3), "{}", story(&verified));
        server.start_again();
    }
}

#[test]
fn a_full_target() {
    let server = filled(&[]);
    let target = server.scratch().join("target");
    std::fs::create_dir(&target).unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8M", "tmpfs"])
        .arg(&target)
        .stderr(Stdio::null())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        skipped("no permission to mount");
        return;
    }
    let output = backup(&server).arg("--to").arg(&target).output().unwrap();
    let archive = backup(&server)
        .arg("--to")
        .arg(target.join("a.xb"))
        .output();
    let left = target.join("a.xb").exists();
    let complete = target.join("xtrabackup_checkpoints").exists();
    run(Command::new("umount").arg(&target));
    fails(&output, 8, &["No space left"]);
    fails(&archive.unwrap(), 8, &["No space left"]);
    assert!(!left && !complete);
    is_unlocked(&server);
}

#[test]
fn killed_at_any_moment() {
    let server = filled(&[]);
    let whole = Instant::now();
    let first = backup_to_dir(&server, "whole");
    let mut whole = whole.elapsed();
    assert!(first.join("xtrabackup_checkpoints").exists());
    let mut killed = 0;
    for step in 0_u32..30 {
        // Ten moments, and more of them when most came too late.
        if step >= 10 && killed >= 3 {
            break;
        }
        let begin = Instant::now();
        let target = server.scratch().join(format!("k{step}"));
        let mut child = backup(&server)
            .arg("--to")
            .arg(&target)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole * (step % 10) / 10);
        child.kill().unwrap();
        let complete = child.wait().unwrap().success();
        if complete {
            // The machine has less to do than it had at first.
            whole = whole.min(begin.elapsed());
        }
        is_unlocked(&server);
        if !complete && target.exists() {
            killed += 1;
            // Killed behind the last file, the backup is whole.
            if target.join("xtrabackup_checkpoints").exists() {
                continue;
            }
            let refused = Command::new("mariadb-backup")
                .args(["--no-defaults", "--prepare"])
                .arg(format!("--target-dir={}", target.display()))
                .output()
                .unwrap();
            assert!(!refused.status.success(), "step {step}");
        }
    }
    assert!(killed >= 3, "{killed}");
    restores(&server, &first, &[]);
}
