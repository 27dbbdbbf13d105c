//! Files outside of InnoDB are copied before DDL is blocked; what happens to them afterwards must be in the backup.

use crate::backup_support::{Streamed, backup, reference_prepares, restores};
use crate::server::TestServer;

const TABLES: [&str; 9] = [
    "idle", "written", "altered", "dropped", "again", "left", "right", "emptied", "moved",
];

fn fill(server: &TestServer) {
    let mut sql = String::from("CREATE DATABASE d; CREATE DATABASE e; USE d;");
    for (engine, letter) in [
        ("MyISAM", 'm'),
        ("Aria", 'a'),
        ("Aria TRANSACTIONAL=0", 'n'),
    ] {
        for table in TABLES {
            sql += &format!(
                "CREATE TABLE {letter}_{table} (id INT PRIMARY KEY, pad VARCHAR(300)) ENGINE={engine};
                 INSERT INTO {letter}_{table} SELECT seq, REPEAT('{table}', 20) FROM seq_1_to_500;"
            );
        }
    }
    // So much that the backup cannot hand all of it over before somebody reads.
    sql += "CREATE TABLE bulk (id INT PRIMARY KEY, pad LONGBLOB);
            INSERT INTO bulk SELECT seq, REPEAT(MD5(seq), 3000) FROM seq_1_to_400;
            CREATE TRIGGER d.tr BEFORE INSERT ON d.bulk FOR EACH ROW SET NEW.pad='';
            CREATE VIEW d.v AS SELECT 1; FLUSH TABLES;";
    server.sql(&sql);
    // A file that was changed a moment ago is not copied ahead.
    std::thread::sleep(std::time::Duration::from_millis(2500));
}

fn change(server: &TestServer) {
    let mut sql = String::from("USE d;");
    for letter in ['m', 'a', 'n'] {
        sql += &format!(
            "UPDATE {letter}_written SET pad='changed' WHERE id%7=0;
             ALTER TABLE {letter}_altered ADD COLUMN more INT DEFAULT 4;
             DROP TABLE {letter}_dropped;
             DROP TABLE {letter}_again; CREATE TABLE {letter}_again (b INT) ENGINE=MyISAM;
             RENAME TABLE {letter}_left TO {letter}_between, {letter}_right TO {letter}_left,
                          {letter}_between TO {letter}_right;
             TRUNCATE TABLE {letter}_emptied;
             RENAME TABLE {letter}_moved TO e.{letter}_moved;
             CREATE TABLE {letter}_late LIKE {letter}_idle;"
        );
    }
    sql +=
        "DROP TRIGGER d.tr; CREATE TRIGGER d.tr2 BEFORE INSERT ON d.bulk FOR EACH ROW SET NEW.id=7;
            CREATE OR REPLACE VIEW d.v AS SELECT 2; ALTER DATABASE e CHARACTER SET latin2;";
    server.sql(&sql);
}

#[test]
fn what_changes_after_it_was_copied_ahead_is_copied_again() {
    let server = TestServer::start(&[]);
    fill(&server);
    let mut streamed = Streamed::start(backup(&server).args(["--verbose", "--parallel=2"]));
    // The reader rests here, with the buffers still full, and so does the backup.
    streamed.read_until_said("copying other files");
    streamed.rest_until_said("waiting for the redo log and the target");
    assert!(!streamed.has_said("BLOCK_DDL"), "nothing held it up");
    change(&server);
    let target = server.scratch().join("restored");
    let story = streamed.extract(&target);
    let (ahead, locked) = story.split_once("DDL is blocked").unwrap();
    let copied = |part: &str, name: &str| part.lines().any(|line| line.ends_with(name));
    for letter in ['m', 'a', 'n'] {
        for name in [
            "idle.frm",
            "written.frm",
            "altered.frm",
            "dropped.frm",
            "left.frm",
        ] {
            let name = format!("d/{letter}_{name}");
            assert!(copied(ahead, &name), "{name}: {story}");
        }
        for name in [
            "altered.frm",
            "again.frm",
            "left.frm",
            "right.frm",
            "late.frm",
        ] {
            let name = format!("d/{letter}_{name}");
            assert!(copied(locked, &name), "{name}: {story}");
        }
        let idle = format!("d/{letter}_idle.frm");
        assert!(!copied(locked, &idle), "{story}");
    }
    for idle in ["d/m_idle.MYD", "d/m_idle.MYI", "d/bulk.frm"] {
        assert!(copied(ahead, idle) && !copied(locked, idle), "{story}");
    }
    assert!(copied(ahead, "d/m_written.MYD") && copied(locked, "d/m_written.MYD"));
    reference_prepares(&target);
    restores(&server, &target, &[]);
}

#[test]
fn mapped_files_are_not_copied_ahead() {
    let server = TestServer::start(&["--myisam-use-mmap"]);
    fill(&server);
    let target = server.scratch().join("restored");
    let story = Streamed::start(backup(&server).arg("--verbose")).extract(&target);
    let (ahead, locked) = story.split_once("DDL is blocked").unwrap();
    assert!(
        ahead.contains("d/m_idle.MYI") && !ahead.contains("d/m_idle.MYD"),
        "{story}"
    );
    assert!(locked.contains("d/m_idle.MYD"), "{story}");
    restores(&server, &target, &[]);
}
