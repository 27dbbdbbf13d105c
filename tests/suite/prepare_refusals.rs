//! What is not prepared: each refusal says why, and leaves the directory as it was.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use xbpipe::base::error::Kind;
use xbpipe::base::units::ByteCount;
use xbpipe::prepare::{PREPARE_LOG, PrepareOptions, prepare};
use xbpipe::restore::{RestoreOptions, copy_back};

use crate::raw_backup::{
    check_tables, collected, copy_of, prepared, raw_backup, refused, unwatched,
};
use crate::server::{TestServer, wide_path};

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
    let leftover = server.scratch().join("leftover");
    std::fs::create_dir_all(leftover.join("mysql")).unwrap();
    std::fs::write(leftover.join("mysql/t.ibd.xbpipe-partial"), "").unwrap();
    let options = PrepareOptions::new(&leftover);
    let words = "did not come to its end";
    refused(&options, Kind::Incomplete, words);
    let into = RestoreOptions::new(&leftover, server.scratch().join("data"));
    let error = copy_back(&into, &unwatched()).unwrap_err();
    assert_eq!(error.kind(), Kind::Incomplete);
    assert!(error.to_string().contains(words), "{error}");
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

#[test]
fn one_error_line_of_a_server_that_ends_well_is_a_failure() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t AS SELECT seq FROM d.seq_1_to_100");
    let dir = raw_backup(&server, "backup");
    // The real server, which recovers the backup and ends with status 0; but something is not as it should be.
    let program = server.scratch().join("mariadbd");
    let text = "#!/bin/sh\n\
        case \"$*\" in *--bootstrap*) echo '2026-11-21  4:27:13 0 [ERROR] InnoDB: something is odd' ;; esac\n\
        exec mariadbd \"$@\"\n";
    let text = text.replace("exec", &format!("PATH='{}' exec", wide_path()));
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = PrepareOptions::new(&dir);
    options.mariadbd = Some(program);
    for _ in 0..2 {
        let error = prepare(&options, &unwatched()).unwrap_err();
        assert_eq!(error.kind(), Kind::Server, "{error}");
        let story = error.to_string();
        assert!(story.contains("something is odd"), "{story}");
        assert!(!story.contains("exit status"), "{story}");
        let checkpoints = std::fs::read_to_string(dir.join("xtrabackup_checkpoints")).unwrap();
        assert!(checkpoints.contains("full-backuped"), "{checkpoints}");
        let log = std::fs::read_to_string(dir.join(PREPARE_LOG)).unwrap();
        assert!(log.contains("End of log at LSN"), "{log}");
    }
    // As its hint says: prepare can be run again.
    assert!(prepared(&dir).resumed);
    let restored = TestServer::start_on(&dir, &[]);
    check_tables(&restored);
}
