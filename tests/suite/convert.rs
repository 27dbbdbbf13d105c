//! `convert`: whatever goes in, what comes out extracts as the source does, for us and for mbstream.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tool::{
    Chunks, Done, Node, Tree, assert_same, files, need, noise, read_tree, run, scratch, write_tree,
    xbpipe,
};

/// Directories are one level deep, so that mbstream can make them.
fn tree() -> Tree {
    files([
        ("ibdata1", &noise(3_000_000, 1)[..]),
        (
            "db/t.ibd",
            &b"some text that gets shorter\n".repeat(120_000),
        ),
        ("db/zeros", &vec![0; 2_500_000]),
        ("db/empty.MYD", b""),
        ("db/one", b"x"),
        ("xtrabackup_checkpoints", b"backup_type = full-backuped\n"),
    ])
}

struct Place {
    root: tempfile::TempDir,
    source: PathBuf,
    key: String,
    recipient: String,
    secret: String,
}

impl Place {
    fn new() -> Self {
        let root = scratch();
        let source = root.path().join("source");
        write_tree(&source, &tree());
        let key = root.path().join("key");
        let mut keygen = xbpipe(["keygen"]);
        keygen.arg(&key);
        let recipient = run(keygen, b"").expect(0).text().trim().to_owned();
        let secret = root.path().join("secret");
        std::fs::write(&secret, b"0123456789abcdef0123456789abcdef").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            source,
            key: key.to_str().unwrap().to_owned(),
            secret: secret.to_str().unwrap().to_owned(),
            recipient,
            root,
        }
    }

    /// The tree as an archive of ours.
    fn create(&self, options: &[&str]) -> Vec<u8> {
        let mut command = xbpipe(["create", "-C"]);
        command.arg(&self.source).args(options).arg(".");
        run(command, b"").expect(0).out
    }

    /// The same from mbstream.
    fn mbstream(&self) -> Vec<u8> {
        let mut command = Command::new(need("mbstream", "mariadb-backup"));
        command.current_dir(&self.source).arg("-c");
        command.args(tree().keys().map(|n| std::str::from_utf8(n).unwrap()));
        run(command, b"").expect(0).out
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn extract(&self, archive: &[u8], options: &[&str]) -> Tree {
        let target = self.root.path().join("extracted");
        let mut command = xbpipe(["extract", "--no-sync", "-C"]);
        command.arg(&target).args(options);
        run(command, archive).expect(0);
        take(&target)
    }

    /// What mbstream makes of one of our archives.
    fn mbstream_extracts(&self, archive: &[u8]) -> Tree {
        let target = self.root.path().join("mbstream");
        std::fs::create_dir(&target).unwrap();
        let mut command = Command::new(need("mbstream", "mariadb-backup"));
        command.args(["-x", "-C"]).arg(&target);
        assert_eq!(run(command, archive).expect(0).err, "");
        let mut tree = take(&target);
        assert!(tree.remove(&b"xbpipe_index"[..]).is_some());
        tree
    }
}

fn take(target: &Path) -> Tree {
    let tree = read_tree(target);
    std::fs::remove_dir_all(target).ok();
    tree
}

/// Converts what comes through a pipe to what goes into one.
fn convert(archive: &[u8], options: &[&str]) -> Done {
    let mut command = xbpipe(["convert"]);
    command.args(options).args(["-"]);
    run(command, archive)
}

/// The same, but a file.
fn convert_file(archive: &Path, options: &[&str]) -> Done {
    let mut command = xbpipe(["convert"]);
    command.args(options).arg(archive);
    run(command, b"")
}

fn whole(archive: &[u8]) {
    let done = run(xbpipe(["verify"]), archive).expect(0);
    assert!(done.text().contains("end proven"), "{}", done.text());
}

fn compress(tool: &str, archive: &[u8]) -> Vec<u8> {
    let mut command = Command::new(need(tool, tool));
    command.arg("-c");
    run(command, archive).expect(0).out
}

// r[convert.members]
#[test]
fn every_dialect_and_codec_goes_in() {
    let place = Place::new();
    let secret = ["--encrypt", "xbcrypt", "--encrypt-key-file", &place.secret];
    let age = ["--encrypt", "age", "--encrypt-recipient", &place.recipient];
    let plain = place.mbstream();
    let sources: Vec<(&str, Vec<u8>)> = vec![
        ("mbstream", plain.clone()),
        ("ours", place.create(&[])),
        ("zstd", place.create(&["--compress", "zstd:1"])),
        ("lz4", place.create(&["--compress", "lz4"])),
        ("qpress", place.create(&["--compress", "qpress"])),
        ("xbcrypt", place.create(&secret)),
        (
            "zstd, age",
            place.create(&[&["--compress", "zstd:1"][..], &age].concat()),
        ),
        ("gzip", compress("gzip", &plain)),
        ("outer lz4", compress("lz4", &plain)),
        (
            "outer zstd",
            compress("zstd", &place.create(&["--compress", "qpress"])),
        ),
        ("xz", compress("xz", &plain)),
    ];
    let decode = [
        "--decompress",
        "--decrypt-key-file",
        &place.key,
        "--decrypt-key-file",
        &place.secret,
    ];
    for (name, source) in &sources {
        let file = place.write("source.xb", source);
        for done in [convert(source, &decode), convert_file(&file, &decode)] {
            let plain = done.expect(0).out;
            whole(&plain);
            assert_same(&place.extract(&plain, &[]), &tree());
            assert_same(&place.mbstream_extracts(&plain), &tree());
            println!("{name} as plain files: {} bytes", plain.len());
        }
        // The least memory there is.
        for encode in [
            &["--compress", "zstd:1", "--memory", "16M"][..],
            &["--compress", "qpress", "--parallel", "3"],
            &[&["--memory", "16M", "--compress", "lz4"][..], &age].concat(),
            &secret,
        ] {
            let options = [&decode[..], encode].concat();
            let out = convert(source, &options).expect(0).out;
            whole(&out);
            assert_same(&place.extract(&out, &decode), &tree());
            // As they are, the same for mbstream.
            assert_same(&place.mbstream_extracts(&out), &place.extract(&out, &[]));
        }
    }
}

fn names(tree: &Tree) -> Vec<&str> {
    tree.keys()
        .map(|n| std::str::from_utf8(n).unwrap())
        .collect()
}

// r[convert.encoded] r[convert.encrypted] r[convert.names]
#[test]
fn suffixes_say_what_was_done() {
    let place = Place::new();
    let mixed = place.create(&["--compress", "qpress"]);
    let plain = Chunks::new().file("plain", b"plain").0;
    let as_it_is = convert(&mixed, &["--compress", "zstd"]).expect(0).out;
    assert_same(&place.extract(&as_it_is, &[]), &place.extract(&mixed, &[]));
    let other = convert(&mixed, &["--decompress", "--compress", "zstd"]);
    let other = place.extract(&other.expect(0).out, &[]);
    assert_eq!(
        names(&other),
        [
            "db/empty.MYD.zst",
            "db/one.zst",
            "db/t.ibd.zst",
            "db/zeros.zst",
            "ibdata1.zst",
            "xtrabackup_checkpoints",
        ]
    );
    // Encryption goes around compression that is there.
    let age = ["--encrypt", "age", "--encrypt-recipient", &place.recipient];
    let sealed = convert(&mixed, &age).expect(0).out;
    let found = place.extract(&sealed, &[]);
    assert!(
        found.contains_key(&b"db/t.ibd.qp.age"[..]),
        "{:?}",
        names(&found)
    );
    let decode = ["--decompress", "--decrypt-key-file", &place.key];
    assert_same(&place.extract(&sealed, &decode), &tree());
    let twice = convert(&sealed, &age).expect(1);
    assert!(
        twice.last_line().contains("encrypted twice"),
        "{}",
        twice.err
    );
    assert!(twice.err.contains("--decrypt-key-file"), "{}", twice.err);
    // What is chosen is chosen by the names that it has without what is taken off.
    let options = [
        "--decompress",
        "--compress",
        "lz4",
        "-",
        "db",
        "--exclude",
        "*.MYD",
    ];
    let mut command = xbpipe(["convert"]);
    command.args(options);
    let some = place.extract(&run(command, &mixed).expect(0).out, &[]);
    assert_eq!(names(&some), ["db/one.lz4", "db/t.ibd.lz4", "db/zeros.lz4"]);
    let mut command = xbpipe(["convert", "-", "missing"]);
    command.arg("plain");
    let done = run(command, &plain).expect(1);
    assert!(done.last_line().contains("not found"), "{}", done.err);
    // Two that would be one.
    let zstd = place.create(&["--compress", "zstd"]);
    let two = [one_of(&place, &zstd), plain].concat();
    let done = convert(&two, &["--compress", "zstd"]).expect(1);
    assert!(done.last_line().contains("two members"), "{}", done.err);
}

/// An archive without an index that holds `plain.zst`.
fn one_of(place: &Place, zstd: &[u8]) -> Vec<u8> {
    let tree = place.extract(zstd, &[]);
    let Node::File(bytes) = &tree[&b"db/one.zst"[..]] else {
        panic!("no file")
    };
    Chunks::new().file("plain.zst", bytes).0
}

/// An index that has become an ordinary file of somebody else's archive.
// r[convert.index]
#[test]
fn an_old_index_is_left_out() {
    let place = Place::new();
    let archive = Chunks::new()
        .file("a", b"content")
        .file("xbpipe_index", b"xbpipe-archive 2\nEND 0 0\n");
    for options in [&[][..], &["--compress", "zstd"]] {
        let done = convert(&archive.0, options).expect(0);
        assert!(done.err.contains("left out xbpipe_index"), "{}", done.err);
        whole(&done.out);
        let found = place.extract(&done.out, &["--decompress"]);
        assert_same(&found, &files([("a", &b"content"[..])]));
    }
}

/// Directories that removals have emptied are not told of by any chunk.
fn without_empty(mut tree: Tree) -> Tree {
    tree.retain(|_, node| *node != Node::EmptyDir);
    tree
}

/// Renames, removals, replacements and patches.
fn restless() -> Chunks {
    let large = noise(700_000, 3);
    let replaced = Chunks::new().prefix(2, b'P', b"again");
    let head = Chunks::new()
        .file("a", b"one")
        .file("b", b"two")
        .file("swap", b"three")
        .file("again", &large)
        .file("gone", b"gone")
        .file("d/x", b"below")
        .file("d/part#1", b"p")
        .file("e/part#1", b"p")
        .rename("a", b"c")
        .rename("b", b"a")
        .rename("swap", b"b")
        .payload("log", 0, &large)
        .payload("other", 0, b"12345")
        .seek("log", 5)
        .payload("log", 5, b"patched")
        .seek("log", 699_998)
        .payload("log", 699_998, b"over the end")
        .seek("log", 800_000)
        .payload("log", 800_000, b"behind a gap")
        .seek("log", 750_000)
        .payload("log", 750_000, b"in the gap")
        .seek("log", 900_000)
        .end("log")
        .prefix(0, b'D', b"gone")
        .prefix(0, b'D', b"d")
        .prefix(0, b'D', b"e/part*")
        .prefix(0, b'D', b"never there");
    let again = noise(300_000, 9);
    let tail = replaced
        .body(300_000, 0, crc32fast::hash(&again), &again)
        .end("again")
        .file("gone", b"back")
        .rename("missing", b"x")
        .payload("other", 5, b"6789")
        .end("other");
    Chunks([head.0, tail.0].concat())
}

// r[convert.twice] r[convert.patch] r[convert.pipe]
#[test]
fn what_an_archive_does_to_its_members_is_carried_out() {
    let place = Place::new();
    let source = restless().0;
    let expected = without_empty(place.extract(&source, &[]));
    assert_eq!(
        names(&expected),
        ["a", "again", "b", "c", "gone", "log", "other"]
    );
    let file = place.write("restless.xb", &source);
    let outer = place.write("restless.xb.gz", &compress("gzip", &source));
    for from in [&file, &outer] {
        for options in [&[][..], &["--parallel", "1"], &["--compress", "zstd"]] {
            let out = convert_file(from, options).expect(0).out;
            whole(&out);
            assert_same(&place.extract(&out, &["--decompress"]), &expected);
            if options.is_empty() {
                assert_same(&place.mbstream_extracts(&out), &expected);
            }
        }
    }
    // Standard input is such a file, too.
    let mut command = xbpipe(["convert"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let out = command.output().unwrap();
    assert!(out.status.success());
    assert_same(&place.extract(&out.stdout, &[]), &expected);
    // By its last name, and only that.
    let mut command = xbpipe(["convert"]);
    command.arg(&file).args(["c", "log"]);
    let some = place.extract(&run(command, b"").expect(0).out, &[]);
    assert_eq!(names(&some), ["c", "log"]);
    // Through a pipe it is too late.
    let target = place.root.path().join("new.xb");
    let to = target.to_str().unwrap();
    for (what, archive) in [
        ("renames", Chunks::new().file("a", b"1").rename("a", b"b")),
        (
            "removes",
            Chunks::new().file("d/a", b"1").prefix(0, b'D', b"d"),
        ),
        (
            "removes",
            Chunks::new().file("d/a", b"1").prefix(0, b'D', b"d/x*"),
        ),
        (
            "writes over",
            Chunks::new()
                .payload("a", 0, b"123")
                .seek("a", 1)
                .payload("a", 1, b"x")
                .end("a"),
        ),
        ("renames", restless()),
    ] {
        let done = convert(&archive.0, &["--to", to]).expect(1);
        assert!(done.err.contains(what), "{}", done.err);
        assert!(
            done.err.contains("store the archive in a file"),
            "{}",
            done.err
        );
        assert!(!target.exists());
        let out = convert(&archive.0, &[]).expect(1).out;
        run(xbpipe(["verify"]), &out).expect(3);
    }
    // What concerns nothing that has passed does no harm, nor does a gap.
    let harmless = Chunks::new()
        .prefix(0, b'D', b"a")
        .prefix(0, b'D', b"d/t#*")
        .seek("a", 70_000)
        .payload("a", 70_000, b"x")
        .end("a")
        .rename("b", b"c");
    let out = convert(&harmless.0, &[]).expect(0).out;
    assert_same(
        &place.mbstream_extracts(&out),
        &place.extract(&harmless.0, &[]),
    );
    // More patches than can be held.
    let large = noise(2 << 20, 5);
    let patched =
        Chunks::new()
            .payload("t", 0, &large)
            .seek("t", 1)
            .payload("t", 1, &large[..(1 << 20) + 9]);
    let file = place.write("patched.xb", &patched.seek("t", 2 << 20).end("t").0);
    let done = convert_file(&file, &["--to", to]).expect(1);
    assert!(
        done.last_line().contains("more than the 1.0 MiB"),
        "{}",
        done.err
    );
    assert!(!target.exists());
}

/// Damage anywhere, or an end anywhere: nothing gets the name, and nothing looks whole.
// r[convert.whole]
#[test]
fn a_source_that_is_not_right_makes_no_archive() {
    let place = Place::new();
    let target = place.root.path().join("new.xb");
    let to = ["--to", target.to_str().unwrap(), "--compress", "zstd:1"];
    let mut sources = Vec::new();
    for (archive, ours) in [(place.mbstream(), false), (place.create(&[]), true)] {
        for cut in [archive.len() / 3, archive.len() - 1, archive.len() - 20, 30] {
            sources.push((archive[..cut].to_vec(), 3));
        }
        let mut damaged = archive.clone();
        damaged[archive.len() / 2] ^= 1;
        sources.push((damaged, 4));
        sources.push((Vec::new(), 3));
        sources.push((b"This is no archive at all".repeat(9), 4));
        if ours {
            let chunks = crate::tool::split_chunks(&archive);
            sources.push((chunks[..chunks.len() - 2].concat(), 3));
        }
    }
    let qp = place.create(&["--compress", "qpress"]);
    let Node::File(block) = &place.extract(&qp, &[])[&b"ibdata1.qp"[..]] else {
        panic!("no file")
    };
    let mut damaged = block.clone();
    damaged[1_000_000] ^= 1;
    sources.push((Chunks::new().file("t.qp", &damaged).0, 4));
    for (i, (source, status)) in sources.into_iter().enumerate() {
        let file = place.write("bad.xb", &source);
        let options = [&to[..], &["--decompress"]].concat();
        for done in [convert(&source, &options), convert_file(&file, &options)] {
            assert_eq!(done.status, status, "{i}: {}", done.err);
            assert!(!target.exists(), "{i}");
        }
        let out = convert(&source, &["--decompress"]).expect(status).out;
        run(xbpipe(["verify"]), &out).expect(3);
    }
    place.write("new.xb", b"precious");
    let file = place.write("good.xb", &place.create(&[]));
    let done = convert_file(&file, &to).expect(1);
    assert!(done.last_line().contains("target exists"), "{}", done.err);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

/// Holes stay what they are for those who know them.
// r[convert.holes]
#[test]
fn holes_stay_holes_on_request() {
    let place = Place::new();
    let data = noise(100_000, 7);
    let gaps = Chunks::new()
        .payload("t", 0, &data)
        .seek("t", 5 << 20)
        .payload("t", 5 << 20, &data)
        .end("t");
    let expected = place.extract(&gaps.0, &[]);
    let sparse = convert(&gaps.0, &["--sparse"]).expect(0).out;
    assert!(sparse.len() < 300_000, "{}", sparse.len());
    let zeros = convert(&sparse, &[]).expect(0).out;
    assert!(zeros.len() > 5 << 20);
    let again = convert(&zeros, &["--decompress"]).expect(0).out;
    let packed = convert(&sparse, &["--compress", "lz4"]).expect(0).out;
    for out in [&sparse, &zeros, &again, &packed] {
        whole(out);
        assert_same(&place.extract(out, &["--decompress"]), &expected);
    }
    assert_same(&place.mbstream_extracts(&zeros), &expected);
    convert(&gaps.0, &["--sparse", "--compress", "zstd"]).expect(2);
}

/// As many files open at once as there are: no more memory, or a message that says so.
// r[convert.interleaved]
#[test]
fn members_that_interleave_neither_block_nor_fail() {
    const FILES: usize = 40;
    let place = Place::new();
    let content: Vec<Vec<u8>> = (0..FILES)
        .map(|i| noise(900_000 + i * 1000, i as u64))
        .collect();
    let mut archive = Chunks::new();
    for begin in (0..1_000_000).step_by(50_000) {
        for (i, bytes) in content.iter().enumerate() {
            let end = (begin + 50_000).min(bytes.len());
            if begin < end {
                archive = archive.payload(&format!("f{i:02}"), begin as u64, &bytes[begin..end]);
            }
        }
    }
    for i in 0..FILES {
        archive = archive.end(&format!("f{i:02}"));
    }
    let expected = place.extract(&archive.0, &[]);
    let age = ["--encrypt", "age", "--encrypt-recipient", &place.recipient];
    let mut decode = vec!["--decompress", "--decrypt-key-file", &place.key];
    decode.extend(["--memory", "512M"]);
    for options in [
        &["--memory", "8M"][..],
        &["--memory", "16M", "--compress", "zstd:1"],
        &[&["--memory", "128M", "--compress", "lz4"][..], &age].concat(),
        &[&["--memory", "64M", "--parallel", "1"][..], &age].concat(),
    ] {
        let out = convert(&archive.0, options).expect(0).out;
        whole(&out);
        assert_same(&place.extract(&out, &decode), &expected);
    }
    let done = convert(&archive.0, &[&["--memory", "16M"][..], &age].concat()).expect(1);
    assert!(
        done.last_line().contains("no memory left to encode"),
        "{}",
        done.err
    );
    assert!(done.err.contains("--memory"), "{}", done.err);
}

/// Into a store and out of one, named as everywhere.
#[test]
fn stores_are_sources_and_targets() {
    let place = Place::new();
    let store = place.root.path().join("store");
    let at = |name: &str| format!("{}/{name}", store.display());
    let mut put = xbpipe(["put", &at("one")]);
    put.args(["--memory", "64M", "--allow-unfinished"]);
    run(put, &place.mbstream()).expect(0);
    let out = convert_file(Path::new(&at("one")), &["--compress", "zstd"])
        .expect(0)
        .out;
    assert_same(&place.extract(&out, &["--decompress"]), &tree());
    let to = at("");
    convert_file(
        Path::new(&at("one")),
        &["--to", &to, "--memory", "256M", "--compress", "zstd"],
    )
    .expect(0);
    let listed = run(xbpipe(["ls", &to]), b"").expect(0);
    let proven = listed
        .text()
        .lines()
        .find(|l| l.contains(" proven "))
        .unwrap();
    let name = proven.rsplit(' ').next().unwrap();
    let mut extract = xbpipe(["extract", "--no-sync", "--decompress", "-C"]);
    let target = place.root.path().join("restored");
    extract.arg(&target).arg(at(name));
    run(extract, b"").expect(0);
    assert_same(&take(&target), &tree());
    // Nothing of a source that is not whole.
    let archive = place.mbstream();
    convert(
        &archive[..archive.len() - 1],
        &["--to", &at("cut"), "--memory", "256M"],
    )
    .expect(3);
    let listed = run(xbpipe(["ls", &to]), b"").expect(0);
    assert_eq!(listed.text().lines().count(), 2);
}
