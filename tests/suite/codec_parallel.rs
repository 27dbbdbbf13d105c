//! One large file is decoded by several threads, in bounded memory, whoever wrote it: the layouts of xtrabackup and of the usual
//! programs, through the real decoders. `r[codec.parallel]`

use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher as _;
use std::io::Write as _;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use twox_hash::XxHash32;
use xbpipe::base::cancel::Cancel;
use xbpipe::base::error::{Error, Kind};
use xbpipe::base::units::ByteCount;
use xbpipe::codec::{
    CodecError, Contexts, Decoder, Decoders, Split, Splitter, StreamDecoder, Unit, UnitDecoder,
    decompressors,
};
use xbpipe::pipeline::budget::{Budget, MEMORY_DEFAULT};
use xbpipe::pipeline::decode::DecodeSink;
use xbpipe::pipeline::sink::{Attributes, FileSink, Sink};
use xbpipe::pipeline::workers::Workers;
use xbpipe::xbstream::{ArchivePath, RemovePattern};

use crate::tool::noise;

const MIB: usize = 1 << 20;

/// What xtrabackup copies at once, and so puts into one frame.
const WRITE_LEN: usize = 10 * MIB;

/// Content that shrinks to some two fifths.
fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut out = noise(len, seed);
    for (i, piece) in out.chunks_mut(64).enumerate() {
        let kept = piece.len().min(22);
        for (j, byte) in piece[kept..].iter_mut().enumerate() {
            *byte = [b'-', b'='][(i / 100 + j) % 2];
        }
    }
    out
}

/// Frames of the zstd library, without content size if it is not `sized`.
fn zst(plain: &[u8], frame_len: usize, sized: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in plain.chunks(frame_len) {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        if sized {
            let len = piece.len() as u64;
            encoder.set_pledged_src_size(Some(len)).unwrap();
        }
        encoder.write_all(piece).unwrap();
        out.extend(encoder.finish().unwrap());
    }
    out
}

fn xxh32(bytes: &[u8]) -> u32 {
    let mut hash = XxHash32::with_seed(0);
    hash.write(bytes);
    hash.finish_32()
}

/// Frames as xtrabackup makes them (formats of 2024): independent blocks, content size, content checksum.
fn lz4(plain: &[u8], frame_len: usize, block_len: usize) -> Vec<u8> {
    let class = match block_len {
        0..=0x1_0000 => 4_u8,
        0x1_0001..=0x4_0000 => 5,
        0x4_0001..=0x10_0000 => 6,
        _ => 7,
    };
    let mut out = Vec::new();
    for piece in plain.chunks(frame_len) {
        let mut descriptor = vec![0x6c, class << 4];
        descriptor.extend((piece.len() as u64).to_le_bytes());
        let check = xxh32(&descriptor).to_le_bytes()[1];
        out.extend(0x184d_2204_u32.to_le_bytes());
        out.extend(&descriptor);
        out.push(check);
        for block in piece.chunks(block_len) {
            let packed = lz4_flex::block::compress(block);
            if packed.len() < block.len() {
                out.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
                out.extend(packed);
            } else {
                let word = u32::try_from(block.len()).unwrap() | 1 << 31;
                out.extend(word.to_le_bytes());
                out.extend(block);
            }
        }
        out.extend([0; 4]);
        out.extend(xxh32(piece).to_le_bytes());
    }
    out
}

/// Keeps what it is given.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

struct KeptFile<'s>(&'s Kept, Vec<u8>, Vec<u8>);

impl Sink for Kept {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        _: Attributes,
    ) -> Result<Box<dyn FileSink + 's>, Error> {
        Ok(Box::new(KeptFile(
            self,
            path.as_bytes().to_vec(),
            Vec::new(),
        )))
    }

    fn directory(&self, _: &ArchivePath) -> Result<(), Error> {
        Ok(())
    }

    fn rename(&self, _: &ArchivePath, _: &ArchivePath) -> Result<(), Error> {
        Ok(())
    }

    fn remove(&self, _: &RemovePattern) -> Result<(), Error> {
        Ok(())
    }
}

impl FileSink for KeptFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<(), Error> {
        assert_eq!(offset, self.2.len() as u64);
        self.2.extend_from_slice(&data);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let Self(kept, name, content) = *self;
        kept.0.lock().unwrap().insert(name, content);
        Ok(())
    }
}

/// Where units were decoded. The first codec thread waits there for a second one, so that what may happen at the same time does.
#[derive(Debug, Default)]
struct Meeting {
    state: Mutex<Met>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Met {
    at_once: usize,
    most: usize,
    nobody_came: bool,
    threads: HashSet<ThreadId>,
    in_place: usize,
}

/// Only ever waited for in full by a test that fails.
const PATIENCE: Duration = Duration::from_secs(30);

impl Meeting {
    fn come(self: &Arc<Self>) -> Presence {
        let mut met = self.state.lock().unwrap();
        let codec = std::thread::current().name() == Some("codec");
        if codec {
            met.at_once += 1;
            met.most = met.most.max(met.at_once);
            met.threads.insert(std::thread::current().id());
            self.came.notify_all();
            if met.most < 2 && !met.nobody_came {
                let (mut back, late) = (self.came)
                    .wait_timeout_while(met, PATIENCE, |met| met.most < 2)
                    .unwrap();
                back.nobody_came |= late.timed_out();
            }
        } else {
            met.in_place += 1;
        }
        Presence(codec.then(|| Arc::clone(self)))
    }
}

#[derive(Debug)]
struct Presence(Option<Arc<Meeting>>);

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(meeting) = &self.0 {
            meeting.state.lock().unwrap().at_once -= 1;
        }
    }
}

/// A decoder whose units say where they are decoded.
#[derive(Debug)]
struct Watched(Arc<dyn Decoder>, Arc<Meeting>);

struct WatchedSplitter(Box<dyn Splitter>, Arc<Meeting>);

struct WatchedUnit(Box<dyn UnitDecoder>, Arc<Meeting>);

struct WatchedStream(
    Box<dyn StreamDecoder>,
    #[expect(dead_code, reason = "its end counts")] Presence,
);

impl Decoder for Watched {
    fn suffix(&self) -> &'static str {
        self.0.suffix()
    }

    fn begin(&self, name: &[u8]) -> Box<dyn Splitter> {
        Box::new(WatchedSplitter(self.0.begin(name), Arc::clone(&self.1)))
    }
}

impl WatchedSplitter {
    fn watch(&self, unit: Unit) -> Unit {
        Unit {
            decoder: Box::new(WatchedUnit(unit.decoder, Arc::clone(&self.1))),
            ..unit
        }
    }
}

impl Splitter for WatchedSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        Ok(match self.0.feed(bytes)? {
            Split::Unit(n, unit) => Split::Unit(n, self.watch(unit)),
            other => other,
        })
    }

    fn under_way(&self) -> Option<Unit> {
        self.0.under_way().map(|unit| self.watch(unit))
    }

    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        let last = self.0.finish()?;
        Ok(last.map(|unit| self.watch(unit)))
    }
}

impl UnitDecoder for WatchedUnit {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let _presence = self.1.come();
        self.0.decode(encoded, plain, contexts)
    }

    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        let presence = self.1.come();
        Ok(Box::new(WatchedStream(self.0.stream()?, presence)))
    }
}

impl StreamDecoder for WatchedStream {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<xbpipe::codec::Step, CodecError> {
        self.0.step(input, output)
    }
}

/// Decodes files at the same time, each in pieces of so many bytes; `lanes` of them at once, as lanes do it.
fn decode(
    encoded: &[(String, &[u8])],
    piece_len: usize,
    memory: usize,
    lanes: usize,
    decoders: &Decoders,
) -> (BTreeMap<Vec<u8>, Vec<u8>>, Vec<Error>) {
    let kept = Kept::default();
    let cancel = Cancel::new();
    let workers = Workers::start(2).unwrap();
    let budget = Budget::decode(ByteCount(memory as u64), lanes, decoders).unwrap();
    let sink = DecodeSink::new(&kept, decoders.clone(), &workers, &budget, &cancel);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let mine: Vec<_> = encoded.iter().skip(lane).step_by(lanes).collect();
            let (sink, errors) = (&sink, &errors);
            scope.spawn(move || {
                let mut open: Vec<_> = (mine.into_iter())
                    .map(|(name, bytes)| {
                        let path = ArchivePath::new(name.as_bytes()).unwrap();
                        let file = sink.open(&path, Attributes::default()).unwrap();
                        (file, *bytes, 0_usize)
                    })
                    .collect();
                // In turn, as members of an archive come.
                while !open.is_empty() {
                    let mut still = Vec::new();
                    for (mut file, bytes, at) in open {
                        let end = bytes.len().min(at + piece_len);
                        let piece = Bytes::copy_from_slice(&bytes[at..end]);
                        let step = file.data(at as u64, piece);
                        match step {
                            Ok(()) if end < bytes.len() => still.push((file, bytes, end)),
                            Ok(()) => {
                                if let Err(error) = file.close() {
                                    errors.lock().unwrap().push(error);
                                }
                            }
                            Err(error) => errors.lock().unwrap().push(error),
                        }
                    }
                    open = still;
                    // A lane that has nothing more to do for now gives back every buffer.
                    open.retain_mut(|(file, ..)| match file.flush() {
                        Ok(()) => true,
                        Err(error) => {
                            errors.lock().unwrap().push(error);
                            false
                        }
                    });
                }
            });
        }
    });
    drop(sink);
    (kept.0.into_inner().unwrap(), errors.into_inner().unwrap())
}

/// As [`decode`] one file, without the pauses of a lane; tells where its units were decoded.
fn watched(suffix: &str, encoded: &[u8], memory: usize) -> (Vec<u8>, Met) {
    let meeting = Arc::new(Meeting::default());
    let decoders: Decoders = (decompressors().into_iter())
        .map(|decoder| Arc::new(Watched(decoder, Arc::clone(&meeting))) as Arc<dyn Decoder>)
        .collect();
    let kept = Kept::default();
    let cancel = Cancel::new();
    let workers = Workers::start(2).unwrap();
    let budget = Budget::decode(ByteCount(memory as u64), 2, &decoders).unwrap();
    {
        let sink = DecodeSink::new(&kept, decoders.clone(), &workers, &budget, &cancel);
        let path = ArchivePath::new(format!("t{suffix}").as_bytes()).unwrap();
        let mut file = sink.open(&path, Attributes::default()).unwrap();
        for (i, piece) in encoded.chunks(MIB).enumerate() {
            let piece = Bytes::copy_from_slice(piece);
            file.data((i * MIB) as u64, piece).unwrap();
        }
        file.close().unwrap();
    }
    drop(workers);
    drop(decoders);
    let plain = kept.0.into_inner().unwrap().remove(&b"t"[..]).unwrap();
    let met = Arc::try_unwrap(meeting)
        .unwrap()
        .state
        .into_inner()
        .unwrap();
    (plain, met)
}

#[test]
fn large_frames_are_decoded_by_several_threads_in_the_default_memory() {
    let plain = content(42 * MIB + 12_345, 1);
    let memory = usize::try_from(MEMORY_DEFAULT).unwrap();
    for (what, suffix, encoded) in [
        ("zstd of xtrabackup", ".zst", zst(&plain, WRITE_LEN, false)),
        ("the same with sizes", ".zst", zst(&plain, WRITE_LEN, true)),
        ("frames of 8 MiB", ".zst", zst(&plain, 8 * MIB, true)),
        (
            "lz4 of xtrabackup",
            ".lz4",
            lz4(&plain, WRITE_LEN, 64 << 10),
        ),
        ("one frame", ".lz4", lz4(&plain, plain.len(), 64 << 10)),
        (
            "blocks of 256 KiB",
            ".lz4",
            lz4(&plain, WRITE_LEN, 256 << 10),
        ),
    ] {
        let (decoded, met) = watched(suffix, &encoded, memory);
        assert!(decoded == plain, "{what}");
        assert!(met.most >= 2 && met.threads.len() >= 2, "{what}: {met:?}");
        // What finds no buffer when its job begins is decoded when its turn has come: one while two others have them all.
        assert!(met.in_place <= 2, "{what}: {met:?}");
    }
    // Blocks of 4 MiB, as the lz4 program makes them by itself, need more.
    let encoded = lz4(&plain, plain.len(), 4 * MIB);
    let (decoded, met) = watched(".lz4", &encoded, 2 * memory);
    assert!(decoded == plain && met.most >= 2, "{met:?}");
}

#[test]
fn what_cannot_be_decoded_in_parallel_is_decoded_in_place() {
    let plain = content(40 * MIB, 2);
    // Nothing but its end tells where another frame could begin.
    let one = zst(&plain, plain.len(), false);
    let (decoded, met) = watched(".zst", &one, 64 * MIB);
    assert!(decoded == plain && met.in_place == 1, "{met:?}");
    // No memory to gather frames of that length.
    let frames = zst(&plain, WRITE_LEN, false);
    let (decoded, met) = watched(".zst", &frames, 8 * MIB);
    assert!(decoded == plain && met.in_place == 4, "{met:?}");
}

/// Several files that come in turn and ask for more than there is: nobody waits for ever, and nothing changes.
#[test]
fn files_that_want_the_same_memory_get_on() {
    let plain = content(23 * MIB, 3);
    let encoded = [
        zst(&plain, WRITE_LEN, false),
        lz4(&plain, WRITE_LEN, 64 << 10),
        zst(&plain, 8 * MIB, true),
        lz4(&plain, plain.len(), 4 * MIB),
        zst(&plain, plain.len(), false),
    ];
    let files: Vec<(String, &[u8])> = (0..10)
        .map(|i| {
            let kind = i % encoded.len();
            let suffix = [".zst", ".lz4"][kind % 2];
            (format!("f{i}{suffix}"), &encoded[kind][..])
        })
        .collect();
    for (memory, lanes) in [(8, 2), (40, 3), (64, 2), (64, 4)] {
        let (decoded, errors) = decode(&files, 300_000, memory * MIB, lanes, &decompressors());
        assert!(errors.is_empty(), "{memory} {lanes}: {}", errors[0]);
        assert_eq!(decoded.len(), files.len());
        assert!(decoded.values().all(|found| *found == plain));
    }
}

/// What was wrong, and where.
fn error_of(name: &str, encoded: &[u8], memory: usize) -> Error {
    let files = [(name.to_owned(), encoded)];
    let (decoded, mut errors) = decode(&files, MIB, memory, 1, &decompressors());
    assert!(decoded.is_empty());
    errors.remove(0)
}

#[test]
fn damage_in_large_units_is_told_with_its_place() {
    let plain = content(21 * MIB, 4);
    for memory in [8 * MIB, 64 * MIB] {
        let good = zst(&plain, WRITE_LEN, false);
        let second = zst(&plain[..WRITE_LEN], WRITE_LEN, false).len();
        let mut bad = good.clone();
        bad[second + 700_000] ^= 0x40;
        let error = error_of("t.zst", &bad, memory);
        assert_eq!(error.kind(), Kind::Checksum, "{error}");
        assert!(error.position() >= Some(second as u64), "{error}");
        let error = error_of("t.zst", &good[..good.len() - 1], memory);
        assert_eq!(error.kind(), Kind::Incomplete, "{error}");

        let good = lz4(&plain, WRITE_LEN, 64 << 10);
        let second = lz4(&plain[..WRITE_LEN], WRITE_LEN, 64 << 10).len();
        // Its last byte is of the content checksum, which is compared in order.
        let mut bad = good.clone();
        bad[second - 1] ^= 1;
        let error = error_of("t.lz4", &bad, memory);
        assert!(error.to_string().contains("content checksum"), "{error}");
        assert_eq!(error.position(), Some(second as u64 - 8), "{error}");
        // A block less: neither its size nor its checksum.
        let word = u32::from_le_bytes(good[15..19].try_into().unwrap());
        let cut = [&good[..15], &good[19 + word as usize..]].concat();
        let error = error_of("t.lz4", &cut, memory);
        assert!(error.to_string().contains("content size"), "{error}");
        let error = error_of("t.lz4", &good[..good.len() - 6], memory);
        assert_eq!(error.kind(), Kind::Incomplete, "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Frames of any length, cut anywhere, in little and in much memory.
    #[test]
    fn large_units_come_back(
        lengths in proptest::collection::vec(1_usize..4_000_000, 1..6),
        piece_len in 50_000_usize..1_500_000,
        memory in 8_usize..100,
        kind in 0_usize..4,
        seed: u64,
    ) {
        let plain = content(lengths.iter().sum(), seed);
        let (mut encoded, mut rest) = (Vec::new(), &plain[..]);
        for len in lengths {
            let (piece, after) = rest.split_at(len);
            rest = after;
            encoded.extend(match kind {
                0 => zst(piece, len, false),
                1 => zst(piece, len, true),
                2 => lz4(piece, len, 64 << 10),
                _ => lz4(piece, len, 1_500_000),
            });
        }
        let name = ["t.zst", "t.zst", "t.lz4", "t.lz4"][kind].to_owned();
        let (decoded, errors) =
            decode(&[(name, &encoded[..])], piece_len, memory * MIB, 1, &decompressors());
        prop_assert!(errors.is_empty(), "{}", errors[0]);
        prop_assert!(decoded[&b"t"[..]] == plain);
    }
}
