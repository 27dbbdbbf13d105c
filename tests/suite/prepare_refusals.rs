//! What is not prepared: each refusal says why, and leaves the directory as it was.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use xbpipe::base::error::Kind;
use xbpipe::base::units::ByteCount;
use xbpipe::prepare::{PrepareOptions, prepare};

use crate::raw_backup::{collected, copy_of, raw_backup, refused, unwatched};
use crate::server::TestServer;

const LOG_BEGIN: u64 = 12288;

#[test]
fn a_damaged_or_cut_log_is_refused_before_the_server_starts() {
    let server = TestServer::start(&[]);
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t AS SELECT seq, REPEAT('x', 200) FROM d.seq_1_to_5000",
    );
    let dir = raw_backup(&server, "backup");
    let options = PrepareOptions::new(&dir);
    let path = dir.join("ib_logfile0");
    let log = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let len = log.metadata().unwrap().len();
    for at in [LOG_BEGIN + 100, len / 2, len - 3] {
        let mut byte = [0];
        log.read_exact_at(&mut byte, at).unwrap();
        log.write_all_at(&[byte[0] ^ 4], at).unwrap();
        let error = refused(&options, Kind::Checksum, "LSN");
        assert!(error.to_string().contains("file offset"), "{error}");
        log.write_all_at(&byte, at).unwrap();
    }
    let whole = std::fs::read(&path).unwrap();
    for cut in [100, 12288, len / 2, len - 1] {
        log.set_len(cut).unwrap();
        let error = prepare(&options, &unwatched()).unwrap_err();
        assert_eq!(error.kind(), Kind::Incomplete, "{cut}: {error}");
        log.write_all_at(&whole, 0).unwrap();
    }
    let (run, monitor) = collected();
    prepare(&options, &run).unwrap();
    let counters = xbpipe::base::monitor::Monitor::counters(&*monitor);
    assert_eq!(counters.redo_bytes.load(Ordering::Relaxed), len - LOG_BEGIN);
}

/// Changes a metadata file of a copy.
fn edited(dir: &Path, name: &str, file: &str, from: &str, to: &str) -> PrepareOptions {
    let copy = copy_of(dir, name);
    let text = std::fs::read_to_string(copy.join(file)).unwrap();
    let new = text.replace(from, to);
    assert!(new != text, "{file} has no {from}");
    std::fs::write(copy.join(file), new).unwrap();
    PrepareOptions::new(copy)
}

#[test]
fn what_is_no_whole_full_backup_is_named() {
    let server = TestServer::start(&[]);
    let dir = raw_backup(&server, "backup");
    let checkpoints = "xtrabackup_checkpoints";

    let empty = server.scratch().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&PrepareOptions::new(&empty), Kind::Usage, "not a backup");

    for (name, file, kind, words) in [
        ("a", "d.zst", Kind::Usage, "--decompress"),
        ("b", "mysql/t.ibd.qp", Kind::Usage, "still compressed"),
        (
            "c",
            "mysql/t.ibd.xbpipe-partial",
            Kind::Incomplete,
            "not written to its end",
        ),
        ("d", "mysql/t.ibd.delta", Kind::Usage, "incremental"),
        ("e", "mysql/t.ren", Kind::Checksum, "damaged marker"),
    ] {
        let copy = copy_of(&dir, name);
        std::fs::write(copy.join(file), "").unwrap();
        refused(&PrepareOptions::new(copy), kind, words);
    }
    for (name, file) in [
        ("f", checkpoints),
        ("g", "ib_logfile0"),
        ("h", "ibdata1"),
        ("i", "xtrabackup_info"),
    ] {
        let copy = copy_of(&dir, name);
        std::fs::remove_file(copy.join(file)).unwrap();
        refused(&PrepareOptions::new(copy), Kind::Incomplete, file);
    }
    let packed = copy_of(&dir, "j");
    std::fs::rename(
        packed.join(checkpoints),
        packed.join(format!("{checkpoints}.zst")),
    )
    .unwrap();
    refused(&PrepareOptions::new(packed), Kind::Usage, "--decompress");

    let linked = copy_of(&dir, "k");
    std::os::unix::fs::symlink("/etc/hostname", linked.join("mysql/link.ibd")).unwrap();
    refused(&PrepareOptions::new(linked), Kind::Usage, "link");

    let options = edited(&dir, "l", checkpoints, "full-backuped", "incremental");
    refused(&options, Kind::Usage, "incremental");
    let options = edited(&dir, "m", checkpoints, "full-backuped", "half-made");
    refused(&options, Kind::Checksum, "damaged metadata");
    let options = edited(&dir, "n", checkpoints, "last_lsn = ", "last_lsn = 1");
    refused(&options, Kind::Incomplete, "was made up to");
}

#[test]
fn the_server_must_be_there_and_of_the_same_series() {
    let server = TestServer::start(&[]);
    let dir = raw_backup(&server, "backup");
    let mut options = PrepareOptions::new(&dir);

    options.mariadbd = Some("/nowhere/mariadbd".into());
    refused(&options, Kind::Server, "not a program");
    // Something else under that name.
    options.mariadbd = Some("/bin/true".into());
    refused(&options, Kind::Server, "not a MariaDB server");
    let other = server.scratch().join("mariadbd");
    let text = "#!/bin/sh\necho 'mariadbd  Ver 11.8.6-MariaDB for Linux on x86_64'\n";
    std::fs::write(&other, text).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
    options.mariadbd = Some(other);
    refused(&options, Kind::Server, "upgrades the files for good");

    let info = "xtrabackup_info";
    let newer = edited(
        &dir,
        "newer",
        info,
        "server_version = 10.11",
        "server_version = 11.8",
    );
    refused(&newer, Kind::Server, "succeeds only in appearance");
    let mut insisting = edited(
        &dir,
        "old",
        info,
        "server_version = 10.11",
        "server_version = 10.10",
    );
    refused(&insisting, Kind::Server, "install MariaDB 10.10");
    insisting.any_version = true;
    prepare(&insisting, &unwatched()).unwrap();

    let mut little = PrepareOptions::new(&dir);
    little.use_memory = ByteCount(1 << 20);
    refused(&little, Kind::Usage, "too little");
    let mut outside = PrepareOptions::new(&dir);
    outside
        .key_options
        .push("innodb_undo_directory=/x".to_owned());
    refused(&outside, Kind::Usage, "cannot be given");
}
