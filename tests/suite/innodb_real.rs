//! The format rooms against bytes that a real MariaDB server wrote.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test helpers make and damage files with plain std"
)]

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use xbpipe::base::units::Lsn;
use xbpipe::innodb::redo::HEADER_LEN;
use xbpipe::innodb::redo::file_records::FileEvent;
use xbpipe::innodb::redo::follower::Follower;
use xbpipe::innodb::redo::header::{Checkpoint, LogFormat, LogHeader, RingGeometry};
use xbpipe::innodb::redo::scan::{LogScan, ScanError};
use xbpipe::innodb::redo::writer::backup_header;

use crate::server::{TestServer, run};

/// Statements that write about `rounds` times 300 KiB of redo.
pub(crate) fn load(rounds: usize) -> String {
    let begin = "CREATE DATABASE IF NOT EXISTS d; CREATE TABLE IF NOT EXISTS d.load_t \
                 (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(200)); USE d;";
    let round = "INSERT INTO load_t (v) SELECT REPEAT('x', 100 + seq % 100) FROM seq_1_to_1000;";
    format!("{begin}{}", round.repeat(rounds))
}

/// A server's log as it is followed, and what came of it: the log of a backup.
struct Tail {
    file: std::fs::File,
    follower: Follower,
    out: Vec<u8>,
    events: Vec<FileEvent>,
}

impl Tail {
    /// Starts at the newest checkpoint.
    fn open(server: &TestServer) -> Self {
        let path = server.datadir().join("ib_logfile0");
        let file = std::fs::File::open(&path).unwrap();
        let mut head = vec![0; HEADER_LEN];
        file.read_exact_at(&mut head, 0).unwrap();
        let header = LogHeader::parse(&head).unwrap();
        let checkpoint = Checkpoint::newest(&head, header.first_lsn).unwrap();
        let ring = RingGeometry::new(&header, file.metadata().unwrap().len()).unwrap();
        Self {
            file,
            follower: Follower::new(ring, header.format(), checkpoint.lsn, true),
            out: backup_header(&header, checkpoint, "0.1.0").to_vec(),
            events: Vec::new(),
        }
    }

    /// Takes what the server has flushed by now, in windows of `window_len` bytes, and returns that LSN.
    fn catch_up(&mut self, server: &TestServer, window_len: usize) -> Lsn {
        let fence = Lsn(server.status("Innodb_lsn_flushed"));
        let ring = self.follower.ring();
        while self.follower.position() < fence {
            let position = self.follower.position();
            let mut window = vec![0; window_len];
            let split = usize::try_from(ring.contiguous(position)).unwrap();
            let (before, behind) = window.split_at_mut(split.min(window_len));
            self.file
                .read_exact_at(before, ring.offset(position))
                .unwrap();
            self.file.read_exact_at(behind, HEADER_LEN as u64).unwrap();
            let current = Lsn(server.status("Innodb_lsn_current"));
            assert!(!ring.is_overrun(position, current), "the test is too slow");
            let fed = self
                .follower
                .feed(position, &mut window, fence, &mut self.events);
            let fed = fed.unwrap();
            assert!(!fed.is_empty());
            self.out.extend_from_slice(&window[fed]);
        }
        fence
    }
}

/// Everything from the newest checkpoint to what the server has flushed now, as the log of a backup; read in windows
/// of `window_len` bytes. Also the file events and the LSN of the end.
pub(crate) fn follow(server: &TestServer, window_len: usize) -> (Vec<u8>, Vec<FileEvent>, Lsn) {
    let mut tail = Tail::open(server);
    let end = tail.catch_up(server, window_len);
    (tail.out, tail.events, end)
}

pub(crate) fn scan(file: &[u8], last_lsn: Lsn) -> Result<Vec<FileEvent>, ScanError> {
    let mut events = Vec::new();
    let mut scan = LogScan::new(file)?;
    for bytes in file[HEADER_LEN..].chunks(1 << 20) {
        scan.feed(bytes, &mut events)?;
    }
    scan.finish(Some(last_lsn))?;
    Ok(events)
}

/// A few hundred damaged copies of a log, each of which must be refused.
fn damage(log: &[u8], last_lsn: Lsn) {
    for i in 0..40 {
        let at = HEADER_LEN + (i * 7_919_333 + 13) % (log.len() - HEADER_LEN);
        let mut bad = log.to_vec();
        bad[at] ^= 1 << (i % 8);
        assert!(scan(&bad, last_lsn).is_err(), "flipped bit at {at}");
        assert!(scan(&log[..at], last_lsn).is_err(), "cut at {at}");
    }
}

/// Options of a server with an encrypted log and keys, and the directory that holds the keys.
pub(crate) fn encryption() -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let key = "a7addd9adea9978fda19f21e6be987880e68ac92632ca052e5bb42b1a506939a";
    std::fs::write(&keys, format!("1;{key}\n2;{key}\n")).unwrap();
    let options = vec![
        "--plugin-load-add=file_key_management".to_owned(),
        format!("--file-key-management-filename={}", keys.display()),
        "--innodb-encrypt-log=ON".to_owned(),
    ];
    (dir, options)
}

pub(crate) fn as_strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// Runs mariadb-backup while `statements` run, and returns the directory of the backup.
fn backup_under(server: &TestServer, statements: &str) -> std::path::PathBuf {
    let target = server.scratch().join("backup");
    let mut load = server.sql_in_background(statements);
    run(Command::new("mariadb-backup")
        .args(["--no-defaults", "--backup", "--user=root"])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(format!("--target-dir={}", target.display())));
    assert!(load.wait().unwrap().success());
    target
}

fn last_lsn(backup: &Path) -> Lsn {
    let text = std::fs::read_to_string(backup.join("xtrabackup_checkpoints")).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("last_lsn = "));
    Lsn(line.unwrap().trim().parse().unwrap())
}

#[test]
fn the_live_ring_is_followed_over_its_end() {
    let server = TestServer::start(&["--innodb-log-file-size=4M"]);
    let begin = server.status("Innodb_lsn_current");
    // More than one lap before, so that both sequence bits are seen.
    server.sql(&load(20));
    server.sql("CREATE TABLE d.named (id INT PRIMARY KEY)");
    server.sql(&load(6));
    server.sql("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS");
    assert!(server.status("Innodb_lsn_current") - begin > 5 << 20);
    let path = b"./d/named.ibd".to_vec();
    for window_len in [3 << 20, 1 << 20] {
        let (log, events, end) = follow(&server, window_len);
        assert_eq!(scan(&log, end).unwrap(), events);
        let named = |e: &FileEvent| matches!(e, FileEvent::Create { path: p, .. } if *p == path);
        assert_eq!(events.iter().filter(|e| named(e)).count(), 1, "{events:?}");
        damage(&log, end);
    }
}

#[test]
fn an_encrypted_ring_is_followed_without_its_key() {
    let (_keys, options) = encryption();
    let server = TestServer::start(&as_strs(&options));
    server.sql(&load(20));
    server.sql("CREATE TABLE d.named (id INT PRIMARY KEY)");
    server.sql("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS");
    let (log, events, end) = follow(&server, 2 << 20);
    assert_eq!(
        LogHeader::parse(&log).unwrap().format(),
        LogFormat::Encrypted
    );
    assert_eq!(scan(&log, end).unwrap(), events);
    let opaque = |e: &FileEvent| matches!(e, FileEvent::Opaque { .. });
    assert!(
        !events.is_empty() && events.iter().all(opaque),
        "{events:?}"
    );
    damage(&log, end);
}

#[test]
fn the_log_of_a_mariadb_backup_ends_at_its_last_lsn() {
    let (_keys, options) = encryption();
    for options in [Vec::new(), options] {
        let server = TestServer::start(&as_strs(&options));
        server.sql(&load(5));
        let backup = backup_under(&server, &load(30));
        let log = std::fs::read(backup.join("ib_logfile0")).unwrap();
        let last_lsn = last_lsn(&backup);
        scan(&log, last_lsn).unwrap();
        damage(&log, last_lsn);
    }
}

#[test]
fn the_ring_is_followed_while_the_server_writes() {
    let server = TestServer::start(&[]);
    server.sql(&load(1));
    let mut tail = Tail::open(&server);
    let mut rounds = 0;
    // However slow this machine is just now, some rounds fall into the time of the load.
    while rounds < 6 {
        let mut load = server.sql_in_background(&load(60));
        while load.try_wait().unwrap().is_none() {
            tail.catch_up(&server, 3 << 20);
            rounds += 1;
        }
        assert!(load.wait().unwrap().success());
    }
    server.sql("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS");
    let end = tail.catch_up(&server, 3 << 20);
    assert_eq!(scan(&tail.out, end).unwrap(), tail.events);
    // More than one lap.
    assert!(tail.out.len() > 10 << 20, "{}", tail.out.len());
}
