//! Archives that are regular files: lanes read the payload of large chunks themselves, several of them for one file.

use std::path::Path;
use std::process::Stdio;

use crate::tool::{
    Chunks, Done, allocated, assert_same, files, finish, need, noise, read_tree, scratch, xbpipe,
};

/// Bytes of a chunk that is read where it is.
const CHUNK_LEN: usize = 1 << 20;

/// Extracts from a file that is standard input.
fn extract_stdin(archive: &Path, target: &Path, parallel: &str) -> Done {
    let mut command = xbpipe(["extract", "--no-sync", "--parallel", parallel, "-C"]);
    command.arg(target);
    command.stdin(std::fs::File::open(archive).unwrap());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    finish(child)
}

/// A file in chunks of [`CHUNK_LEN`], its end not yet written.
fn chunked(mut archive: Chunks, name: &str, content: &[u8]) -> Chunks {
    for (i, piece) in content.chunks(CHUNK_LEN).enumerate() {
        archive = archive.payload(name, (i * CHUNK_LEN) as u64, piece);
    }
    archive
}

#[test]
fn one_large_file_among_small_ones_is_written_by_many() {
    let dir = scratch();
    let mut large = noise(40 * CHUNK_LEN + 77, 5);
    // Holes that begin and end anywhere, across borders of chunks.
    large[3 * CHUNK_LEN + 4096..9 * CHUNK_LEN + 100].fill(0);
    large[20 * CHUNK_LEN - 5..20 * CHUNK_LEN + 5].fill(0);
    large[39 * CHUNK_LEN - 70_000..].fill(0);
    let tree = files([
        ("a", &b"small"[..]),
        ("db/large", &large),
        ("db/z", &large[..CHUNK_LEN + 1]),
        ("empty", b""),
    ]);
    let archive = Chunks::new().file("a", b"small");
    let archive = chunked(archive, "db/large", &large).end("db/large");
    let archive = chunked(archive, "db/z", &large[..CHUNK_LEN + 1])
        .end("db/z")
        .end("empty");
    let path = dir.path().join("a.xb");
    std::fs::write(&path, &archive.0).unwrap();
    for parallel in ["1", "2", "7"] {
        let target = dir.path().join(parallel);
        extract_stdin(&path, &target, parallel).expect(0);
        assert_same(&read_tree(&target), &tree);
        let holes = 6 * CHUNK_LEN + 70_000;
        let room = allocated(&target.join("db/large"));
        assert!(room <= (large.len() - holes + 65_536) as u64, "{room}");
    }
}

/// Some of their chunks lie whole in what the reader has read, some in part, some not at all.
#[test]
fn chunks_about_as_long_as_a_read_are_taken_once() {
    let dir = scratch();
    let contents: Vec<Vec<u8>> = (0..30)
        .map(|i| noise(200_000 + 37_111 * i, i as u64))
        .collect();
    let names: Vec<String> = (0..30).map(|i| format!("f{i:02}")).collect();
    let mut archive = Chunks::new();
    for (name, content) in names.iter().zip(&contents) {
        archive = chunked(archive, name, content).end(name);
    }
    let tree = files(
        names
            .iter()
            .zip(&contents)
            .map(|(name, content)| (name.as_str(), content.as_slice())),
    );
    let path = dir.path().join("a.xb");
    std::fs::write(&path, &archive.0).unwrap();
    for parallel in ["1", "3"] {
        let target = dir.path().join(parallel);
        extract_stdin(&path, &target, parallel).expect(0);
        assert_same(&read_tree(&target), &tree);
    }
}

#[test]
fn mbstream_archives_on_standard_input_are_read_in_place() {
    need("mbstream", "mariadb-backup");
    let dir = scratch();
    let tree = files([
        ("one", &noise(30 << 20, 1)[..]),
        ("two", &noise(11 << 20, 2)),
    ]);
    let source = dir.path().join("source");
    crate::tool::write_tree(&source, &tree);
    let archive = dir.path().join("a.xb");
    let status = std::process::Command::new("mbstream")
        .current_dir(&source)
        .args(["-c", "one", "two"])
        .stdout(std::fs::File::create(&archive).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let target = dir.path().join("target");
    extract_stdin(&archive, &target, "3").expect(0);
    assert_same(&read_tree(&target), &tree);
}

#[test]
fn damage_in_payload_that_a_lane_reads_is_found_and_named() {
    let dir = scratch();
    let content = noise(12 * CHUNK_LEN, 9);
    let archive = chunked(Chunks::new().file("before", b"x"), "large", &content).end("large");
    let archive = archive.file("behind", b"y").0;
    let at = |byte: usize| {
        let mut bytes = archive.clone();
        bytes[byte] ^= 4;
        bytes
    };
    let middle = archive.len() / 2 + 5000;
    for (name, bytes, status, said) in [
        (
            "flip",
            at(middle),
            4,
            "invalid checksum in payload chunk of \"large\"",
        ),
        ("cut", archive[..middle].to_vec(), 3, "\"large\""),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for parallel in ["1", "4"] {
            let target = dir.path().join(format!("{name}-{parallel}"));
            let done = extract_stdin(&path, &target, parallel).expect(status);
            assert!(done.last_line().contains(said), "{}", done.err);
            assert!(!target.join("large").exists(), "{name}");
            assert!(target.join("before").exists());
        }
    }
}

/// MariaDB's seek goes back into what other threads may still be writing.
#[test]
fn a_patch_comes_after_what_it_patches() {
    let dir = scratch();
    let mut content = noise(16 * CHUNK_LEN, 3);
    let patch = noise(CHUNK_LEN, 4);
    let archive = chunked(Chunks::new(), "t", &content)
        .seek("t", 5 << 20)
        .payload("t", 5 << 20, &patch)
        .seek("t", 16 << 20)
        .payload("t", 16 << 20, &patch)
        .end("t");
    content[5 << 20..6 << 20].copy_from_slice(&patch);
    content.extend_from_slice(&patch);
    let path = dir.path().join("a.xb");
    std::fs::write(&path, &archive.0).unwrap();
    for round in 0..5 {
        let target = dir.path().join(format!("t{round}"));
        extract_stdin(&path, &target, "4").expect(0);
        assert_same(&read_tree(&target), &files([("t", &content[..])]));
    }
}

/// Whoever shares standard input goes on where the archive began and ended.
#[test]
fn an_archive_begins_where_standard_input_stands() {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let dir = scratch();
    let path = dir.path().join("a");
    let archive = chunked(Chunks::new(), "t", &noise(2 * CHUNK_LEN, 1))
        .end("t")
        .0;
    std::fs::write(&path, [&b"a line\n"[..], &archive].concat()).unwrap();
    let mut input = std::fs::File::open(&path).unwrap();
    input.seek(SeekFrom::Start(7)).unwrap();
    let mut command = xbpipe(["verify", "-"]);
    command.stdin(input.try_clone().unwrap());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let done = finish(child).expect(0);
    assert!(done.text().contains("1 files"), "{}", done.text());
    let mut rest = Vec::new();
    input.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), 0);
}
