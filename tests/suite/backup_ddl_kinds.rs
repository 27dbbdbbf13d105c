//! More kinds of DDL while a backup runs: what changes engines, partitions, indexes, keys and formats, what is no table, and
//! tables outside of InnoDB. As in `backup_ddl`, each statement meets tables copied already (`a`) and not yet (`z`).

use std::path::Path;
use std::sync::{Arc, Mutex};

use xbpipe::backup::{BackupOptions, Destination};
use xbpipe::base::cancel::Cancel;
use xbpipe::base::monitor::{Counters, Event, Monitor};
use xbpipe::base::run::Run;
use xbpipe::base::units::ByteCount;
use xbpipe::server::session::Waits;

use crate::backup_ddl::{MARKER, OTHERS, PARTITIONS, create, fillers, rows};
use crate::backup_support::{Streamed, backup, reference_prepares, restores};
use crate::server::TestServer;

/// Tables that statements need: name and options.
const TABLES: [(&str, &str); 15] = [
    ("keep", ""),
    ("to_isam", ""),
    ("repart", ""),
    ("unpart", PARTITIONS),
    ("reorg", PARTITIONS),
    ("coal", "PARTITION BY HASH (id) PARTITIONS 4"),
    ("grow", "PARTITION BY HASH (id) PARTITIONS 2"),
    ("part_gone", PARTITIONS),
    ("part_ren", PARTITIONS),
    ("conv", "CHARACTER SET latin1"),
    ("row", "ROW_FORMAT=COMPACT"),
    ("zip", ""),
    ("replaced", ""),
    ("versioned", "WITH SYSTEM VERSIONING"),
    ("charset", "COMMENT='old'"),
];

/// Other tables of `d`, and databases, by prefix.
fn make(p: &str, pad: usize) -> String {
    let mut sql = String::new();
    for (table, options) in TABLES {
        let name = format!("d.{p}_{table}");
        let rows = rows(&name, pad).replace("SELECT 26, 0", "SELECT 0, 0");
        sql += &format!("{}{rows}", create(&name, options));
    }
    for table in ["to_inno", "isam_part", "isam_gone"] {
        let engine = if table == "to_inno" { "Aria" } else { "MyISAM" };
        let options = if table == "to_inno" { "" } else { PARTITIONS };
        let name = format!("d.{p}_{table}");
        sql += &create(&name, options).replace("ENGINE=InnoDB", &format!("ENGINE={engine}"));
        sql += &format!("INSERT INTO {name} SELECT seq, seq, MD5(seq) FROM d.seq_1_to_25;");
    }
    for table in ["fts_add", "fts_drop", "fts_trunc", "fts_gone"] {
        let key = if table == "fts_add" {
            ""
        } else {
            ", FULLTEXT words (b)"
        };
        sql += &format!(
            "CREATE TABLE d.{p}_{table} (id INT PRIMARY KEY, b MEDIUMTEXT{key}) ENGINE=InnoDB;
             INSERT INTO d.{p}_{table} SELECT seq, CONCAT('word', seq) FROM d.seq_1_to_300;
             INSERT INTO d.{p}_{table} SELECT 301, GROUP_CONCAT(MD5(seq) SEPARATOR ' ') FROM d.seq_1_to_{};",
            pad / 33
        );
    }
    for child in ["kid", "orphan"] {
        let key = format!("CONSTRAINT {p}_{child} FOREIGN KEY (pid) REFERENCES d.{p}_parent (id)");
        let key = if child == "kid" {
            String::new()
        } else {
            format!(", {key}")
        };
        let parent = "id INT PRIMARY KEY";
        sql += &format!(
            "CREATE TABLE IF NOT EXISTS d.{p}_parent ({parent}) ENGINE=InnoDB;
             INSERT IGNORE INTO d.{p}_parent SELECT seq FROM d.seq_1_to_50;
             CREATE TABLE d.{p}_{child} ({parent}, pid INT, KEY (pid){key}) ENGINE=InnoDB;
             INSERT INTO d.{p}_{child} SELECT seq, seq FROM d.seq_1_to_50;"
        );
    }
    for n in 1..=3 {
        sql += &format!(
            "CREATE TABLE d.{p}_m{n} (a INT) ENGINE=MyISAM; INSERT INTO d.{p}_m{n} VALUES ({n});"
        );
    }
    let gone = create(&format!("{p}_gone.t"), "");
    sql + &format!(
        "CREATE TABLE d.{p}_merge (a INT) ENGINE=MERGE UNION=(d.{p}_m1, d.{p}_m2);
         CREATE DATABASE {p}_alter CHARACTER SET latin1; CREATE DATABASE {p}_gone;
         {gone} CREATE TABLE {p}_gone.m (a INT) ENGINE=MyISAM; CREATE TABLE {p}_gone.r (a INT) ENGINE=Aria;
         CREATE VIEW {p}_gone.v AS SELECT a FROM {p}_gone.m;
         CREATE VIEW d.{p}_old_view AS SELECT id FROM d.{p}_keep;
         CREATE SEQUENCE d.{p}_old_seq; CREATE SEQUENCE d.{p}_alt_seq;
         CREATE TRIGGER d.{p}_old_trigger BEFORE INSERT ON d.{p}_keep FOR EACH ROW SET NEW.k = 1;
         CREATE EVENT d.{p}_old_event ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DISABLE DO SELECT 1;
         CREATE PROCEDURE d.{p}_old_routine() SELECT 1;"
    )
}

fn change(p: &str) -> String {
    let t = |name: &str| format!("d.{p}_{name}");
    let fresh = |name: &str| format!("{}{}", create(name, ""), rows(name, 3000));
    [
        // Engines.
        format!("ALTER TABLE {} ENGINE=MyISAM;", t("to_isam")),
        format!("ALTER TABLE {} ENGINE=InnoDB; UPDATE {0} SET k=k+1;", t("to_inno")),
        // Partitions.
        format!("ALTER TABLE {} PARTITION BY HASH (id) PARTITIONS 3;", t("repart")),
        format!("UPDATE {} SET k=2; ALTER TABLE {0} REMOVE PARTITIONING;", t("unpart")),
        format!(
            "ALTER TABLE {} REORGANIZE PARTITION p1 INTO (PARTITION p1a VALUES LESS THAN (15),
             PARTITION p1b VALUES LESS THAN (20)); UPDATE {0} SET k=3;",
            t("reorg")
        ),
        format!("ALTER TABLE {} COALESCE PARTITION 2; UPDATE {0} SET k=4;", t("coal")),
        format!("ALTER TABLE {} ADD PARTITION PARTITIONS 2;", t("grow")),
        format!("DROP TABLE {}, {};", t("part_gone"), t("isam_gone")),
        format!("RENAME TABLE {} TO e.{p}_part, {} TO e.{p}_isam;", t("part_ren"), t("isam_part")),
        format!("UPDATE e.{p}_part SET k=5; UPDATE e.{p}_isam SET k=5;"),
        // Indexes of words, which have tablespaces of their own.
        format!("ALTER TABLE {} ADD FULLTEXT words (b);", t("fts_add")),
        format!("INSERT INTO {} VALUES (400, 'late words');", t("fts_add")),
        format!("ALTER TABLE {} DROP KEY words;", t("fts_drop")),
        format!("TRUNCATE {}; INSERT INTO {0} VALUES (1, 'first words');", t("fts_trunc")),
        format!("DROP TABLE {};", t("fts_gone")),
        // Keys between tables.
        format!(
            "ALTER TABLE {} ADD CONSTRAINT {p}_kid FOREIGN KEY (pid) REFERENCES {} (id);",
            t("kid"),
            t("parent")
        ),
        format!("ALTER TABLE {} DROP FOREIGN KEY {p}_orphan;", t("orphan")),
        // Formats.
        format!("ALTER TABLE {} CONVERT TO CHARACTER SET utf8mb4;", t("conv")),
        format!("ALTER TABLE {} ROW_FORMAT=DYNAMIC;", t("row")),
        format!("ALTER TABLE {} ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8;", t("zip")),
        format!("ALTER TABLE {} COMMENT='new', DEFAULT CHARACTER SET utf8mb4;", t("charset")),
        format!(
            "CREATE OR REPLACE TABLE {} (id INT PRIMARY KEY, other INT) ENGINE=InnoDB;
             INSERT INTO {0} VALUES (1, 2);",
            t("replaced")
        ),
        format!(
            "SET system_versioning_alter_history=KEEP; UPDATE {} SET k=7 WHERE id < 5;
             ALTER TABLE {0} ADD x INT DEFAULT 3; ALTER TABLE {0} DROP SYSTEM VERSIONING;
             ALTER TABLE {0} ADD SYSTEM VERSIONING; DELETE FROM {0} WHERE id = 9;",
            t("versioned")
        ),
        format!("ALTER TABLE {} UNION=({}, {});", t("merge"), t("m2"), t("m3")),
        // Databases.
        format!("ALTER DATABASE {p}_alter CHARACTER SET utf8mb4; DROP DATABASE {p}_gone;"),
        format!("CREATE DATABASE {p}_born CHARACTER SET ascii; {}", fresh(&format!("{p}_born.t"))),
        // What is no table, gone and new.
        format!("DROP VIEW {}; CREATE VIEW {} AS SELECT 1 AS one;", t("old_view"), t("new_view")),
        format!("DROP SEQUENCE {}; CREATE SEQUENCE {};", t("old_seq"), t("new_seq")),
        format!("ALTER SEQUENCE {} INCREMENT BY 7; SELECT NEXTVAL({0});", t("alt_seq")),
        format!(
            "DROP TRIGGER {}; CREATE TRIGGER {} AFTER INSERT ON {} FOR EACH ROW SET @x = 1;",
            t("old_trigger"),
            t("new_trigger"),
            t("kid")
        ),
        format!(
            "DROP EVENT {}; CREATE EVENT {} ON SCHEDULE EVERY 1 DAY STARTS '2031-01-01' DISABLE DO SELECT 2;",
            t("old_event"),
            t("new_event")
        ),
        format!("DROP PROCEDURE {}; CREATE FUNCTION {}() RETURNS INT RETURN 3;", t("old_routine"), t("new_routine")),
    ]
    .join("\n")
}

/// The tables of `backup_ddl` outside of InnoDB.
const CHANGE_OTHERS: &str = "
    ALTER TABLE o.myisam ADD c INT DEFAULT 4, ADD KEY (c); INSERT INTO o.myisam (a, b) VALUES (1000, 'new');
    TRUNCATE o.aria; INSERT INTO o.aria VALUES (1, 'only');
    ALTER TABLE o.plain TRANSACTIONAL=1; OPTIMIZE TABLE o.plain;
    RENAME TABLE o.csv TO e.csv; INSERT INTO e.csv VALUES (7);
    RENAME TABLE o.`strange name/#1` TO o.`stranger name?*`;
    ALTER TABLE o.fts ADD c INT; OPTIMIZE TABLE o.fts;
    DROP SEQUENCE o.seq; CREATE OR REPLACE VIEW o.v AS SELECT 2 AS two;
    CREATE OR REPLACE PROCEDURE o.p() SELECT 2; DROP TRIGGER o.tr;
    CREATE TABLE o.late_isam (a INT) ENGINE=MyISAM; INSERT INTO o.late_isam VALUES (1);
    CREATE TABLE o.late_aria ENGINE=Aria SELECT seq FROM d.seq_1_to_1000;
    CREATE TABLE o.late_archive ENGINE=ARCHIVE SELECT seq FROM d.seq_1_to_1000;
    DROP TABLE o.late_isam; CREATE TABLE o.late_isam (b TEXT) ENGINE=Aria;";

#[test]
fn what_is_altered_in_other_ways_is_restored_as_it_is() {
    let server = TestServer::start(&["--plugin-load-add=ha_archive"]);
    server.sql(&format!(
        "SET group_concat_max_len=10000000; CREATE DATABASE d; CREATE DATABASE e; CREATE DATABASE o; USE d;
         {} {} {} {OTHERS}",
        make("a", 400_000),
        make("z", 100),
        fillers()
    ));
    let mut backup = Streamed::start(&mut backup(&server));
    backup.read_until(MARKER);
    for (name, copied) in [
        ("d/a_keep.ibd", true),
        ("d/a_versioned.ibd", true),
        ("d/a_fts_trunc.ibd", true),
        ("d/z_keep.ibd", false),
        ("d/z_fts_trunc.ibd", false),
        ("d/a_to_inno.MAD", false),
    ] {
        assert_eq!(backup.has(name), copied, "{name}");
    }
    for p in ["a", "z"] {
        server.sql(&format!(
            "USE d; SET group_concat_max_len=10000000; {}",
            change(p)
        ));
    }
    server.sql(CHANGE_OTHERS);
    let target = server.scratch().join("restored");
    backup.extract(&target);
    reference_prepares(&target);
    let restored = restores(&server, &target, &["--plugin-load-add=ha_archive"]);
    for words in ["word7", "late"] {
        let found = "SELECT COUNT(*) FROM d.a_fts_add WHERE MATCH (b) AGAINST";
        assert_eq!(restored.sql(&format!("{found} ('{words}')")), "1\n");
    }
    let history = "SELECT COUNT(*) FROM d.z_versioned FOR SYSTEM_TIME ALL";
    assert_eq!(restored.sql(history), server.sql(history));
}

/// Changes definitions when the first tablespace of a table is being copied.
struct Meddler {
    counters: Counters,
    statements: Mutex<Option<String>>,
    server: Arc<TestServer>,
}

impl Monitor for Meddler {
    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn event(&self, event: Event) {
        if matches!(event, Event::File(name) if name.starts_with("d/")) {
            let statements = self.statements.lock().unwrap().take();
            if let Some(statements) = statements {
                self.server.sql(&statements);
            }
        }
    }
}

#[test]
fn the_expected_total_is_that_of_what_was_read() {
    let server = Arc::new(TestServer::start(&[]));
    server.sql(&format!(
        "SET group_concat_max_len=10000000; CREATE DATABASE d; {}",
        fillers()
    ));
    let gone: Vec<String> = (10..30).map(|n| format!("d.m{n:02}")).collect();
    let meddler = Arc::new(Meddler {
        counters: Counters::default(),
        statements: Mutex::new(Some(format!(
            "DROP TABLE {}; TRUNCATE d.m30; ALTER TABLE d.m31 FORCE",
            gone.join(", ")
        ))),
        server: Arc::clone(&server),
    });
    let options = BackupOptions {
        destination: Destination::Directory(server.scratch().join("target")),
        encoders: Default::default(),
        memory: ByteCount(8 << 20),
        // On one lane the statements are done before the next file is opened.
        parallel: 1,
        chunk_len: None,
        tmpdir: None,
        slave_info: false,
        allow_unknown_version: false,
        sync: false,
        command: String::new(),
    };
    let run = Run {
        cancel: Cancel::new(),
        monitor: Arc::<Meddler>::clone(&meddler),
    };
    let connection = server.root(&run.cancel, Waits::default());
    xbpipe::backup::backup(&connection, &options, &run).unwrap();
    assert!(meddler.statements.lock().unwrap().is_none());
    assert!(!Path::new(&server.scratch().join("target/d/m10.ibd")).exists());
    let read = Counters::get(&meddler.counters.read_bytes);
    assert_eq!(Counters::get(&meddler.counters.total_bytes), read);
}
