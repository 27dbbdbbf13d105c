//! Members that may be right and cannot be decoded with what a run was given: each is a finding of its own, the others go on.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fuzzed::targets::crypt::IDENTITY;
use crate::tool::{
    Done, Node, Tree, files, index_free, need, noise, read_tree, run, scratch, write_tree, xbpipe,
};

/// Files that are right, long enough that lanes are busy with them when one is refused.
const GOOD: usize = 40;
const GOOD_LEN: usize = 2 << 20;

/// What is refused, and the beginning of its remedy.
const REFUSED: [(&str, &str); 4] = [
    ("f11x.age", "take the file out as it is and use `age -d`"),
    ("f12x.age", "use the identity file of one of its recipients"),
    ("f20x.lz4", "decompress it with the lz4 tool"),
    ("f30x.zst", "decompress it with zstd -D and the dictionary"),
];

fn name(i: usize) -> String {
    format!("f{i:02}")
}

/// What age makes for somebody else.
fn for_others(root: &Path) -> Vec<u8> {
    let mut keygen = xbpipe(["keygen"]);
    keygen.arg(root.join("other"));
    let recipient = run(keygen, b"").expect(0);
    let mut age = Command::new(need("age", "age"));
    age.args(["-e", "-r", recipient.text().trim_end()]);
    run(age, b"a secret of others").expect(0).out
}

fn tree(root: &Path) -> Tree {
    let armoured = b"-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3JnL3Yx\n-----END AGE ENCRYPTED FILE-----\n";
    let mut tree = files([
        ("f11x.age", &armoured[..]),
        ("f20x.lz4", &[0x02, 0x21, 0x4c, 0x18, 1, 0, 0, 0, 9]),
        (
            "f30x.zst",
            &[0x28, 0xb5, 0x2f, 0xfd, 0x01, 0x58, 7, 1, 0, 0],
        ),
    ]);
    tree.insert(b"f12x.age".to_vec(), Node::File(for_others(root)));
    for i in 0..GOOD {
        let content = noise(GOOD_LEN + i, i as u64 + 1);
        tree.insert(name(i).into_bytes(), Node::File(content));
    }
    tree
}

/// How an archive is read.
const WAYS: [&str; 3] = ["index", "file", "pipe"];

fn told(verb: &str, way: &str, archive: &Path, key: &Path, options: &[&str]) -> Done {
    let mut command = xbpipe([verb, "--decompress", "--decrypt-key-file"]);
    command.arg(key).args(options);
    if way == "pipe" {
        run(command, &std::fs::read(archive).unwrap())
    } else {
        command.arg(archive);
        run(command, b"")
    }
}

#[test]
fn a_refused_member_is_a_finding_and_the_others_go_on() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = tree(root.path());
    write_tree(&source, &tree);
    let mut create = xbpipe(["create", "-C"]);
    create.arg(&source).arg(".");
    let ours = run(create, b"").expect(0).out;
    std::fs::remove_dir_all(&source).unwrap();
    let at = |name: &str| root.path().join(name);
    let (with, without, key) = (at("ours.xb"), at("theirs.xb"), at("identity"));
    std::fs::write(&without, index_free(&ours)).unwrap();
    std::fs::write(&with, ours).unwrap();
    std::fs::write(&key, IDENTITY).unwrap();
    for way in WAYS {
        let archive = if way == "index" { &with } else { &without };
        let target = at("target");
        let directory = ["--no-sync", "-C", target.to_str().unwrap()];
        let options = [&directory[..], &["--keep-going"]].concat();
        let done = told("extract", way, archive, &key, &options).expect(1);
        let line = done.last_line();
        let whole = format!("files whole and verified: {GOOD}; not decoded: ");
        assert!(line.contains(&whole), "{way}: {line}");
        let names: Vec<&str> = REFUSED.iter().map(|(name, _)| *name).collect();
        assert!(line.ends_with(&names.join(", ")), "{way}: {line}");
        assert!(!line.contains("damaged:"), "{way}: {line}");
        let found = read_tree(&target);
        for i in 0..GOOD {
            let name = name(i).into_bytes();
            assert!(found[&name] == tree[&name], "{way}: {}", i);
        }
        let right = |name: &Vec<u8>| tree.contains_key(name) || name.ends_with(b"-partial");
        assert!(found.keys().all(right), "{way}");
        std::fs::remove_dir_all(&target).unwrap();

        // Without --keep-going it is the end.
        let done = told("extract", way, archive, &key, &directory).expect(1);
        let named = REFUSED
            .iter()
            .any(|(name, _)| done.last_line().contains(name));
        assert!(named && done.err.contains("hint: "), "{way}: {}", done.err);
        let found = read_tree(&target);
        assert!(!found.contains_key(name(GOOD - 1).as_bytes()), "{way}");
        std::fs::remove_dir_all(&target).unwrap();

        let done = told("verify", way, archive, &key, &[]).expect(1);
        let lines: Vec<&str> = done.text().lines().collect();
        let [findings @ .., verdict] = &lines[..] else {
            panic!("{way}: {lines:?}")
        };
        for ((name, hint), line) in REFUSED.iter().zip(findings) {
            assert!(
                line.starts_with(&format!("{name}: cannot decode")),
                "{line}"
            );
            assert!(line.contains(hint), "{way}: {line}");
        }
        let end =
            format!("not right: {GOOD} files verified, 0 damaged, 0 not whole, 4 not decoded");
        assert!(verdict.ends_with(&end), "{way}: {verdict}");
        let done = told("verify", way, archive, &key, &["--json"]).expect(1);
        let value: Value = serde_json::from_str(done.text()).unwrap();
        assert_eq!(value["refused"], json!(names), "{way}: {value}");
        assert_eq!(value["files"], json!(GOOD), "{way}: {value}");
        assert_eq!(value["findings"][0]["kind"], json!("failed"), "{value}");
    }
}

/// A window for which this run has no memory is a matter of that file, too.
#[test]
fn a_member_that_needs_too_much_memory_costs_no_other() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = files([("a", &noise(3 << 20, 1)[..]), ("z", &noise(3 << 20, 2))]);
    write_tree(&source, &tree);
    let mut zstd = Command::new(need("zstd", "zstd"));
    zstd.args(["-q", "-c", "--long=27", "--no-content-size"]);
    let long = noise(1 << 20, 3).repeat(130);
    std::fs::write(source.join("long.zst"), run(zstd, &long).expect(0).out).unwrap();
    let mut create = xbpipe(["create", "-C"]);
    create.arg(&source).arg(".");
    let archive = run(create, b"").expect(0).out;
    let target = root.path().join("target");
    let mut extract = xbpipe(["extract", "--no-sync", "--keep-going", "--decompress"]);
    extract.args(["--memory", "16M", "-C"]).arg(&target);
    let done = run(extract, &archive).expect(1);
    assert!(
        done.last_line().ends_with("not decoded: long.zst"),
        "{}",
        done.err
    );
    assert!(done.err.contains("hint: use --memory "), "{}", done.err);
    let mut found = read_tree(&target);
    found.retain(|name, _| !name.ends_with(b"-partial"));
    crate::tool::assert_same(&found, &tree);
}
