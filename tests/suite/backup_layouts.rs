//! Backups of servers with other page sizes, checksums, files and encryption than the default.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at backups with plain std"
)]

use std::path::Path;
use std::process::Command;

use crate::backup_support::{
    Content, Streamed, backup, backup_to_dir, check_tables, extract, reference_prepares, restores,
    xbpipe,
};
use crate::server::{TestServer, run};
use crate::skip::skipped;

/// Tables of every row format the page size permits, in their own files and in the system tablespace.
fn fill(server: &TestServer, compressed: bool) {
    let mut sql = String::from("SET group_concat_max_len=10000000; CREATE DATABASE d; USE d;");
    let mut make = |name: &str, options: &str| {
        sql += &format!(
            "CREATE TABLE {name} (id INT PRIMARY KEY, k INT, pad LONGBLOB, KEY (k)) {options};
             INSERT INTO {name} SELECT seq, seq*7, MD5(seq) FROM seq_1_to_3000;
             INSERT INTO {name} SELECT 0, 0, GROUP_CONCAT(MD5(seq) SEPARATOR '') FROM seq_1_to_9000;"
        );
    };
    make("dynamic", "");
    make("redundant", "ROW_FORMAT=REDUNDANT");
    make("pages", "PAGE_COMPRESSED=1");
    if compressed {
        make("zip1", "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=1");
        make("zip4", "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4");
    }
    make("aria", "ENGINE=Aria");
    sql += "SET GLOBAL innodb_file_per_table=0;";
    sql += "CREATE TABLE inside (a INT PRIMARY KEY, b LONGBLOB);
            INSERT INTO inside SELECT seq, REPEAT(MD5(seq), 100) FROM seq_1_to_3000;
            SET GLOBAL innodb_file_per_table=1;";
    server.sql(&sql);
}

/// Goes on changing tables while the backup runs: copied pages and the log must fit together.
fn restores_under_change(server: &TestServer, options: &[&str]) -> TestServer {
    let mut streamed = Streamed::start(&mut backup(server));
    streamed.read_until("ibdata1");
    server.sql(
        "USE d; UPDATE dynamic SET k=k+1; DELETE FROM redundant WHERE id%3=0; UPDATE pages SET k=k+2;
         UPDATE aria SET k=5; INSERT INTO inside SELECT seq, 'x' FROM seq_3001_to_4000;
         CREATE TABLE late LIKE dynamic; INSERT INTO late SELECT * FROM dynamic; DROP TABLE redundant;",
    );
    let target = server.scratch().join("restored");
    streamed.extract(&target);
    reference_prepares(&target);
    restores(server, &target, options)
}

#[test]
fn small_pages() {
    let install = ["--innodb-page-size=4k"];
    let server = TestServer::start_installed(&install, &[]);
    fill(&server, true);
    restores_under_change(&server, &install);
}

#[test]
fn large_pages_with_two_checksums() {
    let install = [
        "--innodb-page-size=64k",
        "--innodb-checksum-algorithm=crc32",
    ];
    let server = TestServer::start_installed(&install, &[]);
    fill(&server, false);
    restores_under_change(&server, &install);
}

#[test]
fn several_system_files_and_undo_tablespaces() {
    let install = [
        "--innodb-data-file-path=ibdata1:12M;ibdata2:4M:autoextend",
        "--innodb-undo-tablespaces=3",
        "--innodb-checksum-algorithm=crc32",
    ];
    let server = TestServer::start_installed(&install, &[]);
    fill(&server, true);
    let restored = restores_under_change(&server, &install);
    for name in ["ibdata2", "undo001", "undo003"] {
        assert!(restored.datadir().join(name).exists(), "{name}");
    }
}

#[test]
fn encrypted_tables_and_log() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let key = "0123456789abcdef".repeat(4);
    std::fs::write(keys.path(), format!("1;{key}\n2;{key}\n")).unwrap();
    let keys = format!("--file-key-management-filename={}", keys.path().display());
    let options = [
        "--plugin-load-add=file_key_management",
        &keys,
        "--innodb-encrypt-tables=ON",
        "--innodb-encrypt-log=ON",
        "--aria-encrypt-tables=ON",
        "--innodb-encryption-threads=2",
    ];
    let server = TestServer::start(&options);
    fill(&server, true);
    server.sql("CREATE TABLE d.old (a INT) ENCRYPTED=YES; INSERT INTO d.old VALUES (1)");
    restores_under_change(&server, &options);
}

/// Files of a directory and below, with their content.
fn files(top: &Path) -> Vec<(String, Vec<u8>)> {
    let listing = run(Command::new("find")
        .arg(top)
        .args(["-type", "f", "-printf", "%P\n"]));
    let listing = String::from_utf8(listing.stdout).unwrap();
    let mut names: Vec<String> = listing.lines().map(str::to_owned).collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let content = std::fs::read(top.join(&name)).unwrap();
            (name, content)
        })
        .collect()
}

#[test]
fn directory_stream_and_compressed_archive_hold_the_same() {
    let mut server = TestServer::start(&["--log-bin", "--innodb-fast-shutdown=0"]);
    fill(&server, true);
    server.sql("SET GLOBAL innodb_max_dirty_pages_pct_lwm=0, innodb_max_dirty_pages_pct=0");
    // After a restart nothing is changed in the background any more.
    server.shutdown();
    server.start_again();
    let directory = backup_to_dir(&server, "directory");
    let scratch = server.scratch();
    let (stream, _) = {
        let (output, stream) = Streamed::start(&mut backup(&server)).end();
        assert!(output.status.success());
        (stream, output)
    };
    extract(&stream, &scratch.join("streamed"));
    let archive = scratch.join("full.xb");
    run(backup(&server)
        .args(["--compress=zstd:2", "--parallel=2", "--to"])
        .arg(&archive));
    run(xbpipe().arg("verify").arg(&archive));
    run(xbpipe()
        .args(["extract", "--decompress", "-C"])
        .arg(scratch.join("archive"))
        .arg(&archive));

    let plain = files(&directory);
    assert!(plain.len() > 100);
    // These tell when, how and where to.
    let differs = ["xtrabackup_info", "ib_logfile0", "xtrabackup_checkpoints"];
    for other in ["streamed", "archive"] {
        let other = files(&scratch.join(other));
        let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
            files.iter().map(|f| f.0.clone()).collect()
        };
        assert_eq!(names(&plain), names(&other));
        for (a, b) in plain.iter().zip(&other) {
            assert!(a.1 == b.1 || differs.contains(&a.0.as_str()), "{}", a.0);
        }
    }
    restores(&server, &scratch.join("archive"), &[]);
    restores(&server, &directory, &[]);
}

#[test]
fn sakila_is_the_same_after_a_restore() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/sakila");
    let Some(schema) = std::env::var_os("XBPIPE_SAKILA")
        .map_or(Some(data), |dir| Some(dir.into()))
        .filter(|dir| dir.is_dir())
    else {
        skipped("no ../shared/data/sakila");
        return;
    };
    let server = TestServer::start(&[]);
    for part in ["schema", "data"] {
        let file = schema.join(format!("sakila-mv-{part}.sql"));
        server.sql(&format!("source {}", file.display()));
    }
    assert_eq!(
        server.sql("SELECT COUNT(*) FROM sakila.film").trim(),
        "1000"
    );
    let target = backup_to_dir(&server, "sakila");
    let expected = Content::of(&server);
    let restored = restores(&server, &target, &[]);
    check_tables(&restored);
    expected.assert_same(&Content::of(&restored));
}
