//! The damage matrix: archives of every kind, small enough that every byte, every length and every chunk can be tried, read in
//! every way in this process. Whatever was done to an archive, the run fails, or the files are what they were.
//!
//! What a foreign format cannot tell is listed in `format-spec/bad-input.md`, by kind of archive, damage and field. The list is
//! held tight: a row that nothing shows is as wrong as a surprise that has no row.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use xbpipe::archive::extract::{ExtractOptions, extract};
use xbpipe::archive::verify::verify;
use xbpipe::archive::{Access, ReadOptions};
use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::monitor::Collector;
use xbpipe::base::run::Run;
use xbpipe::base::units::ByteCount;
use xbpipe::pipeline::budget::OVERHEAD_MAX;
use xbpipe::pipeline::dir_sink::{DirOptions, PARTIAL_SUFFIX};
use xbpipe::pipeline::select::Selection;

use crate::cli_contract::table;
use crate::damage_samples::{self as samples, Member, Sample, decoders};
use crate::tool::{Chunks, Node, Tree, chunk_fields, files, read_tree, scratch, split_chunks};

/// How an archive is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Through a pipe, and not as a file.
    pipe: bool,
    parallel: usize,
    access: Access,
    keep_going: bool,
}

impl Way {
    const fn new(pipe: bool, parallel: usize, access: Access, keep_going: bool) -> Self {
        Self {
            pipe,
            parallel,
            access,
            keep_going,
        }
    }
}

/// All of them; the last ones use the index, if there is one.
const WAYS: [Way; 6] = [
    Way::new(true, 1, Access::Whole, false),
    Way::new(true, 2, Access::Whole, true),
    Way::new(false, 2, Access::Whole, false),
    Way::new(false, 1, Access::Listed, true),
    Way::new(false, 2, Access::Members, false),
    Way::new(false, 1, Access::Resume, false),
];

/// Bytes of buffers: hardly more than the least.
const MEMORY: u64 = 10 << 20;

/// One way to damage an archive.
struct Damage {
    /// In the words of the document.
    what: String,
    /// Where, for whoever looks for it.
    at: String,
    bytes: Vec<u8>,
}

/// A row of the document: what was done, and how the run ended that left something wrong under a right name.
type Row = (String, &'static str);

/// Runs one sample through everything.
struct Bench<'s> {
    sample: &'s Sample,
    root: tempfile::TempDir,
    wrong: BTreeMap<Row, String>,
    cases: usize,
}

impl<'s> Bench<'s> {
    fn new(sample: &'s Sample) -> Self {
        Self {
            sample,
            root: scratch(),
            wrong: BTreeMap::new(),
            cases: 0,
        }
    }

    fn read_options(&self, way: Way, source: PathBuf) -> ReadOptions {
        ReadOptions {
            source: Some(source),
            memory: ByteCount(MEMORY),
            parallel: way.parallel,
            decoders: self.sample.decoders.clone(),
            keep_going: way.keep_going,
            access: way.access,
            stored: None,
            max_output: None,
        }
    }

    /// Does `work` with the archive at some path.
    fn with_source<R>(&self, way: Way, bytes: &[u8], work: impl FnOnce(PathBuf) -> R) -> R {
        if !way.pipe {
            let path = self.root.path().join("a.xb");
            std::fs::write(&path, bytes).unwrap();
            return work(path);
        }
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        std::thread::scope(|scope| {
            // What fits into a pipe needs nobody who waits.
            if bytes.len() <= 60_000 {
                writer.write_all(bytes).unwrap();
                drop(writer);
            } else {
                scope.spawn(move || writer.write_all(bytes).ok());
            }
            let result = work(path);
            drop(reader);
            result
        })
    }

    fn target(&self) -> PathBuf {
        self.root.path().join("t")
    }

    fn extract(&self, way: Way, bytes: &[u8]) -> Result<(), Error> {
        let options = |source| ExtractOptions {
            read: self.read_options(way, source),
            directory: self.target(),
            selection: Selection::default(),
            strip_components: 0,
            dir: DirOptions {
                overwrite: false,
                resume: way.access == Access::Resume,
                sync: false,
            },
        };
        self.with_source(way, bytes, |source| {
            extract(&options(source), &quiet()).map(drop)
        })
    }

    fn clear(&self) {
        if self.target().exists() {
            std::fs::remove_dir_all(self.target()).unwrap();
        }
    }

    fn verify(&self, bytes: &[u8]) -> bool {
        let way = WAYS[0];
        self.with_source(way, bytes, |source| {
            let options = self.read_options(way, source);
            verify(&options, &Selection::default(), &quiet())
                .is_ok_and(|examined| examined.outcome.is_whole())
        })
    }

    /// One case in two of the ways: a flip and a cut in the same, the next two in others.
    fn case(&mut self, damage: &Damage) {
        let ways = self.ways();
        let first = self.cases / 4 % ways.len();
        let second = (first + ways.len() / 2) % ways.len();
        self.case_in(damage, &[ways[first], ways[second]]);
    }

    /// The ways that differ for this archive.
    fn ways(&self) -> Vec<Way> {
        let by_index = |way: &Way| matches!(way.access, Access::Resume | Access::Members);
        let wanted = |way: &Way| self.sample.indexed || !by_index(way);
        WAYS.into_iter().filter(wanted).collect()
    }

    /// One case, and what is wrong afterwards.
    fn case_in(&mut self, damage: &Damage, ways: &[Way]) {
        let Damage { what, at, bytes } = damage;
        let mut whole = None;
        for way in ways.iter().copied() {
            self.cases += 1;
            let result = self.extract(way, bytes);
            let found = read_tree(&self.target());
            self.clear();
            let story = |error: &Error| format!("{at}: {way:?}: {error}");
            match &result {
                Ok(()) if found != self.sample.tree => {
                    let row = (what.clone(), "success");
                    let names: Vec<_> = found.keys().map(|n| String::from_utf8_lossy(n)).collect();
                    let detail = format!("{at}: {way:?}: {}", names.join(" "));
                    self.wrong.entry(row).or_insert(detail);
                }
                Ok(()) => {}
                Err(error) => {
                    let kind = error.kind();
                    let known = matches!(kind, Kind::Checksum | Kind::Incomplete | Kind::Failed)
                        || (kind == Kind::Usage && way.access == Access::Resume);
                    let text = error.to_string();
                    assert!(known && !text.contains("panicked"), "{}", story(error));
                    // What fails says where, or at least what. An archive that is read by its index only cannot be resumed
                    // without one, and that is no place.
                    let resume = kind == Kind::Usage;
                    assert!(resume || says_where(&text), "{}", story(error));
                    if self.is_wrong_somewhere(&found) {
                        let row = (what.clone(), "failure");
                        self.wrong.entry(row).or_insert_with(|| story(error));
                    }
                }
            }
            if way == WAYS[0] {
                whole = Some(result.is_ok());
            }
        }
        // A file of the archive may stand in the way of another one, which only extraction notices.
        if let Some(whole) = whole {
            assert!(self.verify(bytes) || !whole, "{what}: {at}: verify");
        }
    }

    /// Whether a file under a name of its own is not the file that was stored.
    fn is_wrong_somewhere(&self, found: &Tree) -> bool {
        found.iter().any(|(name, node)| match node {
            Node::EmptyDir => false,
            Node::File(_) => {
                let passing = self.sample.passing.iter();
                !name.ends_with(PARTIAL_SUFFIX.as_bytes())
                    && self.sample.tree.get(name) != Some(node)
                    && !(passing.clone()).any(|(n, content)| {
                        n.as_bytes() == name && *node == Node::File(content.to_vec())
                    })
            }
        })
    }

    /// Compares what was seen with the document.
    fn finish(self) {
        let documented = documented(self.sample);
        let seen: BTreeSet<Row> = self.wrong.keys().cloned().collect();
        let mut report = Vec::new();
        for row in seen.difference(&documented) {
            report.push(format!("not documented: {row:?}: {}", self.wrong[row]));
        }
        for row in documented.difference(&seen) {
            report.push(format!("never seen: {row:?}"));
        }
        assert!(
            report.is_empty(),
            "{} after {} cases:\n{}",
            self.sample.kind,
            self.cases,
            report.join("\n")
        );
    }
}

/// Whether an error has a byte offset, or names files.
fn says_where(text: &str) -> bool {
    ["at byte offset ", "damaged: ", "not whole: ", "\""]
        .iter()
        .any(|sign| text.contains(sign))
}

fn quiet() -> Run {
    Run {
        cancel: Cancel::new(),
        monitor: Arc::new(Collector::default()),
    }
}

/// The rows of `bad-input.md` that are about this kind of archive. `r[bad-input.untold]`
fn documented(sample: &Sample) -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for row in table("bad-input.md", "cases: damage") {
        let [kinds, damage, end, _] = &row[..] else {
            panic!("{row:?}")
        };
        let all = kinds == "all others"
            && !sample.indexed
            && !sample.outer
            && !sample.kind.starts_with("inside");
        if !all && !kinds.split(", ").any(|kind| kind == sample.kind) {
            continue;
        }
        let end = match end.as_str() {
            "success" => "success",
            "failure" => "failure",
            other => panic!("{other}"),
        };
        assert!(
            !sample.indexed,
            "archives of ours have no exceptions: {row:?}"
        );
        rows.insert((damage.clone(), end));
    }
    rows
}

/// What each chunk is, in the words of the document.
fn roles(chunks: &[Vec<u8>]) -> Vec<String> {
    let mut roles: Vec<String> = Vec::new();
    let mut open: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let fields = chunk_fields(chunk);
        let path = chunk[14..14 + fields[4].1].to_vec();
        let seeks = fields.len() == 6 && chunk[9] == b'S';
        let role = match chunk[9] {
            b'E' => match open.remove(&path) {
                None => "end chunk of an empty file".to_owned(),
                Some(payload) => {
                    if let Some(last) = payload.last() {
                        let only = if payload.len() == 1 { "only" } else { "last" };
                        roles[*last] = format!("{only} {}", roles[*last]);
                    }
                    "end chunk".to_owned()
                }
            },
            b'R' => "rename chunk".to_owned(),
            b'D' => "remove chunk".to_owned(),
            b'S' if seeks => {
                // What comes before it may be missing without a gap.
                if let Some(last) = open.entry(path).or_default().last() {
                    roles[*last] += " before a seek";
                }
                "seek chunk".to_owned()
            }
            letter => {
                let rewrites = chunk[8] == 2 && !open.contains_key(&path);
                open.entry(path).or_default().push(i);
                match letter {
                    b'S' => "sparse chunk".to_owned(),
                    _ if rewrites => "rewriting payload chunk".to_owned(),
                    _ => "payload chunk".to_owned(),
                }
            }
        };
        roles.push(role);
    }
    roles
}

/// Chunks dropped, doubled and exchanged, and the archive cut between them.
fn chunk_damages(archive: &[u8]) -> Vec<Damage> {
    let chunks = split_chunks(archive);
    let roles = roles(&chunks);
    let mut damages = Vec::new();
    let mut add = |what: String, i: usize, chunks: Vec<Vec<u8>>| {
        damages.push(Damage {
            what,
            at: format!("chunk {i}"),
            bytes: chunks.concat(),
        });
    };
    for i in 0..chunks.len() {
        let mut dropped = chunks.clone();
        dropped.remove(i);
        add(format!("{} dropped", roles[i]), i, dropped);
        let mut doubled = chunks.clone();
        doubled.insert(i, chunks[i].clone());
        add(format!("{} doubled", roles[i]), i, doubled);
        if i > 0 {
            let mut swapped = chunks.clone();
            swapped.swap(i - 1, i);
            let what = format!("{} put behind {}", roles[i - 1], roles[i]);
            add(what, i, swapped);
            let what = format!("cut behind {}", roles[i - 1]);
            add(what, i, chunks[..i].to_vec());
        }
    }
    damages
}

/// Which bit of a byte is turned over.
fn mask(at: usize) -> u8 {
    1 << (at % 8)
}

/// Every field of every chunk with another value, byte by byte, and every cut inside one. Of long payload only some bytes, if
/// `sparsely`.
fn byte_damages(archive: &[u8], sparsely: bool, mut take: impl FnMut(&Damage)) {
    let chunks = split_chunks(archive);
    let mut begin = 0;
    for (chunk, role) in chunks.iter().zip(roles(&chunks)) {
        let mut at = begin;
        for (field, len) in chunk_fields(chunk) {
            let some =
                |i: &usize| !sparsely || *i < 20 || len - *i <= 20 || i.is_multiple_of(20_011);
            for i in (at..at + len).filter(|i| some(&(i - at))) {
                let flip = |value| {
                    let mut bytes = archive.to_vec();
                    bytes[i] = value;
                    Damage {
                        what: format!("`{field}` of {role}"),
                        at: format!("byte {i} = {value:#x}"),
                        bytes,
                    }
                };
                take(&flip(archive[i] ^ mask(i)));
                if field == "letter" {
                    for letter in b"PESRD".iter().filter(|letter| **letter != archive[i]) {
                        take(&flip(*letter));
                    }
                }
                if i > begin {
                    take(&Damage {
                        what: format!("cut inside {role}"),
                        at: format!("cut at {i}"),
                        bytes: archive[..i].to_vec(),
                    });
                }
            }
            at += len;
        }
        begin = at;
    }
}

/// Bytes and lengths of something that is not taken apart here.
fn plain_damages(bytes: &[u8], mut take: impl FnMut(&Damage)) {
    for i in 0..bytes.len() {
        let mut flipped = bytes.to_vec();
        flipped[i] ^= mask(i);
        take(&Damage {
            what: "a byte".to_owned(),
            at: format!("byte {i}"),
            bytes: flipped,
        });
        take(&Damage {
            what: "cut".to_owned(),
            at: format!("cut at {i}"),
            bytes: bytes[..i].to_vec(),
        });
    }
}

fn matrix(sample: &Sample) {
    let mut bench = Bench::new(sample);
    let untouched = Damage {
        what: "untouched".to_owned(),
        at: String::new(),
        bytes: sample.archive.clone(),
    };
    bench.case_in(&untouched, &bench.ways());
    assert!(bench.wrong.is_empty(), "{:?}", bench.wrong);
    assert!(bench.verify(&sample.archive), "{}", sample.kind);
    if sample.outer {
        plain_damages(&sample.archive, |damage| bench.case(damage));
    } else {
        byte_damages(&sample.archive, sample.archive.len() > 50_000, |damage| {
            bench.case(damage);
        });
        for damage in chunk_damages(&sample.archive) {
            bench.case_in(&damage, &bench.ways());
        }
    }
    bench.finish();
}

/// The same for what is in a member: its archive is right.
fn matrix_inside(member: &Member) {
    let name = format!("t{}", member.suffix);
    let sample = Sample {
        kind: member.kind,
        archive: Vec::new(),
        tree: files([("t", &member.plain[..])]),
        passing: Vec::new(),
        decoders: decoders(),
        indexed: false,
        outer: false,
    };
    let mut bench = Bench::new(&sample);
    let mut try_units = |what: String, at: String, units: &[Vec<u8>]| {
        let content = units.concat();
        let archive = match &content[..] {
            [] => Chunks::new().end(&name),
            content => Chunks::new().file(&name, content),
        };
        bench.case(&Damage {
            what,
            at,
            bytes: archive.0,
        });
    };
    let units = &member.units;
    try_units("untouched".to_owned(), String::new(), units);
    for i in 0..units.len() {
        for at in 0..units[i].len() {
            let mut end = 0;
            let field = member.fields.iter().find(|(_, len)| {
                end += len;
                at < end
            });
            let field = field.map_or("content", |(field, _)| field);
            // A few more values for those that stand for a version.
            let others = if field == "magic" {
                &[1, 2, 3][..]
            } else {
                &[]
            };
            for mask in [mask(at)].iter().chain(others) {
                let mut flipped = units.clone();
                flipped[i][at] ^= mask;
                let place = format!("byte {at} of {i} ^ {mask:#x}");
                try_units(format!("`{field}`"), place, &flipped);
            }
            let mut cut = units[..=i].to_vec();
            cut[i].truncate(at);
            let what = if at == 0 { "cut before" } else { "cut inside" };
            try_units(what.to_owned(), format!("cut at {at} of {i}"), &cut);
        }
        let mut dropped = units.clone();
        dropped.remove(i);
        try_units("dropped".to_owned(), format!("{i}"), &dropped);
        let mut doubled = units.clone();
        doubled.insert(i, units[i].clone());
        try_units("doubled".to_owned(), format!("{i}"), &doubled);
        if i > 0 {
            let mut swapped = units.clone();
            swapped.swap(i - 1, i);
            try_units("swapped".to_owned(), format!("{i}"), &swapped);
        }
    }
    bench.finish();
}

#[test]
fn ours() {
    matrix(&samples::ours("ours", &[]));
}

#[test]
fn ours_with_sparse_chunks() {
    matrix(&samples::ours("ours sparse", &["--sparse"]));
}

#[test]
fn ours_with_zstd() {
    let options = ["--compress", "zstd", "--compress-frame-size", "64K"];
    matrix(&samples::ours("ours .zst", &options));
}

#[test]
fn ours_with_lz4() {
    matrix(&samples::ours("ours .lz4", &["--compress", "lz4"]));
}

#[test]
fn ours_with_qpress() {
    matrix(&samples::ours("ours .qp", &["--compress", "qpress"]));
}

#[test]
fn ours_with_xbcrypt() {
    matrix(&samples::ours("ours .xbcrypt", &["--encrypt", "xbcrypt"]));
}

#[test]
fn ours_with_zstd_and_age() {
    let options = ["--compress", "zstd", "--encrypt", "age"];
    matrix(&samples::ours("ours .zst.age", &options));
}

#[test]
fn ours_with_large_chunks() {
    matrix(&samples::large("ours large", true));
}

#[test]
fn large_chunks() {
    matrix(&samples::large("large", false));
}

#[test]
fn mbstream() {
    matrix(&samples::of_mbstream());
}

#[test]
fn mariadb_backup() {
    matrix(&samples::of_mariadb_backup());
}

#[test]
fn percona_sparse() {
    matrix(&samples::of_percona());
}

#[test]
fn zstd() {
    matrix(&samples::of_zstd());
}

#[test]
fn lz4() {
    matrix(&samples::of_lz4());
}

#[test]
fn qpress() {
    matrix(&samples::foreign(".qp", &["--compress", "qpress"]));
}

#[test]
fn xbcrypt() {
    matrix(&samples::foreign(".xbcrypt", &["--encrypt", "xbcrypt"]));
}

#[test]
fn zstd_and_xbcrypt() {
    let options = ["--compress", "zstd", "--encrypt", "xbcrypt"];
    matrix(&samples::foreign(".zst.xbcrypt", &options));
}

#[test]
fn age() {
    matrix(&samples::of_age());
}

#[test]
fn outer_gzip() {
    matrix(&samples::outer("gzip", "gzip", "gzip"));
}

#[test]
fn outer_zstd() {
    matrix(&samples::outer("zstd", "zstd", "zstd"));
}

#[test]
fn outer_lz4() {
    matrix(&samples::outer("lz4", "lz4", "lz4"));
}

#[test]
fn outer_xz() {
    matrix(&samples::outer("xz", "xz", "xz-utils"));
}

#[test]
fn inside_zstd() {
    matrix_inside(&samples::inside_zstd());
}

#[test]
fn inside_lz4() {
    matrix_inside(&samples::inside_lz4());
}

#[test]
fn inside_qpress() {
    matrix_inside(&samples::inside_qpress());
}

#[test]
fn inside_xbcrypt() {
    matrix_inside(&samples::inside_xbcrypt());
}

#[test]
fn inside_age() {
    matrix_inside(&samples::inside_age());
}

/// Thousands of damaged archives in one process, which does nothing else: this test again, told so by its environment.
#[test]
fn memory_does_not_grow_over_the_cases() {
    const ALONE: &str = "XBPIPE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "damage_matrix::memory_does_not_grow_over_the_cases";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1");
        let done = crate::tool::run(command, b"");
        assert_eq!(done.status, 0, "{}{}", done.text(), done.err);
        return;
    }
    let resident = |what: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    let options = ["--compress", "zstd", "--compress-frame-size", "64K"];
    let samples = [
        samples::ours("ours .zst", &options),
        samples::foreign(".qp", &["--compress", "qpress"]),
        samples::of_age(),
        samples::of_lz4(),
        samples::of_percona(),
    ];
    let before = resident("VmRSS:");
    let mut warm = 0;
    for round in 0..2 {
        for sample in &samples {
            let bench = Bench::new(sample);
            let (mut number, mut cases) = (0, 0);
            byte_damages(&sample.archive, false, |damage| {
                number += 1;
                // Other cases in each round, some hundred of each sample. What was extracted is not read: damaged files may
                // have large holes.
                if number % 8 == round * 4 {
                    for way in bench.ways() {
                        bench.extract(way, &damage.bytes).ok();
                        bench.clear();
                        cases += 1;
                    }
                }
            });
            assert!(cases > 100, "{cases}");
        }
        if round == 0 {
            warm = resident("VmRSS:");
        }
    }
    let grown = resident("VmRSS:").saturating_sub(warm);
    assert!(grown < 8 << 20, "{grown} bytes more");
    let peak = resident("VmHWM:").saturating_sub(before);
    assert!(peak <= MEMORY + OVERHEAD_MAX, "{peak} bytes");
}
