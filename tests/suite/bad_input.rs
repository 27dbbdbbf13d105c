//! Every row of the table in `format-spec/bad-input.md`: what goes in, how it ends, and what is on disk afterwards.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::cli_contract::table;
use crate::tool::{Chunks, run, scratch, xbpipe};

/// The archives of `format-spec/bad-input.md`, by the names of its rows.
fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let hello = || Chunks::new().file("t1", b"hello");
    let crc = crc32fast::hash(b"hello");
    let raw = |flags, letter, body: &[u8]| Chunks::new().prefix(flags, letter, b"t1").raw(body);
    let p = |crc: u32| {
        Chunks::new()
            .prefix(0, b'P', b"t1")
            .body(5, 0, crc, b"hello")
    };
    let cases = vec![
        ("empty stream", Chunks::new()),
        (
            "wrong magic, first chunk",
            Chunks::new().raw(b"XBSTCK02").raw(&hello().0[8..]),
        ),
        (
            "wrong magic, second chunk",
            hello().raw(b"YBSTCK01").raw(&[0; 40]),
        ),
        ("text", Chunks::new().raw(b"mysqldump: Got error: 1045\n")),
        ("13 bytes", Chunks::new().raw(&hello().0[..13])),
        ("trailing zero byte", hello().raw(b"\0")),
        ("trailing newline", hello().raw(b"\n")),
        ("cut in path", hello().prefix(0, b'P', b"t2").cut(1)),
        ("cut in length", hello().prefix(0, b'P', b"t2").raw(&[1; 4])),
        (
            "cut in offset",
            hello()
                .prefix(0, b'P', b"t2")
                .raw(&5u64.to_le_bytes())
                .raw(&[0; 3]),
        ),
        (
            "cut in checksum",
            hello().prefix(0, b'P', b"t2").body(5, 0, crc, b"").cut(1),
        ),
        ("cut in payload", hello().payload("t2", 0, b"hello").cut(1)),
        (
            "cut in end chunk",
            hello().payload("t2", 0, b"hello").end("t2").cut(1),
        ),
        ("missing end chunk", hello().payload("t2", 0, b"hello")),
        ("bad checksum", p(crc ^ 1).end("t1")),
        ("checksum byte-swapped", p(crc.swap_bytes()).end("t1")),
        (
            "no payload, checksum 0",
            Chunks::new().payload("t1", 0, b"").end("t1"),
        ),
        (
            "no payload, checksum not 0",
            Chunks::new()
                .prefix(0, b'P', b"t1")
                .body(0, 0, 1, b"")
                .end("t1"),
        ),
        (
            "gap",
            Chunks::new()
                .payload("t1", 0, b"hello")
                .payload("t1", 10, b"x")
                .end("t1"),
        ),
        (
            "overlap",
            Chunks::new()
                .payload("t1", 0, b"hello")
                .payload("t1", 3, b"x")
                .end("t1"),
        ),
        (
            "first offset not 0",
            Chunks::new().payload("t1", 5, b"x").end("t1"),
        ),
        ("duplicate end", hello().end("t1")),
        ("chunk after end", hello().payload("t1", 5, b"x").end("t1")),
        (
            "chunk after end, flag 2",
            hello()
                .prefix(2, b'P', b"t1")
                .body(2, 0, crc32fast::hash(b"ok"), b"ok")
                .end("t1"),
        ),
        (
            "chunk after end, flag 3",
            hello()
                .prefix(3, b'P', b"t1")
                .body(2, 0, crc32fast::hash(b"ok"), b"ok")
                .end("t1"),
        ),
        (
            "flags 0xfd on payload",
            Chunks::new()
                .prefix(0xfd, b'P', b"t1")
                .body(5, 0, crc, b"hello")
                .end("t1"),
        ),
        (
            "unknown type",
            hello().prefix(0, b'X', b"t2").body(0, 0, 0, b""),
        ),
        (
            "unknown type, ignorable",
            hello().prefix(1, b'X', b"t2").body(5, 0, crc, b"hello"),
        ),
        (
            "unknown type, ignorable, no body",
            hello().prefix(1, b'X', b"t2").file("t3", b"x"),
        ),
        (
            "unknown type, flag 2",
            hello().prefix(2, b'X', b"t2").body(5, 0, crc, b"hello"),
        ),
        ("lower-case type", raw(0, b'p', &[0; 20])),
        ("end of an empty file", Chunks::new().end("t1")),
        (
            "sparse chunk",
            Chunks::new().prefix(0, b'S', b"t1").raw(&sparse()),
        ),
        (
            "seek forward",
            Chunks::new()
                .seek("t1", 3)
                .payload("t1", 3, b"lo")
                .end("t1"),
        ),
        ("seek, then end", Chunks::new().seek("t1", 3).end("t1")),
        (
            "seek backward",
            Chunks::new()
                .payload("t1", 0, b"hello")
                .seek("t1", 1)
                .payload("t1", 1, b"u")
                .end("t1"),
        ),
        ("seek too far", Chunks::new().seek("t1", 1 << 63).end("t1")),
        ("rename of an ended file", hello().rename("t1", b"d/t2")),
        ("rename to ../x", hello().rename("t1", b"../outside/x")),
        ("rename to /x", hello().rename("t1", b"/x")),
        ("rename, new length 512", hello().rename("t1", &[b'x'; 512])),
        (
            "rename, then an empty file",
            hello().rename("t1", b"t2").end("t3"),
        ),
        ("rename of a missing file", hello().rename("t9", b"t2")),
        (
            "rename of an open file",
            Chunks::new()
                .payload("t1", 0, b"hello")
                .rename("t1", b"t2")
                .end("t1"),
        ),
        ("rename without a name", hello().rename("t1", b"")),
        (
            "remove of an ended file",
            hello().file("t2", b"x").prefix(0, b'D', b"t1"),
        ),
        (
            "remove of a directory",
            hello()
                .file("d/e", b"x")
                .file("d/f/g", b"y")
                .prefix(0, b'D', b"d"),
        ),
        (
            "remove by prefix",
            hello()
                .file("d/p#1", b"x")
                .file("d/p#2", b"y")
                .file("d/q", b"z")
                .prefix(0, b'D', b"d/p#*"),
        ),
        ("remove of a missing file", hello().prefix(0, b'D', b"t9")),
        (
            "remove of an open file",
            Chunks::new()
                .payload("t1", 0, b"hello")
                .prefix(0, b'D', b"t1")
                .end("t1"),
        ),
        ("remove of everything", hello().prefix(0, b'D', b"*")),
        ("remove of nothing", hello().prefix(0, b'D', b"")),
        (
            "remove of ../victim",
            hello().prefix(0, b'D', b"../outside/victim"),
        ),
        ("remove of /victim", hello().prefix(0, b'D', b"/victim")),
        ("two archives in one", hello().file("t2", b"x")),
    ];
    let mut cases: Vec<_> = cases
        .into_iter()
        .map(|(name, chunks)| (name, chunks.0))
        .collect();
    cases.extend(paths());
    cases.extend(lengths());
    cases.extend(targets());
    cases
}

/// Names of files, good and bad.
fn paths() -> Vec<(&'static str, Vec<u8>)> {
    let crc = crc32fast::hash(b"evil");
    let named = |path: &[u8]| {
        let chunks = Chunks::new().file("t1", b"hello");
        let chunks = chunks.prefix(0, b'P', path).body(4, 0, crc, b"evil");
        chunks.prefix(0, b'E', path).0
    };
    let long = [&[b'a'; 254][..], b"/", &[b'b'; 254], b"/c"].concat();
    let longer = [&long[..], b"d"].concat();
    let unbounded = Chunks::new().raw(b"XBSTCK01\0P\xff\xff\xff\xffhello");
    vec![
        ("empty path", named(b"")),
        (
            "empty path of an end chunk",
            Chunks::new().file("t1", b"hello").prefix(0, b'E', b"").0,
        ),
        ("path of 511 bytes", named(&long)),
        ("path of 512 bytes", named(&longer)),
        ("path of 0xffffffff bytes", unbounded.0),
        ("path ../evil", named(b"../outside/evil")),
        ("path a/../evil", named(b"a/../evil")),
        ("path a/..", named(b"a/..")),
        ("path ..", named(b"..")),
        ("path .", named(b".")),
        ("path ./t1", named(b"./t1")),
        ("path a/./b", named(b"a/./b")),
        ("path a//b", named(b"a//b")),
        ("path d/", named(b"d/")),
        ("path /abs", named(b"/abs")),
        ("path //abs", named(b"//abs")),
        ("path with NUL", named(b"ab\0cd")),
        ("path .hidden", named(b".hidden")),
        ("path a/..b/c", named(b"a/..b/c")),
        ("path d/e/f", named(b"d/e/f")),
        ("path ~/t1", named(b"~/t1")),
        ("path with newline", named(b"a\nb")),
        ("path not UTF-8", named(b"\xff\xfe")),
    ]
}

/// Payload that claims to be longer than everything there is.
fn lengths() -> Vec<(&'static str, Vec<u8>)> {
    let claim = |len: u64| {
        let chunks = Chunks::new().file("t1", b"hello").prefix(0, b'P', b"t2");
        chunks.body(len, 0, 0, b"short").0
    };
    vec![
        ("payload of 4 GiB", claim(1 << 32)),
        ("payload of 2^63 bytes", claim(1 << 63)),
        ("payload of 2^64-1 bytes", claim(u64::MAX)),
    ]
}

/// Archives for directories that are not empty: see [`prepare`].
fn targets() -> Vec<(&'static str, Vec<u8>)> {
    let crc = crc32fast::hash(b"new");
    let write = |flags, path: &str| {
        let chunks = Chunks::new().prefix(flags, b'P', path.as_bytes());
        chunks.body(3, 0, crc, b"new").end(path).0
    };
    vec![
        ("target exists", write(0, "t1")),
        ("target exists, flag 2", write(2, "t1")),
        ("target is a link", write(0, "link")),
        ("target is a link, flag 2", write(2, "link")),
        ("parent is a link", write(0, "dir/t1")),
        ("parent is a link, flag 2", write(2, "dir/victim")),
        ("remove in a directory that is a link", {
            Chunks::new().prefix(0, b'D', b"dir/victim").0
        }),
    ]
}

/// What the inputs of [`targets`] find: `t1` holds `old`, `link` leads to a file outside, `dir` to a directory outside.
fn prepare(name: &str, target: &Path, outside: &Path) {
    std::fs::create_dir(target).unwrap();
    let place = |path: &str| target.join(path);
    match name {
        "target exists" | "target exists, flag 2" => std::fs::write(place("t1"), "old").unwrap(),
        "target is a link" | "target is a link, flag 2" => {
            symlink(outside.join("victim"), place("link")).unwrap();
        }
        _ if name.contains(" is a link") => symlink(outside, place("dir")).unwrap(),
        _ => {}
    }
}

/// What is in `root`, as the last column spells it; names of more than 40 bytes are told by their length.
fn left(root: &Path) -> String {
    fn visit(dir: &Path, below: &str, found: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let name = match name.len() {
                0..=40 => name.as_bytes().escape_ascii().to_string(),
                len => format!("({len} bytes)"),
            };
            let name = format!("{below}{name}");
            let kind = entry.file_type().unwrap();
            if kind.is_symlink() {
                found.push(format!("{name}@"));
            } else if kind.is_dir() {
                let before = found.len();
                visit(&entry.path(), &format!("{name}/"), found);
                if found.len() == before {
                    found.push(format!("{name}/"));
                }
            } else {
                let content = std::fs::read(entry.path()).unwrap();
                found.push(format!("{name}={}", content.escape_ascii()));
            }
        }
    }
    let mut found = Vec::new();
    visit(root, "", &mut found);
    if found.is_empty() {
        return "nothing".to_owned();
    }
    found.join(" ")
}

/// Body of a sparse chunk: `he`, four zero bytes, `llo`, and its end chunk.
fn sparse() -> Vec<u8> {
    let map: Vec<u8> = [0u32, 2, 4, 3]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let crc = crc32fast::hash(&[&map[..], b"hello"].concat());
    let mut body = 2u32.to_le_bytes().to_vec();
    body.extend(5u64.to_le_bytes());
    body.extend(0u64.to_le_bytes());
    body.extend(crc.to_le_bytes());
    body.extend(map);
    body.extend(b"hello");
    body.extend(Chunks::new().end("t1").0);
    body
}

#[test]
fn bad_input_ends_as_the_document_says() {
    let inputs = inputs();
    let rows = table("bad-input.md", "cases: extract");
    let documented: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let tested: Vec<&str> = inputs.iter().map(|(name, _)| *name).collect();
    assert_eq!(documented, tested);
    let mut wrong = Vec::new();
    for (row, (name, archive)) in rows.iter().zip(&inputs) {
        for lanes in ["1", "4"] {
            let root = scratch();
            let (target, outside) = (root.path().join("target"), root.path().join("outside"));
            std::fs::create_dir(&outside).unwrap();
            std::fs::write(outside.join("victim"), "mine").unwrap();
            prepare(name, &target, &outside);
            let mut command = xbpipe(["extract", "--no-sync", "--progress", "none"]);
            command.args(["--parallel", lanes, "-C"]).arg(&target);
            let done = run(command, archive);
            assert_eq!(left(&outside), "victim=mine", "{name}");
            let found = format!("{} | {}", done.status, left(&target));
            let expected = format!("{} | {}", row[1], row[3].trim_matches('`'));
            let story = row[2].strip_prefix('-').unwrap_or(&row[2]);
            if found != expected || !done.last_line().contains(story) {
                wrong.push(format!("{name}: {found}: {}", done.last_line()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
