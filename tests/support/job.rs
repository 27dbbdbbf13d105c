//! The main job: a server under load is backed up through a pipe, and what comes out at the other end proves equal to it.
//! The demonstration and a test run the same steps and differ in size.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::compare::{Compared, check_tables, same_rows};
use crate::replica;
use crate::server::{TestServer, free_port, mortal, on_port, spawn};
use crate::workload::{self, Load, Tally, Workload};

/// How long a replica may take to catch up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How big a job is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Of the data set.
    pub(crate) megabytes: u64,
    /// Clients that transfer money.
    pub(crate) tellers: usize,
    /// How long the load runs before and after the backup.
    pub(crate) margin: Duration,
    /// Bytes in a second that get through between the two programs, when they are not joined by a pipe alone: time for
    /// the load to do something.
    pub(crate) link: Option<u32>,
}

/// Somebody who is told what happens.
pub(crate) trait Audience: Sync {
    /// A new part begins.
    fn part(&self, title: &str);
    /// What a user would type here.
    fn command(&self, command: &str);
    /// Something was found out, or a program wrote a line.
    fn line(&self, line: &str);
    /// A process was started; it is to be stopped if somebody interrupts.
    fn started(&self, pid: u32);
    /// It has ended.
    fn ended(&self, pid: u32);
}

/// The result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proof {
    /// What was written while the backup ran.
    pub(crate) meanwhile: Tally,
    /// Of the pipe.
    pub(crate) duration: Duration,
    /// In the restored directory.
    pub(crate) bytes: u64,
    /// Of both servers.
    pub(crate) compared: Compared,
}

/// A server that tells the audience of its life.
struct Announced<'a> {
    server: TestServer,
    audience: &'a dyn Audience,
}

impl<'a> Announced<'a> {
    fn new(server: TestServer, audience: &'a dyn Audience) -> Self {
        audience.started(server.pid());
        Self { server, audience }
    }

    fn socket(&self) -> &Path {
        self.server.socket()
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.audience.ended(self.server.pid());
    }
}

/// Does the whole job in `dir` with the program `xbpipe`.
pub(crate) fn run(
    xbpipe: &Path,
    dir: &Path,
    size: Size,
    audience: &dyn Audience,
) -> Result<Proof, String> {
    audience.part("Start a MariaDB server and fill it");
    let port = free_port();
    let source = start_source(port, audience);
    fill(&source, size, audience)?;

    audience.part("Let clients write, change definitions, and back up meanwhile");
    let load = Load {
        tellers: size.tellers,
        clerk: true,
        ddl: true,
    };
    let work = Workload::start(source.socket(), load);
    std::thread::sleep(size.margin);
    let restored = dir.join("restored");
    let before = work.tally();
    let begin = Instant::now();
    pipe(xbpipe, source.socket(), &restored, size.link, audience)?;
    let duration = begin.elapsed();
    let meanwhile = work.tally().since(before);
    std::thread::sleep(size.margin);
    let whole = work.stop()?;
    let bytes = disk_usage(&restored)?;
    audience.line(&format!(
        "while it ran: {} transfers, {} writes to other tables, {} statements of DDL",
        meanwhile.transfers, meanwhile.writes, meanwhile.ddl
    ));
    audience.line(&format!(
        "through the pipe: {} in {:.1} s, {:.0} MB/s",
        megabytes(bytes),
        duration.as_secs_f64(),
        bytes as f64 / 1e6 / duration.as_secs_f64()
    ));
    if meanwhile.transfers == 0 || meanwhile.ddl == 0 {
        return Err("the load did not run during the backup".to_owned());
    }

    audience.part("Prepare the copy, and start a second server on it");
    let gtid = replica::recorded_gtid(&restored)?;
    prepare(xbpipe, &restored, audience)?;
    let copy = TestServer::start_on(
        &restored,
        &[
            "--server-id=2",
            "--innodb-buffer-pool-size=512M",
            // Nobody needs this server to survive a power failure.
            "--innodb-flush-log-at-trx-commit=0",
        ],
    );
    let copy = Announced::new(copy, audience);
    let tables = check_tables(copy.socket())?;
    audience.line(&format!("CHECK TABLE EXTENDED: {tables} tables, all OK"));
    let transfers = workload::check_money(copy.socket())?;
    audience.line(&format!(
        "no money was made or lost in {transfers} transfers, in total and on each account"
    ));

    audience.part("Attach it to the first server as a replica, and compare every row");
    audience.line(&format!("the backup recorded GTID {gtid}"));
    let begin = Instant::now();
    let end = replica::catch_up(copy.socket(), source.socket(), port, &gtid, PATIENCE)?;
    audience.line(&format!(
        "caught up with GTID {end} in {:.1} s, row events applied strictly",
        begin.elapsed().as_secs_f64()
    ));
    let complaints = copy.server.error_log();
    if let Some(complaint) = complaints.lines().find(|l| l.contains("[ERROR]")) {
        return Err(format!("the second server says {complaint}"));
    }
    let compared = same_rows(source.socket(), copy.socket())?;
    audience.line(&format!(
        "{} tables, {} rows: every row equals the source",
        compared.tables, compared.rows
    ));
    let transfers = workload::check_money(copy.socket())?;
    // The replica has them all, the backup those before its consistent point.
    if transfers < whole.transfers {
        return Err(format!(
            "{transfers} transfers of {} arrived",
            whole.transfers
        ));
    }
    Ok(Proof {
        meanwhile,
        duration,
        bytes,
        compared,
    })
}

fn start_source(port: u16, audience: &dyn Audience) -> Announced<'_> {
    let tcp = on_port(port);
    let mut options: Vec<&str> = tcp.iter().map(String::as_str).collect();
    options.extend([
        "--server-id=1",
        "--log-bin=binlog",
        "--binlog-format=ROW",
        "--innodb-buffer-pool-size=256M",
        "--innodb-log-file-size=128M",
    ]);
    let source = Announced::new(TestServer::start(&options), audience);
    audience.line(&format!(
        "{} at {}, TCP on 127.0.0.1 only (for the replica)",
        source.server.sql("SELECT @@version").trim(),
        source.socket().display()
    ));
    source
}

fn fill(source: &Announced<'_>, size: Size, audience: &dyn Audience) -> Result<(), String> {
    let begin = Instant::now();
    workload::load(source.socket(), size.megabytes)?;
    let mut client = Client::connect(source.socket())?;
    replica::grant(&mut client)?;
    let tables: u64 = client.row(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA IN ('shop', 'bank', 'churn')",
    )?;
    let bytes = disk_usage(source.server.datadir())?;
    let engines: Vec<String> = client.rows(
        "SELECT DISTINCT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' ORDER BY 1",
    )?;
    audience.line(&format!(
        "{tables} tables ({}) loaded in {:.1} s; the data directory has {}",
        engines.join(", "),
        begin.elapsed().as_secs_f64(),
        megabytes(bytes)
    ));
    Ok(())
}

/// `xbpipe backup | xbpipe extract`, as two processes and a pipe; both must succeed.
fn pipe(
    xbpipe: &Path,
    socket: &Path,
    target: &Path,
    link: Option<u32>,
    audience: &dyn Audience,
) -> Result<(), String> {
    audience.command(&format!(
        "xbpipe backup --socket {} --user root | xbpipe extract -C {}",
        socket.display(),
        target.display()
    ));
    let mut backup = mortal(xbpipe);
    backup
        .args(["backup", "--no-defaults", "--user", "root", "--socket"])
        .arg(socket)
        .stdout(Stdio::piped());
    let mut backup = Process::start("backup", backup, audience)?;
    let mut stream = backup.child.stdout.take();
    let mut extract = mortal(xbpipe);
    extract
        .args([OsStr::new("extract"), OsStr::new("-C"), target.as_os_str()])
        .stdin(match link {
            None => stream.take().map_or_else(Stdio::null, Stdio::from),
            Some(_) => Stdio::piped(),
        });
    let mut extract = Process::start("extract", extract, audience)?;
    let ends = std::thread::scope(|scope| {
        if let (Some(link), Some(from), Some(to)) = (link, stream, extract.child.stdin.take()) {
            scope.spawn(move || carry(from, to, link));
        }
        let backup = scope.spawn(|| backup.wait());
        let extract = extract.wait();
        [
            backup.join().unwrap_or_else(|_| Err("lost".into())),
            extract,
        ]
    });
    ends.into_iter().collect::<Result<Vec<()>, String>>()?;
    Ok(())
}

/// A slow connection. Each end learns from its own pipe when the other has gone away.
fn carry(mut from: impl Read, mut to: impl Write, bytes_per_second: u32) {
    let mut piece = vec![0; 256 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        if to.write_all(&piece[..len]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_secs_f64(
            len as f64 / f64::from(bytes_per_second),
        ));
    }
}

fn prepare(xbpipe: &Path, dir: &Path, audience: &dyn Audience) -> Result<(), String> {
    audience.command(&format!("xbpipe prepare {}", dir.display()));
    let mut prepare = mortal(xbpipe);
    prepare.arg("prepare").arg(dir).stdout(Stdio::null());
    Process::start("prepare", prepare, audience)?.wait()
}

/// One of our programs at work; its messages go to the audience. Killed if nobody waits for it.
struct Process<'a> {
    name: &'static str,
    child: Child,
    audience: &'a dyn Audience,
}

impl<'a> Process<'a> {
    fn start(
        name: &'static str,
        mut command: Command,
        audience: &'a dyn Audience,
    ) -> Result<Self, String> {
        command.stderr(Stdio::piped());
        let child = spawn(command).map_err(|e| format!("cannot run xbpipe {name}: {e}"))?;
        audience.started(child.id());
        Ok(Self {
            name,
            child,
            audience,
        })
    }

    fn wait(mut self) -> Result<(), String> {
        let mut last = String::new();
        if let Some(messages) = self.child.stderr.take() {
            for line in BufReader::new(messages).lines().map_while(Result::ok) {
                // Dozens of notes of the server that recovers; an error of it is in our last line, too.
                if line.contains(": mariadbd: ") {
                    continue;
                }
                self.audience.line(&format!("{:>7}: {line}", self.name));
                last = line;
            }
        }
        let status = self.child.wait().map_err(|e| e.to_string())?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("xbpipe {} ended with {status}: {last}", self.name))
        }
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        self.audience.ended(self.child.id());
    }
}

/// Bytes in the files below a directory.
fn disk_usage(dir: &Path) -> Result<u64, String> {
    let output = crate::server::run(Command::new("du").args(["-sb", "--apparent-size"]).arg(dir));
    let text = String::from_utf8_lossy(&output.stdout);
    let size = text.split_whitespace().next().and_then(|w| w.parse().ok());
    size.ok_or_else(|| format!("du says {text:?}"))
}

/// A size for people.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes / 1_000_000)
}
