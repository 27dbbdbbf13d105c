//! Backup locks on a real server: held, waited for, released; and connections that break.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::Kind;
use xbpipe::server::connect::Endpoint;
use xbpipe::server::privileges::Needs;
use xbpipe::server::session::{Server, Waits};
use xbpipe::server::sql::Stage;

use crate::server::TestServer;
use crate::session::{PATIENCE, assert_server, options, wait_for, waits};

#[test]
fn stages_are_held_until_the_session_ends() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT) ENGINE=MyISAM");
    let cancel = Cancel::new();
    let hasty = server.root(&cancel, waits(Some(1)));
    let writes = || {
        server
            .try_sql("SET lock_wait_timeout=1; INSERT INTO d.t VALUES (1)")
            .is_ok()
    };

    let mut holder = hasty.connect().unwrap();
    holder.backup_stage(Stage::Start).unwrap();
    assert!(writes());
    holder.backup_stage(Stage::Flush).unwrap();
    assert!(!writes());
    let mut second = hasty.connect().unwrap();
    let error = second.backup_stage(Stage::Start).unwrap_err();
    assert_server(
        &error,
        "BACKUP STAGE START got no lock within 1s",
        "LOCK TABLES",
    );
    // The loser can go on using its connection, also for the next try.
    second.check_alive().unwrap();
    let begin = Instant::now();
    drop(holder);
    second.backup_stage(Stage::Start).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(writes());
    second.backup_stage(Stage::BlockCommit).unwrap();
    second.backup_stage(Stage::End).unwrap();
    let error = second.backup_stage(Stage::End).unwrap_err();
    assert_server(&error, "held no backup stage", "not valid");
    let error = second.backup_stage(Stage::Flush).unwrap_err();
    assert_server(&error, "held no backup stage", "not valid");

    // One table's DDL is held back by its backup lock, whatever its name.
    server.sql("CREATE TABLE d.`a``b c` (a INT)");
    second.backup_lock("d", "a`b c").unwrap();
    let dropped = || {
        server
            .try_sql("SET lock_wait_timeout=1; DROP TABLE d.`a``b c`")
            .is_ok()
    };
    assert!(!dropped());
    second.backup_unlock().unwrap();
    assert!(dropped());
    second.backup_lock("no such", "table").unwrap();

    // A privilege probe neither waits for somebody else's stage nor ends it.
    second.backup_unlock().unwrap();
    second.backup_stage(Stage::BlockCommit).unwrap_err();
    second.backup_stage(Stage::Start).unwrap();
    second.backup_stage(Stage::BlockCommit).unwrap();
    let mut prober = hasty.connect().unwrap();
    prober.check_privileges(&Needs::default()).unwrap();
    second.backup_stage(Stage::End).unwrap();
}

fn waiting_stages(server: &TestServer) -> usize {
    let waiting =
        server.sql("SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'BACKUP %'");
    waiting.lines().count()
}

#[test]
fn cancel_ends_a_blocked_stage_at_once() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)");
    let blocker = server.hold("LOCK TABLES d.t WRITE");
    let cancel = Cancel::new();
    let mut session = server.root(&cancel, Waits::default()).connect().unwrap();
    let waiter = std::thread::spawn(move || {
        let error = session.backup_stage(Stage::Start).unwrap_err();
        (error, session, Instant::now())
    });
    wait_for("the blocked stage", || waiting_stages(&server) == 1);
    let begin = Instant::now();
    cancel.cancel(Kind::Interrupted, "somebody pressed a key");
    let (error, mut session, end) = waiter.join().unwrap();
    assert!(
        end - begin < Duration::from_millis(300),
        "{:?}",
        end - begin
    );
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!(error.to_string(), "somebody pressed a key");
    // The session is dead, and stays it.
    assert_eq!(session.connection_id(), None);
    assert!(session.check_alive().is_err());
    let noticed = wait_for("the server to notice", || waiting_stages(&server) == 0);
    assert!(noticed < Duration::from_secs(5), "{noticed:?}");

    drop(blocker);
    let mut next = server
        .root(&Cancel::new(), waits(Some(5)))
        .connect()
        .unwrap();
    next.backup_stage(Stage::Start).unwrap();

    // A cancelled run makes no new connections either.
    let error = server
        .root(&cancel, Waits::default())
        .connect()
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
}

/// Not a test of its own: what [`a_killed_program_leaves_no_lock`] starts and kills.
#[test]
fn hold_a_stage_until_killed() {
    let Some(socket) = std::env::var_os(HOLD_AT) else {
        return;
    };
    let endpoint = Endpoint::Socket(socket.into());
    let server = Server::new(options(endpoint, "root", None), Cancel::new());
    let mut session = server.connect().unwrap();
    session.backup_stage(Stage::Start).unwrap();
    session.backup_stage(Stage::BlockCommit).unwrap();
    println!("held");
    std::thread::sleep(PATIENCE);
}

const HOLD_AT: &str = "XBPIPE_TEST_HOLD_AT";

#[test]
fn a_killed_program_leaves_no_lock() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "server_locks::hold_a_stage_until_killed",
            "--nocapture",
        ])
        .env(HOLD_AT, server.socket())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().contains("held")));
    let mut waiting = server
        .root(&Cancel::new(), waits(Some(1)))
        .connect()
        .unwrap();
    waiting.backup_stage(Stage::Start).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    waiting.backup_stage(Stage::Start).unwrap();
    server.sql("INSERT INTO d.t VALUES (1); DROP TABLE d.t");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn lock_wait_is_counted() {
    // The server's own limit on statements must not strike first.
    let server = TestServer::start(&["--max-statement-time=0.2"]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)");
    let _blocker = server.hold("LOCK TABLES d.t WRITE");
    let mut session = server
        .root(&Cancel::new(), waits(Some(1)))
        .connect()
        .unwrap();
    let begin = Instant::now();
    let error = session.backup_stage(Stage::Start).unwrap_err();
    assert_server(
        &error,
        "BACKUP STAGE START got no lock within 1s",
        "--lock-wait",
    );
    let time = begin.elapsed();
    assert!(
        time > Duration::from_millis(900) && time < Duration::from_secs(5),
        "{time:?}"
    );
}

#[test]
fn server_goes_away() {
    let mut server = TestServer::start(&[]);
    let root = server.root(&Cancel::new(), Waits::default());

    // Somebody kills the connection.
    let mut session = root.connect().unwrap();
    session.backup_stage(Stage::Start).unwrap();
    server.sql(&format!("KILL {}", session.connection_id().unwrap()));
    let error = session.backup_stage(Stage::Flush).unwrap_err();
    assert_eq!(error.kind(), Kind::Server);
    assert!(error.to_string().contains("BACKUP STAGE FLUSH"), "{error}");
    let error = session.backup_stage(Stage::End).unwrap_err();
    assert_server(&error, "stopped or closed the connection", "error log");

    // The server is killed while one session idles and another one waits.
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)");
    let blocker = server.hold("LOCK TABLES d.t WRITE");
    let mut idle = root.connect().unwrap();
    let mut waiting = root.connect().unwrap();
    let waiter = std::thread::spawn(move || waiting.backup_stage(Stage::Start).unwrap_err());
    wait_for("the blocked stage", || waiting_stages(&server) == 1);
    server.kill();
    drop(blocker);
    let error = waiter.join().unwrap();
    assert_server(
        &error,
        "closed the connection during BACKUP STAGE START",
        "error log",
    );
    let error = idle.lsn_status().unwrap_err();
    assert_server(
        &error,
        "stopped or closed the connection during SHOW STATUS",
        "error log",
    );
    let error = root.connect().unwrap_err();
    assert_server(&error, "no server listens at socket", "stopped");
}

#[test]
fn block_ddl_can_be_tried_again() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT) ENGINE=MyISAM");
    let mut session = server
        .root(&Cancel::new(), waits(Some(1)))
        .connect()
        .unwrap();
    session.backup_stage(Stage::Start).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| server.sql("INSERT INTO d.t SELECT SLEEP(3)"));
        wait_for("the long write", || {
            let sleeping = "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE='User sleep'";
            !server.sql(sleeping).is_empty()
        });
        session.backup_stage(Stage::Flush).unwrap();
        let error = session.backup_stage(Stage::BlockDdl).unwrap_err();
        assert_server(&error, "BACKUP STAGE BLOCK_DDL got no lock", "long writes");
        let insert = "SET lock_wait_timeout=1; INSERT INTO d.t VALUES (1)";
        assert!(server.try_sql(insert).is_err(), "the stage FLUSH was lost");
        writer.join().unwrap();
    });
    session.backup_stage(Stage::BlockDdl).unwrap();
    assert!(
        server
            .try_sql("SET lock_wait_timeout=1; DROP TABLE d.t")
            .is_err()
    );
    session.backup_stage(Stage::End).unwrap();
}

#[test]
fn a_hanging_server_is_not_waited_for() {
    let server = TestServer::start(&[]);
    let hasty = Waits {
        answer: Some(Duration::from_millis(500)),
        connect: Duration::from_millis(500),
        ..Waits::default()
    };
    let root = server.root(&Cancel::new(), hasty);
    let mut session = root.connect().unwrap();
    server.signal("STOP");
    let error = session.lsn_status().unwrap_err();
    assert_server(
        &error,
        "did not answer SHOW STATUS LIKE 'Innodb_lsn%' within 500ms",
        "hangs",
    );
    assert_server(
        &root.connect().unwrap_err(),
        "no answer from the server",
        "hangs",
    );
    server.signal("CONT");
    // A late answer cannot be taken for the next one: that connection is closed.
    assert_server(&session.lsn_status().unwrap_err(), "stopped or closed", "");
    root.connect().unwrap().lsn_status().unwrap();
}

#[test]
fn orderly_shutdown_while_waiting() {
    let server = TestServer::start(&[]);
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)");
    let _blocker = server.hold("LOCK TABLES d.t WRITE");
    let mut waiting = server
        .root(&Cancel::new(), Waits::default())
        .connect()
        .unwrap();
    let waiter = std::thread::spawn(move || waiting.backup_stage(Stage::Start).unwrap_err());
    wait_for("the blocked stage", || waiting_stages(&server) == 1);
    server.sql("SHUTDOWN");
    let error = waiter.join().unwrap();
    assert_eq!(error.kind(), Kind::Server);
    assert!(error.to_string().contains("BACKUP STAGE START"), "{error}");
}
