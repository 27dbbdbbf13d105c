//! Sessions against a real server: what they read, hold, release, and how they fail.

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use xbpipe::base::cancel::Cancel;
use xbpipe::base::fsx;
use xbpipe::server::connect::Endpoint;
use xbpipe::server::flavor::{Family, Support};
use xbpipe::server::privileges::{Needs, Privilege};
use xbpipe::server::session::{Server, Waits};
use xbpipe::server::sql::Stage;

use crate::server::{TestServer, free_port, run, wide_path};
use crate::session::{assert_server, options, wait_for};

/// What a program prints.
fn said(command: &mut Command) -> String {
    String::from_utf8(run(command.env("PATH", wide_path())).stdout).unwrap()
}

#[test]
fn answers_are_typed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fsx::write_small(&keys, b"1;770A8A65DA156D24EE2A093277530142\n").unwrap();
    let keys = format!("--file-key-management-filename={}", keys.display());
    let server = TestServer::start(&[
        "--plugin-load-add=file_key_management",
        &keys,
        "--innodb-encrypt-log",
        "--log-bin=master-bin",
        "--server-id=42",
        "--gtid-domain-id=7",
        "--plugin-load-add=provider_lz4",
        "--plugin-load-add=auth_ed25519",
        "--ignore-db-dirs=lost+found",
        "--ignore-db-dirs=other",
    ]);
    let mut session = server
        .root(&Cancel::new(), Waits::default())
        .connect()
        .unwrap();
    let flavor = session.identify().unwrap();
    assert_eq!(flavor.family, Family::MariaDb);
    let version = said(Command::new("mariadbd").arg("--version"));
    assert!(version.contains(&flavor.version.to_string()), "{flavor}");
    assert_eq!(flavor.row().support, Support::Supported);

    let variables = session.variables().unwrap();
    let datadir = server.datadir();
    assert_eq!(variables.datadir, datadir);
    assert_eq!(variables.innodb_log_group_home_dir, datadir);
    assert_eq!(variables.innodb_undo_directory, datadir);
    assert_eq!(variables.aria_log_dir_path, datadir);
    assert_eq!(variables.innodb_log_file_size.0, 10 << 20);
    assert_eq!(
        (
            variables.innodb_undo_tablespaces,
            variables.innodb_page_size
        ),
        (0, 16384)
    );
    assert_eq!((variables.server_id, variables.gtid_domain_id), (42, 7));
    assert_eq!(variables.innodb_checksum_algorithm, "full_crc32");
    assert_eq!(variables.innodb_data_file_path, "ibdata1:12M:autoextend");
    assert_eq!(variables.log_bin_basename, Some(datadir.join("master-bin")));
    assert_eq!(variables.ignore_db_dirs, ["lost+found", "other"]);
    assert_eq!(variables.socket, Some(server.socket().to_owned()));
    assert!(variables.log_bin && !variables.wsrep_on && variables.innodb_encrypt_log);
    assert!(!variables.aria_encrypt_tables && !variables.innodb_encrypt_tables);
    let names: Vec<_> = variables
        .plugins
        .iter()
        .map(|p| (p.name.as_str(), p.encrypts))
        .collect();
    assert_eq!(
        names,
        [("file_key_management", true), ("provider_lz4", false)]
    );
    let option = |name: &str| variables.plugin_options.iter().find(|o| o.name == name);
    let file = option("file_key_management_filename").unwrap();
    assert!(keys.ends_with(&file.value) && !file.value.is_empty());
    assert!(option("file_key_management_filekey").is_some());

    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT) ENGINE=InnoDB");
    let before = session.lsn_status().unwrap();
    server.sql("INSERT INTO d.t VALUES (1)");
    session.flush_engine_logs().unwrap();
    let after = session.lsn_status().unwrap();
    assert!(after.current > before.current && after.flushed >= before.current);
    assert!(after.last_checkpoint <= after.flushed && after.flushed <= after.current);
    session.checkpoint_now().unwrap();
    assert!(session.lsn_status().unwrap().last_checkpoint > after.last_checkpoint);

    let status = server.sql("SHOW MASTER STATUS");
    let position = session.binlog_position().unwrap().unwrap();
    assert_eq!(
        status.trim_end(),
        format!("{}\t{}", position.file, position.position)
    );
    assert_eq!(position.gtid_current_pos, "7-42-3");
    assert_eq!(position.gtid_binlog_pos, "7-42-3");

    assert_eq!(session.slave_status().unwrap().connections, []);
    server.sql(
        "SET GLOBAL gtid_slave_pos='9-9-9'; CHANGE MASTER 'c1' TO MASTER_HOST='127.0.0.1', \
         MASTER_PORT=4321, MASTER_LOG_FILE='x.000004', MASTER_LOG_POS=5678, MASTER_USE_GTID=no",
    );
    let replica = session.slave_status().unwrap();
    assert_eq!(replica.gtid_slave_pos, "9-9-9");
    let one = &replica.connections[0];
    assert_eq!(
        (one.name.as_str(), one.host.as_str(), one.port),
        ("c1", "127.0.0.1", 4321)
    );
    assert_eq!(
        (one.applied_file.as_str(), one.applied_position),
        ("x.000004", 5678)
    );
    assert!(!one.uses_gtid && !one.receiver_runs && !one.applier_runs);

    assert_eq!(session.galera_state().unwrap(), None);
    session.check_alive().unwrap();
    let id = session.connection_id().unwrap();
    session.close().unwrap();
    wait_for("the end of the connection", || {
        server
            .sql(&format!(
                "SELECT 1 FROM information_schema.PROCESSLIST WHERE ID={id}"
            ))
            .is_empty()
    });
}

#[test]
fn idle_sessions_stay_and_stages_follow_in_order() {
    let server = TestServer::start(&["--wait-timeout=1", "--interactive-timeout=1"]);
    let mut session = server
        .root(&Cancel::new(), Waits::default())
        .connect()
        .unwrap();
    assert_eq!(session.binlog_position().unwrap(), None);
    assert!(!session.variables().unwrap().log_bin);
    for stage in [
        Stage::Start,
        Stage::Flush,
        Stage::BlockDdl,
        Stage::BlockCommit,
    ] {
        session.backup_stage(stage).unwrap();
        session.lsn_status().unwrap();
    }
    std::thread::sleep(Duration::from_millis(2500));
    session.backup_stage(Stage::End).unwrap();
}

#[test]
fn refused_connections() {
    let server = TestServer::start(&["--max-connections=10"]);
    server.sql("CREATE USER u@localhost IDENTIFIED BY 'right'");
    server.account("u", Some("right")).connect().unwrap();
    let error = server.account("u", Some("wrong")).connect().unwrap_err();
    assert_server(
        &error,
        "Access denied for user 'u'@'localhost'",
        "--password-file",
    );
    let error = server.account("u", None).connect().unwrap_err();
    assert_server(&error, "using password: NO", "--password-file");
    assert!(!format!("{error:?}").contains("right"));
    let session = server.account("u", Some("right")).connect().unwrap();
    assert!(!format!("{session:?}").contains("right"));
    drop(session);

    let dir = tempfile::tempdir().unwrap();
    let at = |endpoint| Server::new(options(endpoint, "u", None), Cancel::new());
    let missing = at(Endpoint::Socket(dir.path().join("none")));
    assert_server(
        &missing.connect().unwrap_err(),
        "there is no server at socket",
        "--socket",
    );
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let error = at(Endpoint::Socket(stale)).connect().unwrap_err();
    assert_server(
        &error,
        "no server listens at socket",
        "without removing its socket",
    );
    let closed = at(Endpoint::Tcp("127.0.0.1".to_owned(), free_port()));
    assert_server(
        &closed.connect().unwrap_err(),
        "no server listens at 127.0.0.1",
        "port",
    );
    let unknown = at(Endpoint::Tcp("no-such-host.invalid".to_owned(), 3306));
    assert_server(
        &unknown.connect().unwrap_err(),
        "cannot reach the server",
        "host name",
    );

    // Somebody listens and says nothing.
    let silent = dir.path().join("silent");
    let _listener = UnixListener::bind(&silent).unwrap();
    let hasty = Waits {
        connect: Duration::from_millis(300),
        ..Waits::default()
    };
    let error = at(Endpoint::Socket(silent))
        .with_waits(hasty)
        .connect()
        .unwrap_err();
    assert_server(&error, "no answer from the server", "hangs");

    let root = server.root(&Cancel::new(), Waits::default());
    let mut held = Vec::new();
    let error = loop {
        match root.connect() {
            Ok(session) => held.push(session),
            Err(error) => break error,
        }
        assert!(held.len() < 20);
    };
    assert_server(&error, "Too many connections", "max_connections");
}

#[test]
fn accounts_of_other_plugins() {
    let server = TestServer::start(&["--plugin-load-add=auth_ed25519"]);
    let me = said(Command::new("id").arg("-un")).trim().to_owned();
    server.sql(&format!(
        "CREATE USER e@localhost IDENTIFIED VIA ed25519 USING PASSWORD('secret'); \
         CREATE USER other_os_user@localhost IDENTIFIED VIA unix_socket; \
         CREATE OR REPLACE USER '{me}'@'localhost' IDENTIFIED VIA unix_socket"
    ));
    server
        .account("e", Some("secret"))
        .connect()
        .unwrap()
        .identify()
        .unwrap();
    // One login in 256 has a scramble that the driver misreads.
    let denied = (0..2000).filter(|_| server.account("e", Some("secret")).connect().is_err());
    assert!(denied.count() <= 1);
    let error = server.account("e", Some("wrong")).connect().unwrap_err();
    assert_server(&error, "Access denied for user 'e'@'localhost'", "password");
    server
        .account(&me, None)
        .connect()
        .unwrap()
        .identify()
        .unwrap();
    let error = server.account("other_os_user", None).connect().unwrap_err();
    assert_server(&error, "Access denied", "unix_socket");
}

#[test]
fn missing_privileges() {
    let server = TestServer::start(&["--log-bin"]);
    let all = Needs {
        binlog: true,
        slave_info: true,
        checkpoint_now: true,
    };
    let every = [
        Privilege::Reload,
        Privilege::BinlogMonitor,
        Privilege::SlaveMonitor,
        Privilege::Super,
    ];
    for (index, lacks) in every.iter().enumerate() {
        let granted: Vec<String> = every
            .iter()
            .filter(|p| *p != lacks)
            .map(|p| p.to_string())
            .collect();
        server.sql(&format!(
            "CREATE USER u{index}@localhost; GRANT {} ON *.* TO u{index}@localhost",
            granted.join(",")
        ));
        let mut session = server
            .account(&format!("u{index}"), None)
            .connect()
            .unwrap();
        let missing = session.missing_privileges(&all).unwrap();
        // SHOW MASTER STATUS and SHOW ALL SLAVES STATUS accept SUPER instead of a monitor
        // privilege.
        match lacks {
            Privilege::BinlogMonitor | Privilege::SlaveMonitor => assert_eq!(missing, []),
            _ => assert_eq!(missing, [*lacks]),
        }
        assert_eq!(
            session
                .missing_privileges(&Needs::default())
                .unwrap()
                .is_empty(),
            *lacks != Privilege::Reload
        );
    }

    server.sql("CREATE USER `no``body@x`@localhost");
    let error = server
        .account("no`body@x", None)
        .connect()
        .unwrap()
        .check_privileges(&all);
    let error = error.unwrap_err();
    assert_server(
        &error,
        "lacks RELOAD, BINLOG MONITOR, SLAVE MONITOR, SUPER",
        "GRANT RELOAD, BINLOG MONITOR, SLAVE MONITOR, SUPER ON *.* TO `no``body@x`@`localhost`",
    );
    // The hint is the remedy, word for word.
    server.sql(error.hint_text().unwrap());
    server
        .account("no`body@x", None)
        .connect()
        .unwrap()
        .check_privileges(&all)
        .unwrap();

    // Without SUPER each of the monitors is missed by itself.
    for (index, lacks) in [Privilege::BinlogMonitor, Privilege::SlaveMonitor]
        .iter()
        .enumerate()
    {
        let other = [Privilege::SlaveMonitor, Privilege::BinlogMonitor][index];
        server.sql(&format!(
            "CREATE USER m{index}@localhost; GRANT RELOAD, {other} ON *.* TO m{index}@localhost"
        ));
        let needs = Needs {
            checkpoint_now: false,
            ..all
        };
        let mut session = server
            .account(&format!("m{index}"), None)
            .connect()
            .unwrap();
        assert_eq!(session.missing_privileges(&needs).unwrap(), [*lacks]);
    }

    // A role counts when it is the default one, and is named when it is not.
    server.sql(
        "CREATE ROLE backup_role; GRANT RELOAD, BINLOG MONITOR ON *.* TO backup_role; \
         CREATE USER r@localhost; GRANT backup_role TO r@localhost",
    );
    let needs = Needs {
        binlog: true,
        ..Needs::default()
    };
    let error = server
        .account("r", None)
        .connect()
        .unwrap()
        .check_privileges(&needs)
        .unwrap_err();
    assert_server(
        &error,
        "lacks RELOAD, BINLOG MONITOR",
        "SET DEFAULT ROLE `backup_role` FOR",
    );
    server.sql("SET DEFAULT ROLE backup_role FOR r@localhost");
    server
        .account("r", None)
        .connect()
        .unwrap()
        .check_privileges(&needs)
        .unwrap();

    // A statement refused on the way names the privilege too.
    server.sql("CREATE USER n@localhost");
    let mut session = server.account("n", None).connect().unwrap();
    assert_server(
        &session.backup_stage(Stage::Start).unwrap_err(),
        "RELOAD",
        "grant",
    );
    session.check_alive().unwrap();
}
