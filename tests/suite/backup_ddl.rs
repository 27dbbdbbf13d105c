//! DDL while a backup runs. The reader of the backup stops at a known place, so that each statement meets tables that were
//! copied already (prefix `a`) and tables that were not (prefix `z`); the restored server must have what the source has.

#![expect(
    clippy::disallowed_methods,
    reason = "tests put tablespace files in place with plain std"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::backup_support::{
    Content, Streamed, backup, check_tables, prepare, reference_prepares, restores,
};
use crate::server::TestServer;

/// Large tables are copied first: `a` tables, then these, then `z` tables.
const FILLERS: usize = 40;
/// When this filler comes out of the pipe, all `a` tables are out, and no `z` table was opened.
pub(crate) const MARKER: &str = "d/m10.ibd";

pub(crate) const PARTITIONS: &str = "PARTITION BY RANGE (id) (PARTITION p0 VALUES LESS THAN (10), \
    PARTITION p1 VALUES LESS THAN (20), PARTITION p2 VALUES LESS THAN (30))";

/// Tables that statements need: name and options.
const TABLES: [(&str, &str); 20] = [
    ("keep", ""),
    ("drop", ""),
    ("trunc", ""),
    ("ren", ""),
    ("s1", ""),
    ("s2", ""),
    ("c1", ""),
    ("c2", ""),
    ("c3", ""),
    ("move", ""),
    ("again", ""),
    ("copy", ""),
    ("inplace", ""),
    ("instant", ""),
    ("part", PARTITIONS),
    ("ex", ""),
    ("opt", ""),
    ("imp", ""),
    ("zip", "ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4"),
    ("page", "PAGE_COMPRESSED=1"),
];

pub(crate) fn create(name: &str, options: &str) -> String {
    format!(
        "CREATE TABLE {name} (id INT PRIMARY KEY, k INT, pad LONGBLOB, KEY (k)) ENGINE=InnoDB {options};"
    )
}

pub(crate) fn rows(name: &str, pad: usize) -> String {
    format!(
        "INSERT INTO {name} SELECT seq, seq*7, RAND(seq) FROM d.seq_1_to_25;
         INSERT INTO {name} SELECT 26, 0, GROUP_CONCAT(MD5(seq) SEPARATOR '') FROM d.seq_1_to_{};",
        pad / 32
    )
}

/// The other engines, and what is no table.
pub(crate) const OTHERS: &str = "
    CREATE TABLE o.myisam (a INT PRIMARY KEY, b TEXT, FULLTEXT (b)) ENGINE=MyISAM;
    CREATE TABLE o.aria (a INT PRIMARY KEY, b TEXT) ENGINE=Aria TRANSACTIONAL=1;
    CREATE TABLE o.plain (a INT PRIMARY KEY, b TEXT) ENGINE=Aria TRANSACTIONAL=0;
    CREATE TABLE o.csv (a INT NOT NULL) ENGINE=CSV;
    CREATE TABLE o.`strange name/#1` (a INT) ENGINE=InnoDB;
    CREATE TABLE o.fts (a INT PRIMARY KEY, b TEXT, FULLTEXT (b)) ENGINE=InnoDB;
    CREATE SEQUENCE o.seq;
    CREATE VIEW o.v AS SELECT a FROM o.aria;
    CREATE PROCEDURE o.p() SELECT 1;
    CREATE TRIGGER o.tr BEFORE INSERT ON o.aria FOR EACH ROW SET NEW.b = CONCAT(NEW.b, '!');
    INSERT INTO o.myisam SELECT seq, CONCAT('word', seq) FROM d.seq_1_to_500;
    INSERT INTO o.aria SELECT seq, REPEAT('x', 100) FROM d.seq_1_to_5000;
    INSERT INTO o.plain SELECT seq, REPEAT('x', 100) FROM d.seq_1_to_500;
    INSERT INTO o.csv SELECT seq FROM d.seq_1_to_500;
    INSERT INTO o.fts SELECT seq, CONCAT('word', seq) FROM d.seq_1_to_500;
    INSERT INTO o.`strange name/#1` VALUES (1);";

fn fill(server: &TestServer) {
    let mut sql = String::from(
        "SET group_concat_max_len=10000000; CREATE DATABASE d; CREATE DATABASE e; CREATE DATABASE o;
         CREATE DATABASE empty_before; USE d;",
    );
    for (prefix, pad) in [("a", 400_000), ("z", 100)] {
        for (table, options) in TABLES {
            let name = format!("d.{prefix}_{table}");
            // The last row would not fit the partitions.
            let pad_rows = rows(&name, pad).replace("SELECT 26, 0", "SELECT 0, 0");
            sql += &format!("{}{pad_rows}", create(&name, options));
        }
        sql += &format!("CREATE DATABASE {prefix}_old;");
        let name = format!("{prefix}_old.t");
        sql += &format!("{}{}", create(&name, ""), rows(&name, pad));
    }
    sql += &fillers();
    sql += OTHERS;
    server.sql(&sql);
}

/// What is copied between the `a` and the `z` tables.
pub(crate) fn fillers() -> String {
    (0..FILLERS)
        .map(|n| format!("d.m{n:02}"))
        .map(|name| format!("{}{}", create(&name, ""), rows(&name, 200_000)))
        .collect()
}

fn change(server: &TestServer, p: &str) {
    let new = |name: &str| format!("{}{}", create(name, ""), rows(name, 3000));
    server.sql(&format!(
        "USE d; SET group_concat_max_len=10000000; {}
         DROP TABLE d.{p}_drop;
         TRUNCATE d.{p}_trunc; {}
         RENAME TABLE d.{p}_ren TO d.{p}_ren2;
         RENAME TABLE d.{p}_s1 TO d.{p}_tmp, d.{p}_s2 TO d.{p}_s1, d.{p}_tmp TO d.{p}_s2;
         UPDATE d.{p}_s1 SET k=1; UPDATE d.{p}_s2 SET k=2;
         RENAME TABLE d.{p}_c3 TO d.{p}_c4, d.{p}_c2 TO d.{p}_c3, d.{p}_c1 TO d.{p}_c2;
         UPDATE d.{p}_c2 SET k=2; UPDATE d.{p}_c4 SET k=4;
         RENAME TABLE d.{p}_move TO e.{p}_move; UPDATE e.{p}_move SET k=9;
         DROP TABLE d.{p}_again; {} DROP TABLE d.{p}_again; {}
         ALTER TABLE d.{p}_copy MODIFY k BIGINT, ALGORITHM=COPY;
         ALTER TABLE d.{p}_inplace ADD KEY kk (k, id), FORCE, ALGORITHM=INPLACE;
         ALTER TABLE d.{p}_instant ADD x INT DEFAULT 5, ALGORITHM=INSTANT;
         INSERT INTO d.{p}_instant (id, x) VALUES (100, 6);
         ALTER TABLE d.{p}_part ADD PARTITION (PARTITION p3 VALUES LESS THAN (40));
         INSERT INTO d.{p}_part (id) VALUES (35);
         ALTER TABLE d.{p}_part DROP PARTITION p0;
         ALTER TABLE d.{p}_part TRUNCATE PARTITION p1;
         DELETE FROM d.{p}_ex WHERE id < 20; 
         ALTER TABLE d.{p}_part EXCHANGE PARTITION p2 WITH TABLE d.{p}_ex;
         OPTIMIZE TABLE d.{p}_opt;
         ALTER TABLE d.{p}_zip ADD KEY kk (k, id), FORCE; UPDATE d.{p}_page SET k=3;
         CREATE DATABASE {p}_new; {} CREATE DATABASE {p}_empty; DROP DATABASE {p}_old;",
        new(&format!("d.{p}_new")),
        rows(&format!("d.{p}_trunc"), 3000),
        new(&format!("d.{p}_again")),
        new(&format!("d.{p}_again")),
        new(&format!("{p}_new.t")),
    ));
    // A file in the way lets CREATE TABLE fail after it has named a tablespace in the log.
    let file = server.datadir().join(format!("d/{p}_failed.ibd"));
    std::fs::write(&file, b"in the way").unwrap();
    let failed = server.try_sql(&create(&format!("d.{p}_failed"), ""));
    assert!(failed.unwrap_err().contains("already exists"));
    std::fs::remove_file(file).unwrap();
    server.sql(&new(&format!("d.{p}_failed")));
}

/// The file of `table` (`db.name`) with this suffix.
fn file_of(server: &TestServer, table: &str, suffix: &str) -> PathBuf {
    let name = format!("{}.{suffix}", table.replace('.', "/"));
    server.datadir().join(name)
}

/// Saves what IMPORT TABLESPACE needs of `table`.
fn export(server: &TestServer, table: &str) {
    let cfg = file_of(server, table, "cfg");
    let mut holder =
        server.sql_in_background(&format!("FLUSH TABLES {table} FOR EXPORT; DO SLEEP(1000)"));
    // It is written before the statement ends, and the lock is held until then and longer.
    let begin = Instant::now();
    while std::fs::read(&cfg).map_or(0, |bytes| bytes.len()) < 100 {
        assert!(begin.elapsed() < Duration::from_secs(20), "no {cfg:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    for suffix in ["ibd", "cfg"] {
        let saved = server.scratch().join(format!("saved.{suffix}"));
        std::fs::copy(file_of(server, table, suffix), saved).unwrap();
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

fn discard_and_place(server: &TestServer, table: &str) {
    server.sql(&format!("ALTER TABLE {table} DISCARD TABLESPACE"));
    for suffix in ["ibd", "cfg"] {
        let saved = server.scratch().join(format!("saved.{suffix}"));
        std::fs::copy(saved, file_of(server, table, suffix)).unwrap();
    }
}

fn import(server: &TestServer, table: &str) {
    server.sql(&format!(
        "ALTER TABLE {table} IMPORT TABLESPACE; UPDATE {table} SET k=k+1000"
    ));
    std::fs::remove_file(file_of(server, table, "cfg")).unwrap();
}

#[test]
fn every_kind_of_ddl_meets_copied_and_uncopied_tables() {
    let server = TestServer::start(&[]);
    fill(&server);
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until(MARKER);
    assert!(backup.has("d/a_keep.ibd") && !backup.has("d/z_keep.ibd"));
    change(&server, "a");
    change(&server, "z");
    let target = server.scratch().join("restored");
    backup.extract(&target);
    reference_prepares(&target);
    // The directories of dropped databases must not come back either.
    restores(&server, &target, &[]);
}

#[test]
fn imported_tablespaces_are_whole() {
    let server = TestServer::start(&[]);
    fill(&server);
    // In `early` a foreign file lies ready, which is copied as it is before it is imported.
    server.sql(&format!(
        "USE d; SET group_concat_max_len=10000000; {}{} {}",
        create("big", ""),
        rows("big", 400_000),
        create("early", "")
    ));
    export(&server, "d.big");
    discard_and_place(&server, "d.early");
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until(MARKER);
    assert!(backup.has("d/early.ibd") && backup.has("d/a_imp.ibd") && !backup.has("d/z_keep.ibd"));
    import(&server, "d.early");
    for table in ["d.a_imp", "d.z_imp"] {
        discard_and_place(&server, table);
        import(&server, table);
    }
    server.sql("RENAME TABLE d.z_imp TO d.a_imp2");
    let target = server.scratch().join("restored");
    let story = backup.extract(&target);
    for name in ["d/early", "d/a_imp", "d/a_imp2"] {
        assert!(story.contains(name), "{story}");
    }
    reference_prepares(&target);
    restores(&server, &target, &[]);
}

#[test]
fn tables_elsewhere_come_home() {
    let server = TestServer::start(&[]);
    fill(&server);
    let away = server.scratch().join("away");
    let elsewhere = format!("DATA DIRECTORY='{}'", away.display());
    let make = |name: &str, pad| format!("{}{}", create(name, &elsewhere), rows(name, pad));
    std::fs::create_dir(&away).unwrap();
    server.sql(&format!(
        "USE d; SET group_concat_max_len=10000000; {} {} {}",
        make("a_away", 400_000),
        make("a_away_gone", 400_000),
        make("z_away", 100)
    ));
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until(MARKER);
    assert!(backup.has("d/a_away.ibd") && !backup.has("d/z_keep.ibd"));
    // The first pages of what is new are in the server's memory only when the backup ends.
    server.sql("SET GLOBAL innodb_max_dirty_pages_pct=99, innodb_max_dirty_pages_pct_lwm=0");
    server.sql(&format!(
        "USE d; DROP TABLE a_away_gone; TRUNCATE z_away; {} {} ALTER TABLE a_away FORCE;
         RENAME TABLE d.away_new TO d.away_other;",
        make("away_new", 100),
        make("away_pending", 100)
    ));
    // A failed CREATE TABLE names a tablespace that never was, at a path outside.
    std::fs::write(away.join("d/failed.ibd"), b"in the way").unwrap();
    let failed = server.try_sql(&create("d.failed", &elsewhere));
    assert!(failed.unwrap_err().contains("already exists"));
    std::fs::remove_file(away.join("d/failed.ibd")).unwrap();
    let target = server.scratch().join("restored");
    backup.extract(&target);

    let shown = elsewhere.replacen("away'", "away/'", 1);
    let expected = Content::of(&server);
    let mut server = server;
    server.shutdown();
    let story = prepare(&target);
    // The link files would lead the restored server to the files of this one, so it is said to remove them.
    assert!(story.contains("remove the .isl files"), "{story}");
    for database in ["d", "e"] {
        for entry in std::fs::read_dir(target.join(database)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "isl") {
                let place = path.strip_prefix(&target).unwrap().with_extension("ibd");
                let told = format!("leads to {:?}", away.join(place));
                assert!(story.contains(&told), "no {told} in {story}");
                std::fs::remove_file(path).unwrap();
            }
        }
    }
    std::fs::rename(&away, away.with_extension("old")).unwrap();
    let restored = TestServer::start_on(&target, &[]);
    check_tables(&restored);
    let mut found = Content::of(&restored);
    found.forget(&shown);
    let mut expected = expected;
    expected.forget(&shown);
    expected.assert_same(&found);
}
