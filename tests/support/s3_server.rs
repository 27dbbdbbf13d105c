//! S3 servers for tests: `s3s-fs` in the test's own process, and Ceph's gateway from Debian's packages.
#![expect(
    clippy::disallowed_methods,
    reason = "test support handles files with plain std"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;

use crate::http_server::HttpServer;

/// Credentials that every server here knows.
pub(crate) const ACCESS_KEY: &str = "XBPIPETESTACCESSKEY0";
pub(crate) const SECRET_KEY: &str = "xbpipe-test-secret-key-0123456789abcdefgh";

/// A key of Ceph's key service.
pub(crate) const KMS_KEY: &str = "k1";

/// A bucket that is there.
pub(crate) const BUCKET: &str = "backups";

/// A server that ends with the value, and whose bucket is a directory.
#[derive(Debug)]
pub(crate) struct LocalS3 {
    server: HttpServer,
    root: tempfile::TempDir,
}

impl LocalS3 {
    pub(crate) fn start() -> Self {
        let root = crate::tool::scratch();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let files = s3s_fs::FileSystem::new(root.path()).unwrap();
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        Self {
            server: HttpServer::start(builder.build()),
            root,
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        self.server.address()
    }

    /// The bucket's directory.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }
}

/// How long Ceph may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// One monitor, one OSD that keeps its objects in memory, one gateway. Tests share one, each with a bucket of its own.
#[derive(Debug)]
pub(crate) struct Ceph {
    children: Vec<Child>,
    dir: tempfile::TempDir,
    port: u16,
    tls_port: u16,
}

static RUNNING: Mutex<Weak<Ceph>> = Mutex::new(Weak::new());

impl Ceph {
    /// The running one, or a new one.
    pub(crate) fn shared() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ceph) = running.upgrade() {
            return ceph;
        }
        let ceph = Arc::new(Self::start());
        *running = Arc::downgrade(&ceph);
        ceph
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it speaks TLS; its certificate is for this address alone.
    pub(crate) fn tls_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls_port)
    }

    /// The certificate of who has signed its one.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir.path().join("authority.pem")
    }

    fn start() -> Self {
        let mut ceph = Self {
            children: Vec::new(),
            dir: tempfile::Builder::new()
                .prefix("xbt-ceph")
                .tempdir()
                .unwrap(),
            port: crate::server::free_port(),
            tls_port: crate::server::free_port(),
        };
        let dir = ceph.dir.path().to_owned();
        for sub in ["mon", "osd", "run", "log"] {
            std::fs::create_dir(dir.join(sub)).unwrap();
        }
        let monitor = crate::server::free_port();
        let fsid = uuid::Uuid::new_v4().to_string();
        std::fs::write(
            dir.join("ceph.conf"),
            config(&dir, &fsid, monitor, ceph.port, ceph.tls_port),
        )
        .unwrap();
        crate::certificate::authority(&dir, "authority");
        crate::certificate::certificate(&dir, "gateway", "authority", "IP:127.0.0.1");
        let keys = dir.join("keyring");
        let address = format!("[v2:127.0.0.1:{monitor}]");
        let map = dir.join("monmap");
        ceph.run(
            "monmaptool",
            &[
                "--create",
                "--fsid",
                &fsid,
                "--addv",
                "a",
                &address,
                text(&map),
            ],
        );
        for (name, caps) in [
            ("mon.", &["mon", "allow *"][..]),
            (
                "client.admin",
                &["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
            ),
            ("osd.0", &["mon", "allow profile osd", "osd", "allow *"]),
        ] {
            let mut args = vec![text(&keys), "--gen-key", "-n", name];
            if name == "mon." {
                args.push("--create-keyring");
            }
            for pair in caps.chunks(2) {
                args.extend(["--cap", pair[0], pair[1]]);
            }
            ceph.run("ceph-authtool", &args);
        }
        let keyring = ["--keyring", text(&keys)];
        ceph.run(
            "ceph-mon",
            &[&["-i", "a", "--mkfs", "--monmap", text(&map)], &keyring[..]].concat(),
        );
        ceph.spawn("ceph-mon", &["-i", "a", "-f"]);
        ceph.run("ceph", &["osd", "create"]);
        ceph.run("ceph-osd", &["-i", "0", "--mkfs"]);
        ceph.spawn("ceph-osd", &["-i", "0", "-f"]);
        ceph.spawn(
            "radosgw",
            &[&["-n", "client.admin", "-f"], &keyring[..]].concat(),
        );
        let begin = Instant::now();
        while std::net::TcpStream::connect(ceph.address()).is_err() {
            assert!(begin.elapsed() < PATIENCE, "no gateway: {}", ceph.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        ceph.run(
            "radosgw-admin",
            &[
                "user",
                "create",
                "--uid",
                "test",
                "--display-name",
                "test",
                "--access-key",
                ACCESS_KEY,
                "--secret-key",
                SECRET_KEY,
            ],
        );
        ceph
    }

    /// Makes a bucket with the credentials of the tests.
    pub(crate) fn make_bucket(&self, bucket: &str) {
        self.ask(async |client| client.create_bucket().bucket(bucket).send().await)
            .unwrap();
    }

    /// Asks it without the program under test.
    pub(crate) fn ask<T>(&self, question: impl AsyncFnOnce(Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let credentials = Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{}", self.address()))
            .force_path_style(true)
            .credentials_provider(credentials)
            .build();
        runtime.block_on(question(Client::from_conf(config)))
    }

    /// Runs one of Ceph's programs to its end.
    pub(crate) fn run(&self, program: &str, args: &[&str]) {
        let begin = Instant::now();
        loop {
            let output = self.command(program, args).output();
            let output = output.unwrap_or_else(|e| {
                panic!("this test needs {program} (packages radosgw, ceph-mon, ceph-osd): {e}")
            });
            if output.status.success() {
                return;
            }
            // The monitor takes a moment before it answers.
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                program == "ceph" && begin.elapsed() < PATIENCE,
                "{program} {args:?}: {error} {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let mut command = crate::server::mortal(program);
        self.with_config(&mut command, program, args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = crate::server::spawn(command)
            .unwrap_or_else(|e| panic!("this test needs setpriv (package util-linux): {e}"));
        self.children.push(child);
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.with_config(&mut command, program, args);
        command
    }

    fn with_config(&self, command: &mut Command, program: &str, args: &[&str]) {
        // On the command line, so that whoever cleans up after an interrupted run recognises it.
        command.arg("--conf").arg(self.dir.path().join("ceph.conf"));
        if program == "ceph" {
            command.args(["--connect-timeout", "20"]);
        }
        command.args(args);
    }

    fn log(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.dir.path().join("log")).unwrap() {
            let path = entry.unwrap().path();
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            text.push_str(&format!("\n{}: {tail:#?}", path.display()));
        }
        text
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Both fail only if it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn config(dir: &Path, fsid: &str, monitor: u16, port: u16, tls_port: u16) -> String {
    let dir = dir.display();
    format!(
        "[global]\n\
         fsid = {fsid}\n\
         keyring = {dir}/keyring\n\
         mon host = v2:127.0.0.1:{monitor}\n\
         ms bind msgr1 = false\n\
         public addr = 127.0.0.1\n\
         osd pool default size = 1\n\
         osd pool default min size = 1\n\
         osd pool default pg num = 4\n\
         osd pool default pgp num = 4\n\
         mon allow pool size one = true\n\
         mon warn on pool no redundancy = false\n\
         mon max pg per osd = 1000\n\
         mon data avail crit = 1\n\
         mon data avail warn = 2\n\
         mon osd full ratio = .98\n\
         mon osd backfillfull ratio = .95\n\
         mon osd nearfull ratio = .90\n\
         osd crush chooseleaf type = 0\n\
         osd objectstore = memstore\n\
         memstore device bytes = 4294967296\n\
         mon data = {dir}/mon\n\
         osd data = {dir}/osd\n\
         run dir = {dir}/run\n\
         admin socket = {dir}/run/$name.$pid.asok\n\
         log file = {dir}/log/$name.log\n\
         [client.admin]\n\
         rgw frontends = beast endpoint=127.0.0.1:{port} ssl_endpoint=127.0.0.1:{tls_port} \
         ssl_certificate={dir}/gateway.pem ssl_private_key={dir}/gateway.key\n\
         rgw data = {dir}\n\
         rgw crypt s3 kms backend = testing\n\
         rgw crypt s3 kms encryption keys = {KMS_KEY}=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\
         rgw crypt require ssl = false\n"
    )
}
