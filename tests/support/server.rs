//! Throw-away MariaDB servers for tests: each has its own data directory, its own socket, no network, and dies with the
//! value that owns it, or with this program if that is killed. A machine without `mariadbd` fails the test; it does not
//! skip it.
//!
//! Data directories are copied from a template that `mariadb-install-db` makes once per list of install options and
//! that is kept in cargo's directory for test files.
#![expect(
    clippy::disallowed_methods,
    reason = "test support handles files with plain std"
)]

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every server and every template is started with; tests may override each of them.
const BASE_OPTIONS: [&str; 5] = [
    "--innodb-log-file-size=10M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-buffer-pool-dump-at-shutdown=0",
    "--skip-log-bin",
    "--skip-networking",
];

/// A running server. Everything it has on disk is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct TestServer {
    child: Child,
    options: Vec<String>,
    datadir: PathBuf,
    socket: PathBuf,
    dir: tempfile::TempDir,
}

impl TestServer {
    /// Starts a server with `options` and waits until it answers.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_installed(&[], options)
    }

    /// The same, where `install_options` (such as `--innodb-page-size=4k`) also hold for making the data directory.
    pub(crate) fn start_installed(install_options: &[&str], options: &[&str]) -> Self {
        let template = template(install_options);
        let dir = private_dir();
        let datadir = dir.path().join("data");
        run(Command::new("cp").arg("-a").arg(&template).arg(&datadir));
        Self::launch_in(dir, &[install_options, options].concat())
    }

    fn launch_in(dir: tempfile::TempDir, options: &[&str]) -> Self {
        let datadir = dir.path().join("data");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        Self::start_whole(dir, datadir, options)
    }

    /// Starts a server on a directory that somebody else made, such as a restored backup. It keeps the directory when
    /// dropped.
    pub(crate) fn start_on(datadir: &Path, options: &[&str]) -> Self {
        let options = options.iter().map(ToString::to_string).collect();
        Self::start_whole(private_dir(), datadir.to_owned(), options)
    }

    fn start_whole(dir: tempfile::TempDir, datadir: PathBuf, options: Vec<String>) -> Self {
        let child = launch(&datadir, dir.path(), &options);
        let mut server = Self {
            child,
            options,
            datadir,
            socket: dir.path().join("sock"),
            dir,
        };
        server.wait_until_ready();
        server
    }

    /// Starts the stopped or killed server again, on whatever the data directory is now.
    pub(crate) fn start_again(&mut self) {
        self.child = launch(&self.datadir, self.dir.path(), &self.options);
        self.wait_until_ready();
    }

    /// The data directory.
    pub(crate) fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// The Unix socket; the account `root` has no password.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A directory of the test's own that goes away with the server.
    pub(crate) fn scratch(&self) -> PathBuf {
        let path = self.dir.path().join("scratch");
        run(Command::new("mkdir").arg("-p").arg(&path));
        path
    }

    /// Runs statements and returns what they print: no headings, tabs between columns.
    pub(crate) fn sql(&self, statements: &str) -> String {
        self.try_sql(statements)
            .unwrap_or_else(|error| panic!("{statements:.2000}: {error}"))
    }

    /// The same; what the client complains about comes back.
    pub(crate) fn try_sql(&self, statements: &str) -> Result<String, String> {
        let output = self.client(statements).output();
        let output = output.unwrap_or_else(|e| panic!("this test needs the mariadb client: {e}"));
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).expect("the client prints UTF-8"))
    }

    /// Starts statements in a client of their own, to go on while the test does something else.
    pub(crate) fn sql_in_background(&self, statements: &str) -> Child {
        self.client(statements)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("this test needs the mariadb client: {e}"))
    }

    /// A number of `SHOW GLOBAL STATUS`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        let line = self.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        let value = line.split_whitespace().nth(1).unwrap_or_default();
        value
            .parse()
            .unwrap_or_else(|_| panic!("status {name} is {value:?}"))
    }

    /// Stops the server as an administrator would and waits for its end. The data directory stays until drop.
    pub(crate) fn shutdown(&mut self) {
        self.sql("SHUTDOWN");
        let begin = Instant::now();
        while self
            .child
            .try_wait()
            .expect("a child can be waited for")
            .is_none()
        {
            assert!(begin.elapsed() < PATIENCE, "no end: {}", self.error_log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server as a power failure would. The data directory stays until drop.
    pub(crate) fn kill(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn client(&self, statements: &str) -> Command {
        let mut command = self.open_client();
        command
            .arg(format!("--execute={statements}"))
            .stdin(Stdio::null());
        command
    }

    /// A client that takes statements from its standard input.
    pub(crate) fn open_client(&self) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args([
                "--no-defaults",
                "--user=root",
                "--batch",
                "--skip-column-names",
            ])
            .arg(format!("--socket={}", self.socket.display()));
        command
    }

    fn wait_until_ready(&mut self) {
        let begin = Instant::now();
        loop {
            let answer = self.client("SELECT 1").output();
            match answer {
                Ok(output) if output.status.success() => return,
                Ok(_) => {}
                Err(e) => panic!("this test needs the mariadb client: {e}"),
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && begin.elapsed() < PATIENCE,
                "the server did not start ({ended:?}): {}",
                self.error_log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server has to tell.
    pub(crate) fn error_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("err")).unwrap_or_default()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and insists on success.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A directory for what one server needs beside its data: socket, error log, temporary tables.
fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("xbt")
        .tempdir()
        .expect("a temporary directory can be made")
}

/// Options for a server that others reach over TCP, from this host only.
pub(crate) fn on_port(port: u16) -> [String; 3] {
    [
        "--skip-networking=0".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--port={port}"),
    ]
}

/// A TCP port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("the loopback interface has a free port")
        .port()
}

/// Starts `mariadbd` on a data directory; socket and error log are in `dir`.
fn launch(datadir: &Path, dir: &Path, options: &[String]) -> Child {
    // A starting server removes the temporary tables of every other one in its directory for them.
    let tmpdir = dir.join("tmp");
    run(Command::new("mkdir").arg("-p").arg(&tmpdir));
    let mut command = mortal("mariadbd");
    command
        .env("PATH", wide_path())
        .arg("--no-defaults")
        .arg(format!("--datadir={}", datadir.display()))
        .args(BASE_OPTIONS)
        .args(options)
        .arg(format!("--tmpdir={}", tmpdir.display()))
        .arg(format!("--socket={}", dir.join("sock").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--log-error={}", dir.join("err").display()))
        // Names of temporary tables are only unique among the processes of one container.
        .arg(format!("--tmpdir={}", dir.display()));
    if rustix::process::geteuid().is_root() {
        command.arg("--user=root");
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    spawn(command).unwrap_or_else(|e| panic!("this test needs setpriv (package util-linux): {e}"))
}

/// A command to [`spawn`], for a program that must not outlive this one, even if this one is killed.
pub(crate) fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The program search path, and where packages put servers if a user's does not lead there.
pub(crate) fn wide_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/usr/local/sbin")
}

/// Starts a [`mortal`] program. The kernel kills it when the thread that started it ends, so one that never ends starts
/// them all.
pub(crate) fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, taken): (Sender<Order>, Receiver<Order>) = channel();
        std::thread::spawn(move || {
            for (mut command, reply) in taken {
                let child = command.spawn();
                // Our copies of its pipes must be closed when the one who ordered has it.
                drop(command);
                reply.send(child).ok();
            }
        });
        orders
    });
    let (reply, child) = channel();
    let gone = |_| std::io::Error::other("the thread that starts programs has ended");
    STARTER.send((command, reply)).map_err(|_| gone(()))?;
    child.recv().map_err(|_| gone(()))?
}

/// The directory to copy for `install_options`; made on first use.
fn template(install_options: &[&str]) -> PathBuf {
    let version = Command::new("mariadb-install-db").arg("--version").output();
    let version = version
        .unwrap_or_else(|e| panic!("this test needs mariadb-install-db (mariadb-server): {e}"));
    let mut hash = DefaultHasher::new();
    (install_options, BASE_OPTIONS, &version.stdout).hash(&mut hash);
    // Only cargo's tests have a directory for such files; anything else keeps them with its other temporary ones.
    let root =
        option_env!("CARGO_TARGET_TMPDIR").map_or_else(tempfile::env::temp_dir, PathBuf::from);
    let root = root.as_path();
    let path = root.join(format!("template-{:016x}", hash.finish()));
    if path.is_dir() {
        return path;
    }
    // Made aside and renamed whole, so that tests may run side by side.
    run(Command::new("mkdir").arg("-p").arg(root));
    let making = tempfile::Builder::new()
        .prefix("making")
        .tempdir_in(root)
        .expect("a temporary directory can be made");
    let data = making.path().join("data");
    let mut install = Command::new("mariadb-install-db");
    install
        .env("TMPDIR", making.path())
        .args(["--no-defaults", "--auth-root-authentication-method=normal"])
        // A host whose own name cannot be looked up will do.
        .args(["--skip-test-db", "--force"])
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--tmpdir={}", making.path().display()))
        .args(BASE_OPTIONS)
        .args(install_options);
    if rustix::process::geteuid().is_root() {
        install.arg("--user=root");
    }
    run(&mut install);
    if std::fs::rename(&data, &path).is_err() {
        assert!(path.is_dir(), "cannot keep the template {}", path.display());
    }
    path
}
