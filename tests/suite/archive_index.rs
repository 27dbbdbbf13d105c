//! The index: what it says, what is read by it, and that damage in it never makes a bad archive look good.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use xbpipe::archive::cat::cat;
use xbpipe::archive::extract::{ExtractOptions, extract};
use xbpipe::archive::list::list;
use xbpipe::archive::quick::verify_quick;
use xbpipe::archive::verify::verify;
use xbpipe::archive::{Access, ReadOptions};
use xbpipe::base::cancel::Cancel;
use xbpipe::base::monitor::{Collector, Counters, Monitor};
use xbpipe::base::run::Run;
use xbpipe::base::units::ByteCount;
use xbpipe::pipeline::dir_sink::DirOptions;
use xbpipe::pipeline::select::Selection;
use xbpipe::xbstream::{ArchivePath, encode};

use crate::tool::{
    Done, Node, Tree, assert_same, files, finish, noise, read_tree, run, scratch, split_chunks,
    write_tree, xbpipe,
};

/// Runs something of the library; tells how many reads of the archive it took, and of how many bytes.
fn counted<R>(f: impl FnOnce(&Run) -> R) -> (R, u64, u64) {
    let monitor = Arc::new(Collector::default());
    let run = Run {
        cancel: Cancel::new(),
        monitor: Arc::clone(&monitor) as Arc<dyn Monitor>,
    };
    let result = f(&run);
    let counters = monitor.counters();
    let (reads, bytes) = (
        Counters::get(&counters.reads),
        Counters::get(&counters.read_bytes),
    );
    (result, reads, bytes)
}

fn options(archive: &Path, access: Access) -> ReadOptions {
    ReadOptions {
        stored: None,
        max_output: None,
        source: Some(archive.to_path_buf()),
        memory: ByteCount(64 << 20),
        parallel: 2,
        decoders: Vec::new(),
        keep_going: true,
        access,
    }
}

fn names(list: &[&str]) -> Selection {
    Selection {
        names: list.iter().map(Into::into).collect(),
        exclude: Vec::new(),
    }
}

/// Writes an archive by hand, as `format-spec/xbstream.md` describes it, payload of zeros as holes.
struct Sparse {
    file: std::fs::File,
    end: u64,
    index: String,
    /// Index lines that are not in a chunk yet.
    lines: String,
    table: Vec<(u64, usize)>,
    number: u64,
    bytes: u64,
}

impl Sparse {
    fn create(path: &Path) -> Self {
        let file = std::fs::File::create_new(path).unwrap();
        let mut new = Self {
            file,
            end: 0,
            index: String::new(),
            lines: "xbpipe-archive 2\n".to_owned(),
            table: Vec::new(),
            number: 0,
            bytes: 0,
        };
        new.flush();
        new
    }

    fn put(&mut self, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.end).unwrap();
        self.end += bytes.len() as u64;
    }

    fn flush(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        self.table.push((self.end, lines.len()));
        let mut head = Vec::new();
        let crc = crc32fast::hash(lines.as_bytes());
        let (offset, len) = (self.index.len() as u64, lines.len() as u64);
        encode::payload_head(&mut head, &path("xbpipe_index"), offset, crc, len);
        self.put(&head);
        self.put(lines.as_bytes());
        self.index.push_str(&lines);
    }

    /// A file of zeros in chunks of 1 MiB, or of `content`.
    fn file(&mut self, name: &str, zeros: u64, content: &[u8]) {
        let chunk = 1 << 20;
        let zero_sum = {
            let mut sum = crc32fast::Hasher::new();
            sum.update(&vec![0; chunk]);
            sum
        };
        let mut sum = crc32fast::Hasher::new();
        let mut offset = 0;
        for _ in 0..zeros / chunk as u64 {
            sum.combine(&zero_sum);
            self.chunk(name, offset, zero_sum.clone().finalize(), chunk as u64);
            offset += chunk as u64;
            self.end += chunk as u64;
        }
        if !content.is_empty() {
            sum.update(content);
            self.chunk(name, offset, crc32fast::hash(content), content.len() as u64);
            self.put(content);
            offset += content.len() as u64;
        }
        let mut end = Vec::new();
        encode::end(&mut end, &path(name));
        self.put(&end);
        let line = format!("F {} {offset} {:08x} {name}\n", self.number, sum.finalize());
        self.lines.push_str(&line);
        self.number += 1;
        self.bytes += offset;
    }

    fn chunk(&mut self, name: &str, offset: u64, crc: u32, len: u64) {
        let line = format!("C {} {}+{len}\n", self.number, self.end);
        self.lines.push_str(&line);
        if self.lines.len() > 64 << 10 {
            // It moves the chunk, so the line has to be made again.
            self.lines.truncate(self.lines.len() - line.len());
            self.flush();
            let line = format!("C {} {}+{len}\n", self.number, self.end);
            self.lines.push_str(&line);
        }
        let mut head = Vec::new();
        encode::payload_head(&mut head, &path(name), offset, crc, len);
        self.put(&head);
    }

    fn finish(mut self) {
        self.flush();
        let position = self.end;
        for list in std::mem::take(&mut self.table).chunks(32) {
            let pairs: Vec<String> = list.iter().map(|(p, l)| format!("{p}+{l}")).collect();
            self.lines.push_str(&format!("I {}\n", pairs.join(",")));
        }
        let line = format!("END {} {}\n", self.number, self.bytes);
        self.lines.push_str(&line);
        self.flush();
        let crc = crc32fast::hash(self.index.as_bytes());
        self.lines = format!("TRAILER {position:016x} {crc:08x}\n");
        self.flush();
        let mut end = Vec::new();
        encode::end(&mut end, &path("xbpipe_index"));
        self.put(&end);
    }
}

fn path(name: &str) -> ArchivePath {
    ArchivePath::new(name.as_bytes()).unwrap()
}

/// The proof of the promise: of 20 GB only what is needed is read.
#[test]
fn of_twenty_gigabytes_only_what_is_needed_is_read() {
    let dir = scratch();
    let archive = dir.path().join("large.xb");
    let mut sparse = Sparse::create(&archive);
    let small = noise(3_000_000, 8);
    sparse.file("db/one", 12 << 30, b"");
    sparse.file("db/small", 0, &small);
    sparse.file("db/two", 8 << 30, b"the end of the second file");
    sparse.finish();
    let len = std::fs::metadata(&archive).unwrap().len();
    assert!(len > 20 << 30);

    let (listing, reads, bytes) = counted(|run| {
        list(
            &options(&archive, Access::Structure),
            &Selection::default(),
            run,
        )
        .unwrap()
    });
    let sizes: Vec<u64> = listing.members.values().map(|m| m.size).collect();
    assert_eq!(sizes, [12 << 30, 3_000_000, (8 << 30) + 26]);
    assert!(
        reads < 20 && bytes < 2 << 20,
        "list: {reads} reads of {bytes}"
    );

    let (examined, reads, bytes) = counted(|run| {
        let options = options(&archive, Access::Members);
        verify(&options, &names(&["db/s*"]), run).unwrap()
    });
    assert!(examined.outcome.is_whole() && examined.outcome.files == 1);
    assert!(
        reads < 60 && bytes < 6 << 20,
        "one: {reads} reads of {bytes}"
    );

    let (examined, reads, bytes) =
        counted(|run| verify_quick(&options(&archive, Access::Whole), run).unwrap());
    examined.outcome.check("quick").unwrap();
    assert!(
        reads < 20 * 1024 + 60 && bytes < 20 << 20,
        "quick: {reads} of {bytes}"
    );

    let target = dir.path().join("counted");
    let extracting = ExtractOptions {
        read: options(&archive, Access::Members),
        directory: target.clone(),
        selection: names(&["db/small"]),
        strip_components: 0,
        dir: DirOptions {
            overwrite: false,
            resume: false,
            sync: false,
        },
    };
    let (extracted, reads, bytes) = counted(|run| extract(&extracting, run).unwrap());
    assert_eq!(extracted.files, 1);
    assert_same(&read_tree(&target), &files([("db/small", &small[..])]));
    assert!(
        reads < 60 && bytes < 6 << 20,
        "extract: {reads} reads of {bytes}"
    );

    // What this writes to its standard output is caught by a process of its own: this one, told so by its environment.
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    alone
        .args(["--exact", "archive_index::cat_alone", "--nocapture"])
        .env(ALONE, &archive);
    let done = run(alone, b"").expect(0);
    let content = done.out.windows(small.len()).any(|w| w == small);
    assert!(content, "{}", done.err);
    let counts: Vec<u64> = (done.err.lines())
        .find_map(|line| line.strip_prefix("counted "))
        .unwrap_or_else(|| panic!("{}", done.err))
        .split(' ')
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(counts[0] > 0 && counts[0] < 60, "cat: {counts:?}");
    assert!(counts[1] < 6 << 20, "cat: {counts:?}");

    // From the command line, too.
    let child = xbpipe(["cat"])
        .arg(&archive)
        .arg("db/small")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert!(finish(child).expect(0).out == small);
    let target = dir.path().join("target");
    extract_file(&archive, &target, &["*mall"]).expect(0);
    assert_same(&read_tree(&target), &files([("db/small", &small[..])]));
}

/// Names the archive of which [`cat_alone`] writes a member.
const ALONE: &str = "XBPIPE_TEST_CAT";

/// Half of a test: `cat` with its reads counted.
#[test]
fn cat_alone() {
    let Some(archive) = std::env::var_os(ALONE) else {
        return;
    };
    let read = options(Path::new(&archive), Access::InOrder);
    let (done, reads, bytes) =
        counted(|run| cat(&read, &names(&["db/small"]), std::env::temp_dir(), run).unwrap());
    assert_eq!(done.files, 1);
    let line = format!("counted {reads} {bytes}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn extract_file(archive: &Path, target: &Path, arguments: &[&str]) -> Done {
    let mut command = xbpipe(["extract", "--no-sync", "-C"]);
    command.arg(target).arg(archive).args(arguments);
    run(command, b"")
}

/// Every kind of member, so many that chunk lines are written while files are open.
fn sample(dir: &Path, options: &[&str]) -> (Tree, Vec<u8>) {
    let large = noise(40 << 20, 3);
    let mut tree = files([
        ("a/large", &large[..]),
        ("a/large2", &large[..35 << 20]),
        ("a/empty", b""),
        ("b/c/deep.ibd", b"deep"),
        ("b/t.ibd", b"tablespace"),
        ("t.frm", b"definition"),
        ("with*star", b"literal"),
    ]);
    tree.insert(b"nothing/here".to_vec(), Node::EmptyDir);
    write_tree(&dir.join("source"), &tree);
    let mut command = xbpipe(["create", "-C"]);
    command.arg(dir.join("source")).args(options).arg(".");
    let archive = run(command, b"").expect(0).out;
    std::fs::write(dir.join("a.xb"), &archive).unwrap();
    (tree, archive)
}

fn only(tree: &Tree, wanted: &[&str]) -> Tree {
    tree.iter()
        .filter(|(name, _)| wanted.iter().any(|w| w.as_bytes() == &name[..]))
        .map(|(name, node)| (name.clone(), node.clone()))
        .collect()
}

#[test]
fn members_are_chosen_by_patterns_by_index_and_through_a_pipe() {
    let dir = scratch();
    let (tree, archive) = sample(dir.path(), &[]);
    let file = dir.path().join("a.xb");
    for (i, (arguments, expected)) in [
        (&["*.ibd"][..], &["b/c/deep.ibd", "b/t.ibd"][..]),
        (&["b"], &["b/c/deep.ibd", "b/t.ibd"]),
        (&["a/*", "--exclude", "large*"], &["a/empty"]),
        (
            &["--exclude", "a", "--exclude", "*.ibd"],
            &["t.frm", "with*star", "nothing/here"],
        ),
        (&["with*star"], &["with*star"]),
        (&["nothing", "a/large2"], &["nothing/here", "a/large2"]),
        (&["?.frm", "[b]/t*"], &["t.frm", "b/t.ibd"]),
    ]
    .into_iter()
    .enumerate()
    {
        let expected = only(&tree, expected);
        let target = dir.path().join(format!("file{i}"));
        extract_file(&file, &target, arguments).expect(0);
        assert_same(&read_tree(&target), &expected);
        let target = dir.path().join(format!("pipe{i}"));
        let mut command = xbpipe(["extract", "--no-sync", "-C"]);
        command.arg(&target).arg("-").args(arguments);
        run(command, &archive).expect(0);
        assert_same(&read_tree(&target), &expected);
        let mut command = xbpipe(["list"]);
        command.arg(&file).args(arguments);
        let listed = run(command, b"").expect(0);
        let listed: Vec<&str> = listed.text().lines().collect();
        let names: Vec<_> = expected
            .keys()
            .map(|n| String::from_utf8_lossy(n))
            .collect();
        assert_eq!(listed, names);
    }
    for arguments in [&["t.frm", "*.nothing"][..], &["t.fr"], &["b/t.ibd/x"]] {
        for source in [file.to_str().unwrap(), "-"] {
            let mut command = xbpipe(["extract", "--no-sync", "-C"]);
            command.arg(dir.path().join("none")).arg("--overwrite");
            command.arg(source).args(arguments);
            let done = run(command, &archive).expect(1);
            assert!(done.last_line().contains("not found"), "{}", done.err);
        }
    }
    let target = dir.path().join("stripped");
    extract_file(&file, &target, &["--strip-components", "1", "b", "t.frm"]).expect(0);
    let expected = files([("c/deep.ibd", &b"deep"[..]), ("t.ibd", b"tablespace")]);
    assert_same(&read_tree(&target), &expected);
}

#[test]
fn cat_by_index_keeps_the_order_of_the_archive() {
    let dir = scratch();
    let (_, archive) = sample(dir.path(), &["--parallel", "3"]);
    let by_pipe = run(xbpipe(["cat", "-", "a", "b"]), &archive).expect(0).out;
    let mut command = xbpipe(["cat"]);
    command.arg(dir.path().join("a.xb")).args(["b", "a"]);
    let by_index = run(command, b"").expect(0).out;
    assert_eq!(by_index.len(), by_pipe.len());
    assert!(by_index == by_pipe);
}

// r[xbstream.index.frames]
#[test]
fn the_index_knows_what_compressed_files_were() {
    let dir = scratch();
    let source = dir.path().join("source");
    let mut tree = files([("x", &noise(5_000_000, 1)[..]), ("empty", b"")]);
    tree.insert(b"zeros".to_vec(), Node::File(vec![0; 3_500_000]));
    write_tree(&source, &tree);
    let archive = dir.path().join("a.xb");
    let mut command = xbpipe(["create", "--compress", "zstd", "-C"]);
    command.arg(&source).arg("--to").arg(&archive).arg(".");
    run(command, b"").expect(0);
    let mut command = xbpipe(["list", "--json"]);
    command.arg(&archive);
    let listed = run(command, b"").expect(0);
    let mut plain = Vec::new();
    for line in listed.text().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        if value["type"] == "file" {
            assert_eq!(value["chain"], serde_json::json!(["zstd"]));
            plain.push(value["plain_size"].as_u64().unwrap());
        }
    }
    assert_eq!(plain, [0, 5_000_000, 3_500_000]);
    let target = dir.path().join("target");
    extract_file(&archive, &target, &["--decompress", "x", "zeros"]).expect(0);
    assert_same(&read_tree(&target), &only(&tree, &["x", "zeros"]));
}

/// A small archive whose every byte can be tried.
fn tiny(dir: &Path) -> (Tree, Vec<u8>) {
    let tree = files([
        ("db/t", &b"content of t"[..]),
        ("info", b"text"),
        ("no", b""),
    ]);
    write_tree(&dir.join("source"), &tree);
    let mut command = xbpipe(["create", "--parallel", "1", "-C"]);
    command.arg(dir.join("source")).arg(".");
    (tree, run(command, b"").expect(0).out)
}

/// By the index or not: what is wrong is never told as right, in particular no file gets a name that has other content.
#[test]
fn no_flip_or_cut_makes_a_bad_archive_look_good() {
    let dir = scratch();
    let (tree, archive) = tiny(dir.path());
    let file = dir.path().join("a.xb");
    let mut damaged: Vec<(String, Vec<u8>)> = Vec::new();
    for at in 0..archive.len() {
        let mut bytes = archive.clone();
        bytes[at] ^= 0x10;
        damaged.push((format!("flip {at}"), bytes));
    }
    for len in (0..archive.len()).step_by(7) {
        damaged.push((format!("cut {len}"), archive[..len].to_vec()));
    }
    let chunks = split_chunks(&archive);
    for i in 0..chunks.len() {
        let mut dropped = chunks.clone();
        dropped.remove(i);
        damaged.push((format!("drop {i}"), dropped.concat()));
        let mut doubled = chunks.clone();
        doubled.insert(i, chunks[i].clone());
        damaged.push((format!("double {i}"), doubled.concat()));
    }
    damaged.push(("twice".to_owned(), [&archive[..], &archive].concat()));
    damaged.push(("more".to_owned(), [&archive[..], b"\n"].concat()));
    let mut quick_found = 0;
    for (what, bytes) in &damaged {
        std::fs::File::create(&file)
            .unwrap()
            .write_all(bytes)
            .unwrap();
        let (whole, ..) = counted(|run| {
            let examined = verify(&options(&file, Access::Whole), &Selection::default(), run);
            examined.unwrap().outcome.is_whole()
        });
        let (quick, ..) = counted(|run| {
            let examined = verify_quick(&options(&file, Access::Whole), run);
            examined.unwrap().outcome.is_whole()
        });
        quick_found += usize::from(!quick);
        // One member by the index: its content is exactly what it was, or it is an error.
        let selection = names(&["db/t"]);
        let (one, ..) = counted(|run| {
            verify(&options(&file, Access::Members), &selection, run)
                .is_ok_and(|e| e.outcome.is_whole())
        });
        // Only flags, which mean nothing, can differ unnoticed.
        if !whole && one {
            let target = dir.path().join(format!("t{what}").replace(' ', "-"));
            extract_file(&file, &target, &["db/t"]).expect(0);
            assert_same(&read_tree(&target), &only(&tree, &["db/t"]));
        }
    }
    // Structure is most of this archive.
    assert!(quick_found > damaged.len() / 2, "{quick_found}");
}

/// An index that tells of chunks inside another file's content, all its checksums right, must not pass for the archive.
// r[xbstream.index.agrees] r[xbstream.index.seek]
#[test]
fn an_index_that_leads_into_payload_is_found_by_reading_all() {
    let dir = scratch();
    let archive = dir.path().join("a.xb");
    let mut inner = Vec::new();
    encode::payload_head(&mut inner, &path("b"), 0, crc32fast::hash(b"evil"), 4);
    inner.extend_from_slice(b"evil");
    let mut sparse = Sparse::create(&archive);
    sparse.file("a", 0, &inner);
    sparse.file("b", 0, b"good");
    // The line of `b` is made to lead into `a`.
    let begin = sparse.lines.find("C 1 ").unwrap();
    let end = begin + sparse.lines[begin..].find('\n').unwrap();
    let first: u64 = sparse.table[0].1 as u64 + 14 + 12 + 20;
    let position = first + 14 + 1 + 20;
    sparse
        .lines
        .replace_range(begin..end, &format!("C 1 {position}+4"));
    let (good, evil) = (crc32fast::hash(b"good"), crc32fast::hash(b"evil"));
    sparse.lines = sparse
        .lines
        .replace(&format!("{good:08x}"), &format!("{evil:08x}"));
    sparse.finish();
    let mut command = xbpipe(["verify"]);
    command.arg(&archive);
    let done = run(command, b"").expect(4);
    assert!(done.last_line().contains("index"), "{}", done.err);
}
