//! `create` and `extract` as real processes with a real pipe between them: what comes out is what went in.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use crate::tool::{
    Node, Tree, allocated, assert_same, files, noise, pipe, read_tree, run, scratch, split_chunks,
    write_tree, xbpipe,
};

fn create(source: &Path, options: &[&str]) -> Command {
    let mut command = xbpipe(["create", "-C"]);
    command.arg(source).args(options).arg(".");
    command
}

fn extract(target: &Path, options: &[&str]) -> Command {
    let mut command = xbpipe(["extract", "--no-sync", "-C"]);
    command.arg(target).args(options);
    command
}

/// There and back; returns the target.
fn round(root: &Path, create_options: &[&str], extract_options: &[&str]) -> std::path::PathBuf {
    let target = root.join("target");
    if target.exists() {
        std::fs::remove_dir_all(&target).unwrap();
    }
    let (one, two) = pipe(
        create(&root.join("source"), create_options),
        extract(&target, extract_options),
    );
    two.expect(0);
    one.expect(0);
    target
}

#[test]
fn sizes_around_every_border_survive_every_configuration() {
    let root = scratch();
    let mut tree = Tree::new();
    for (i, len) in [
        0, 1, 4095, 4096, 32_767, 32_768, 32_769, 65_536, 1_048_575, 1_048_576, 1_048_577,
        10_485_759, 10_485_760, 10_485_761, 25_000_000,
    ]
    .into_iter()
    .enumerate()
    {
        let seed = u64::try_from(i).unwrap();
        // Half noise, half text, so that compression has something to do.
        let mut content = noise(len / 2, seed);
        content.extend(b"abcdefgh".iter().cycle().take(len - len / 2));
        tree.insert(
            format!("d{}/f{len}", i % 3).into_bytes(),
            Node::File(content),
        );
    }
    tree.insert(b"empty/dir".to_vec(), Node::EmptyDir);
    write_tree(&root.path().join("source"), &tree);
    for options in [
        &["--memory", "8M", "--parallel", "1"][..],
        &["--memory", "8M", "--parallel", "16"],
        &["--memory", "64M", "--parallel", "4"],
    ] {
        let target = round(root.path(), options, options);
        assert_same(&read_tree(&target), &tree);
        let with = |more: &[&'static str]| [options, more].concat();
        let target = round(
            root.path(),
            &with(&["--compress", "zstd:1"]),
            &with(&["--decompress"]),
        );
        assert_same(&read_tree(&target), &tree);
    }
}

/// `r[xbstream.writer.chunk-len]`
#[test]
fn chunks_are_as_long_as_asked_for() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = Tree::from([(b"f".to_vec(), Node::File(noise(23 << 20, 7)))]);
    write_tree(&source, &tree);
    // Least memory for one lane: half of it may wait in an unfinished chunk.
    for (options, longest) in [
        (vec![], 1 << 20),
        (vec!["--chunk-size", "256K"], 256 << 10),
        (vec!["--chunk-size", "10M"], 10 << 20),
        (
            vec!["--chunk-size", "10M", "--memory", "8M", "--parallel", "1"],
            4 << 20,
        ),
        (vec!["--chunk-size", "2M", "--compress", "zstd"], 2 << 20),
    ] {
        let archive = run(create(&source, &options), b"").expect(0).out;
        let payloads = split_chunks(&archive).into_iter().filter_map(|chunk| {
            let path_len = usize::from(chunk[10]);
            let payload = &chunk[14 + path_len..];
            (chunk[9] == b'P' && chunk[14] == b'f')
                .then(|| u64::from_le_bytes(payload[..8].try_into().unwrap()))
        });
        let found = payloads.max().unwrap();
        // A piece that was compressed is not divided, and is a little longer than what went into it.
        let least = if options.contains(&"zstd") {
            longest / 2
        } else {
            longest
        };
        assert!((least..=longest).contains(&found), "{options:?} {found}");
        round(root.path(), &options, &["--decompress"]);
        assert_same(&read_tree(&root.path().join("target")), &tree);
    }
    for size in ["255K", "11M", "0"] {
        run(create(&source, &["--chunk-size", size]), b"").expect(2);
    }
}

#[test]
fn names_of_every_byte_and_every_length() {
    let root = scratch();
    let mut tree = Tree::new();
    for byte in 1..=255u8 {
        if byte != b'/' {
            tree.insert(vec![b'n', byte], Node::File(vec![byte]));
            if byte != b'.' {
                tree.insert(vec![byte, b'/', byte, b'd'], Node::EmptyDir);
            }
        }
    }
    let long = [[b'a'; 255].as_slice(), &[b'b'; 255]].join(&b'/');
    assert_eq!(long.len(), 511);
    tree.insert(long, Node::File(b"longest".to_vec()));
    tree.insert(
        [b"deep/".repeat(100), b"x".to_vec()].concat(),
        Node::File(noise(70_000, 1)),
    );
    tree.insert(b".hidden/..x/...".to_vec(), Node::File(b"dots".to_vec()));
    write_tree(&root.path().join("source"), &tree);
    let target = round(root.path(), &[], &[]);
    assert_same(&read_tree(&target), &tree);
}

#[test]
fn names_that_no_archive_can_hold_are_found_before_the_first_byte() {
    let root = scratch();
    let source = root.path().join("source");
    std::fs::create_dir_all(source.join("d/".repeat(1000))).unwrap();
    let done = run(create(&source, &[]), b"").expect(1);
    assert!(done.out.is_empty());
    assert!(done.last_line().contains("longer than 511"), "{}", done.err);

    let source = root.path().join("suffix");
    let long = [[b'a'; 255].as_slice(), &[b'b'; 253]].join(&b'/');
    write_tree(&source, &[(long, Node::File(vec![1]))].into());
    run(create(&source, &[]), b"").expect(0);
    let done = run(create(&source, &["--compress", "zstd"]), b"").expect(1);
    assert!(
        done.out.is_empty() && done.last_line().contains("suffix"),
        "{}",
        done.err
    );

    for (name, why) in [
        ("xbpipe_index", "reserved for the archive's own index"),
        (
            "d/x.xbpipe-partial",
            "reserved for files that are not whole",
        ),
    ] {
        let source = root.path().join(name.replace('/', "_"));
        write_tree(&source, &files([(name, &b"x"[..])]));
        let done = run(create(&source, &[]), b"").expect(1);
        assert!(
            done.out.is_empty() && done.last_line().contains(why),
            "{}",
            done.err
        );
    }
}

#[test]
fn links_and_special_files_are_an_error_or_named() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("a", &b"one"[..]), ("d/b", b"two")]));
    std::os::unix::fs::symlink("a", source.join("link")).unwrap();
    std::os::unix::fs::symlink("d", source.join("linked")).unwrap();
    let done = run(create(&source, &[]), b"").expect(1);
    assert!(done.last_line().contains("symbolic link"), "{}", done.err);

    let target = round(root.path(), &["--dereference"], &[]);
    let expected = files([
        ("a", &b"one"[..]),
        ("d/b", b"two"),
        ("link", b"one"),
        ("linked/b", b"two"),
    ]);
    assert_same(&read_tree(&target), &expected);

    let listener = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    let done = run(create(&source, &["--dereference"]), b"").expect(1);
    assert!(done.last_line().contains("socket"), "{}", done.err);
    let done = run(create(&source, &["--skip-special"]), b"").expect(0);
    assert_eq!(
        done.err.matches("xbpipe: warning: left out").count(),
        3,
        "{}",
        done.err
    );
    drop(listener);
}

#[test]
fn names_that_overlap_are_refused_and_odd_spellings_are_not() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &files([("a/b", &b"1"[..]), ("a2", b"2")]));
    for names in [["a", "a"], ["a", "a/b"], [".", "a2"], ["./a", "a/./b"]] {
        let mut command = xbpipe(["create", "-C"]);
        command.arg(&source).args(names);
        run(command, b"").expect(2);
    }
    let mut command = xbpipe(["create", "-C"]);
    command.arg(&source).args(["a2", "./a/"]);
    let archive = run(command, b"").expect(0).out;
    let listed = run(xbpipe(["list"]), &archive).expect(0);
    assert_eq!(listed.text(), "a/b\na2\n");
    let mut command = xbpipe(["create", "-C"]);
    command.arg(source.join("a")).arg("../a2");
    run(command, b"").expect(2);
}

#[test]
fn holes_stay_holes() {
    const MIB: u64 = 1 << 20;
    let root = scratch();
    let source = root.path().join("source");
    std::fs::create_dir(&source).unwrap();
    for (name, size, data) in [
        ("front", 40 * MIB, &[(39 * MIB, 4096)][..]),
        ("back", 40 * MIB, &[(0, 4096)]),
        ("both", 50 * MIB, &[(7 * MIB + 512, 100_000), (30 * MIB, 1)]),
        ("all", 64 * MIB, &[]),
        ("odd", 33 * MIB + 77, &[(5, 5)]),
    ] {
        let file = std::fs::File::create(source.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, len) in data {
            file.write_all_at(&noise(*len, *offset), *offset).unwrap();
        }
    }
    // Zeros that are stored come back as a hole as well.
    let mut zeros = vec![0; 8 << 20];
    zeros[4_000_000] = 1;
    std::fs::write(source.join("zeros"), zeros).unwrap();
    let expected = read_tree(&source);
    for (create_options, extract_options) in [
        (&["--memory", "8M"][..], &["--memory", "8M"][..]),
        (&["--compress", "zstd"], &["--decompress"]),
    ] {
        let target = round(root.path(), create_options, extract_options);
        assert_same(&read_tree(&target), &expected);
        for name in expected.keys() {
            let path = target.join(std::ffi::OsStr::from_bytes(name));
            let taken = allocated(&path);
            assert!(taken <= 512 << 10, "{path:?} takes {taken} bytes");
        }
    }
}

#[test]
fn chosen_members_and_their_absence() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = files([
        ("db/t.frm", &b"frm"[..]),
        ("db/t.ibd", b"ibd"),
        ("db2/u", b"u"),
        ("top", b"top"),
    ]);
    write_tree(&source, &tree);
    let archive = root.path().join("a.xb");
    let to = archive.to_str().unwrap();
    // In the order of the names: with several lanes small files may overtake each other.
    run(create(&source, &["--parallel", "1", "--to", to]), b"").expect(0);
    let target = root.path().join("some");
    let mut command = extract(&target, &[]);
    command.arg(&archive).args(["./db/", "top"]);
    run(command, b"").expect(0);
    let expected = files([
        ("db/t.frm", &b"frm"[..]),
        ("db/t.ibd", b"ibd"),
        ("top", b"top"),
    ]);
    assert_same(&read_tree(&target), &expected);
    let mut command = extract(&root.path().join("none"), &[]);
    command.arg(&archive).args(["db", "nothing", "t"]);
    let done = run(command, b"").expect(1);
    assert!(
        done.last_line()
            .ends_with("not found in the archive: nothing, t"),
        "{}",
        done.err
    );
    let mut command = xbpipe(["cat"]);
    command.arg(&archive).args(["top", "db"]);
    assert_eq!(run(command, b"").expect(0).text(), "frmibdtop");
    // The target exists, and an old archive is not touched.
    let before = std::fs::read(&archive).unwrap();
    run(create(&source, &["--to", to]), b"").expect(1);
    assert_eq!(std::fs::read(&archive).unwrap(), before);
}

#[test]
fn cat_keeps_members_apart_that_interleave() {
    let mut archive = crate::tool::Chunks::new();
    let (a, b) = (noise(300_000, 1), noise(300_000, 2));
    for at in (0..300_000).step_by(50_000) {
        archive = archive
            .payload("b", at as u64, &b[at..at + 50_000])
            .payload("a", at as u64, &a[at..at + 50_000]);
    }
    let archive = archive.end("a").end("b").0;
    let done = run(xbpipe(["cat", "-", "a", "b"]), &archive).expect(0);
    assert!(done.out == [b.clone(), a].concat());
    assert!(run(xbpipe(["cat", "-", "b"]), &archive).expect(0).out == b);
}

#[test]
fn existing_files_are_kept_unless_told_otherwise() {
    let root = scratch();
    let source = root.path().join("source");
    let big = noise(200_000, 3);
    write_tree(&source, &files([("a", &b"new"[..]), ("big", &big)]));
    let archive = run(create(&source, &[]), b"").expect(0).out;
    for present in ["a", "big"] {
        let target = root.path().join(format!("has-{present}"));
        write_tree(
            &target,
            &files([(present, &b"old"[..]), ("other", b"mine")]),
        );
        let done = run(extract(&target, &[]), &archive).expect(1);
        assert!(done.last_line().contains(present), "{}", done.err);
        assert_eq!(std::fs::read(target.join(present)).unwrap(), b"old");
        run(extract(&target, &["--overwrite"]), &archive).expect(0);
        let expected = files([("a", &b"new"[..]), ("big", &big), ("other", b"mine")]);
        assert_same(&read_tree(&target), &expected);
    }
}

#[test]
fn a_file_that_changes_while_it_is_read_is_stored_with_a_warning() {
    use std::io::Read as _;
    let root = scratch();
    for (len, word) in [(10 << 20, "shorter"), (200 << 20, "longer")] {
        let source = root.path().join(word);
        let content = noise(100 << 20, 9);
        write_tree(&source, &files([("f", &content[..])]));
        let mut child = create(&source, &["--memory", "8M"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // It has begun, and cannot have ended: pipe and buffers hold a tenth of the file.
        let mut begin = vec![0; 1 << 16];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut begin).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let file = std::fs::File::options()
            .write(true)
            .open(source.join("f"))
            .unwrap();
        file.set_len(len).unwrap();
        stdout.read_to_end(&mut begin).unwrap();
        let done = crate::tool::finish(child).expect(0);
        assert!(done.err.contains(word), "{}", done.err);
        let target = root.path().join(format!("{word}-target"));
        run(extract(&target, &[]), &begin).expect(0);
        let stored = std::fs::read(target.join("f")).unwrap();
        assert!(stored.len() <= content.len() && content.starts_with(&stored));
    }
}

fn tree_strategy() -> impl Strategy<Value = Tree> {
    let name = proptest::collection::vec(any::<u8>(), 1..12).prop_map(|mut bytes| {
        for byte in &mut bytes {
            if matches!(*byte, 0 | b'/') {
                *byte = b'_';
            }
        }
        // Never a name of dots only, and no directory where a file is: each level has a mark of its own.
        bytes.push(b'~');
        bytes
    });
    let content = prop_oneof![
        Just(Vec::new()),
        (1usize..5000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
        (30_000usize..70_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        (1_000_000usize..2_200_000, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
    ];
    let entry = (
        proptest::collection::vec(name, 0..4),
        any::<u8>(),
        prop::option::of(content),
    );
    proptest::collection::vec(entry, 0..25).prop_map(|entries| {
        let mut tree = Tree::new();
        for (directories, leaf, content) in entries {
            let mut path: Vec<u8> = directories.join(&b'/');
            if !path.is_empty() {
                path.push(b'/');
            }
            match content {
                Some(content) => {
                    path.extend_from_slice(format!("f{leaf}").as_bytes());
                    tree.insert(path, Node::File(content));
                }
                None => {
                    path.extend_from_slice(format!("e{leaf}").as_bytes());
                    tree.insert(path, Node::EmptyDir);
                }
            }
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_survives(tree in tree_strategy(), lanes in 1u8..9, level in 0u8..4, small: bool) {
        let root = scratch();
        write_tree(&root.path().join("source"), &tree);
        let lanes = lanes.to_string();
        let memory = if small { "8M" } else { "32M" };
        let common = ["--parallel", &lanes, "--memory", memory];
        let compression = format!("zstd:{level}");
        let (creating, extracting) = match level {
            0 => (vec![], vec![]),
            _ => (vec!["--compress", &compression], vec!["--decompress"]),
        };
        let target = round(
            root.path(),
            &[&common[..], &creating].concat(),
            &[&common[..], &extracting].concat(),
        );
        assert_same(&read_tree(&target), &tree);
    }
}
