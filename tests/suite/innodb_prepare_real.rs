//! What we write is what real programs recover from: the server itself and `mariadb-backup --prepare`.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test helpers make and damage files with plain std"
)]

use std::path::Path;
use std::process::Command;

use xbpipe::base::units::{Lsn, SpaceId};
use xbpipe::innodb::redo::header::{Checkpoint, LogFormat, LogHeader};
use xbpipe::innodb::redo::writer::append_file_delete;
use xbpipe::metadata::checkpoints::{BackupType, Checkpoints};
use xbpipe::metadata::my_cnf::{Essentials, MyCnf};
use xbpipe::metadata::{MY_CNF, Names};

use crate::innodb_real::{as_strs, encryption, follow, load, scan};
use crate::server::{TestServer, run};

/// Fills a server, runs `last`, follows its log, kills it, and puts our log in place of its own. Returns the log.
fn killed_with_our_log(server: &mut TestServer, last: &str) -> Vec<u8> {
    server.sql(&load(10));
    server.sql(last);
    server.sql("FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS");
    let (mut log, _, mut end) = follow(server, 2 << 20);
    server.kill();
    if LogHeader::parse(&log).unwrap().format() == LogFormat::Plain {
        let begin = log.len();
        append_file_delete(&mut log, SpaceId(4_000_000), b"./d/never_was.ibd").unwrap();
        end = Lsn(end.0 + (log.len() - begin) as u64);
    }
    scan(&log, end).unwrap();
    std::fs::write(server.datadir().join("ib_logfile0"), &log).unwrap();
    log
}

fn rows(server: &TestServer) -> String {
    server.sql("CHECK TABLE d.load_t EXTENDED; SELECT COUNT(*), SUM(LENGTH(v)) FROM d.load_t")
}

#[test]
fn the_server_recovers_from_our_log() {
    let (_keys, encrypted) = encryption();
    for options in [Vec::new(), encrypted] {
        let mut server = TestServer::start(&as_strs(&options));
        server.sql(&load(1));
        killed_with_our_log(&mut server, "");
        server.start_again();
        let answer = rows(&server);
        assert!(answer.contains("check\tstatus\tOK\n11000\t"), "{answer}");
    }
}

#[test]
fn a_table_elsewhere_is_recovered_in_the_copy() {
    // A log with room and a tolerance for dirty pages: the rows must not be in the file before the log is applied.
    let mut server = TestServer::start(&[
        "--innodb-log-file-size=96M",
        "--innodb-max-dirty-pages-pct=99",
        "--innodb-max-dirty-pages-pct-lwm=0",
    ]);
    let far = server.scratch();
    server.sql(&format!(
        "CREATE DATABASE d; USE d; CREATE TABLE d.far (v INT) DATA DIRECTORY='{}'",
        far.display()
    ));
    let rows = "USE d; INSERT INTO far SELECT seq FROM seq_1_to_1000";
    killed_with_our_log(&mut server, rows);
    // As a restore would have it: the file in its database, no link to the old place.
    let original = far.join("d/far.ibd");
    let before = std::fs::read(&original).unwrap();
    std::fs::write(server.datadir().join("d/far.ibd"), &before).unwrap();
    std::fs::remove_file(server.datadir().join("d/far.isl")).unwrap();
    server.start_again();
    assert_eq!(server.sql("SELECT COUNT(*) FROM d.far").trim(), "1000");
    server.shutdown();
    let local = std::fs::read(server.datadir().join("d/far.ibd")).unwrap();
    assert!(local != before, "nothing was recovered");
    let after = std::fs::read(&original).unwrap();
    assert!(after == before, "the live file was changed");
}

/// Writes the metadata of a backup of `log` beside it.
fn write_metadata(dir: &Path, log: &[u8]) {
    let header = LogHeader::parse(log).unwrap();
    let checkpoint = Checkpoint::newest(log, header.first_lsn).unwrap();
    let last_lsn = Lsn(header.first_lsn.0 + (log.len() - 12288) as u64);
    let checkpoints = Checkpoints {
        backup_type: BackupType::Full,
        from_lsn: Lsn(0),
        to_lsn: checkpoint.lsn,
        last_lsn,
        recover_binlog_info: Some(false),
        other: Vec::new(),
    };
    let names = Names::XTRABACKUP;
    std::fs::write(dir.join(names.checkpoints), checkpoints.render()).unwrap();
    let essentials = Essentials {
        innodb_checksum_algorithm: "full_crc32".to_owned(),
        innodb_data_file_path: "/elsewhere/ibdata1:12M:autoextend".to_owned(),
        innodb_log_file_size: 10 << 20,
        innodb_page_size: 16384,
        innodb_undo_tablespaces: 0,
        innodb_compression_level: 6,
        innodb_buffer_pool_filename: None,
    };
    std::fs::write(
        dir.join(MY_CNF),
        MyCnf::new(&essentials, Vec::new()).render(),
    )
    .unwrap();
}

#[test]
fn mariadb_backup_prepares_what_we_wrote() {
    let mut server = TestServer::start(&[]);
    server.sql(&load(1));
    let log = killed_with_our_log(&mut server, "");
    let dir = server.datadir().to_owned();
    write_metadata(&dir, &log);
    run(Command::new("mariadb-backup")
        .args(["--no-defaults", "--prepare"])
        .arg(format!("--target-dir={}", dir.display())));
    let names = Names::XTRABACKUP;
    let text = std::fs::read(dir.join(names.checkpoints)).unwrap();
    let prepared = Checkpoints::parse(&text).unwrap();
    assert_eq!(prepared.backup_type, BackupType::LogApplied);
    server.start_again();
    let answer = rows(&server);
    assert!(answer.contains("check\tstatus\tOK\n11000\t"), "{answer}");
}
