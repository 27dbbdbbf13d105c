//! Archives that are cut, flipped, reordered or otherwise wrong: never success with anything missing or different, and no file
//! under its own name that is not exactly what it was.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, noise, read_tree, run, scratch, split_chunks,
    write_tree, xbpipe,
};

/// Suffix of what is not whole.
const PARTIAL: &str = ".xbpipe-partial";

fn extract(target: &Path, archive: &[u8], options: &[&str]) -> Done {
    let mut command = xbpipe(["extract", "--no-sync", "--progress", "none", "-C"]);
    command.arg(target).args(options);
    run(command, archive)
}

/// An archive of ours with a bit of everything: small, empty, larger than what is kept in memory, an empty directory.
fn sample() -> (Tree, Vec<u8>) {
    let root = scratch();
    let mut tree = files([
        ("db/t.frm", &b"frm of t"[..]),
        ("db/empty", b""),
        ("info", b"some text\n"),
    ]);
    tree.insert(b"dir".to_vec(), Node::EmptyDir);
    write_tree(root.path(), &tree);
    let mut command = xbpipe(["create", "--parallel", "1", "-C"]);
    command.arg(root.path()).arg(".");
    (tree, run(command, b"").expect(0).out)
}

/// Runs `case` for every number on as many threads as the machine has.
fn for_each(count: usize, case: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    case(i);
                }
            });
        }
    });
}

/// What holds for any damage of an archive of ours.
fn check(what: &str, tree: &Tree, damaged: &[u8]) -> i32 {
    let root = scratch();
    let target = root.path().join("t");
    let done = extract(&target, damaged, &[]);
    let found = read_tree(&target);
    if done.status == 0 {
        assert_eq!(&found, tree, "{what}: success with a different tree");
    } else {
        assert!(matches!(done.status, 1 | 3 | 4), "{what}: {}", done.err);
        assert!(
            done.last_line().starts_with("xbpipe: error: "),
            "{what}: {}",
            done.err
        );
    }
    for (name, node) in &found {
        let name = String::from_utf8_lossy(name);
        let whole = match node {
            // A directory may be the one that a partial file would have been in.
            Node::EmptyDir => continue,
            Node::File(_) => tree.get(name.as_bytes()) == Some(node),
        };
        assert!(
            whole || name.ends_with(PARTIAL),
            "{what}: {name} has its name and is wrong: {}",
            done.err
        );
    }
    let verified = run(xbpipe(["verify", "--progress", "none"]), damaged);
    assert_eq!(
        verified.status == 0,
        done.status == 0,
        "{what}: verify: {}",
        verified.err
    );
    done.status
}

#[test]
fn cut_at_every_byte() {
    let (tree, archive) = sample();
    for_each(archive.len(), |len| {
        let status = check(&format!("cut at {len}"), &tree, &archive[..len]);
        assert_eq!(status, 3, "cut at {len}");
    });
    assert_eq!(check("whole", &tree, &archive), 0);
}

#[test]
fn every_byte_flipped() {
    let (tree, archive) = sample();
    let survived = AtomicUsize::new(0);
    let flips = [0x01u8, 0x80, 0xff];
    for_each(archive.len() * flips.len(), |i| {
        let mut damaged = archive.clone();
        let (at, flip) = (i / flips.len(), flips[i % flips.len()]);
        damaged[at] ^= flip;
        if check(&format!("byte {at} ^ {flip:#x}"), &tree, &damaged) == 0 {
            survived.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Only the flags of a chunk mean nothing, and there is one byte of them in each.
    let flags = split_chunks(&archive).len() * flips.len();
    let survived = survived.into_inner();
    assert!(
        survived > 0 && survived <= flags,
        "{survived} of at most {flags}"
    );
}

// r[xbstream.index.first] r[xbstream.index.last]
#[test]
fn chunks_dropped_doubled_and_swapped() {
    let (tree, archive) = sample();
    let chunks = split_chunks(&archive);
    assert_eq!(chunks.concat(), archive);
    let count = chunks.len();
    for_each(count, |i| {
        let mut dropped = chunks.clone();
        dropped.remove(i);
        assert_ne!(
            check(&format!("chunk {i} dropped"), &tree, &dropped.concat()),
            0
        );
        let mut doubled = chunks.clone();
        doubled.insert(i, chunks[i].clone());
        assert_ne!(
            check(&format!("chunk {i} doubled"), &tree, &doubled.concat()),
            0
        );
        // Behind another chunk the first one is not the index any more but an ordinary file.
        if i > 0 && i + 1 < count {
            // Chunks of different files may change places; then nothing is wrong with the result.
            let mut swapped = chunks.clone();
            swapped.swap(i, i + 1);
            check(
                &format!("chunks {i} and {} swapped", i + 1),
                &tree,
                &swapped.concat(),
            );
        }
        if i > 0 {
            assert_eq!(
                check(
                    &format!("cut before chunk {i}"),
                    &tree,
                    &chunks[..i].concat()
                ),
                3
            );
        }
    });
    let twice = check("twice", &tree, &[archive.clone(), archive].concat());
    assert_eq!(twice, 4);
}

// r[xbstream.index.agrees] r[xbstream.index.last]
#[test]
fn whole_files_vanish_or_change_places_unnoticed_by_nobody() {
    let (tree, archive) = sample();
    let chunks = split_chunks(&archive);
    let is_of = |chunk: &[u8], name: &[u8]| chunk[14..].starts_with(name);
    for name in [&b"db/t.frm"[..], b"db/empty", b"info"] {
        let without: Vec<u8> = chunks
            .iter()
            .filter(|c| !is_of(c, name))
            .flatten()
            .copied()
            .collect();
        let root = scratch();
        let done = extract(root.path(), &without, &[]).expect(3);
        let name = String::from_utf8_lossy(name);
        assert!(done.last_line().contains(&*name), "{name}: {}", done.err);
        check("file dropped", &tree, &without);
    }
    let extra = Chunks::new().file("extra", b"not listed").0;
    let mut with = chunks.clone();
    with.insert(1, extra);
    let root = scratch();
    let done = extract(root.path(), &with.concat(), &[]).expect(3);
    assert!(done.last_line().contains("extra"), "{}", done.err);
    assert!(!root.path().join("extra").exists());
    assert!(root.path().join(format!("extra{PARTIAL}")).exists());
}

#[test]
fn large_files_that_are_not_whole_keep_their_partial_name() {
    let root = scratch();
    let source = root.path().join("source");
    let big = noise(3_000_000, 1);
    write_tree(
        &source,
        &files([("a", &b"first"[..]), ("big", &big), ("z", b"last")]),
    );
    let mut command = xbpipe(["create", "--parallel", "1", "-C"]);
    command.arg(&source).arg(".");
    let archive = run(command, b"").expect(0).out;
    let at = archive
        .windows(100)
        .position(|w| *w == big[2_000_000..2_000_100])
        .unwrap();

    let target = root.path().join("cut");
    let done = extract(&target, &archive[..at], &[]).expect(3);
    assert!(
        done.last_line().ends_with("; not whole: big"),
        "{}",
        done.err
    );
    let found = read_tree(&target);
    assert_eq!(found.len(), 2);
    assert!(found[&b"a"[..]] == Node::File(b"first".to_vec()));
    let Node::File(partial) = &found[&b"big.xbpipe-partial"[..]] else {
        panic!("no partial file")
    };
    assert!(big.starts_with(partial) && partial.len() > 1_000_000);

    // The same target again: what was left over is no obstacle, what was whole is.
    extract(&target, &archive, &[]).expect(1);
    extract(&target, &archive, &["--overwrite"]).expect(0);
    assert_same(&read_tree(&target), &read_tree(&source));

    let mut flipped = archive.clone();
    flipped[at] ^= 1;
    let target = root.path().join("flipped");
    let done = extract(&target, &flipped, &[]).expect(4);
    assert!(done.last_line().contains("; damaged: big"), "{}", done.err);
    assert!(done.last_line().contains("byte offset"), "{}", done.err);
    assert!(!target.join("big").exists() && target.join("big.xbpipe-partial").exists());
    // verify goes on and knows that the rest is right.
    let done = run(xbpipe(["verify", "--json"]), &flipped).expect(4);
    let value: serde_json::Value = serde_json::from_str(done.text()).unwrap();
    assert_eq!(value["damaged"], serde_json::json!(["big"]));
    assert_eq!(value["files"], 2);
}

#[test]
fn damage_inside_compressed_members_is_named() {
    let root = scratch();
    let source = root.path().join("source");
    let big = noise(3_000_000, 1);
    write_tree(&source, &files([("big", &big[..]), ("a", b"first")]));
    let mut command = xbpipe(["create", "--compress", "zstd", "-C"]);
    command.arg(&source).arg(".");
    let archive = run(command, b"").expect(0).out;
    let stored = run(xbpipe(["cat", "-", "big.zst"]), &archive).expect(0).out;
    let mut inner = stored.clone();
    inner[1_500_000] ^= 1;
    for (what, content, status) in [
        ("flipped", &inner[..], 4),
        ("cut", &stored[..2_000_000], 3),
        ("no frame", b"plain text that is no frame", 4),
        ("junk after", &[&stored[..], b"junk"].concat(), 4),
        ("empty", b"", 3),
    ] {
        // The archive is right, what is in it is not.
        let mut archive = Chunks::new();
        for (i, piece) in content.chunks(777_777).enumerate() {
            archive = archive.payload("big.zst", i as u64 * 777_777, piece);
        }
        let archive = archive.end("big.zst").0;
        let target = root.path().join(what);
        let done = extract(&target, &archive, &["--decompress"]).expect(status);
        assert!(!target.join("big").exists(), "{what}");
        assert!(done.last_line().contains("big.zst"), "{what}: {}", done.err);
        run(xbpipe(["verify"]), &archive).expect(0);
        run(xbpipe(["verify", "--decompress"]), &archive).expect(status);
    }
}
