//! Formats of compressed files: golden vectors, and the programs that write and read them.

use std::path::Path;
use std::process::Command;

use xbpipe::codec::{Fault, decompressors};

use crate::backup_support::{extract, restores};
use crate::fuzzed::decoder_number;
use crate::fuzzed::targets::codecs::{Decoded, How, decode};
use crate::server::TestServer;
use crate::tool::{
    Chunks, Node, assert_same, files, need, noise, pipe, read_tree, run, scratch, write_tree,
    xbpipe,
};
use crate::vec_file::{Vector, hex, load};

/// Vectors up to this length are cut in two at every place.
const CUT_LEN_MAX: usize = 4096;

fn fault_word(fault: Fault) -> &'static str {
    match fault {
        Fault::Damage => "damage",
        Fault::Cut => "cut",
        Fault::Refused => "refused",
    }
}

fn differences(vector: &Vector) -> Vec<String> {
    let decoders = decompressors();
    let number = decoder_number(vector.options.first().unwrap());
    let decoder = decoders[usize::from(number)].as_ref();
    let bytes = vector.bytes.as_slice();
    let mut wrong = Vec::new();
    let whole = decode(decoder, [bytes], How::Whole);
    let plain = hex(vector.events.as_ref().unwrap()).unwrap();
    if whole.plain != plain {
        let shown = &whole.plain[..whole.plain.len().min(100)];
        wrong.push(format!(
            "{} bytes of content: {shown:02x?}",
            whole.plain.len()
        ));
    }
    let error = whole
        .error
        .as_ref()
        .map(|(f, at, _)| (fault_word(*f).to_owned(), *at));
    if error != vector.error {
        wrong.push(format!("outcome is {:?}", whole.error));
    }
    if let (Some(expected), Some((_, _, got))) = (&vector.message, &whole.error)
        && expected != got
    {
        wrong.push(format!("message is {got:?}"));
    }
    if decode(decoder, bytes.chunks(1), How::Whole) != whole {
        wrong.push("byte by byte it reads otherwise".to_owned());
    }
    for at in 1..bytes.len().min(CUT_LEN_MAX) {
        let (a, b) = bytes.split_at(at);
        if decode(decoder, [a, b], How::Whole) != whole {
            wrong.push(format!("cut at {at} it reads otherwise"));
        }
    }
    for len in [1, 7, 4096] {
        let parts = decode(decoder, [bytes], How::Parts(len));
        let Decoded { plain, error } = &parts;
        if error.is_some() != whole.error.is_some() || (error.is_none() && *plain != whole.plain) {
            wrong.push(format!("decoded in parts of {len}: {:?}", parts.error));
        }
    }
    wrong
}

#[test]
fn codec_vectors_hold() {
    let mut failures = Vec::new();
    for vector in load("codecs") {
        for wrong in differences(&vector) {
            failures.push(format!("{}: {wrong}", vector.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_wrong_codec_vector_is_noticed() {
    let vectors = load("codecs");
    let good = vectors.into_iter().find(|v| v.name == "qpress-packet-fox");
    let mut vector = good.unwrap();
    assert_eq!(differences(&vector), Vec::<String>::new());
    *vector.bytes.last_mut().unwrap() ^= 1;
    assert_ne!(differences(&vector), Vec::<String>::new());
}

/// Contents that meet every path of an encoder: nothing, little, runs, text, noise, several frames, blocks that end oddly.
fn contents() -> crate::tool::Tree {
    let mut tree = files([
        ("empty", &b""[..]),
        ("one", b"x"),
        ("small", b"hello hello hello"),
        ("db/zeros", &vec![0; 5_000_000]),
        ("db/noise", &noise(3_000_001, 3)),
        ("db/edge", &noise(65536, 4)),
    ]);
    let text: String = (0..300_000)
        .map(|i| format!("{i} {}\n", i * 7 % 1000))
        .collect();
    tree.insert(b"text".to_vec(), Node::File(text.into_bytes()));
    let mut mixed = noise(1_500_000, 5);
    mixed[100_000..900_000].fill(7);
    tree.insert(b"mixed".to_vec(), Node::File(mixed));
    tree
}

/// Every compression there is comes back, also in little memory, with small frames and through `cat`.
#[test]
fn what_is_compressed_comes_back() {
    let root = scratch();
    let source = root.path().join("source");
    let tree = contents();
    write_tree(&source, &tree);
    for (how, suffix) in [("zstd:3", "zst"), ("lz4", "lz4"), ("qpress", "qp")] {
        for options in [
            &["--memory", "64M"][..],
            &["--memory", "8M", "--parallel", "8"],
            &["--compress-frame-size", "64K"],
            &["--compress-frame-size", "8M", "--parallel", "2"],
        ] {
            let target = root.path().join("target");
            let mut create = xbpipe(["create", "--compress", how]);
            create.args(options).arg("-C").arg(&source).arg(".");
            let archive = run(create, b"").expect(0).out;
            let mut extract = xbpipe(["extract", "--no-sync", "--decompress", "-C"]);
            extract.arg(&target).args(&options[..2.min(options.len())]);
            let memory = ["--memory", "8M"];
            let mut extract = if options[0] == "--memory" {
                extract
            } else {
                let mut extract = xbpipe(["extract", "--no-sync", "--decompress", "-C"]);
                extract.arg(&target).args(memory);
                extract
            };
            extract.arg("-");
            run(extract, &archive).expect(0);
            assert_same(&read_tree(&target), &tree);
            std::fs::remove_dir_all(&target).unwrap();
            run(xbpipe(["verify", "--decompress"]), &archive).expect(0);
            let listed = run(xbpipe(["list"]), &archive).expect(0);
            assert!(listed.text().lines().all(|l| l.ends_with(suffix)));
        }
    }
    for bad in ["1K", "16M", "x"] {
        let command = xbpipe([
            "create",
            "--compress",
            "zstd",
            "--compress-frame-size",
            bad,
            ".",
        ]);
        run(command, b"").expect(2);
    }
}

/// Packs `source`, whose files end in a suffix, and decompresses on extraction.
fn extracted(source: &Path, target: &Path) {
    let mut create = xbpipe(["create", "-C"]);
    create.arg(source).arg(".");
    let mut extract = xbpipe([
        "extract",
        "--no-sync",
        "--decompress",
        "--memory",
        "8M",
        "-C",
    ]);
    extract.arg(target);
    let (create, extract) = pipe(create, extract);
    extract.expect(0);
    create.expect(0);
}

#[test]
fn lz4_reads_what_we_compress_and_we_what_it_compresses() {
    let lz4 = need("lz4", "lz4");
    let root = scratch();
    let source = root.path().join("source");
    let tree = contents();
    write_tree(&source, &tree);
    let target = root.path().join("ours");
    let mut create = xbpipe(["create", "--compress", "lz4", "-C"]);
    create.arg(&source).arg(".");
    let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
    extract.arg(&target);
    let (create, extract) = pipe(create, extract);
    extract.expect(0);
    create.expect(0);
    for (name, node) in &tree {
        let Node::File(content) = node else { continue };
        let name = String::from_utf8(name.clone()).unwrap();
        let mut command = Command::new(&lz4);
        command.arg("-dc").arg(target.join(format!("{name}.lz4")));
        assert!(run(command, b"").expect(0).out == *content, "{name}");
    }
    // One frame for the file: blocks of every size, linked and independent, with every combination of checksums.
    for (i, options) in [
        &["-1"][..],
        &["-B4", "-BD", "-9"],
        &["-B5", "-BX"],
        &["-B6", "-BD", "-BX", "--content-size"],
        &["-B7", "--no-frame-crc"],
        &["-B4", "--content-size"],
    ]
    .into_iter()
    .enumerate()
    {
        let theirs = root.path().join(format!("theirs{i}"));
        write_tree(&theirs, &tree);
        let mut command = Command::new(&lz4);
        command
            .args(options)
            .args(["-q", "-m", "-r", "--rm"])
            .arg(&theirs);
        run(command, b"").expect(0);
        let plain = root.path().join(format!("plain{i}"));
        extracted(&theirs, &plain);
        assert_same(&read_tree(&plain), &tree);
    }
}

/// Everything that `mariadb-backup --compress` writes decompresses to what it writes without.
#[test]
fn qpress_of_the_reference_program() {
    need("mariadb-backup", "mariadb-backup");
    // Nothing may change in the background between the backups that are compared.
    let server = TestServer::start(&["--innodb-stats-auto-recalc=OFF"]);
    server.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(300), b VARBINARY(200)); \
         INSERT INTO t SELECT seq, REPEAT(MD5(seq), 5), RANDOM_BYTES(seq % 200) FROM seq_1_to_40000; \
         CREATE TABLE m (v INT, s TEXT) ENGINE=MyISAM; INSERT INTO m SELECT seq, HEX(seq * 77777) FROM seq_1_to_9000; \
         CREATE TABLE c (v INT NOT NULL) ENGINE=CSV; SET GLOBAL innodb_max_dirty_pages_pct=0; \
         FLUSH TABLES; SET GLOBAL innodb_log_checkpoint_now=ON;",
    );
    let root = scratch();
    let reference = |name: &str, options: &[&str]| {
        let mut command = Command::new("mariadb-backup");
        command
            .args([
                "--no-defaults",
                "--backup",
                "--user=root",
                "--stream=mbstream",
            ])
            .arg(format!("--socket={}", server.socket().display()))
            .arg(format!("--datadir={}", server.datadir().display()))
            .arg(format!("--target-dir={}", root.path().join(name).display()))
            .args(options);
        run(command, b"").expect(0).out
    };
    let plain = reference("none1", &[]);
    for options in [
        &["--compress"][..],
        &[
            "--compress",
            "--compress-chunk-size=4M",
            "--compress-threads=2",
        ],
    ] {
        let packed = reference("none2", options);
        let target = root.path().join("target");
        let mut command = xbpipe([
            "extract",
            "--no-sync",
            "--decompress",
            "--memory",
            "16M",
            "-C",
        ]);
        command.arg(&target);
        run(command, &packed).expect(0);
        let expected = root.path().join("expected");
        extract(&plain, &expected);
        let (mut got, mut want) = (read_tree(&target), read_tree(&expected));
        // What a server at rest does not write to; the rest is compared as rows, below.
        const AT_REST: [&str; 7] = ["frm", "opt", "MYD", "MYI", "CSM", "CSV", "MAD"];
        for tree in [&mut got, &mut want] {
            tree.retain(|name, _| {
                let suffix = Path::new(std::str::from_utf8(name).unwrap()).extension();
                suffix.is_some_and(|s| AT_REST.iter().any(|known| s == *known))
            });
        }
        assert!(got.len() > 100, "{} files", got.len());
        assert_same(&got, &want);
        let copy = restores(&server, &target, &[]);
        drop(copy);
        std::fs::remove_dir_all(&target).unwrap();
        std::fs::remove_dir_all(&expected).unwrap();
    }
}

/// Suffixes come off from the right as long as they are known.
#[test]
fn twice_compressed_names_are_taken_apart() {
    let packed = |bytes: &[u8], name: &str, how: &str| -> Vec<u8> {
        let root = scratch();
        std::fs::write(root.path().join(name), bytes).unwrap();
        let mut create = xbpipe(["create", "--compress", how, "-C"]);
        create.arg(root.path()).arg(".");
        let archive = run(create, b"").expect(0).out;
        run(
            xbpipe(["cat", "-", &format!("{name}{}", suffix(how))]),
            &archive,
        )
        .expect(0)
        .out
    };
    fn suffix(how: &str) -> &'static str {
        match how {
            "qpress" => ".qp",
            "lz4" => ".lz4",
            _ => ".zst",
        }
    }
    let content = noise(2_000_000, 9);
    for chain in [
        &["qpress", "qpress"][..],
        &["lz4", "zstd"],
        &["zstd", "qpress", "lz4"],
    ] {
        let (mut bytes, mut name) = (content.clone(), "t.ibd".to_owned());
        for how in chain {
            bytes = packed(&bytes, &name, how);
            name += suffix(how);
        }
        let archive = Chunks::new().file(&name, &bytes).0;
        let root = scratch();
        let target = root.path().join("target");
        let mut command = xbpipe([
            "extract",
            "--no-sync",
            "--decompress",
            "--memory",
            "8M",
            "-C",
        ]);
        command.arg(&target);
        run(command, &archive).expect(0);
        assert_same(&read_tree(&target), &files([("t.ibd", content.as_slice())]));
        // A cut of the outermost, and damage in the midst, are told.
        let half = Chunks::new().file(&name, &bytes[..bytes.len() / 2]).0;
        let told = run(xbpipe(["verify", "--decompress"]), &half).expect(3);
        assert!(told.last_line().contains(&name), "{}", told.err);
        let mut wrong = bytes.clone();
        wrong[bytes.len() / 2] ^= 1;
        let wrong = Chunks::new().file(&name, &wrong).0;
        run(xbpipe(["verify", "--decompress"]), &wrong).expect(4);
    }
}

/// Many files that stand in the midst of a block at the same time: bounded memory, or a message that says how much is needed;
/// never a run that waits for itself.
#[test]
fn interleaved_files_neither_block_nor_fail() {
    const FILES: usize = 60;
    let content = |i: usize| noise(1_200_000 + i * 1000, i as u64);
    for how in ["zstd:1", "qpress", "lz4"] {
        let root = scratch();
        let source = root.path().join("source");
        let names: Vec<String> = (0..FILES).map(|i| format!("f{i:02}")).collect();
        for (i, name) in names.iter().enumerate() {
            std::fs::create_dir_all(&source).unwrap();
            std::fs::write(source.join(name), content(i)).unwrap();
        }
        let mut create = xbpipe(["create", "--compress", how, "-C"]);
        create.arg(&source).arg(".");
        let packed = root.path().join("packed");
        let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
        extract.arg(&packed);
        let (create, extract) = pipe(create, extract);
        extract.expect(0);
        create.expect(0);
        let packed = read_tree(&packed);
        // Whole blocks of all files in turn, 1.1 MiB at a time.
        let mut archive = Chunks::new();
        for part in 0..2 {
            for (name, node) in &packed {
                let Node::File(bytes) = node else { continue };
                let name = std::str::from_utf8(name).unwrap();
                let begin = part * 1_150_000;
                let end = if part == 0 {
                    1_150_000.min(bytes.len())
                } else {
                    bytes.len()
                };
                if begin < end {
                    archive = archive.payload(name, begin as u64, &bytes[begin..end]);
                }
            }
        }
        for name in packed.keys() {
            archive = archive.end(std::str::from_utf8(name).unwrap());
        }
        let target = root.path().join("target");
        let mut command = xbpipe([
            "extract",
            "--no-sync",
            "--decompress",
            "--memory",
            "256M",
            "-C",
        ]);
        command.arg(&target).args(["--parallel", "2"]);
        run(command, &archive.0).expect(0);
        assert_same(&read_tree(&target), &read_tree(&source));
        // With little memory it ends with the right content or says what it needs.
        let small = root.path().join("small");
        let mut command = xbpipe([
            "extract",
            "--no-sync",
            "--decompress",
            "--memory",
            "8M",
            "-C",
        ]);
        command.arg(&small).args(["--parallel", "2"]);
        let done = run(command, &archive.0);
        if done.status == 0 {
            assert_same(&read_tree(&small), &read_tree(&source));
        } else {
            assert!(
                done.status == 1 && done.err.contains("--memory"),
                "{}",
                done.err
            );
        }
    }
}

/// Page-compressed tables take as much room after each way of restoring them as before the backup.
#[test]
fn page_compressed_tables_keep_their_holes() {
    let server = TestServer::start(&["--innodb-file-per-table=1"]);
    server.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE pages (id INT PRIMARY KEY, a VARCHAR(1000)) PAGE_COMPRESSED=1; \
         INSERT INTO pages SELECT seq, REPEAT(MD5(seq % 100), 25) FROM seq_1_to_20000; \
         CREATE TABLE plain (id INT PRIMARY KEY, a VARCHAR(1000)); INSERT INTO plain SELECT * FROM pages; \
         SET GLOBAL innodb_max_dirty_pages_pct=0; FLUSH TABLES; SET GLOBAL innodb_log_checkpoint_now=ON;",
    );
    let blocks = |dir: &Path, name: &str| crate::tool::allocated(&dir.join(name));
    let length = |dir: &Path| std::fs::metadata(dir.join("d/pages.ibd")).unwrap().len();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while server.status("Innodb_buffer_pool_pages_dirty") > 0 {
        assert!(std::time::Instant::now() < deadline, "pages stay dirty");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let before = blocks(server.datadir(), "d/pages.ibd");
    let size = length(server.datadir());
    assert!(
        before * 2 < size,
        "the server kept no holes: {before} of {size} bytes"
    );
    let root = server.scratch();
    let near = |dir: &Path, how: &str| {
        assert_eq!(length(dir), size, "{how}");
        let after = blocks(dir, "d/pages.ibd");
        assert!(
            after <= before,
            "{how}: {after} bytes on disk, {before} before"
        );
        assert!(
            after * 10 >= before * 9,
            "{how}: {after} bytes on disk, {before} before"
        );
    };
    let direct = crate::backup_support::backup_to_dir(&server, "direct");
    near(&direct, "into a directory");
    for (i, options) in [
        &[][..],
        &["--compress", "zstd"],
        &["--compress", "lz4"],
        &["--compress", "qpress"],
    ]
    .into_iter()
    .enumerate()
    {
        let file = root.join(format!("{i}.xb"));
        let mut command = crate::backup_support::backup(&server);
        command.args(options).arg("--to").arg(&file);
        run(command, b"").expect(0);
        // From a file lanes read for themselves, from a pipe they do not.
        let target = root.join(format!("file{i}"));
        let mut command = xbpipe(["extract", "--no-sync", "--decompress", "-C"]);
        command.arg(&target).arg(&file);
        run(command, b"").expect(0);
        near(&target, &format!("{options:?} from a file"));
        let piped = root.join(format!("pipe{i}"));
        let mut command = xbpipe(["extract", "--no-sync", "--decompress", "-C"]);
        command.arg(&piped);
        run(command, &std::fs::read(&file).unwrap()).expect(0);
        near(&piped, &format!("{options:?} from a pipe"));
        if i == 0 {
            restores(&server, &piped, &[]);
        }
    }
    // What the reference program streams: its chunks are long, and lanes share the file.
    let mut command = Command::new("mariadb-backup");
    command
        .args([
            "--no-defaults",
            "--backup",
            "--user=root",
            "--stream=mbstream",
        ])
        .arg(format!("--socket={}", server.socket().display()))
        .arg(format!("--datadir={}", server.datadir().display()))
        .arg(format!("--target-dir={}", root.join("none").display()));
    let stream = run(command, b"").expect(0).out;
    let file = root.join("reference.xb");
    std::fs::write(&file, stream).unwrap();
    let target = root.join("reference");
    let mut command = xbpipe(["extract", "--no-sync", "--parallel", "4", "-C"]);
    command.arg(&target).arg(&file);
    run(command, b"").expect(0);
    near(&target, "the reference program's stream");
}

/// Sparse chunks on request: nothing is lost, the archive is small, and every way to read it works.
#[test]
fn holes_travel_as_sparse_chunks_on_request() {
    use std::os::unix::fs::FileExt as _;
    let root = scratch();
    let source = root.path().join("source");
    std::fs::create_dir_all(source.join("db")).unwrap();
    let make = |name: &str, len: u64, data: &[(u64, usize)]| {
        let file = std::fs::File::create(source.join(name)).unwrap();
        for (at, len) in data {
            file.write_all_at(&noise(*len, *at), *at).unwrap();
        }
        file.set_len(len).unwrap();
    };
    let pages: Vec<(u64, usize)> = (0..3000).map(|i| (i * 16384, 4096)).collect();
    make("db/pages.ibd", 3000 * 16384, &pages);
    make("hole", 6 << 30, &[]);
    make("tail", 50 << 20, &[(0, 2_000_000)]);
    make("head", 20 << 20, &[((20 << 20) - 5000, 5000)]);
    make("whole", 3_000_001, &[(0, 3_000_001)]);
    make("empty", 0, &[]);
    let mut create = xbpipe(["create", "--sparse", "--memory", "8M", "-C"]);
    create.arg(&source).arg(".");
    let archive = run(create, b"").expect(0).out;
    assert!(archive.len() < 20 << 20, "{} bytes", archive.len());
    let sparse = (archive.windows(10).filter(|w| *w == b"XBSTCK01\0S")).count();
    assert!((5..300).contains(&sparse), "{sparse} sparse chunks");
    let file = root.path().join("a.xb");
    std::fs::write(&file, &archive).unwrap();
    run(xbpipe(["verify"]), &archive).expect(0);
    for piped in [true, false] {
        let target = root.path().join(format!("target{piped}"));
        let mut extract = xbpipe(["extract", "--no-sync", "-C"]);
        extract.arg(&target);
        if piped {
            run(extract, &archive).expect(0);
        } else {
            // By name from a file: the index does not locate sparse chunks.
            extract
                .arg(&file)
                .args(["db", "hole", "tail", "head", "whole", "empty"]);
            run(extract, b"").expect(0);
        }
        for name in ["db/pages.ibd", "hole", "tail", "head", "whole", "empty"] {
            let (a, b) = (source.join(name), target.join(name));
            let same = Command::new("cmp").arg(&a).arg(&b).status().unwrap();
            assert!(same.success(), "{name}");
            assert_eq!(
                crate::tool::allocated(&b),
                crate::tool::allocated(&a),
                "{name}"
            );
        }
        std::fs::remove_dir_all(&target).unwrap();
    }
    // Damage in a map is found like any other.
    let at = archive
        .windows(12)
        .position(|w| w == b"db/pages.ibd")
        .unwrap();
    let mut damaged = archive.clone();
    damaged[at + 12 + 24 + 9] ^= 1;
    run(xbpipe(["verify"]), &damaged).expect(4);
    let both = xbpipe(["create", "--sparse", "--compress", "lz4", "."]);
    run(both, b"").expect(2);
}

/// No bytes at all: what the programs of each format say of that, we say. r[codec.zstd.empty]
#[test]
fn a_member_of_no_bytes_is_what_its_program_takes_it_for() {
    for (suffix, program, package) in [(".zst", "zstd", "zstd"), (".lz4", "lz4", "lz4")] {
        let mut theirs = Command::new(need(program, package));
        theirs.arg("-dc");
        let accepted = run(theirs, b"").status == 0;
        assert_eq!(accepted, suffix == ".lz4");
        let archive = Chunks::new().end(&format!("t{suffix}")).0;
        let status = if accepted { 0 } else { 3 };
        run(xbpipe(["verify", "--decompress"]), &archive).expect(status);
        run(xbpipe(["verify"]), &archive).expect(0);
    }
    // There is no program qpress here; its format has a head and a trailer.
    let archive = Chunks::new().end("t.qp").0;
    let done = run(xbpipe(["verify", "--decompress"]), &archive).expect(3);
    assert!(done.text().contains("t.qp: "), "{}", done.text());
}
