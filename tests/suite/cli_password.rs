//! The password prompt: on a terminal, unseen, and not without one.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, tcgetattr};

use crate::backup_support::fails;
use crate::server::TestServer;
use crate::tool::{Done, on_a_terminal, status_of};

const PATIENCE: Duration = Duration::from_secs(60);

/// `xbpipe backup` as `pw`, which asks for a password.
fn command(server: &TestServer) -> String {
    format!(
        "'{}' backup --no-defaults --progress=none --memory=8M --user=pw -p --socket='{}' > /dev/null",
        env!("CARGO_BIN_EXE_xbpipe"),
        server.socket().display()
    )
}

/// Types `password` when it is asked for and the terminal shows nothing of it any more.
fn typed(server: &TestServer, password: &str) -> Done {
    let mut child = on_a_terminal(&format!("tty; {}", command(server)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    let mut byte = [0];
    while !shown.ends_with(b"Password: ") {
        let n = stdout.read(&mut byte).unwrap();
        assert!(n > 0, "no prompt: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&byte);
    }
    let text = String::from_utf8_lossy(&shown).into_owned();
    let terminal = PathBuf::from(text.lines().next().unwrap().trim());
    let terminal = File::open(&terminal).unwrap();
    let begin = Instant::now();
    let echoes = || {
        let modes = tcgetattr(&terminal).unwrap().local_modes;
        modes.contains(LocalModes::ECHO)
    };
    while echoes() {
        assert!(begin.elapsed() < PATIENCE, "the terminal still echoes");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(terminal);
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{password}").unwrap();
    stdout.read_to_end(&mut shown).unwrap();
    drop(stdin);
    let err = String::from_utf8(shown).unwrap();
    assert!(password.is_empty() || !err.contains(password), "{err}");
    Done {
        status: status_of(child.wait().unwrap()),
        out: Vec::new(),
        err,
    }
}

#[test]
fn a_password_is_asked_for_on_the_terminal() {
    let server = TestServer::start(&[]);
    server.sql("CREATE USER pw IDENTIFIED BY 'geheim'; GRANT RELOAD ON *.* TO pw");
    typed(&server, "geheim").expect(0);
    let done = typed(&server, "falsch").expect(6);
    assert!(done.last_line().contains("pw"), "{}", done.err);
    assert!(done.last_line().contains("xbpipe: error: "), "{}", done.err);
    typed(&server, "").expect(6);
}

#[test]
fn without_a_terminal_nobody_is_asked() {
    let server = TestServer::start(&[]);
    let output = Command::new("setsid")
        .args(["--wait", "bash", "-c", &command(&server)])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let parts = ["cannot ask for the password", "hint", "password file"];
    fails(&output, 2, &parts);
}
