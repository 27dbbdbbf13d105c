//! Backups of real servers, prepared and started: the data is whole, and nothing outside the directory was touched.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use xbpipe::base::monitor::Event;
use xbpipe::metadata::checkpoints::{BackupType, Checkpoints};
use xbpipe::prepare::{PREPARE_LOG, PrepareOptions, prepare};

use crate::innodb_real::{as_strs, encryption};
use crate::raw_backup::{
    check_tables, collected, copy_of, prepared, raw_backup, refused, snapshot, unwatched,
};
use crate::server::{TestServer, run};
use crate::skip::skipped;

/// Accounts whose balances always sum up to the same.
const BANK: &str = "CREATE DATABASE d; CREATE DATABASE e; USE d; \
    CREATE TABLE bank (id INT PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(300)); \
    INSERT INTO bank SELECT seq, 1000, REPEAT('n', 250) FROM seq_1_to_4000; \
    CREATE TABLE a (v INT PRIMARY KEY); INSERT INTO a VALUES (1); \
    CREATE TABLE b (v INT PRIMARY KEY); INSERT INTO b VALUES (2); \
    CREATE TABLE aria_t (v INT) ENGINE=Aria; INSERT INTO aria_t SELECT seq FROM seq_1_to_500; \
    CREATE TABLE isam_t (v INT) ENGINE=MyISAM; INSERT INTO isam_t SELECT seq FROM seq_1_to_500; \
    SET GLOBAL innodb_max_dirty_pages_pct_lwm=0; SET GLOBAL innodb_log_checkpoint_now=ON;";

/// Transfers, and tables that are made, swapped, moved and dropped.
fn load(rounds: usize) -> String {
    let mut text = "USE d; SET SESSION innodb_lock_wait_timeout=5;".to_owned();
    for i in 0..rounds {
        text += &format!(
            "BEGIN; UPDATE bank SET balance = balance - {i} WHERE id = {}; \
             UPDATE bank SET balance = balance + {i}, note = REPEAT('m', {}) WHERE id = {}; COMMIT;",
            i % 3999 + 1,
            100 + i % 150,
            (i * 7) % 4000 + 1
        );
        match i % 20 {
            3 => text += "RENAME TABLE a TO swap_t, b TO a, swap_t TO b;",
            7 => text += &format!("CREATE TABLE t{i} AS SELECT * FROM bank LIMIT 300;"),
            11 => text += &format!("RENAME TABLE t{} TO e.moved{i};", i - 4),
            13 => text += &format!("DROP TABLE e.moved{};", i - 2),
            17 => text += &format!("ALTER TABLE bank ADD COLUMN c{i} INT, FORCE;"),
            18 => text += &format!("ALTER TABLE bank DROP COLUMN c{};", i - 1),
            _ => {}
        }
    }
    text
}

fn backup_type(dir: &Path) -> BackupType {
    let text = std::fs::read(dir.join("xtrabackup_checkpoints")).unwrap();
    Checkpoints::parse(&text).unwrap().backup_type
}

fn sum(server: &TestServer) -> String {
    server
        .sql("SELECT COUNT(*), SUM(balance) FROM d.bank")
        .trim()
        .to_owned()
}

#[test]
fn a_backup_under_load_comes_up_whole_and_preparing_twice_is_harmless() {
    let server = TestServer::start(&["--log-bin"]);
    server.sql(BANK);
    let script = server.scratch().join("load.sql");
    std::fs::write(&script, load(3000).replace(';', ";\n")).unwrap();
    let mut writes = server.sql_in_background(&format!("source {}", script.display()));
    let dir = raw_backup(&server, "backup");
    writes.kill().unwrap();
    writes.wait().unwrap();
    let summary = prepared(&dir);
    assert!(!summary.already_prepared && !summary.resumed);
    assert!(summary.binlog_position.contains("filename"), "{summary:?}");
    assert_eq!(backup_type(&dir), BackupType::LogApplied);
    let before = snapshot(&dir);
    let ours: Vec<_> = before
        .keys()
        .filter(|p| p.to_string_lossy().contains("xbpipe"))
        .collect();
    assert_eq!(ours, [Path::new(PREPARE_LOG)]);

    let again = prepared(&dir);
    assert!(again.already_prepared && !again.resumed);
    assert_eq!(snapshot(&dir), before);

    let restored = TestServer::start_on(&dir, &[]);
    check_tables(&restored);
    assert_eq!(sum(&restored), "4000\t4000000");
    let swapped = restored.sql("SELECT (SELECT v FROM d.a) + (SELECT v FROM d.b)");
    assert_eq!(swapped.trim(), "3");
    let others = restored.sql("SELECT COUNT(*) FROM d.aria_t; SELECT COUNT(*) FROM d.isam_t");
    assert_eq!(others, "500\n500\n");
}

#[test]
fn swapped_chained_and_moved_tables_get_their_last_names() {
    let server = TestServer::start(&[]);
    server.sql(
        "CREATE DATABASE d; USE d; CREATE DATABASE e; CREATE TABLE keep (v INT); \
         CREATE TABLE a (v INT); CREATE TABLE b (v INT); CREATE TABLE c (v INT); CREATE TABLE e.m (v INT); \
         INSERT INTO a VALUES (1); INSERT INTO b VALUES (2); INSERT INTO c VALUES (3); \
         INSERT INTO e.m VALUES (4); FLUSH TABLES a, b, c, e.m FOR EXPORT",
    );
    let dir = raw_backup(&server, "backup");
    // Late tables have the ending .new; give every file its name, then undo what the markers will do.
    let at = |name: &str| dir.join(name);
    for name in ["d/a", "d/b", "d/c", "e/m", "d/keep"] {
        let (late, file) = (at(&format!("{name}.new")), at(&format!("{name}.ibd")));
        if late.exists() {
            std::fs::rename(&late, &file).unwrap();
        }
    }
    std::fs::rename(at("d/a.ibd"), at("x")).unwrap();
    std::fs::rename(at("d/b.ibd"), at("d/a.ibd")).unwrap();
    std::fs::rename(at("x"), at("d/b.ibd")).unwrap();
    std::fs::rename(at("d/c.ibd"), at("e/first.ibd")).unwrap();
    std::fs::rename(at("e/m.ibd"), at("d/c.ibd")).unwrap();
    std::fs::rename(at("d/keep.ibd"), at("d/keep.new")).unwrap();
    std::fs::write(at("d/gone.ibd"), [0; 65536]).unwrap();
    for (marker, content) in [
        ("d/a.ren", "d/b"),
        ("d/b.ren", "d/a"),
        ("e/first.ren", "d/c"),
        ("d/c.ren", "e/m\n"),
        ("d/gone.del", ""),
    ] {
        std::fs::write(at(marker), content).unwrap();
    }
    assert_eq!(prepared(&dir).moved_files, 6);
    let restored = TestServer::start_on(&dir, &[]);
    check_tables(&restored);
    let rows = "SELECT * FROM d.a; SELECT * FROM d.b; SELECT * FROM d.c; SELECT * FROM e.m";
    assert_eq!(restored.sql(rows), "1\n2\n3\n4\n");
    for marker in ["d/a.ren", "d/gone.del", "d/gone.ibd", "d/keep.new"] {
        assert!(!at(marker).exists(), "{marker}");
    }
}

#[test]
fn small_pages_more_data_files_and_undo_tablespaces() {
    let install = [
        "--innodb-page-size=8k",
        "--innodb-data-file-path=ibdata1:12M;ibdata2:2M:autoextend",
        "--innodb-undo-tablespaces=3",
    ];
    let server = TestServer::start_installed(&install, &[]);
    server.sql(BANK);
    let mut writes = server.sql_in_background(&load(200));
    let dir = raw_backup(&server, "backup");
    assert!(writes.wait().unwrap().success());
    prepared(&dir);
    let restored = TestServer::start_on(&dir, &install);
    check_tables(&restored);
    assert_eq!(sum(&restored), "4000\t4000000");
}

#[test]
fn an_encrypted_backup_needs_its_keys_and_nothing_else() {
    let (keys, options) = encryption();
    let server = TestServer::start(&as_strs(&options));
    server.sql(BANK);
    server.sql("ALTER TABLE d.bank ENCRYPTED=YES");
    let mut writes = server.sql_in_background(&load(150));
    let dir = raw_backup(&server, "backup");
    assert!(writes.wait().unwrap().success());
    let moved_dir = tempfile::tempdir().unwrap();
    let moved = moved_dir.path().join("elsewhere");
    let original = keys.path().join("keys");
    std::fs::rename(&original, &moved).unwrap();

    let copy = copy_of(&dir, "without keys");
    let error = prepare(&PrepareOptions::new(&copy), &unwatched()).unwrap_err();
    assert!(error.to_string().contains("keys"), "{error}");
    assert_eq!(backup_type(&copy), BackupType::Full);

    // The same directory, now with the keys where they are: the broken-off run is finished.
    let mut with_keys = PrepareOptions::new(&copy);
    let option = format!("file_key_management_filename={}", moved.display());
    with_keys.key_options.push(option);
    assert!(prepare(&with_keys, &unwatched()).unwrap().resumed);

    std::fs::rename(&moved, &original).unwrap();
    prepared(&dir);
    for dir in [dir, copy] {
        let restored = TestServer::start_on(&dir, &as_strs(&options));
        check_tables(&restored);
        assert_eq!(sum(&restored), "4000\t4000000");
    }
}

/// Prepares, and insists on being told of the tables below `far`, and what to do about them.
#[track_caller]
fn warned(dir: &Path, far: &Path) {
    let (run, monitor) = collected();
    prepare(&PrepareOptions::new(dir), &run).unwrap();
    let warnings: Vec<String> = (monitor.events().into_iter())
        .filter_map(|event| match event {
            Event::Warning(text) => Some(text),
            _ => None,
        })
        .collect();
    let story = warnings.join("\n");
    for name in ["d/far", "d/parts#P#p0"] {
        let target = far.join(format!("{name}.ibd"));
        let told = format!("{:?} leads to {target:?}", format!("{name}.isl"));
        assert!(story.contains(&told), "no {told} in {story}");
    }
    for words in [
        "remove the .isl files",
        "ALGORITHM=COPY",
        "REBUILD PARTITION ALL",
    ] {
        assert!(story.contains(words), "{story}");
    }
}

/// What the warning and `format-spec/servers.md` say to do.
fn remove_links(dir: &Path) {
    for name in ["d/far.isl", "d/parts#P#p0.isl"] {
        std::fs::remove_file(dir.join(name)).unwrap();
    }
}

/// r[servers.elsewhere]: the copies are complete, and can be written and altered.
#[track_caller]
fn come_home(restored: &TestServer) {
    check_tables(restored);
    let counted = restored.sql("SELECT COUNT(*) FROM d.far; SELECT COUNT(*) FROM d.parts");
    assert_eq!(counted, "3000\n2\n");
    restored.sql(
        "INSERT INTO d.parts VALUES (3), (4); INSERT INTO d.far VALUES (1, 'b'); \
         ALTER TABLE d.parts REBUILD PARTITION ALL; ALTER TABLE d.far FORCE, ALGORITHM=COPY",
    );
    // From here on they are tables like any others.
    let sums = restored.sql(
        "ALTER TABLE d.parts ADD x INT DEFAULT 1; ALTER TABLE d.parts FORCE; \
         ALTER TABLE d.parts FORCE, ALGORITHM=COPY; \
         ALTER TABLE d.far ADD x INT DEFAULT 1; ALTER TABLE d.far FORCE; \
         SELECT SUM(v), SUM(x) FROM d.parts; SELECT COUNT(*), SUM(x) FROM d.far; TRUNCATE d.far",
    );
    assert_eq!(sums, "10\t4\n3001\t3001\n");
    check_tables(restored);
    let definitions = restored.sql("SHOW CREATE TABLE d.far; SHOW CREATE TABLE d.parts");
    assert!(!definitions.contains("DIRECTORY"), "{definitions}");
    for name in ["d/far", "d/parts#P#p0"] {
        let place = |suffix: &str| restored.datadir().join(format!("{name}.{suffix}"));
        assert!(place("ibd").exists() && !place("isl").exists(), "{name}");
    }
}

#[test]
fn a_live_table_with_a_data_directory_is_not_touched() {
    for encrypted in [false, true] {
        let (_keys, mut options) = encryption();
        if !encrypted {
            options.clear();
        }
        let mut server = TestServer::start(&as_strs(&options));
        let far = server.scratch().join("far");
        std::fs::create_dir(&far).unwrap();
        server.sql(&format!(
            "CREATE DATABASE d; USE d; CREATE TABLE far (v INT, w VARCHAR(100)) DATA DIRECTORY='{0}'; \
             CREATE TABLE parts (v INT PRIMARY KEY) PARTITION BY HASH (v) \
             (PARTITION p0 DATA DIRECTORY='{0}', PARTITION p1); \
             INSERT INTO parts VALUES (1), (2); CREATE TABLE near (v INT)",
            far.display()
        ));
        let live = far.join("d/far.ibd");
        server.sql("SET GLOBAL innodb_log_checkpoint_now=ON");
        let before = std::fs::read(&live).unwrap();
        server.sql("INSERT INTO d.far SELECT seq, 'a' FROM d.seq_1_to_3000");
        let dir = raw_backup(&server, "backup");
        // What a server that follows the path would certainly change: a file that lacks what the log has. Nobody
        // locks it any more.
        server.kill();
        std::fs::write(&live, &before).unwrap();
        let link = std::fs::read(dir.join("d/far.isl")).unwrap();
        if encrypted {
            let words = "exists on this host";
            refused(
                &PrepareOptions::new(&dir),
                xbpipe::base::error::Kind::Failed,
                words,
            );
            std::fs::rename(&far, far.with_file_name("away")).unwrap();
            warned(&dir, &far);
            remove_links(&dir);
            let restored = TestServer::start_on(&dir, &as_strs(&options));
            come_home(&restored);
            assert!(!far.exists());
            continue;
        }
        warned(&dir, &far);
        assert!(
            std::fs::read(&live).unwrap() == before,
            "the live file was changed"
        );
        assert_eq!(std::fs::read(dir.join("d/far.isl")).unwrap(), link);
        // Asked again, it warns again.
        warned(&dir, &far);
        // Started where it is, the copy would open the live file; without the link it opens its own.
        remove_links(&dir);
        let restored = TestServer::start_on(&dir, &[]);
        come_home(&restored);
        drop(restored);
        assert!(
            std::fs::read(&live).unwrap() == before,
            "the live file was changed"
        );
    }
}

#[test]
fn root_recovers_as_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        skipped("not root");
        return;
    }
    let server = TestServer::start(&[]);
    server.sql(BANK);
    let dir = raw_backup(&server, "backup");
    for parent in dir.ancestors().skip(1).take(2) {
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    run(Command::new("chown")
        .args(["-R", "daemon:daemon"])
        .arg(&dir));
    let (run, monitor) = collected();
    prepare(&PrepareOptions::new(&dir), &run).unwrap();
    for (path, (uid, ..)) in snapshot(&dir) {
        // The log of a run by root is root's own.
        if path != Path::new(PREPARE_LOG) {
            assert_eq!(uid, 1, "{path:?}");
        }
    }
    let told = |words: &str| {
        let events = monitor.events();
        events
            .iter()
            .any(|e| matches!(e, Event::Info(text) if text.contains(words)))
    };
    assert!(told("End of log at LSN"), "{:?}", monitor.events());
}
