//! A prepare that ends at any moment, or whose server does, is finished by the next one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use xbpipe::base::error::Kind;
use xbpipe::prepare::{PrepareOptions, prepare};

use crate::raw_backup::{check_tables, copy_of, prepared, raw_backup, unwatched};
use crate::server::TestServer;

const DIR_VARIABLE: &str = "XBPIPE_TEST_PREPARE_DIR";
const SERVER_VARIABLE: &str = "XBPIPE_TEST_PREPARE_SERVER";

/// Not a test of its own: the process that others start in order to kill it.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        return;
    };
    let mut options = PrepareOptions::new(dir);
    options.mariadbd = std::env::var_os(SERVER_VARIABLE).map(PathBuf::from);
    prepare(&options, &unwatched()).unwrap();
}

fn start_child(dir: &Path, server: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "prepare_kills::child_process"])
        .env(DIR_VARIABLE, dir)
        .env(SERVER_VARIABLE, server)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A server program that leaves its process id in `pid` beside itself.
fn telling_server(dir: &Path) -> PathBuf {
    let path = dir.join("mariadbd");
    let script = format!(
        "#!/bin/sh\nPATH=$PATH:/usr/sbin\necho $$ > '{}'\nexec mariadbd \"$@\"\n",
        dir.join("pid").display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A backup with a long log, swapped tables and an open transaction.
fn backup(server: &TestServer) -> PathBuf {
    server.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(200), KEY (v)); \
         INSERT INTO t (v) SELECT MD5(seq) FROM seq_1_to_20000; CREATE TABLE a (v INT); CREATE TABLE b (v INT); \
         INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); \
         CREATE TABLE aria_t (v INT) ENGINE=Aria; INSERT INTO aria_t SELECT seq FROM seq_1_to_500",
    );
    let mut open = server
        .sql_in_background("BEGIN; INSERT INTO d.t (v) SELECT 'undone' FROM d.t; SELECT SLEEP(60)");
    while server
        .sql("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; SELECT COUNT(*) FROM d.t")
        .trim()
        != "40000"
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let dir = raw_backup(server, "backup");
    open.kill().unwrap();
    open.wait().unwrap();
    for name in ["a", "b"] {
        let late = dir.join(format!("d/{name}.new"));
        if late.exists() {
            std::fs::rename(&late, dir.join(format!("d/{name}.ibd"))).unwrap();
        }
    }
    std::fs::rename(dir.join("d/a.ibd"), dir.join("x")).unwrap();
    std::fs::rename(dir.join("d/b.ibd"), dir.join("d/a.ibd")).unwrap();
    std::fs::rename(dir.join("x"), dir.join("d/b.ibd")).unwrap();
    std::fs::write(dir.join("d/a.ren"), "d/b").unwrap();
    std::fs::write(dir.join("d/b.ren"), "d/a").unwrap();
    dir
}

fn check(dir: &Path) {
    let restored = TestServer::start_on(dir, &[]);
    check_tables(&restored);
    let rows = "SELECT COUNT(*) FROM d.t; SELECT * FROM d.a; SELECT * FROM d.b; SELECT COUNT(*) FROM d.aria_t";
    assert_eq!(restored.sql(rows), "20000\n1\n2\n500\n");
}

#[test]
fn killed_at_any_moment_and_run_again() {
    let server = TestServer::start(&[]);
    let raw = backup(&server);
    let scratch = server.scratch();
    let program = telling_server(&scratch);
    let pid_path = scratch.join("pid");
    // How long a whole run takes on this machine decides when to kill.
    let whole = copy_of(&raw, "whole");
    let begin = Instant::now();
    assert!(start_child(&whole, &program).wait().unwrap().success());
    let time = begin.elapsed();
    check(&whole);
    let rounds = 12;
    let mut resumed = 0;
    for round in 0..rounds {
        let dir = copy_of(&raw, "killed");
        std::fs::remove_file(&pid_path).ok();
        // Sometimes twice in a row.
        for attempt in 0..=round % 2 {
            let mut child = start_child(&dir, &program);
            std::thread::sleep(time * (round + attempt) / rounds);
            // Two of three times the server dies as well, as in a power failure; else it is left behind and waited for.
            child.kill().unwrap();
            child.wait().unwrap();
            let pid = std::fs::read_to_string(&pid_path).unwrap_or_default();
            if let Ok(pid) = pid.trim().parse::<i32>()
                && round % 3 != 0
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
        resumed += u32::from(prepared(&dir).resumed);
        assert!(prepared(&dir).already_prepared);
        check(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
    }
    assert!(
        resumed > 2,
        "only {resumed} of {rounds} runs were broken off in their middle"
    );
}

#[test]
fn a_cancelled_run_leaves_no_server_and_two_runs_exclude_each_other() {
    let server = TestServer::start(&[]);
    let dir = backup(&server);
    let scratch = server.scratch();
    // A server that never ends, and answers only the question for its version.
    let slow = scratch.join("slow");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) exec /usr/sbin/mariadbd --version;; esac\n\
         echo $$ > '{}'\nexec sleep 600\n",
        scratch.join("pid").display()
    );
    std::fs::write(&slow, script).unwrap();
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = PrepareOptions::new(&dir);
    options.mariadbd = Some(slow);
    let run = unwatched();
    let pid = std::thread::scope(|scope| {
        let running = scope.spawn(|| prepare(&options, &run).unwrap_err());
        let begin = Instant::now();
        let pid: i32 = loop {
            let text = std::fs::read_to_string(scratch.join("pid")).unwrap_or_default();
            match text.trim().parse() {
                Ok(pid) => break pid,
                Err(_) => assert!(begin.elapsed() < Duration::from_secs(30)),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let second = prepare(&options, &unwatched()).unwrap_err();
        assert!(second.to_string().contains("another xbpipe"), "{second}");
        run.cancel.cancel(Kind::Interrupted, "stop");
        assert_eq!(running.join().unwrap().kind(), Kind::Interrupted);
        pid
    });
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    assert!(
        rustix::process::test_kill_process(pid).is_err(),
        "the server was left behind"
    );
    assert!(prepared(&dir).resumed);
    check(&dir);
}
