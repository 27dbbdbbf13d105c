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

/// A run that is killed without warning, and the rest of it. r[bad-input.resume]
#[test]
fn an_extraction_killed_by_the_kernel_is_continued() {
    let mut tree = Tree::new();
    for i in 0..60 {
        let content = noise(1 << 20, 100 + i);
        tree.insert(format!("d/f{i:02}").into_bytes(), Node::File(content));
    }
    for options in [&[][..], &["--compress", "zstd"]] {
        let root = scratch();
        let (source, target) = (root.path().join("s"), root.path().join("t"));
        write_tree(&source, &tree);
        let file = root.path().join("t.xb");
        let mut create = xbpipe(["create", "-C"]);
        create
            .arg(&source)
            .args(options)
            .arg("--to")
            .arg(&file)
            .arg(".");
        run(create, b"").expect(0);
        std::fs::remove_dir_all(&source).unwrap();
        let extract = |more: &[&str]| {
            let mut command = xbpipe(["extract", "--no-sync", "--parallel", "1", "--decompress"]);
            command.args(more).arg("-C").arg(&target).arg(&file);
            command
        };
        // Names only: content may be under way.
        let whole = || {
            let entries = std::fs::read_dir(target.join("d")).into_iter().flatten();
            let names = entries.map(|e| e.unwrap().file_name().into_encoded_bytes());
            let mut names: Vec<Vec<u8>> = names
                .filter(|name| !name.ends_with(PARTIAL.as_bytes()))
                .map(|name| [b"d/", &name[..]].concat())
                .collect();
            names.sort();
            names
        };
        let mut child = extract(&[])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while whole().len() < 5 && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let before = whole();
        if before.len() == tree.len() {
            // It was faster than the one who looked: as if it had been killed before its last files.
            assert!(status.success() || before.len() >= 5);
            for name in &before[50..] {
                let name = String::from_utf8(name.clone()).unwrap();
                std::fs::remove_file(target.join(name)).unwrap();
            }
        }
        let before = whole();
        assert!(before.len() >= 5 && before.len() < tree.len(), "{before:?}");
        let inode = |name: &Vec<u8>| {
            let name = String::from_utf8(name.clone()).unwrap();
            std::fs::metadata(target.join(name)).unwrap().ino()
        };
        let inodes: Vec<u64> = before.iter().map(inode).collect();
        run(extract(&["--resume"]), b"").expect(0);
        assert_same(&read_tree(&target), &tree);
        // What was whole was not written again, whether its content is in the index or only comes out of the codec.
        assert_eq!(before.iter().map(inode).collect::<Vec<_>>(), inodes);
    }
}

/// Of what is decoded on the way nobody knows the content before it comes: it is compared. r[bad-input.resume]
#[test]
fn what_is_decompressed_is_written_again_only_where_it_differs() {
    let tree = files([
        ("empty", &b""[..]),
        ("good", &noise(3 << 20, 1)),
        ("longer", &noise(100_000, 2)),
        ("other", &noise(2 << 20, 3)),
        ("shorter", &noise(700_000, 4)),
        ("small", b"little"),
    ]);
    let root = scratch();
    let (source, target) = (root.path().join("s"), root.path().join("t"));
    write_tree(&source, &tree);
    let file = root.path().join("t.xb");
    let mut create = xbpipe(["create", "--compress", "zstd", "-C"]);
    create.arg(&source).arg("--to").arg(&file).arg(".");
    run(create, b"").expect(0);
    let extract = |more: &[&str]| {
        let mut command = xbpipe(["extract", "--no-sync", "--decompress"]);
        command.args(more).arg("-C").arg(&target).arg(&file);
        run(command, b"").expect(0)
    };
    extract(&[]);
    let mut other = std::fs::read(target.join("other")).unwrap();
    other[1_900_000] ^= 1;
    std::fs::write(target.join("other"), other).unwrap();
    let longer = [noise(100_000, 2), b"more".to_vec()].concat();
    std::fs::write(target.join("longer"), longer).unwrap();
    std::fs::write(target.join("shorter"), noise(699_999, 4)).unwrap();
    let inode = |name: &str| std::fs::metadata(target.join(name)).unwrap().ino();
    let kept = ["empty", "good", "small"].map(inode);
    let wrong = ["longer", "other", "shorter"].map(inode);
    extract(&["--resume"]);
    assert_same(&read_tree(&target), &tree);
    assert_eq!(["empty", "good", "small"].map(inode), kept);
    let anew = ["longer", "other", "shorter"].map(inode);
    assert!(anew.iter().zip(wrong).all(|(a, b)| *a != b));
}

/// Without an index the structure is followed, wherever the archive comes from.
#[test]
fn a_quick_check_of_an_archive_without_an_index_tells_the_truth() {
    let tree = tree();
    let ours = archive(&tree);
    let theirs = index_free(&ours);
    let root = scratch();
    let gzip = |bytes: &[u8]| {
        let mut gzip = std::process::Command::new(crate::tool::need("gzip", "gzip"));
        gzip.arg("-c");
        run(gzip, bytes).expect(0).out
    };
    let check = |bytes: &[u8], file: bool| {
        let mut command = xbpipe(["verify", "--quick"]);
        if file {
            let path = root.path().join("a.xb");
            std::fs::write(&path, bytes).unwrap();
            command.arg(path);
            run(command, b"")
        } else {
            run(command, bytes)
        }
    };
    // A cut where a file is open, and one in a chunk's head.
    let (cut, head) = (theirs.len() / 2 + 5000, theirs.len() - 5);
    for file in [true, false] {
        let done = check(&theirs, file).expect(0);
        let end = ": whole as far as its structure tells: 5 files, 6291483 bytes in place, the archive does not state its end\n";
        assert!(done.text().ends_with(end), "{}", done.text());
        let done = check(&ours, file).expect(0);
        assert!(!done.text().contains("does not state"), "{}", done.text());
        check(&gzip(&theirs), file).expect(0);
        check(&gzip(&ours), file).expect(0);
        for cut in [cut, head] {
            for bytes in [&theirs[..cut], &ours[..cut], &gzip(&theirs[..cut])] {
                let done = check(bytes, file).expect(3);
                assert!(done.text().contains(": not right: "), "{}", done.text());
                assert!(
                    !done.text().contains(": 0 files verified"),
                    "{}",
                    done.text()
                );
            }
        }
        check(b"no archive at all, but some text", file).expect(4);
    }
    // Of a file large content is passed over: what is wrong there is for the real check.
    let mut damaged = theirs.clone();
    damaged[cut] ^= 1;
    check(&damaged, true).expect(0);
    check(&damaged, false).expect(4);
}
