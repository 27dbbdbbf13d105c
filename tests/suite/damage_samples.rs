//! Small archives of every kind for the damage matrix, written by the programs that write such archives wherever there is one.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use xbpipe::codec::{Decoders, decompressors};
use xbpipe::crypt::xbcrypt::{Key, XbcryptEncoder};

use crate::fuzzed::targets::crypt::{IDENTITY, KEY, age_decoder, encrypt, xbcrypt_decoder};
use crate::tool::{
    Chunks, Node, Tree, files, index_free, need, noise, run, scratch, write_tree, xbpipe,
};
use crate::vec_file::load;

/// An archive, and what extracting it gives.
pub(crate) struct Sample {
    /// As the document calls it.
    pub(crate) kind: &'static str,
    pub(crate) archive: Vec<u8>,
    pub(crate) tree: Tree,
    /// Files that are there for a while, until the archive removes, renames or rewrites them; a failure may leave them.
    pub(crate) passing: Vec<(&'static str, &'static [u8])>,
    /// What is taken off its members.
    pub(crate) decoders: Decoders,
    /// It has an index.
    pub(crate) indexed: bool,
    /// It is compressed as a whole.
    pub(crate) outer: bool,
}

impl Sample {
    fn new(kind: &'static str, archive: Vec<u8>, tree: &Tree) -> Self {
        Self {
            kind,
            archive,
            tree: tree.clone(),
            passing: Vec::new(),
            decoders: if kind.contains('.') {
                decoders()
            } else {
                Decoders::new()
            },
            indexed: false,
            outer: false,
        }
    }
}

/// Everything that can be taken off.
pub(crate) fn decoders() -> Decoders {
    let mut all = decompressors();
    all.push(Arc::new(age_decoder()));
    all.push(Arc::new(xbcrypt_decoder()));
    all
}

/// Files as other programs store them: no directory is empty, none is deep, no name begins with a dot.
fn plain() -> Tree {
    files([
        ("a", &b"some text\n"[..]),
        ("db/empty", b""),
        ("db/t", &noise(150, 1)),
        ("z", b"last"),
    ])
}

/// The same, and what only we store.
fn with_directories() -> Tree {
    let mut tree = plain();
    tree.insert(b"dir/none".to_vec(), Node::EmptyDir);
    tree.insert(b"d/e/f".to_vec(), Node::File(b"deep".to_vec()));
    tree
}

fn key_file(root: &Path) -> std::path::PathBuf {
    let path = root.join("key");
    std::fs::write(&path, KEY).unwrap();
    path
}

fn identity_file(root: &Path) -> std::path::PathBuf {
    let path = root.join("identity");
    std::fs::write(&path, IDENTITY).unwrap();
    path
}

/// An archive of ours.
fn create(tree: &Tree, options: &[&str]) -> Vec<u8> {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, tree);
    let mut command = xbpipe(["create", "--parallel", "1", "--progress", "none", "-C"]);
    command.arg(&source).args(options);
    match options {
        [.., "age"] => command
            .arg("--encrypt-key-file")
            .arg(identity_file(root.path())),
        [.., "xbcrypt"] => command.arg("--encrypt-key-file").arg(key_file(root.path())),
        _ => &mut command,
    };
    command.arg(".");
    run(command, b"").expect(0).out
}

/// One with its index.
pub(crate) fn ours(kind: &'static str, options: &[&str]) -> Sample {
    let mut tree = with_directories();
    if options.first() == Some(&"--compress") {
        // Frames are not shorter than 64 KiB, so this file has two of them.
        let long = b"0123456789abcdef".repeat(5000);
        tree.insert(b"long".to_vec(), Node::File(long));
    }
    Sample {
        indexed: true,
        ..Sample::new(kind, create(&tree, options), &tree)
    }
}

/// One as another program would have written it: our members without our index.
pub(crate) fn foreign(kind: &'static str, options: &[&str]) -> Sample {
    let tree = plain();
    Sample::new(kind, index_free(&create(&tree, options)), &tree)
}

/// What mbstream makes of these files.
fn mbstream(tree: &Tree) -> Vec<u8> {
    let root = scratch();
    write_tree(root.path(), tree);
    let mut command = Command::new(need("mbstream", "mariadb-backup"));
    command.current_dir(root.path()).arg("-c");
    command.args(tree.keys().map(|name| std::str::from_utf8(name).unwrap()));
    run(command, b"").expect(0).out
}

pub(crate) fn of_mbstream() -> Sample {
    Sample::new("mbstream", mbstream(&plain()), &plain())
}

/// Each file as `program` turns it into another one, in an archive of mbstream.
fn by_tool(kind: &'static str, suffix: &str, program: impl Fn(&[u8]) -> Vec<u8>) -> Sample {
    let tree = plain();
    let mut stored = Tree::new();
    for (name, node) in &tree {
        let Node::File(content) = node else { continue };
        let name = [name, suffix.as_bytes()].concat();
        stored.insert(name, Node::File(program(content)));
    }
    Sample::new(kind, mbstream(&stored), &tree)
}

fn filter(program: &str, package: &str, options: &[&str], content: &[u8]) -> Vec<u8> {
    let mut command = Command::new(need(program, package));
    command.args(options);
    run(command, content).expect(0).out
}

pub(crate) fn of_zstd() -> Sample {
    by_tool(".zst", ".zst", |content| {
        filter("zstd", "zstd", &["-c"], content)
    })
}

pub(crate) fn of_lz4() -> Sample {
    by_tool(".lz4", ".lz4", |content| {
        filter("lz4", "lz4", &["-c"], content)
    })
}

pub(crate) fn of_age() -> Sample {
    let root = scratch();
    let identity = identity_file(root.path());
    by_tool(".age", ".age", |content| {
        let identity = identity.to_str().unwrap();
        filter("age", "age", &["-e", "-i", identity], content)
    })
}

/// An archive of mbstream, compressed as a whole.
pub(crate) fn outer(kind: &'static str, program: &str, package: &str) -> Sample {
    Sample {
        outer: true,
        ..Sample::new(
            kind,
            filter(program, package, &["-c"], &mbstream(&plain())),
            &plain(),
        )
    }
}

/// What mariadb-backup writes while definitions change: seeks, renames, removes, files written anew; and chunks of several files
/// mixed.
pub(crate) fn of_mariadb_backup() -> Sample {
    let log = noise(120, 3);
    let rewrite = |archive: Chunks, name: &[u8], content: &[u8]| {
        archive
            .prefix(2, b'P', name)
            .body(content.len() as u64, 0, crc32fast::hash(content), content)
            .prefix(0, b'E', name)
    };
    let archive = Chunks::new()
        .payload("log", 0, &log[..50])
        .payload("db/t", 0, b"first,")
        .payload("log", 50, &log[50..])
        .seek("log", 8)
        .payload("log", 8, b"patched")
        .payload("db/t", 6, b"second,")
        .payload("db/t", 13, b"third")
        .end("log")
        .end("db/t")
        .end("db/empty")
        .file("db/gone", b"gone")
        .file("db/p#1", b"partition")
        .file("db/old", b"renamed")
        .prefix(0, b'D', b"db/gone")
        .prefix(0, b'D', b"db/p#*")
        .prefix(0, b'D', b"db/never")
        .rename("db/old", b"db/new")
        .rename("db/new", b"db/newer")
        .file("db/old", b"another");
    let archive = rewrite(archive, b"db/t", b"written anew").file("info", b"at last");
    let mut tree = files([
        ("db/t", &b"written anew"[..]),
        ("db/empty", b""),
        ("db/newer", b"renamed"),
        ("db/old", b"another"),
        ("info", b"at last"),
    ]);
    let patched = [&log[..8], b"patched", &log[15..]].concat();
    tree.insert(b"log".to_vec(), Node::File(patched));
    Sample {
        passing: vec![
            ("db/t", b"first,second,third"),
            ("db/gone", b"gone"),
            ("db/p#1", b"partition"),
            ("db/old", b"renamed"),
            ("db/new", b"renamed"),
        ],
        ..Sample::new("mariadb", archive.0, &tree)
    }
}

/// Sparse chunks, one of them with a hole at its end, as Percona's program mixes them with others.
pub(crate) fn of_percona() -> Sample {
    let vector = load("xbstream")
        .into_iter()
        .find(|v| v.name == "sparse-percona")
        .unwrap();
    let mixed = noise(40, 5);
    let sparse = |offset: u64, map: &[[u32; 2]], payload: &[u8]| {
        let map: Vec<u8> = (map.as_flattened().iter())
            .flat_map(|n| n.to_le_bytes())
            .collect();
        let crc = crc32fast::hash(&[&map, payload].concat());
        let entries = u32::try_from(map.len() / 8).unwrap();
        let mut body = entries.to_le_bytes().to_vec();
        body.extend((payload.len() as u64).to_le_bytes());
        body.extend(offset.to_le_bytes());
        body.extend(crc.to_le_bytes());
        [body, map, payload.to_vec()].concat()
    };
    let archive = Chunks(vector.bytes.clone())
        .file("a", b"some text")
        .payload("m", 0, &mixed[..20])
        .prefix(0, b'S', b"m")
        .raw(&sparse(20, &[[7, 10], [3, 0]], &mixed[20..30]))
        .payload("m", 40, &mixed[30..])
        .end("m")
        .end("empty");
    let holes = [&mixed[..20], &[0; 7], &mixed[20..30], &[0; 3], &mixed[30..]].concat();
    let tree = files([
        ("s.ibd", &b"ABC\0\0\0\0\0DE\0\0\0\0\0\0"[..]),
        ("a", b"some text"),
        ("m", &holes),
        ("empty", b""),
    ]);
    Sample::new("sparse", archive.0, &tree)
}

/// Chunks that lanes read themselves.
pub(crate) fn large(kind: &'static str, indexed: bool) -> Sample {
    let mut tree = plain();
    let content = noise(700_000, 9);
    tree.insert(b"large".to_vec(), Node::File(content.clone()));
    if indexed {
        return Sample {
            indexed,
            ..Sample::new(kind, create(&tree, &[]), &tree)
        };
    }
    let mut archive = Chunks::new();
    for (name, node) in &plain() {
        let Node::File(content) = node else { continue };
        let name = std::str::from_utf8(name).unwrap();
        archive = match &content[..] {
            [] => archive.end(name),
            content => archive.file(name, content),
        };
    }
    let archive = archive
        .payload("large", 0, &content[..300_000])
        .payload("large", 300_000, &content[300_000..])
        .end("large");
    Sample::new(kind, archive.0, &tree)
}

/// A member taken apart into its units: what is done to them is done before the archive is made, so that the archive's own
/// checksums are right.
pub(crate) struct Member {
    pub(crate) kind: &'static str,
    pub(crate) suffix: &'static str,
    pub(crate) units: Vec<Vec<u8>>,
    pub(crate) plain: Vec<u8>,
    /// Fields of a unit, with their lengths; what is behind them is content.
    pub(crate) fields: &'static [(&'static str, usize)],
}

/// Pieces of content, which become a unit each.
fn pieces() -> Vec<Vec<u8>> {
    vec![
        b"0123456789abcdef".repeat(20),
        noise(60, 7),
        b"the last piece, which is text".to_vec(),
    ]
}

fn member(
    kind: &'static str,
    suffix: &'static str,
    unit: impl Fn(&[u8]) -> Vec<u8>,
    fields: &'static [(&'static str, usize)],
) -> Member {
    Member {
        kind,
        suffix,
        units: pieces().iter().map(|piece| unit(piece)).collect(),
        plain: pieces().concat(),
        fields,
    }
}

pub(crate) fn inside_zstd() -> Member {
    let unit = |piece: &[u8]| filter("zstd", "zstd", &["-c"], piece);
    member("inside .zst", ".zst", unit, &[("magic", 4)])
}

pub(crate) fn inside_lz4() -> Member {
    let unit = |piece: &[u8]| filter("lz4", "lz4", &["-c"], piece);
    member("inside .lz4", ".lz4", unit, &[("magic", 4)])
}

/// Blocks with packets that the reference programs' encoder made, and one that is stored.
pub(crate) fn inside_qpress() -> Member {
    let vectors = load("codecs");
    let names = [
        "qpress-packet-216-zeros",
        "qpress-packet-fox",
        "qpress-packet-stored",
    ];
    let (mut units, mut plain) = (Vec::new(), Vec::new());
    for name in names {
        let vector = vectors.iter().find(|v| v.name == name).unwrap();
        let bytes = &vector.bytes;
        let begin = bytes.windows(8).position(|w| w == b"NEWBNEWB").unwrap();
        if units.is_empty() {
            units.push(bytes[..begin].to_vec());
        }
        units.push(bytes[begin..bytes.len() - 16].to_vec());
        plain.extend(crate::vec_file::hex(vector.events.as_ref().unwrap()).unwrap());
    }
    units.push([&b"ENDSENDS"[..], &[0; 8]].concat());
    Member {
        kind: "inside .qp",
        suffix: ".qp",
        units,
        plain,
        fields: &[("magic", 8)],
    }
}

/// Chunks as our encoder writes them.
pub(crate) fn inside_xbcrypt() -> Member {
    let encoder = XbcryptEncoder::new(Key::new(KEY).unwrap(), 1024);
    member(
        "inside .xbcrypt",
        ".xbcrypt",
        |piece| encrypt(&encoder, b"t", piece),
        &[
            ("magic", 8),
            ("reserved", 8),
            ("original_size", 8),
            ("encrypted_size", 8),
            ("checksum", 4),
            ("iv_size", 8),
            ("iv", 16),
        ],
    )
}

/// A whole file of the age tool is one unit: its chunks are longer than what is tried here, and have a test of their own.
pub(crate) fn inside_age() -> Member {
    let root = scratch();
    let identity = identity_file(root.path());
    let identity = identity.to_str().unwrap();
    let plain = pieces().concat();
    Member {
        kind: "inside .age",
        suffix: ".age",
        units: vec![filter("age", "age", &["-e", "-i", identity], &plain)],
        plain,
        fields: &[],
    }
}
