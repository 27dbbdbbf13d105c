//! The tests' own servers: none outlives the program that started it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::server::TestServer;
use crate::session::{PATIENCE, wait_for};

const SERVE: &str = "XBPIPE_TEST_SERVE";

/// Not a test of its own: what [`a_killed_program_leaves_no_server`] starts and kills.
#[test]
fn serve_until_killed() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    // The thread that asked for the server may end; the program is what counts.
    let server = std::thread::spawn(|| TestServer::start(&[]))
        .join()
        .unwrap();
    println!("server {}", server.pid());
    std::thread::sleep(PATIENCE);
    server.sql("SELECT 1");
}

#[test]
fn a_killed_program_leaves_no_server() {
    // The files that a killed program leaves go away with this.
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "support_server::serve_until_killed",
            "--nocapture",
        ])
        .env(SERVE, "1")
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pid = lines.find_map(|line| {
        let line = line.unwrap();
        line.split_once("server ")?.1.trim().parse().ok()
    });
    let pid = Pid::from_raw(pid.unwrap()).unwrap();
    test_kill_process(pid).unwrap();
    let program = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(program, Signal::KILL).unwrap();
    child.wait().unwrap();
    wait_for("the end of the server", || test_kill_process(pid).is_err());
}
