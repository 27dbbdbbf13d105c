//! Backups while the server is busy: the position that is written down, the redo log, locks, memory.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at backups with plain std"
)]

use std::process::Child;
use std::time::{Duration, Instant};

use crate::backup_support::{
    Streamed, backup, check_tables, extract, fails, prepare, restores, story,
};
use crate::server::TestServer;

/// Each transaction is one more row of `d.t` and one more GTID.
const WRITER: &str = "
    CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, pad CHAR(200));

    DELIMITER //
    CREATE PROCEDURE d.write_on(bytes INT) WHILE TRUE DO
        INSERT INTO d.t (pad) VALUES (REPEAT('x', bytes)); END WHILE//";

/// The procedure does not notice that its client is gone.
fn stop_writers(server: &TestServer, writers: impl IntoIterator<Item = Child>) {
    let running = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND='Query' \
        AND INFO LIKE '%INSERT%' AND ID <> CONNECTION_ID()";
    let begin = Instant::now();
    for mut writer in writers {
        while writer.try_wait().unwrap().is_none() {
            for id in server.sql(running).lines() {
                // It may have ended by itself.
                server.try_sql(&format!("KILL {id}")).ok();
            }
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
    }
}

/// A number out of `key = number`.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find(|l| l.starts_with(key)).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn the_log_ends_with_the_last_transaction_before_the_position() {
    let server = TestServer::start(&[
        "--log-bin",
        "--sync-binlog=0",
        "--innodb-log-file-size=100M",
    ]);
    server.sql(WRITER);
    let gtid = |text: &str| -> u64 { text.trim().rsplit('-').next().unwrap().parse().unwrap() };
    let base = gtid(&server.sql("SELECT @@gtid_binlog_pos"));
    let writers: Vec<_> = (0..4)
        .map(|_| server.sql_in_background("CALL d.write_on(150)"))
        .collect();
    for round in 0..4 {
        let target = server.scratch().join(format!("r{round}"));
        let (output, stream) = Streamed::start(&mut backup(&server)).end();
        assert!(output.status.success(), "{}", story(&output));
        extract(&stream, &target);
        let position = std::fs::read_to_string(target.join("xtrabackup_binlog_info")).unwrap();
        let checkpoints = std::fs::read_to_string(target.join("xtrabackup_checkpoints")).unwrap();
        assert!(number(&checkpoints, "to_lsn") <= number(&checkpoints, "last_lsn"));
        prepare(&target);
        let restored = TestServer::start_on(&target, &[]);
        check_tables(&restored);
        let rows: u64 = restored
            .sql("SELECT COUNT(*) FROM d.t")
            .trim()
            .parse()
            .unwrap();
        assert_eq!(rows, gtid(&position) - base, "{position}");
    }
    stop_writers(&server, writers);
}

#[test]
fn a_resize_of_the_log_is_followed() {
    let server = TestServer::start(&[]);
    server.sql(WRITER);
    server.sql("CREATE TABLE d.u AS SELECT seq, REPEAT('x', 200) pad FROM d.seq_1_to_100000");
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until("ibdata1");
    for size in [32 << 20, 16 << 20] {
        let writer = server.sql_in_background("CALL d.write_on(200)");
        server.sql(&format!("SET GLOBAL innodb_log_file_size={size}"));
        std::thread::sleep(Duration::from_millis(300));
        stop_writers(&server, [writer]);
        server.sql("UPDATE d.u SET pad=REPEAT('y', 100) WHERE seq < 1000");
    }
    let target = server.scratch().join("restored");
    let story = backup.extract(&target);
    assert!(story.contains("resized its redo log"), "{story}");
    restores(&server, &target, &[]);
}

#[test]
fn an_overrun_is_an_error_of_its_own() {
    let server = TestServer::start(&["--innodb-log-file-size=4M"]);
    server.sql(WRITER);
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until("ibdata1");
    let id = rustix::process::Pid::from_raw(i32::try_from(backup.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::STOP).unwrap();
    server.sql("INSERT INTO d.t (pad) SELECT REPEAT('x', 200) FROM d.seq_1_to_60000");
    rustix::process::kill_process(id, rustix::process::Signal::CONT).unwrap();
    let (output, stream) = backup.end();
    fails(
        &output,
        7,
        &[
            "overwrote redo log",
            "log capacity 3.9 MiB",
            "innodb_log_file_size",
        ],
    );
    assert!(!stream.windows(22).any(|w| w == b"xtrabackup_checkpoints"));
}

#[test]
fn many_tables_need_little_memory_and_short_locks() {
    const TABLES: usize = 3000;
    let server = TestServer::start(&["--innodb-log-file-size=100M", "--sync-frm=0"]);
    let mut sql = String::from("CREATE DATABASE d; USE d;");
    for n in 0..TABLES {
        let engine = if n % 10 == 0 { "MyISAM" } else { "InnoDB" };
        sql += &format!("CREATE TABLE t{n} (a INT) ENGINE={engine};");
        if sql.len() > 50_000 || n + 1 == TABLES {
            server.sql(&sql);
            sql = String::from("USE d;");
        }
    }
    let target = server.scratch().join("many");
    let mut command = backup(&server);
    command.arg("--to").arg(&target);
    let (output, peak_kib) = peak_memory(command);
    assert!(output.status.success(), "{}", story(&output));
    println!("{}peak {peak_kib} KiB", story(&output));
    assert!(peak_kib < 128 << 10, "{peak_kib} KiB");
}

/// Runs a command and watches the most memory it ever had in use, in KiB.
fn peak_memory(mut command: std::process::Command) -> (std::process::Output, u64) {
    let child = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let watcher = std::thread::spawn(move || {
        let mut peak = 0;
        while let Ok(text) = std::fs::read_to_string(&status) {
            let Some(line) = text.lines().find(|l| l.starts_with("VmHWM:")) else {
                break;
            };
            let kib = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            peak = std::cmp::max(peak, kib);
            std::thread::sleep(Duration::from_millis(5));
        }
        peak
    });
    let output = child.wait_with_output().unwrap();
    (output, watcher.join().unwrap())
}
