//! What the archive tests share: running the program, trees on disk, archives by hand.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use xbpipe::xbstream::{ArchivePath, encode};

/// A directory of its own for one test, in memory where the system has such a place: tests write gigabytes.
pub(crate) fn scratch() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Our program.
pub(crate) fn xbpipe<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xbpipe"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A tool that this test cannot do without.
pub(crate) fn need(tool: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(tool))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this test needs `{tool}`: install Debian's package {package}"))
}

/// A line of shell on a terminal of its own; what that shows is standard output.
pub(crate) fn on_a_terminal(line: &str) -> Command {
    need("script", "bsdutils");
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--flush", "--command"])
        // A new terminal has no size.
        .arg(format!("stty cols 100 rows 30; {line}"))
        .arg("/dev/null")
        .env("SHELL", "/bin/bash")
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    command
}

/// How a program ended.
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{}", self.err);
        self
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    /// The line that must say everything.
    pub(crate) fn last_line(&self) -> &str {
        self.err.lines().last().unwrap_or_default()
    }
}

/// Exit status as shells tell it.
pub(crate) fn status_of(status: std::process::ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs to the end with `input` on standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Done {
    command.stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read everything.
    let feeder = std::thread::spawn(move || stdin.write_all(&input).ok());
    let done = finish(child);
    feeder.join().unwrap();
    done
}

/// Collects what a started program says until it ends.
pub(crate) fn finish(mut child: Child) -> Done {
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut out = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut out).unwrap();
        }
        out
    });
    let mut err = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut err).unwrap();
    }
    let status = status_of(child.wait().unwrap());
    Done {
        status,
        out: reader.join().unwrap(),
        err: String::from_utf8_lossy(&err).into_owned(),
    }
}

/// Runs two programs joined by a pipe; both ends' outcomes.
pub(crate) fn pipe(mut first: Command, mut second: Command) -> (Done, Done) {
    let mut one = first
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {first:?}: {e}"));
    second.stdin(one.stdout.take().unwrap());
    let two = second
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {second:?}: {e}"));
    // Its copy of the pipe must not outlive the program.
    drop(second);
    let one = std::thread::spawn(move || finish(one));
    let two = finish(two);
    (one.join().unwrap(), two)
}

/// What stands in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    EmptyDir,
    File(Vec<u8>),
}

/// Relative names and what they are; directories only when they are empty.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// Reads a tree from disk.
pub(crate) fn read_tree(root: &Path) -> Tree {
    fn visit(root: &Path, below: &[u8], tree: &mut Tree) {
        let mut empty = true;
        for entry in std::fs::read_dir(root.join(OsStr::from_bytes(below))).unwrap() {
            empty = false;
            let entry = entry.unwrap();
            let mut name = below.to_vec();
            if !name.is_empty() {
                name.push(b'/');
            }
            name.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type().unwrap().is_dir() {
                visit(root, &name, tree);
            } else {
                let content = std::fs::read(entry.path()).unwrap();
                tree.insert(name, Node::File(content));
            }
        }
        if empty && !below.is_empty() {
            tree.insert(below.to_vec(), Node::EmptyDir);
        }
    }
    let mut tree = Tree::new();
    if root.exists() {
        visit(root, b"", &mut tree);
    }
    tree
}

/// Writes a tree to disk.
pub(crate) fn write_tree(root: &Path, tree: &Tree) {
    std::fs::create_dir_all(root).unwrap();
    for (name, node) in tree {
        let path = root.join(OsStr::from_bytes(name));
        match node {
            Node::EmptyDir => std::fs::create_dir_all(&path).unwrap(),
            Node::File(content) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, content).unwrap();
            }
        }
    }
}

/// A tree of files.
pub(crate) fn files<'a>(list: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Tree {
    list.into_iter()
        .map(|(name, content)| (name.as_bytes().to_vec(), Node::File(content.to_vec())))
        .collect()
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(found: &Tree, expected: &Tree) {
    let names = |tree: &Tree| -> Vec<OsString> {
        tree.keys().map(|n| OsString::from_vec(n.clone())).collect()
    };
    assert_eq!(names(found), names(expected));
    for (name, node) in expected {
        assert!(
            found[name] == *node,
            "{:?} differs",
            OsStr::from_bytes(name)
        );
    }
}

/// Bytes that a file takes up on disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Archives by hand, well-formed or not.
#[derive(Debug, Default, Clone)]
pub(crate) struct Chunks(pub(crate) Vec<u8>);

impl Chunks {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn payload(mut self, name: &str, offset: u64, data: &[u8]) -> Self {
        let path = ArchivePath::new(name.as_bytes()).unwrap();
        let crc = crc32fast::hash(data);
        encode::payload_head(&mut self.0, &path, offset, crc, data.len() as u64);
        self.0.extend_from_slice(data);
        self
    }

    pub(crate) fn end(mut self, name: &str) -> Self {
        encode::end(&mut self.0, &ArchivePath::new(name.as_bytes()).unwrap());
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.payload(name, 0, data).end(name)
    }

    pub(crate) fn seek(mut self, name: &str, offset: u64) -> Self {
        let path = ArchivePath::new(name.as_bytes()).unwrap();
        encode::seek(&mut self.0, &path, offset);
        self
    }

    /// A prefix with any flags, letter and path.
    pub(crate) fn prefix(mut self, flags: u8, letter: u8, path: &[u8]) -> Self {
        let len = u32::try_from(path.len()).unwrap();
        self.0.extend_from_slice(b"XBSTCK01");
        self.0.push(flags);
        self.0.push(letter);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(path);
        self
    }

    /// What follows the prefix of a payload chunk, with any lengths.
    pub(crate) fn body(mut self, len: u64, offset: u64, crc: u32, data: &[u8]) -> Self {
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&offset.to_le_bytes());
        self.0.extend_from_slice(&crc.to_le_bytes());
        self.raw(data)
    }

    pub(crate) fn rename(self, from: &str, to: &[u8]) -> Self {
        let len = u32::try_from(to.len()).unwrap();
        self.prefix(0, b'R', from.as_bytes())
            .raw(&len.to_le_bytes())
            .raw(to)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Without the last `n` bytes.
    pub(crate) fn cut(mut self, n: usize) -> Self {
        self.0.truncate(self.0.len() - n);
        self
    }
}

/// The index of an archive that has no file chunks: these lines about members, then table, sums and trailer.
pub(crate) fn index_of(lines: &str, members: u64, bytes: u64) -> Vec<u8> {
    let head = format!("xbpipe-archive 2\n{lines}");
    let mut archive = Chunks::new().payload("xbpipe_index", 0, head.as_bytes());
    let table = archive.0.len();
    let tail = format!("I 0+{}\nEND {members} {bytes}\n", head.len());
    archive = archive.payload("xbpipe_index", head.len() as u64, tail.as_bytes());
    let crc = crc32fast::hash([head.as_bytes(), tail.as_bytes()].concat().as_slice());
    let trailer = format!("TRAILER {table:016x} {crc:08x}\n");
    let offset = (head.len() + tail.len()) as u64;
    archive
        .payload("xbpipe_index", offset, trailer.as_bytes())
        .end("xbpipe_index")
        .0
}

/// The fields of the chunk at the beginning of `archive`, each with its length in bytes.
pub(crate) fn chunk_fields(archive: &[u8]) -> Vec<(&'static str, usize)> {
    let number = |at: usize, len: usize| {
        let mut le = [0; 8];
        le[..len].copy_from_slice(&archive[at..at + len]);
        usize::try_from(u64::from_le_bytes(le)).unwrap()
    };
    let path_len = number(10, 4);
    let body = 14 + path_len;
    let rest = &archive[body..];
    let mut fields = vec![
        ("magic", 8),
        ("flags", 1),
        ("letter", 1),
        ("path_len", 4),
        ("path", path_len),
    ];
    fields.extend(match archive[9] {
        b'P' => vec![
            ("payload_len", 8),
            ("file_offset", 8),
            ("crc", 4),
            ("payload", number(body, 8)),
        ],
        b'S' if rest.len() == 8 || rest[8..].starts_with(b"XBSTCK01") => vec![("file_offset", 8)],
        b'S' => vec![
            ("entries", 4),
            ("payload_len", 8),
            ("file_offset", 8),
            ("crc", 4),
            ("map", 8 * number(body, 4)),
            ("payload", number(body + 4, 8)),
        ],
        b'R' => vec![("new_path_len", 4), ("new_path", number(body, 4))],
        _ => Vec::new(),
    });
    fields
}

/// The chunks of an archive, each with all its bytes.
pub(crate) fn split_chunks(archive: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut rest = archive;
    while !rest.is_empty() {
        let len = chunk_fields(rest).iter().map(|(_, len)| len).sum();
        let (chunk, behind) = rest.split_at(len);
        chunks.push(chunk.to_vec());
        rest = behind;
    }
    chunks
}

/// The same archive as a program that knows no index would have written it.
pub(crate) fn index_free(archive: &[u8]) -> Vec<u8> {
    split_chunks(archive)
        .into_iter()
        .filter(|chunk| !chunk[14..].starts_with(b"xbpipe_index"))
        .flatten()
        .collect()
}
