//! Bodies of the fuzz targets: each takes any bytes and panics if a promise is broken.
//! `tests/suite/fuzzed.rs` includes this file, so that every input ever found is replayed without a
//! fuzzer.

pub mod codecs;
pub mod crypt;
pub mod texts;

use bytes::Bytes;
use xbpipe::xbstream::{
    ArchivePath, Body, ChunkHead, CrcCheck, DecodeError, Decoder, Event, Options, RemovePattern,
    SparseEntry, SparseMap, Step, Tracker, encode,
};

/// What a complete reader makes of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// Events, adjacent data joined.
    pub events: Vec<Event>,
    /// What the tracker said to the chunks among them.
    pub steps: Vec<Step>,
    /// Where reading stopped.
    pub error: Option<DecodeError>,
}

/// The chunk whose payload is passing, with the CRC so far.
type Passing = Option<(ChunkHead, crc32fast::Hasher)>;

/// Most memory that a decoder may hold for `fed` bytes of input: their double, as vectors grow, and
/// never more than the largest head with the largest map.
fn held_max(fed: usize) -> usize {
    const LARGEST_HEAD: usize = 14 + 511 + 24 + 8 * (1 << 20);
    4096 + 2 * fed.min(LARGEST_HEAD)
}

/// Reads an archive that comes in `pieces`; with `track` its files are followed too.
pub fn read(pieces: impl IntoIterator<Item = Bytes>, options: Options, track: bool) -> Reading {
    let mut decoder = Decoder::new(options);
    let mut tracker = track.then(Tracker::new);
    let mut reading = Reading::default();
    let (mut passing, mut fed) = (Passing::None, 0);
    for piece in pieces {
        fed += piece.len();
        decoder.feed(piece);
        loop {
            let event = decoder.next();
            assert!(decoder.held() <= held_max(fed), "{} held", decoder.held());
            match event {
                Ok(None) => break,
                Ok(Some(event)) => reading.take(event, options, tracker.as_mut(), &mut passing),
                Err(error) => {
                    assert_eq!(decoder.next(), Err(error.clone()), "an error stays");
                    assert_eq!(decoder.finish(), Err(error.clone()), "an error stays");
                    reading.error = Some(error);
                }
            }
            if reading.error.is_some() {
                return reading;
            }
        }
    }
    loop {
        match decoder.finish() {
            Ok(None) => break,
            Ok(Some(event)) => reading.take(event, options, tracker.as_mut(), &mut passing),
            Err(error) => reading.error = Some(error),
        }
        if reading.error.is_some() {
            return reading;
        }
    }
    assert_eq!(
        decoder.position(),
        fed as u64,
        "every byte is accounted for"
    );
    if let Some(Err(error)) = tracker.map(|t| t.finish(fed as u64)) {
        reading.error = Some(error);
    }
    reading
}

impl Reading {
    fn take(
        &mut self,
        event: Event,
        options: Options,
        tracker: Option<&mut Tracker>,
        passing: &mut Passing,
    ) {
        match &event {
            Event::Chunk(head) => {
                match tracker.map(|t| t.chunk(head)) {
                    Some(Ok(step)) => self.steps.push(step),
                    Some(Err(error)) => return self.error = Some(error),
                    None => {}
                }
                *passing = head.payload_crc().map(|crc| {
                    let hasher = crc32fast::Hasher::new_with_initial(crc.initial);
                    (head.clone(), hasher)
                });
            }
            Event::Data { bytes, .. } => {
                assert!(!bytes.is_empty(), "data is never empty");
                let (_, hasher) = passing.as_mut().expect("data belongs to a chunk");
                hasher.update(bytes);
                if self.join(&event) {
                    return;
                }
            }
            Event::Hole { len, .. } => assert_ne!(*len, 0, "holes are never empty"),
            Event::ChunkEnd(crc) => {
                let (head, hasher) = passing.take().expect("a chunk ends once");
                assert_eq!(head.payload_crc(), Some(*crc));
                match head.check_crc(hasher.finalize()) {
                    Ok(()) => {}
                    Err(error) if options.crc == CrcCheck::Caller => {
                        return self.error = Some(error);
                    }
                    Err(error) => panic!("the decoder let this through: {error}"),
                }
            }
        }
        self.events.push(event);
    }

    /// Joins data to the data before it.
    fn join(&mut self, event: &Event) -> bool {
        let (
            Some(Event::Data { file_offset, bytes }),
            Event::Data {
                file_offset: next,
                bytes: more,
            },
        ) = (self.events.last_mut(), event)
        else {
            return false;
        };
        if *file_offset + bytes.len() as u64 != *next {
            return false;
        }
        *bytes = [bytes.as_ref(), more.as_ref()].concat().into();
        true
    }
}

/// Cuts `bytes` into pieces of `sizes`, over and over.
pub fn cut<'a>(bytes: &'a Bytes, sizes: &'a [usize]) -> impl Iterator<Item = Bytes> + 'a {
    let mut sizes = sizes.iter().copied().filter(|n| *n > 0).cycle();
    let mut rest = bytes.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = sizes.next().unwrap_or(rest.len()).min(rest.len());
        Some(rest.split_to(len))
    })
}

/// Writes the archive that gives these events; flags as found.
pub fn write(events: &[Event]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        match event {
            Event::Chunk(head) => {
                let begin = out.len();
                write_head(head, &mut out);
                out[begin + 8] = head.flags;
            }
            Event::Data { bytes, .. } => out.extend_from_slice(bytes),
            Event::Hole { .. } | Event::ChunkEnd(_) => {}
        }
    }
    out
}

fn write_head(head: &ChunkHead, out: &mut Vec<u8>) {
    let path = &head.path;
    match &head.body {
        Body::Payload { len, offset, crc } => encode::payload_head(out, path, *offset, *crc, *len),
        Body::Sparse {
            map,
            len,
            offset,
            crc,
        } => encode::sparse_head(out, path, *offset, *crc, map, *len),
        Body::Seek { offset } => encode::seek(out, path, *offset),
        Body::End => encode::end(out, path),
        Body::Rename { to } => encode::rename(out, path, to),
        Body::Remove { pattern } => encode::remove(out, pattern),
        Body::Ignored { .. } => unreachable!("the caller does not write what was passed over"),
    }
}

/// Any bytes: no panic, bounded memory, the same outcome however the input is cut and whoever
/// checks the CRC; what is accepted is written again byte for byte.
pub fn xbstream_decode(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let sizes: Vec<usize> = data.iter().take(7).map(|b| usize::from(*b % 23)).collect();
    for skip_ignorable in [false, true] {
        let options = |crc| Options {
            crc,
            skip_ignorable,
        };
        for track in [true, false] {
            let whole = read([bytes.clone()], options(CrcCheck::Decoder), track);
            for crc in [CrcCheck::Decoder, CrcCheck::Caller] {
                assert_eq!(read(cut(&bytes, &[1]), options(crc), track), whole);
                assert_eq!(read(cut(&bytes, &sizes), options(crc), track), whole);
            }
            if whole.error.is_none() && !skip_ignorable {
                assert_eq!(write(&whole.events), data);
            }
        }
    }
}

/// Bytes as a recipe for an archive: what is written is read again as written.
pub fn xbstream_roundtrip(data: &[u8]) {
    let mut recipe = Recipe(data);
    let mut written = Vec::new();
    let mut expected = Vec::new();
    while let Some(operation) = recipe.byte() {
        recipe.chunk(operation, &mut written, &mut expected);
    }
    let bytes = Bytes::from(written);
    for sizes in [&[usize::MAX][..], &[1], &[13, 7, 29]] {
        let reading = read(cut(&bytes, sizes), Options::default(), false);
        assert_eq!(reading.error, None);
        let got: Vec<_> = reading.events.iter().map(without_position).collect();
        assert_eq!(got, expected);
    }
}

fn without_position(event: &Event) -> Event {
    let mut event = event.clone();
    if let Event::Chunk(head) = &mut event {
        head.position = 0;
    }
    event
}

struct Recipe<'a>(&'a [u8]);

impl Recipe<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, max: usize) -> Vec<u8> {
        let len = usize::from(self.byte().unwrap_or(0)) % (max + 1);
        let (now, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        now.to_vec()
    }

    fn number(&mut self) -> u64 {
        let mut le = [0; 8];
        let bytes = self.bytes(5);
        le[..bytes.len()].copy_from_slice(&bytes);
        u64::from_le_bytes(le)
    }

    fn path(&mut self) -> ArchivePath {
        ArchivePath::new(&self.bytes(20))
            .or_else(|_| ArchivePath::new(b"db/t"))
            .expect("the second one is valid")
    }

    fn chunk(&mut self, operation: u8, out: &mut Vec<u8>, expected: &mut Vec<Event>) {
        let path = self.path();
        let operation = operation % 7;
        let (mut flags, letter, mut tail) = (0, b"PPESSRD"[usize::from(operation)], vec![]);
        let body = match operation {
            0 | 1 => {
                let (offset, payload) = (self.number(), self.bytes(60));
                let crc = crc32fast::hash(&payload);
                let len = payload.len() as u64;
                if operation == 0 {
                    encode::payload_head(out, &path, offset, crc, len);
                } else {
                    flags = 2;
                    encode::rewrite_head(out, &path, offset, crc, len);
                }
                out.extend_from_slice(&payload);
                if !payload.is_empty() {
                    tail.push(Event::Data {
                        file_offset: offset,
                        bytes: payload.into(),
                    });
                }
                Body::Payload { len, offset, crc }
            }
            2 => {
                encode::end(out, &path);
                Body::End
            }
            3 => {
                let offset = self.number();
                encode::seek(out, &path, offset);
                Body::Seek { offset }
            }
            4 => self.sparse(&path, out, &mut tail),
            5 => {
                let to = self.path();
                encode::rename(out, &path, &to);
                Body::Rename { to }
            }
            _ => {
                let Ok(pattern) = RemovePattern::new(&path) else {
                    return;
                };
                encode::remove(out, &pattern);
                Body::Remove { pattern }
            }
        };
        let head = ChunkHead {
            position: 0,
            flags,
            letter,
            path,
            body,
        };
        let crc = head.payload_crc();
        expected.push(Event::Chunk(head));
        expected.append(&mut tail);
        expected.extend(crc.map(Event::ChunkEnd));
    }

    fn sparse(&mut self, path: &ArchivePath, out: &mut Vec<u8>, tail: &mut Vec<Event>) -> Body {
        let start = self.number();
        let (mut entries, mut payload, mut offset) = (vec![], vec![], start);
        for _ in 0..self.byte().unwrap_or(0) % 5 {
            let (skip, run) = (u32::from(self.byte().unwrap_or(0)), self.bytes(9));
            if skip > 0 {
                tail.push(Event::Hole {
                    file_offset: offset,
                    len: skip.into(),
                });
            }
            offset += u64::from(skip);
            entries.push(SparseEntry {
                skip,
                len: u32::try_from(run.len()).expect("at most nine"),
            });
            payload.extend_from_slice(&run);
            if !run.is_empty() {
                push_joined(tail, offset, &run);
            }
            offset += run.len() as u64;
        }
        let map = SparseMap::new(&entries);
        let crc = encode::sparse_crc(&map, &payload);
        let len = payload.len() as u64;
        encode::sparse_head(out, path, start, crc, &map, len);
        out.extend_from_slice(&payload);
        Body::Sparse {
            map,
            len,
            offset: start,
            crc,
        }
    }
}

fn push_joined(events: &mut Vec<Event>, file_offset: u64, run: &[u8]) {
    if let Some(Event::Data { bytes, .. }) = events.last_mut() {
        *bytes = [bytes.as_ref(), run].concat().into();
    } else {
        events.push(Event::Data {
            file_offset,
            bytes: Bytes::copy_from_slice(run),
        });
    }
}

/// Extracts any bytes as an archive: nothing outside the target changes, and what has no partial name in it after a
/// success is all there is.
pub fn extract_sandbox(bytes: &[u8]) {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use xbpipe::archive::ReadOptions;
    use xbpipe::archive::extract::{ExtractOptions, extract};
    use xbpipe::base::run::Run;
    use xbpipe::base::{cancel::Cancel, monitor::Collector, units::ByteCount};
    use xbpipe::pipeline::{budget::MEMORY_MIN, dir_sink::DirOptions};

    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let root = std::env::temp_dir().join(format!("xbpipe-sandbox-{}-{number}", std::process::id()));
    let target = root.join("target");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::create_dir(root.join("victim")).unwrap();
    std::fs::write(root.join("victim/keep"), "mine").unwrap();
    std::fs::write(root.join("archive"), bytes).unwrap();
    std::os::unix::fs::symlink("../victim", target.join("link")).unwrap();
    let options = ExtractOptions {
        read: ReadOptions {
            source: Some(root.join("archive")),
            memory: ByteCount(MEMORY_MIN),
            parallel: 2,
            decoders: if bytes.len().is_multiple_of(2) {
                xbpipe::codec::decompressors()
            } else {
                Vec::new()
            },
            keep_going: bytes.len().is_multiple_of(3),
            access: xbpipe::archive::Access::Whole,
            stored: None,
            max_output: None,
        },
        directory: target,
        selection: Default::default(),
        strip_components: 0,
        dir: DirOptions {
            resume: false,
            overwrite: bytes.len().is_multiple_of(5),
            sync: false,
        },
    };
    let run = Run {
        cancel: Cancel::new(),
        monitor: Arc::new(Collector::default()),
    };
    // Whether it succeeds is for other tests to say.
    let _outcome = extract(&options, &run);
    let list = |directory: &std::path::Path| -> Vec<std::ffi::OsString> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(list(&root), ["archive", "target", "victim"]);
    assert_eq!(list(&root.join("victim")), ["keep"]);
    assert_eq!(std::fs::read(root.join("victim/keep")).unwrap(), b"mine");
    assert_eq!(std::fs::read(root.join("archive")).unwrap(), bytes);
    std::fs::remove_dir_all(&root).unwrap();
}
