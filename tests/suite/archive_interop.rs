//! The real tools, both ways, byte for byte. A tool that is not installed is a failure that says what to install.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::tool::{
    Node, Tree, assert_same, files, need, noise, pipe, read_tree, run, scratch, write_tree, xbpipe,
};

fn mbstream() -> Command {
    Command::new(need("mbstream", "mariadb-backup"))
}

/// What mbstream can hold: one directory level, no name that begins with a dot.
fn tree() -> Tree {
    let mut tree = files([
        ("ibdata1", &noise(12_000_000, 1)[..]),
        ("db/t.ibd", &noise(10_485_760, 2)),
        ("db/t.frm", b"frm"),
        ("db/empty.MYD", b""),
        ("d\\e f\ng", b"odd"),
        ("xtrabackup_info", b"tool_name = x\n"),
    ]);
    tree.insert(
        "größe/ä~%20".as_bytes().to_vec(),
        Node::File(vec![7; 70_000]),
    );
    tree.insert(b"db2/\xff\xfe\x01".to_vec(), Node::File(b"bytes".to_vec()));
    for (name, len) in [
        ("one", 1),
        ("a", 10_485_759),
        ("b", 10_485_761),
        ("zeros", 0),
    ] {
        let content = if len == 0 {
            vec![0; 3_000_000]
        } else {
            noise(len, 5)
        };
        tree.insert(name.as_bytes().to_vec(), Node::File(content));
    }
    tree
}

/// All files of a directory, two levels deep, as arguments.
fn arguments(root: &Path) -> Vec<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt as _;
    read_tree(root)
        .into_keys()
        .map(std::ffi::OsString::from_vec)
        .collect()
}

#[test]
fn mbstream_extracts_what_we_create() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &tree());
    std::fs::create_dir(source.join("leer")).unwrap();
    for (i, (options, threads)) in [
        (&["--parallel", "1"][..], "1"),
        (&["--parallel", "8", "--memory", "8M"], "4"),
        (&["--parallel", "3", "--memory", "100M"], "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = root.path().join(format!("target{i}"));
        std::fs::create_dir(&target).unwrap();
        let mut create = xbpipe(["create", "-C"]);
        create.arg(&source).args(options).arg(".");
        let mut extract = mbstream();
        extract.args(["-x", "-p", threads, "-C"]).arg(&target);
        let (create, extract) = pipe(create, extract);
        create.expect(0);
        // mbstream ends with 0 after some failures, and says something.
        assert_eq!(extract.expect(0).err, "");
        let mut found = read_tree(&target);
        let index = found.remove(&b"xbpipe_index"[..]);
        assert!(matches!(index, Some(Node::File(text)) if text.starts_with(b"xbpipe-archive 2\n")));
        assert_same(&found, &tree());
    }
}

#[test]
fn we_extract_what_mbstream_creates() {
    let root = scratch();
    let source = root.path().join("source");
    write_tree(&source, &tree());
    for parallel in ["1", "4"] {
        let target = root.path().join(format!("target{parallel}"));
        let mut create = mbstream();
        create
            .current_dir(&source)
            .arg("-c")
            .args(arguments(&source));
        create.stdin(Stdio::null());
        let mut extract = xbpipe([
            "extract",
            "--no-sync",
            "--memory",
            "8M",
            "--parallel",
            parallel,
            "-C",
        ]);
        extract.arg(&target);
        let (create, extract) = pipe(create, extract);
        create.expect(0);
        extract.expect(0);
        assert_same(&read_tree(&target), &tree());
    }
    let mut create = mbstream();
    create
        .current_dir(&source)
        .arg("-c")
        .args(arguments(&source));
    let archive = run(create, b"").expect(0).out;
    // A cut exactly between two chunks: mbstream ends with 0 there.
    let chunks = crate::tool::split_chunks(&archive);
    let without_last: Vec<u8> = chunks[..chunks.len() - 1].concat();
    let target = root.path().join("mb");
    std::fs::create_dir(&target).unwrap();
    let mut theirs = mbstream();
    theirs.args(["-x", "-C"]).arg(&target);
    run(theirs, &without_last).expect(0);
    let done = run(xbpipe(["verify"]), &without_last).expect(3);
    assert!(done.last_line().contains("not whole: "), "{}", done.err);
    // Ours of theirs of ours: an index that is an ordinary file elsewhere does no harm.
    let mut again = mbstream();
    std::fs::write(source.join("xbpipe_index"), "xbpipe-archive 2\nEND 0 0\n").unwrap();
    again
        .current_dir(&source)
        .args(["-c", "xtrabackup_info", "xbpipe_index"]);
    let archive = run(again, b"").expect(0).out;
    let done = run(xbpipe(["verify"]), &archive).expect(0);
    assert!(done.err.contains("not at the beginning"), "{}", done.err);
}

#[test]
fn zstd_reads_what_we_compress_and_we_what_it_compresses() {
    let zstd = need("zstd", "zstd");
    let root = scratch();
    let source = root.path().join("source");
    let mut tree = files([
        ("empty", &b""[..]),
        ("small", b"hello hello hello"),
        ("db/zeros", &vec![0; 20_000_000]),
        ("db/noise", &noise(5_000_001, 3)),
    ]);
    tree.insert(b"text".to_vec(), Node::File(b"abcdefgh\n".repeat(400_000)));
    write_tree(&source, &tree);
    for level in ["1", "3", "19"] {
        let target = root.path().join(format!("ours{level}"));
        let mut create = xbpipe(["create", "--compress", &format!("zstd:{level}"), "-C"]);
        create.arg(&source).arg(".");
        let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
        extract.arg(&target);
        let (create, extract) = pipe(create, extract);
        create.expect(0);
        extract.expect(0);
        let compressed = read_tree(&target);
        assert!(compressed.keys().all(|name| name.ends_with(b".zst")));
        assert!(std::fs::metadata(target.join("text.zst")).unwrap().len() < 100_000);
        let mut command = Command::new(&zstd);
        command.args(["-q", "-d", "--rm", "-r"]).arg(&target);
        run(command, b"").expect(0);
        assert_same(&read_tree(&target), &tree);
    }
    // One frame for the whole file, with and without content size and checksum, and as several threads make it.
    for (i, options) in [
        &["-1"][..],
        &["-19", "--no-check"],
        &["-T2", "-3"],
        &["--no-content-size", "-5"],
        &["--long=23", "-3"],
    ]
    .into_iter()
    .enumerate()
    {
        let theirs = root.path().join(format!("theirs{i}"));
        write_tree(&theirs, &tree);
        let mut command = Command::new(&zstd);
        command
            .args(options)
            .args(["-q", "--rm", "-r"])
            .arg(&theirs);
        run(command, b"").expect(0);
        let target = root.path().join(format!("plain{i}"));
        let mut create = xbpipe(["create", "-C"]);
        create.arg(&theirs).arg(".");
        let mut extract = xbpipe([
            "extract",
            "--no-sync",
            "--decompress",
            "--memory",
            "8M",
            "-C",
        ]);
        extract.arg(&target);
        let (create, extract) = pipe(create, extract);
        create.expect(0);
        extract.expect(0);
        assert_same(&read_tree(&target), &tree);
    }
}

#[test]
fn an_outer_compression_is_recognised_by_content() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = files([
        ("a", &noise(2_500_000, 1)[..]),
        ("b", &vec![0; 2_500_000]),
        ("c", b"c"),
    ]);
    write_tree(&source, &tree);
    let mut create = xbpipe(["create", "-C"]);
    create.arg(&source).arg(".");
    let archive = run(create, b"").expect(0).out;
    for (tool, package, options) in [
        ("gzip", "gzip", &["-1", "-c"][..]),
        ("zstd", "zstd", &["-1", "-c"]),
        ("lz4", "lz4", &["-1", "-c"]),
        ("xz", "xz-utils", &["-0", "-c"]),
    ] {
        let compress = |bytes: &[u8]| {
            let mut command = Command::new(need(tool, package));
            command.args(options);
            run(command, bytes).expect(0).out
        };
        let whole = compress(&archive);
        // The name means nothing.
        let path = root.path().join(format!("{tool}.xb"));
        std::fs::write(&path, &whole).unwrap();
        let target = root.path().join(tool);
        let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
        extract.arg(&target).arg(&path);
        run(extract, b"").expect(0);
        assert_same(&read_tree(&target), &tree);
        // From a pipe, and as a concatenation.
        let half = archive.len() / 2;
        let two = [compress(&archive[..half]), compress(&archive[half..])].concat();
        run(xbpipe(["verify"]), &two).expect(0);
        // Cut between the two, inside either, and damaged.
        run(xbpipe(["verify"]), &compress(&archive[..half])).expect(3);
        for cut in [whole.len() - 1, whole.len() / 2, 20] {
            let done = run(xbpipe(["verify"]), &whole[..cut]);
            assert_eq!(done.status, 3, "{tool} cut at {cut}: {}", done.err);
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut verify = xbpipe(["verify"]);
            verify.arg(&path);
            let done = run(verify, b"");
            assert_eq!(done.status, 3, "{tool} cut at {cut}, a file: {}", done.err);
        }
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 0x10;
        let done = run(xbpipe(["verify"]), &damaged);
        assert!(matches!(done.status, 3 | 4), "{tool}: {}", done.err);
        std::fs::write(&path, &damaged).unwrap();
        let target = root.path().join(format!("{tool}-damaged"));
        let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
        extract.arg(&target).arg(&path);
        let done = run(extract, b"");
        assert!(matches!(done.status, 3 | 4), "{tool}: {}", done.err);
    }
}
