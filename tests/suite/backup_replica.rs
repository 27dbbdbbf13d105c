//! A replica, or a node of a cluster, as the source of a backup: what it tells about where to go on is true.

#![expect(
    clippy::disallowed_methods,
    reason = "tests look at backups with plain std"
)]

use std::path::Path;
use std::time::Duration;

use crate::backup_support::{
    Streamed, backup, check_tables, prepare, reference_prepares, restores,
};
use crate::client::Client;
use crate::compare::same_rows;
use crate::replica;
use crate::server::{TestServer, free_port, on_port, run};
use crate::session::wait_for;

const PATIENCE: Duration = Duration::from_secs(60);

/// Each row is one transaction; every eighth statement is DDL.
const WRITER: &str = "
    CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, pad CHAR(200));
    CREATE TABLE d.bulk (id INT PRIMARY KEY, pad LONGBLOB);
    INSERT INTO d.bulk SELECT seq, REPEAT(MD5(seq), 3000) FROM d.seq_1_to_200;
    CREATE TABLE d.stop (a INT);
    DELIMITER //
    CREATE PROCEDURE d.write_on() BEGIN
        DECLARE n INT DEFAULT 0;
        WHILE NOT EXISTS (SELECT * FROM d.stop) DO
            SET n = n + 1;
            INSERT INTO d.t (pad) VALUES (n);
            UPDATE d.t SET pad = CONCAT(pad, '.') WHERE id <= n ORDER BY id DESC LIMIT 3;
            IF n % 8 = 0 THEN CREATE OR REPLACE TABLE d.made (a INT); INSERT INTO d.made VALUES (n); END IF;
        END WHILE; END//";

/// A server that writes a binary log and can be replicated from.
fn start(id: &str, port: u16) -> TestServer {
    let tcp = on_port(port);
    let id = format!("--server-id={id}");
    let mut options: Vec<&str> = tcp.iter().map(String::as_str).collect();
    options.extend([
        &id,
        "--log-bin=binlog",
        "--log-slave-updates",
        "--sync-binlog=0",
    ]);
    TestServer::start(&options)
}

/// Where to connect to, without where to begin.
fn address(port: u16) -> String {
    format!(
        "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, {}, MASTER_CONNECT_RETRY=1",
        replica::login()
    )
}

/// The replica has everything of its source, which is not written to any more.
fn caught_up(replica: &TestServer, source: &TestServer) {
    let status = source.sql("SHOW MASTER STATUS");
    let (file, rest) = status.split_once('\t').unwrap();
    let position = rest.split('\t').next().unwrap().trim();
    let reached = replica.sql(&format!(
        "SELECT MASTER_POS_WAIT('{file}', {position}, {})",
        PATIENCE.as_secs()
    ));
    let story = || replica.sql("SHOW SLAVE STATUS");
    assert!(
        reached
            .trim()
            .parse::<i64>()
            .is_ok_and(|events| events >= 0),
        "{reached}{}",
        story()
    );
    same_rows(source.socket(), replica.socket()).unwrap_or_else(|e| panic!("{e}"));
}

/// Source, replica, backup of the replica while both are busy, and a second replica made of it by the statements that the
/// backup recorded and the address alone.
fn second_replica_from_the_first(begin: &str, recorded: &[&str]) {
    let port = free_port();
    let source = start("1", port);
    let replica = start("2", free_port());
    let status = source.sql("SHOW MASTER STATUS");
    let (file, rest) = status.split_once('\t').unwrap();
    let position = rest.split('\t').next().unwrap().trim();
    let begin = begin
        .replace("'F'", &format!("'{file}'"))
        .replace("=N", &format!("={position}"));
    let gtid = source.sql("SELECT @@gtid_binlog_pos");
    replica::grant(&mut Client::connect(source.socket()).unwrap()).unwrap();
    replica.sql(&format!(
        "SET GLOBAL gtid_slave_pos='{}'; {}; CHANGE MASTER TO {begin}; START SLAVE",
        gtid.trim(),
        address(port)
    ));
    source.sql(WRITER);
    let mut writer = source.sql_in_background("CALL d.write_on()");
    wait_for("the replica to follow", || {
        let made = replica.try_sql("SELECT a FROM d.made");
        made.is_ok_and(|text| !text.is_empty())
    });

    let second_replica = |name: &str| {
        let target = replica.scratch().join(name);
        Streamed::start(backup(&replica).arg("--slave-info")).extract(&target);
        let info = std::fs::read_to_string(target.join("xtrabackup_slave_info")).unwrap();
        for part in recorded {
            assert!(info.contains(part), "no {part:?} in {info}");
        }
        prepare(&target);
        let second = TestServer::start_on(&target, &["--server-id=3"]);
        check_tables(&second);
        second.sql(&format!("{}; {info} START SLAVE", address(port)));
        second
    };
    for round in 0..2 {
        let second = second_replica(&format!("r{round}"));
        let rows = || -> u64 {
            second
                .sql("SELECT MAX(id) FROM d.t")
                .trim()
                .parse()
                .unwrap()
        };
        let before = rows();
        wait_for("the second replica to follow", || {
            let status = second.sql("SHOW SLAVE STATUS");
            assert!(!status.contains("Error '"), "{status}");
            rows() > before + 20
        });
    }
    let second = second_replica("last");
    source.sql("INSERT INTO d.stop VALUES (1)");
    writer.wait().unwrap();
    caught_up(&replica, &source);
    caught_up(&second, &source);
}

#[test]
fn a_replica_by_gtid() {
    second_replica_from_the_first(
        "MASTER_USE_GTID=slave_pos",
        &[
            "SET GLOBAL gtid_slave_pos = '0-1-",
            "CHANGE MASTER TO master_use_gtid = slave_pos;",
        ],
    );
}

#[test]
fn a_replica_by_file_and_position() {
    second_replica_from_the_first(
        "MASTER_USE_GTID=no, MASTER_LOG_FILE='F', MASTER_LOG_POS=N",
        &[
            "CHANGE MASTER TO MASTER_LOG_FILE='binlog.0",
            "', MASTER_LOG_POS=",
        ],
    );
}

#[test]
fn a_server_that_is_no_replica_has_no_such_position() {
    let server = TestServer::start(&[]);
    let target = server.scratch().join("r");
    Streamed::start(backup(&server).arg("--slave-info")).extract(&target);
    assert!(!target.join("xtrabackup_slave_info").exists());
    assert!(!target.join("xtrabackup_binlog_info").exists());
}

#[test]
fn a_database_behind_a_link() {
    let mut server = TestServer::start(&[]);
    server.sql(
        "CREATE DATABASE near; CREATE DATABASE away;
         CREATE TABLE away.i (id INT PRIMARY KEY, pad TEXT); CREATE TABLE away.m (a INT) ENGINE=MyISAM;
         CREATE TABLE away.gone (a INT PRIMARY KEY); CREATE TABLE away.a (a INT) ENGINE=Aria;
         INSERT INTO away.i SELECT seq, MD5(seq) FROM away.seq_1_to_5000;
         INSERT INTO away.m VALUES (1), (2); INSERT INTO away.a VALUES (3)",
    );
    server.shutdown();
    let elsewhere = server.scratch().join("elsewhere");
    let link = server.datadir().join("away");
    run(std::process::Command::new("mv").arg(&link).arg(&elsewhere));
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    server.start_again();
    let mut streamed = Streamed::start(&mut backup(&server));
    streamed.read_until("ibdata1");
    server.sql(
        "UPDATE away.i SET pad='new' WHERE id%3=0; CREATE TABLE away.late AS SELECT * FROM away.i;
         DROP TABLE away.gone; RENAME TABLE away.i TO near.i, away.late TO away.i",
    );
    let target = server.scratch().join("restored");
    streamed.extract(&target);
    let kind = |path: &Path| std::fs::symlink_metadata(path).unwrap().file_type();
    assert!(kind(&link).is_symlink() && kind(&target.join("away")).is_dir());
    reference_prepares(&target);
    restores(&server, &target, &[]);
}

#[test]
fn a_node_of_a_cluster() {
    let provider = "/usr/lib/galera/libgalera_smm.so";
    assert!(
        Path::new(provider).exists(),
        "this test needs Debian's package galera-4"
    );
    let ports = [free_port(), free_port()];
    let own = [
        format!("--wsrep-provider={provider}"),
        format!(
            "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{}; ist.recv_addr=127.0.0.1:{}; gcache.size=4M",
            ports[0], ports[1]
        ),
    ];
    let mut options = vec![
        "--wsrep-on=ON",
        "--wsrep-cluster-address=gcomm://",
        "--wsrep-new-cluster",
        "--wsrep-node-address=127.0.0.1",
        "--wsrep-gtid-mode=ON",
        "--wsrep-gtid-domain-id=11",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
        "--log-bin=binlog",
        "--log-slave-updates",
    ];
    options.extend(own.iter().map(String::as_str));
    let server = TestServer::start(&options);
    let status = |name: &str| {
        let line = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'"));
        line.split_whitespace()
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    };
    wait_for("the cluster", || {
        status("wsrep_local_state_comment") == "Synced"
    });
    server.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, pad TEXT);
         INSERT INTO d.t SELECT seq, MD5(seq) FROM d.seq_1_to_3000; UPDATE d.t SET pad='x' WHERE id < 9",
    );
    let mut streamed = Streamed::start(&mut backup(&server));
    streamed.read_until("ibdata1");
    server.sql("INSERT INTO d.t VALUES (0, 'late')");
    let target = server.scratch().join("restored");
    streamed.extract(&target);
    let info = std::fs::read_to_string(target.join("xtrabackup_galera_info")).unwrap();
    let (uuid, committed) = (
        status("wsrep_local_state_uuid"),
        status("wsrep_last_committed"),
    );
    assert_eq!(info, format!("{uuid}:{committed} 11\n"));
    assert!(committed.parse::<u64>().unwrap() >= 5, "{info}");
    // The lock takes the node out of the cluster's flow; it must come back.
    wait_for("the node to be back", || {
        status("wsrep_local_state_comment") == "Synced"
    });
    server.sql("INSERT INTO d.t VALUES (-1, 'after'); DELETE FROM d.t WHERE id = -1");
    restores(&server, &target, &[]);
}
