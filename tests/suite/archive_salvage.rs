//! Damaged archives: every good file is saved, what is not whole never has its name, and whoever was killed goes on.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::{Value, json};

use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, index_free, noise, read_tree, run, scratch,
    write_tree, xbpipe,
};

const PARTIAL: &str = ".xbpipe-partial";

fn tree() -> Tree {
    files([
        ("a", &b"first"[..]),
        ("d/b", b"second"),
        ("large", &noise(6 << 20, 1)),
        ("y", b"last but one"),
        ("z", b"last"),
    ])
}

fn archive(tree: &Tree) -> Vec<u8> {
    let root = scratch();
    write_tree(root.path(), tree);
    let mut command = xbpipe(["create", "--parallel", "1", "-C"]);
    command.arg(root.path()).arg(".");
    run(command, b"").expect(0).out
}

/// Extracts from a file, or through a pipe.
fn extract(target: &Path, archive: &[u8], file: bool, options: &[&str]) -> Done {
    let mut command = xbpipe(["extract", "--no-sync", "-C"]);
    command.arg(target).args(options);
    if file {
        let path = target.with_extension("xb");
        std::fs::write(&path, archive).unwrap();
        command.arg(path);
        run(command, b"")
    } else {
        run(command, archive)
    }
}

/// Names of files that are whole, all of them right; the others are not under their names.
fn saved(target: &Path, tree: &Tree) -> Vec<String> {
    let mut names = Vec::new();
    for (name, node) in read_tree(target) {
        let text = String::from_utf8(name.clone()).unwrap();
        match node {
            Node::File(_) if text.ends_with(PARTIAL) => {}
            Node::File(_) => {
                assert!(
                    tree.get(&name) == Some(&node),
                    "{text} has its name and is wrong"
                );
                names.push(text);
            }
            Node::EmptyDir => {}
        }
    }
    names
}

fn position(archive: &[u8], of: &[u8]) -> usize {
    archive.windows(of.len()).position(|w| w == of).unwrap()
}

#[test]
fn every_good_file_of_a_damaged_archive_is_saved() {
    let tree = tree();
    let ours = archive(&tree);
    // Without the index: the same chunks as another program would write them.
    let theirs = index_free(&ours);
    let payload = |archive: &[u8]| position(archive, &noise(6 << 20, 1)[3 << 20..][..64]);
    let head = |archive: &[u8]| position(archive, b"second") - 20 - 3 - 14;
    type Damage<'d> = (&'d str, &'d dyn Fn(&[u8]) -> Vec<u8>, &'d [&'d str]);
    let cases: [Damage<'_>; 4] = [
        (
            "byte of payload",
            &|archive| {
                let mut bytes = archive.to_vec();
                bytes[payload(archive)] ^= 1;
                bytes
            },
            &["a", "d/b", "y", "z"],
        ),
        (
            "magic of a chunk",
            &|archive| {
                let mut bytes = archive.to_vec();
                bytes[head(archive)] ^= 1;
                bytes
            },
            &["a", "large", "y", "z"],
        ),
        (
            "type of a chunk",
            &|archive| {
                let mut bytes = archive.to_vec();
                bytes[head(archive) + 9] = b'?';
                bytes
            },
            &["a", "large", "y", "z"],
        ),
        (
            "garbage for a while",
            &|archive| {
                let mut bytes = archive.to_vec();
                let at = payload(archive);
                bytes[at..at + 1_500_000].copy_from_slice(&noise(1_500_000, 77));
                bytes
            },
            &["a", "d/b", "y", "z"],
        ),
    ];
    for (what, damage, expected) in cases {
        for (whose, archive) in [("ours", &ours), ("theirs", &theirs)] {
            let damaged = damage(archive);
            for file in [true, false] {
                let what = format!("{what}, {whose}, file {file}");
                let root = scratch();
                let target = root.path().join("t");
                let done = extract(&target, &damaged, file, &["--keep-going"]).expect(4);
                let mut found = saved(&target, &tree);
                // By the index a file is found whose first chunk has a wrong magic only: its head is compared, too.
                found.retain(|name| name != "d/b" || expected.contains(&"d/b"));
                assert_eq!(found, expected, "{what}: {}", done.err);
                let mut verify = xbpipe(["verify", "--json", "-"]);
                verify.args::<[&str; 0], _>([]);
                let value: Value =
                    serde_json::from_str(run(verify, &damaged).expect(4).text()).unwrap();
                assert_eq!(value["files"], json!(expected.len()), "{what}: {value}");
                let findings = value["findings"].as_array().unwrap();
                assert!(!findings.is_empty());
                assert!(findings.iter().any(|f| f["offset"].is_u64()), "{value}");
            }
        }
    }
}

/// The files are as good as those of an archive that has no index; only an empty one might be another.
#[test]
fn a_damaged_index_costs_no_file_its_name() {
    let mut tree = tree();
    tree.insert(b"empty".to_vec(), Node::File(Vec::new()));
    let mut damaged = archive(&tree);
    let at = position(&damaged, b"F 0 5 ");
    damaged[at + 4] ^= 1;
    for file in [true, false] {
        let root = scratch();
        let target = root.path().join("t");
        let done = extract(&target, &damaged, file, &["--keep-going"]).expect(4);
        let names = saved(&target, &tree);
        assert_eq!(names, ["a", "d/b", "large", "y", "z"], "{}", done.err);
        assert!(
            done.last_line().contains("not whole: empty"),
            "{}",
            done.err
        );
    }
}

#[test]
fn what_may_be_missing_its_end_is_not_whole() {
    // The head of the last chunk of a file is damaged: the end that follows would make it look whole.
    let start = noise(100_000, 1);
    let archive = |magic: &[u8]| {
        Chunks::new()
            .file("before", b"x")
            .payload("t", 0, &start)
            .raw(magic)
            .raw(&Chunks::new().payload("t", 100_000, b"the end").0[8..])
            .end("t")
            .raw(magic)
            .raw(&Chunks::new().payload("u", 0, b"all of it").0[8..])
            .end("u")
            .file("behind", b"y")
            .0
    };
    let root = scratch();
    let target = root.path().join("t");
    let done = extract(&target, &archive(b"XBSTCK99"), false, &["--keep-going"]).expect(4);
    let whole = files([("before", &b"x"[..]), ("behind", b"y")]);
    assert_eq!(saved(&target, &whole), ["before", "behind"], "{}", done.err);
    assert!(done.last_line().contains("not whole: t, u"), "{}", done.err);
    assert!(target.join("t.xbpipe-partial").exists());
    extract(&root.path().join("good"), &archive(b"XBSTCK01"), false, &[]).expect(0);
}

#[test]
fn verify_names_each_bad_file_and_ends_with_a_verdict() {
    let tree = files([("a", &b"first a"[..]), ("b", b"first b"), ("c", b"first c")]);
    let mut damaged = archive(&tree);
    for text in [&b"first a"[..], b"first c"] {
        let at = position(&damaged, text);
        damaged[at] ^= 1;
    }
    let done = run(xbpipe(["verify"]), &damaged).expect(4);
    let lines: Vec<&str> = done.text().lines().collect();
    let [a, c, verdict] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        a.starts_with("a: invalid checksum") && a.contains("at byte offset"),
        "{a}"
    );
    assert!(c.starts_with("c: invalid checksum"), "{c}");
    let expected = "(standard input): not right: 1 files verified, 2 damaged, 0 not whole";
    assert_eq!(*verdict, expected);
}

// r[bad-input.resume]
#[test]
fn a_killed_extraction_is_continued_without_writing_again() {
    let tree = tree();
    let ours = archive(&tree);
    let root = scratch();
    let target = root.path().join("t");
    extract(&target, &ours, true, &[]).expect(0);
    // As a killed run leaves it: one file not begun, one half, one with other content; two are right.
    std::fs::remove_file(target.join("y")).unwrap();
    std::fs::rename(target.join("large"), target.join(format!("large{PARTIAL}"))).unwrap();
    std::fs::write(target.join("z"), "tsal").unwrap();
    let inode = |name: &str| std::fs::metadata(target.join(name)).unwrap().ino();
    let (a, z) = (inode("a"), inode("z"));
    let done = extract(&target, &ours, true, &["--resume"]).expect(0);
    assert_same(&read_tree(&target), &tree);
    assert_eq!(inode("a"), a, "{}", done.err);
    assert_ne!(inode("z"), z);
    // Nothing to do.
    let inodes: Vec<u64> = ["a", "d/b", "large", "y", "z"].map(inode).into();
    extract(&target, &ours, true, &["--resume"]).expect(0);
    assert_eq!(inodes, ["a", "d/b", "large", "y", "z"].map(inode));
    // Nobody can tell what is right without an index.
    extract(&target, &ours, false, &["--resume"]).expect(2);
    let theirs = Chunks::new().file("a", b"first").0;
    extract(&target, &theirs, true, &["--resume"]).expect(2);
    assert_same(&read_tree(&target), &tree);
}
