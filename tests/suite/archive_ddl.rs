//! A backup of the real mariadb-backup while definitions change: its stream renames, removes and writes anew what it has sent
//! already. Every way to read such a stream must give the same files, and a server must start with them.
//!
//! The server version that this was made with (10.11.19) sends no seek chunks in such a run: those have vectors and a place in the
//! damage matrix, but none of a real program here.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backup_support::{prepare, reference_prepares};
use crate::server::TestServer;
use crate::tool::{Done, Node, need, read_tree, run, split_chunks, xbpipe};

/// InnoDB tables, which are sent first: while they are on their way the others change.
const TABLES: usize = 30;

/// The table whose file must have been seen before definitions change.
const BEGIN: &[u8] = b"d/m15.ibd";

/// How slowly the stream is read while they do. Never not at all: with its pipe full the tool keeps a lock that they wait for.
const PIECE: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What the tool may lose (10.11.19): it removes the files of a table that was dropped and created again under the same name, the new
/// ones, and does not always send those of an Aria table that is renamed before their turn comes.
const LOST: [&str; 3] = ["o.Aria_again", "o.Aria_renamed", "o.MyISAM_again"];

fn server() -> TestServer {
    let server = TestServer::start(&[]);
    let fill = |table: &str, rows: usize| {
        format!("INSERT INTO {table} SELECT seq, REPEAT(MD5(seq), 50) FROM d.seq_1_to_{rows};")
    };
    let mut sql = "CREATE DATABASE d; CREATE DATABASE o;".to_owned();
    for i in 0..TABLES {
        sql += &format!("CREATE TABLE d.m{i:02} (id INT PRIMARY KEY, v TEXT) ENGINE=InnoDB;");
        sql += &fill(&format!("d.m{i:02}"), 1500);
    }
    for engine in ["Aria", "MyISAM"] {
        for part in ["keep", "ren", "drop", "again", "alt", "trunc"] {
            let table = format!("o.{engine}_{part}");
            sql += &format!("CREATE TABLE {table} (id INT, v TEXT) ENGINE={engine};");
            sql += &fill(&table, 1000);
        }
    }
    sql += "CREATE TABLE o.part (id INT, v TEXT) ENGINE=Aria PARTITION BY HASH (id) PARTITIONS 3;";
    sql += &fill("o.part", 1000);
    server.sql(&sql);
    server
}

/// Changes of every kind, none of which is undone.
fn changes() -> String {
    let mut sql = String::new();
    for engine in ["Aria", "MyISAM"] {
        let t = format!("o.{engine}");
        sql += &format!("RENAME TABLE {t}_ren TO {t}_renamed;");
        sql += &format!("DROP TABLE {t}_drop;");
        sql += &format!("DROP TABLE {t}_again;");
        sql += &format!("CREATE TABLE {t}_again (id INT, w TEXT) ENGINE={engine};");
        sql += &format!("INSERT INTO {t}_again SELECT seq, 'again' FROM d.seq_1_to_500;");
        sql += &format!("ALTER TABLE {t}_alt ADD COLUMN x INT DEFAULT 7;");
        sql += &format!("TRUNCATE TABLE {t}_trunc;");
        sql += &format!("CREATE TABLE {t}_new (id INT) ENGINE={engine};");
        sql += &format!("INSERT INTO {t}_new VALUES (1), (2);");
    }
    sql += "DROP TABLE o.part;";
    sql +=
        "CREATE TABLE d.fresh (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO d.fresh VALUES (1);";
    sql += "RENAME TABLE d.m00 TO d.moved; DROP TABLE d.m01; TRUNCATE TABLE d.m02;";
    sql
}

/// The stream of a backup during which `changes` were made, all of them.
fn stream(server: &TestServer, messages: &Path) -> Vec<u8> {
    let mut child = Command::new(need("mariadb-backup", "mariadb-backup"))
        .args(["--no-defaults", "--backup", "--user=root"])
        .arg("--stream=mbstream")
        .arg(format!("--socket={}", server.socket().display()))
        .arg(format!("--target-dir={}", server.scratch().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(messages).unwrap())
        .spawn()
        .unwrap();
    let mut pipe = child.stdout.take().unwrap();
    let mut stream = Vec::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut changing = None;
        let mut piece = vec![0; PIECE];
        loop {
            let n = pipe.read(&mut piece).unwrap();
            if n == 0 {
                break;
            }
            let looked_at = stream.len().saturating_sub(BEGIN.len());
            stream.extend_from_slice(&piece[..n]);
            if changing.is_none() {
                let found = stream[looked_at..].windows(BEGIN.len());
                if found.into_iter().any(|w| w == BEGIN) {
                    changing = Some(scope.spawn(|| {
                        let made = server.try_sql(&changes());
                        done.store(true, Ordering::Release);
                        made
                    }));
                }
            } else if !done.load(Ordering::Acquire) {
                std::thread::sleep(PAUSE);
            }
        }
        let made = changing.expect("the tables that are sent first");
        made.join().unwrap().unwrap();
    });
    let told = || std::fs::read_to_string(messages).unwrap();
    assert!(child.wait().unwrap().success(), "{}", told());
    stream
}

/// What a stream has of each kind of chunk, and the stems of removals by prefix.
fn kinds(stream: &[u8]) -> (BTreeMap<&'static str, usize>, Vec<Vec<u8>>) {
    let mut kinds = BTreeMap::new();
    let mut stems = Vec::new();
    for chunk in split_chunks(stream) {
        let len = u32::from_le_bytes(chunk[10..14].try_into().unwrap());
        let path = &chunk[14..14 + usize::try_from(len).unwrap()];
        let kind = match (chunk[9], chunk[8]) {
            (b'P', 2) => "rewrite",
            (b'P', _) => "payload",
            (b'E', _) => "end",
            (b'R', _) => "rename",
            (b'D', _) => "remove",
            (b'S', _) => "seek",
            other => panic!("{other:?}"),
        };
        *kinds.entry(kind).or_default() += 1;
        if let (b'D', Some(stem)) = (chunk[9], path.strip_suffix(b"*")) {
            stems.push(stem.to_vec());
        }
    }
    (kinds, stems)
}

fn extract(archive: Option<&Path>, input: &[u8], target: &Path, options: &[&str]) -> Done {
    let mut command = xbpipe(["extract", "--no-sync", "--progress", "none", "-C"]);
    command.arg(target).args(options);
    command.args(archive);
    run(command, input).expect(0)
}

/// Names below a directory, with length and hash of what they hold.
type Picture = BTreeMap<String, (usize, u64)>;

fn picture(root: &Path) -> Picture {
    let of = |node: &Node| match node {
        Node::EmptyDir => (0, 0),
        Node::File(content) => {
            let mut hasher = DefaultHasher::new();
            content.hash(&mut hasher);
            (content.len(), hasher.finish())
        }
    };
    let tree = read_tree(root);
    let named =
        |(name, node): (&Vec<u8>, &Node)| (String::from_utf8(name.clone()).unwrap(), of(node));
    tree.iter().map(named).collect()
}

#[test]
fn a_stream_of_mariadb_backup_under_ddl_reads_the_same_everywhere() {
    let server = server();
    // Not in memory: it is some hundred megabytes.
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let stream = stream(&server, &at("messages"));
    let (kinds, stems) = kinds(&stream);
    for kind in ["rename", "remove", "rewrite"] {
        assert!(kinds.contains_key(kind), "no {kind} chunk: {kinds:?}");
    }
    assert!(stems.iter().any(|stem| stem == b"o/part#P#"), "{stems:?}");

    let archive = at("theirs.xb");
    std::fs::File::create(&archive)
        .unwrap()
        .write_all(&stream)
        .unwrap();
    extract(Some(&archive), b"", &at("file"), &[]);
    let tree = picture(&at("file"));

    // The reference reader. Its removal by prefix removes nothing (10.11), so what it leaves of those is not compared.
    std::fs::create_dir(at("reference")).unwrap();
    let mut reference = Command::new(need("mbstream", "mariadb-backup"));
    reference.args(["-x", "-C"]).arg(at("reference"));
    assert_eq!(run(reference, &stream).expect(0).err, "");
    let mut theirs = picture(&at("reference"));
    theirs.retain(|name, _| {
        let stays = stems.iter().any(|stem| name.as_bytes().starts_with(stem));
        tree.contains_key(name) || !stays
    });
    assert_eq!(theirs, tree);
    std::fs::remove_dir_all(at("reference")).unwrap();

    extract(None, &stream, &at("pipe"), &[]);
    assert_eq!(picture(&at("pipe")), tree);
    std::fs::remove_dir_all(at("pipe")).unwrap();

    // Carried out, and in another form.
    let mut convert = xbpipe([
        "convert",
        "--progress",
        "none",
        "--compress",
        "zstd",
        "--to",
    ]);
    convert.arg(at("ours.xb")).arg(&archive);
    run(convert, b"").expect(0);
    extract(Some(&at("ours.xb")), b"", &at("ours"), &["--decompress"]);
    assert_eq!(picture(&at("ours")), tree);
    std::fs::remove_dir_all(at("ours")).unwrap();

    // What only looks agrees with what writes.
    let listed = |archive: &Path| {
        let mut list = xbpipe(["list"]);
        list.arg(archive);
        let done = run(list, b"").expect(0);
        done.text().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let names: Vec<&String> = tree.keys().collect();
    assert!(listed(&archive).iter().eq(names.iter().copied()));
    let ours = listed(&at("ours.xb"));
    // Checkpoints stay plain, so that whoever looks into an archive can read them.
    let mut plain: Vec<&str> = (ours.iter())
        .map(|name| name.strip_suffix(".zst").unwrap_or(name))
        .collect();
    plain.sort_unstable();
    assert!(plain.iter().eq(names.iter().copied()));
    for archive in [&archive, &at("ours.xb")] {
        for options in [&[][..], &["--quick"]] {
            let mut verify = xbpipe(["verify"]);
            verify.args(options).arg(archive);
            run(verify, b"").expect(0);
        }
    }
    run(xbpipe(["verify"]), &stream).expect(0);
    drop(stream);

    // And it is a backup: prepared by us or by the program that made it, a server starts with the same.
    reference_prepares(&at("file"));
    prepare(&at("file"));
    let source = checksums(&server, &server);
    let ours = checksums(&server, &TestServer::start_on(&at("file"), &[]));
    let theirs = checksums(&server, &TestServer::start_on(&at("file.reference"), &[]));
    assert_eq!(ours, theirs);
    // The content is that of the source, but for what the stream itself does not hold: mbstream and `mariadb-backup --prepare` alone
    // have no more of it.
    let lost: Vec<&str> = (source.iter())
        .filter(|(table, sum)| ours.get(*table) != Some(sum))
        .map(|(table, _)| table.as_str())
        .collect();
    assert!(lost.iter().all(|t| LOST.contains(t)), "{lost:?}");
    assert!(source.len() > TABLES);
}

/// A checksum of each table that `source` has, as `server` has it.
fn checksums(source: &TestServer, server: &TestServer) -> BTreeMap<String, String> {
    let tables = source.sql(
        "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
         WHERE table_schema IN ('d', 'o')",
    );
    let list: Vec<&str> = tables.lines().collect();
    let sums = server.sql(&format!("CHECKSUM TABLE {} EXTENDED", list.join(", ")));
    let pair = |line: &str| {
        line.split_once('\t')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    sums.lines().filter_map(pair).collect()
}
