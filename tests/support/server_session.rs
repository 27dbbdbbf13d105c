//! A private MariaDB server for one test: own data directory, own socket, killed when dropped.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::server::connect::{ConnectOptions, Endpoint, Secret, Tls, TlsMode};
use xbpipe::server::session::{Server, Waits};

/// How long a server may take to start or to do what a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The running server.
pub(crate) struct TestServer {
    child: Child,
    dir: TempDir,
}

/// A client program with an open session.
pub(crate) struct Blocker {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// A TCP port of this host that nobody uses right now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn is_root() -> bool {
    // The owner of our own process directory is who we are.
    Path::new("/proc/self").metadata().unwrap().uid() == 0
}

/// Runs a program to its end; a missing program or a failure fails the test with its output.
pub(crate) fn run(program: &str, args: &[&str]) -> String {
    run_in(&std::env::temp_dir(), program, args)
}

/// The same with a directory for temporary files.
fn run_in(tmpdir: &Path, program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .env("TMPDIR", tmpdir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test (install MariaDB): {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl TestServer {
    /// Starts a fresh server without TCP.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_tcp(None, args)
    }

    /// Starts a fresh server, listening on `port` of 127.0.0.1 if given.
    pub(crate) fn start_tcp(port: Option<u16>, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let datadir = format!("--datadir={}", dir.path().join("data").display());
        let user = if is_root() {
            "--user=root"
        } else {
            "--skip-symbolic-links"
        };
        let install = ["--no-defaults", "--auth-root-authentication-method=normal"];
        let install: Vec<&str> = install
            .into_iter()
            .chain(["--skip-test-db", &datadir, user])
            .collect();
        // A server that starts removes the temporary tables of every other one in its directory for
        // them.
        let tmpdir = dir.path().join("tmp");
        xbpipe::base::fsx::create_dir_all(&tmpdir).unwrap();
        run_in(&tmpdir, "mariadb-install-db", &install);
        let net = match port {
            Some(port) => format!("--port={port}"),
            None => "--skip-networking".to_owned(),
        };
        let child = Command::new("mariadbd")
            .args([
                "--no-defaults",
                &datadir,
                user,
                &net,
                "--bind-address=127.0.0.1",
            ])
            .arg(format!("--socket={}", dir.path().join("s").display()))
            .arg(format!("--log-error={}", dir.path().join("err").display()))
            .args([
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=16M",
            ])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd is needed for this test: install MariaDB 10.11");
        let server = Self { child, dir };
        wait_for("the server's socket", || {
            UnixStream::connect(server.socket()).is_ok()
        });
        server
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Connects as root, who has no password.
    pub(crate) fn root(&self, cancel: &Cancel, waits: Waits) -> Server {
        Server::new(
            options(Endpoint::Socket(self.socket()), "root", None),
            cancel.clone(),
        )
        .with_waits(waits)
    }

    /// Connects as somebody else over the socket.
    pub(crate) fn account(&self, user: &str, password: Option<&str>) -> Server {
        Server::new(
            options(Endpoint::Socket(self.socket()), user, password),
            Cancel::new(),
        )
    }

    fn client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args([
                "--no-defaults",
                "--user=root",
                "--batch",
                "--skip-column-names",
            ])
            .arg("--unbuffered")
            .arg(format!("--socket={}", self.socket().display()));
        command
    }

    /// Runs SQL as root and gives back what it prints.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.try_sql(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same for SQL that may fail.
    pub(crate) fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = self.client().arg("--execute").arg(sql).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }

    /// Runs SQL in a session that stays open until the value is dropped.
    pub(crate) fn hold(&self, sql: &str) -> Blocker {
        let mut child = self
            .client()
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
        run("kill", &["-s", name, &self.child.id().to_string()]);
    }

    /// SIGKILL to this very server.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.kill());
        drop(self.child.wait());
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
