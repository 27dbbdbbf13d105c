//! Sessions of xbpipe's own with test servers, and clients that get in their way.
#![expect(
    clippy::disallowed_methods,
    reason = "test support handles files with plain std"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::server::connect::{ConnectOptions, Endpoint, Secret, Tls, TlsMode};
use xbpipe::server::session::{Server, Waits};

use crate::server::{TestServer, run};

/// How long something that a test waits for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A client program with an open session.
pub(crate) struct Blocker {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl TestServer {
    /// Connects as root, who has no password.
    pub(crate) fn root(&self, cancel: &Cancel, waits: Waits) -> Server {
        let endpoint = Endpoint::Socket(self.socket().to_owned());
        Server::new(options(endpoint, "root", None), cancel.clone()).with_waits(waits)
    }

    /// Connects as somebody else over the socket.
    pub(crate) fn account(&self, user: &str, password: Option<&str>) -> Server {
        let endpoint = Endpoint::Socket(self.socket().to_owned());
        Server::new(options(endpoint, user, password), Cancel::new())
    }

    /// Runs SQL in a session that stays open until the value is dropped.
    pub(crate) fn hold(&self, sql: &str) -> Blocker {
        let mut child = self
            .open_client()
            .arg("--unbuffered")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{sql}; SELECT 'held';").unwrap();
        stdin.flush().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line.trim(), "held");
        Blocker {
            child,
            stdin: Some(stdin),
        }
    }

    /// Stops this very server from running (`STOP`), or lets it go on (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        run(Command::new("kill").args(["-s", name, &self.pid().to_string()]));
        // A busy machine takes its time to stop every thread.
        let is_stopped = |stat: String| stat.rsplit_once(") ").unwrap().1.starts_with('T');
        while name == "STOP" && !self.states().into_iter().all(is_stopped) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `/proc/PID/task/TID/stat` of every thread.
    fn states(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok())
            .collect()
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Connection options without TLS.
pub(crate) fn options(endpoint: Endpoint, user: &str, password: Option<&str>) -> ConnectOptions {
    ConnectOptions {
        endpoint,
        user: user.to_owned(),
        password: password.map(Secret::new),
        tls: Tls {
            mode: TlsMode::Off,
            ca: None,
            identity: None,
            verify_name: false,
        },
    }
}

/// Polls until `done`, and fails the test after [`PATIENCE`].
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begin.elapsed()
}

/// Waiting times with this lock wait, in seconds.
pub(crate) fn waits(lock: Option<u64>) -> Waits {
    Waits {
        lock: lock.map(Duration::from_secs),
        ..Waits::default()
    }
}

/// The error is of the server, and its story and hint contain these words.
#[track_caller]
pub(crate) fn assert_server(error: &Error, story: &str, hint: &str) {
    assert_eq!(error.kind(), Kind::Server, "{error}");
    assert!(error.to_string().contains(story), "{error}");
    assert!(
        error.hint_text().unwrap_or_default().contains(hint),
        "{:?}",
        error.hint_text()
    );
}
