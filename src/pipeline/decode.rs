//! Decoding as a sink in front of a sink: whole units go to the codec threads, those too large to gather are decoded in place.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};

use crate::base::cancel::{Cancel, POLL_INTERVAL};
use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteCount, MIB};
use crate::codec::{CHAIN_MAX, CodecError, Decoders, Split, Splitter, StreamDecoder, Unit};
use crate::pipeline::budget::Budget;
use crate::pipeline::sink::{Attributes, FileSink, Sink};
use crate::pipeline::workers::{InOrder, Stage, Workers, codec_error};
use crate::xbstream::{ArchivePath, RemovePattern};

/// Bytes of a head that may be collected before its splitter must know what it is. Splitters have lower limits of their own.
const HEAD_LEN_MAX: usize = 1 << 20;

/// Takes suffixes off names, from the right, and decodes those files.
pub struct DecodeSink<'a> {
    inner: &'a dyn Sink,
    decoders: Decoders,
    /// The first is next to the inner sink.
    stages: Vec<Stage<'a>>,
    allowance: Allowance,
}

impl<'a> DecodeSink<'a> {
    /// Decodes with `decoders` on `workers`.
    #[must_use]
    pub fn new(
        inner: &'a dyn Sink,
        decoders: Decoders,
        workers: &'a Workers,
        budget: &Budget,
        cancel: &Cancel,
    ) -> Self {
        let stages = (budget.stages.iter())
            .map(|stage| Stage::new(workers, *stage, cancel))
            .collect();
        Self {
            inner,
            decoders,
            stages,
            allowance: Allowance::new(budget.allowance, cancel),
        }
    }

    /// The plain name, and the decoders that apply with the names they leave, outermost first. A name that is nothing but suffix (`d/.zst`) keeps it.
    fn peel(&self, path: &ArchivePath) -> (ArchivePath, Vec<(usize, ArchivePath)>) {
        let mut name = path.clone();
        let mut chain = Vec::new();
        while chain.len() < CHAIN_MAX {
            let found = self.decoders.iter().enumerate().find_map(|(i, decoder)| {
                let stem = name.as_bytes().strip_suffix(decoder.suffix().as_bytes())?;
                Some((i, ArchivePath::new(stem).ok()?))
            });
            let Some((i, stem)) = found else { break };
            chain.push((i, stem.clone()));
            name = stem;
        }
        (name, chain)
    }
}

impl Sink for DecodeSink<'_> {
    fn open<'s>(
        &'s self,
        path: &ArchivePath,
        attributes: Attributes,
    ) -> Result<Box<dyn FileSink + 's>> {
        let (name, chain) = self.peel(path);
        let mut sink = self.inner.open(&name, attributes)?;
        for ((decoder, name), stage) in chain.iter().rev().zip(&self.stages) {
            let Some(decoder) = self.decoders.get(*decoder) else {
                continue;
            };
            sink = Box::new(DecodeFile {
                stage,
                allowance: &self.allowance,
                path: path.clone(),
                splitter: decoder.begin(name.as_bytes()),
                out: InOrder::new(sink),
                mode: Mode::Gather(Vec::new(), None),
                batch: Batch::default(),
                position: 0,
                unit_at: 0,
            });
        }
        Ok(sink)
    }

    fn wants(&self, path: &ArchivePath) -> bool {
        self.inner.wants(&self.peel(path).0)
    }

    /// What a decoded file should be, nobody has written down.
    fn has(&self, path: &ArchivePath, len: u64, crc: u32) -> Result<bool> {
        match self.peel(path) {
            (name, chain) if chain.is_empty() => self.inner.has(&name, len, crc),
            _ => Ok(false),
        }
    }

    fn directory(&self, path: &ArchivePath) -> Result<()> {
        self.inner.directory(path)
    }

    fn rename(&self, from: &ArchivePath, to: &ArchivePath) -> Result<()> {
        self.inner.rename(&self.peel(from).0, &self.peel(to).0)
    }

    fn distrust(&self, path: &ArchivePath) -> Result<()> {
        self.inner.distrust(&self.peel(path).0)
    }

    fn remove(&self, pattern: &RemovePattern) -> Result<()> {
        match pattern {
            RemovePattern::Exact(path) => {
                let plain = self.peel(path).0;
                self.inner.remove(&RemovePattern::Exact(plain))
            }
            RemovePattern::Prefix { .. } => self.inner.remove(pattern),
        }
    }
}

/// `r[codec.memory]`: memory that files may hold between calls, beside pooled buffers: units that came in part, and windows of stream
/// decoders.
#[derive(Debug, Clone)]
struct Allowance {
    left: Arc<Left>,
    total: u64,
    cancel: Cancel,
}

#[derive(Debug)]
struct Left {
    bytes: Mutex<u64>,
    returned: Condvar,
}

/// How long a file waits for others to give memory back. What would give it back may come behind what waits, so there is an end
/// to it; and another lane may only have fallen behind, so it is worth a while.
const ALLOWANCE_WAIT: Duration = Duration::from_secs(5);

impl Allowance {
    fn new(total: u64, cancel: &Cancel) -> Self {
        Self {
            left: Arc::new(Left {
                bytes: Mutex::new(total),
                returned: Condvar::new(),
            }),
            total,
            cancel: cancel.clone(),
        }
    }

    /// `bytes` if they are there.
    fn take(&self, bytes: u64) -> Option<Held> {
        let mut left = self.left.lock();
        *left = left.checked_sub(bytes)?;
        Some(self.held(bytes))
    }

    /// `bytes`, waited for while others give memory back, each for at most [`ALLOWANCE_WAIT`]; `None` if that does not help.
    fn wait(&self, bytes: u64) -> Result<Option<Held>> {
        if bytes > self.total {
            return Ok(None);
        }
        let mut left = self.left.lock();
        let (mut seen, mut since) = (*left, Instant::now());
        loop {
            if let Some(rest) = left.checked_sub(bytes) {
                *left = rest;
                return Ok(Some(self.held(bytes)));
            }
            if *left > seen {
                since = Instant::now();
            }
            seen = *left;
            if since.elapsed() > ALLOWANCE_WAIT {
                return Ok(None);
            }
            self.cancel.check()?;
            left = (self.left.returned)
                .wait_timeout(left, POLL_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn held(&self, bytes: u64) -> Held {
        Held {
            left: Arc::clone(&self.left),
            bytes,
        }
    }
}

impl Left {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Part of an [`Allowance`]; given back when dropped.
#[derive(Debug)]
struct Held {
    left: Arc<Left>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.left.lock() += self.bytes;
        self.left.returned.notify_all();
    }
}

/// What is done with the bytes of the current unit.
enum Mode {
    /// They are collected; within an allowance once it is known what they are.
    Gather(Vec<u8>, Option<Held>),
    /// They are decoded as they come.
    Stream(Stream),
}

struct Stream {
    decoder: Box<dyn StreamDecoder>,
    ended: bool,
    /// Encoded bytes taken.
    fed: u64,
    _held: Held,
}

/// Whole units that lie in one piece and are decoded by one job.
#[derive(Default)]
struct Batch {
    units: Vec<(Range<usize>, Unit)>,
    plain_len: usize,
}

struct DecodeFile<'s> {
    stage: &'s Stage<'s>,
    allowance: &'s Allowance,
    path: ArchivePath,
    splitter: Box<dyn Splitter>,
    out: InOrder<'s>,
    mode: Mode,
    batch: Batch,
    /// Encoded bytes taken so far.
    position: u64,
    /// Where the first byte that no unit has taken is in the encoded file.
    unit_at: u64,
}

fn failed(path: &ArchivePath, base: u64, cause: CodecError) -> Error {
    codec_error("cannot decode", path.as_path(), base, cause)
}

/// Decodes units that lie side by side in `encoded`, which begins at `base` of the file, into one buffer.
fn decode_units(
    units: &[(Range<usize>, Unit)],
    encoded: &[u8],
    plain: &mut [u8],
    contexts: &mut crate::codec::Contexts,
) -> Result<usize, (usize, CodecError)> {
    let mut filled = 0_usize;
    for (range, unit) in units {
        let bytes = encoded.get(range.clone()).unwrap_or_default();
        let len = usize::try_from(unit.plain_len.unwrap_or(0)).unwrap_or(usize::MAX);
        let short = || CodecError::damage("the block decodes to another length than it states");
        let room = (filled.checked_add(len))
            .and_then(|end| plain.get_mut(filled..end))
            .ok_or((range.start, short()))?;
        let n = unit
            .decoder
            .decode(bytes, room, contexts)
            .map_err(|e| (range.start, e))?;
        if n != len {
            return Err((range.start, short()));
        }
        filled += n;
    }
    Ok(filled)
}

impl DecodeFile<'_> {
    /// Whether a unit is decoded as a whole.
    fn fits(&self, unit: &Unit) -> bool {
        let encoded = unit.encoded_len.unwrap_or(0);
        unit.plain_len
            .is_some_and(|n| n <= self.stage.buf_len() as u64)
            && encoded <= self.gather_len_max()
    }

    /// Longest unit that is gathered: a full buffer that did not get shorter.
    fn gather_len_max(&self) -> u64 {
        let len = self.stage.buf_len() as u64;
        len + (len >> 7) + 1024
    }

    /// Hands units in `encoded`, whose first byte is at `base` of the file, to the codec threads.
    fn submit(
        &mut self,
        encoded: Bytes,
        units: Vec<(Range<usize>, Unit)>,
        base: u64,
        held: Option<Held>,
    ) -> Result<()> {
        let path = self.path.clone();
        self.stage.run(&mut self.out, move |contexts, mut buf| {
            let n = decode_units(&units, &encoded, &mut buf, contexts)
                .map_err(|(at, e)| failed(&path, base + at as u64, e))?;
            drop(held);
            Ok(buf.freeze(n))
        })
    }

    /// Submits the units that were found in `data`, whose first byte is at `base`.
    fn submit_batch(&mut self, data: &Bytes, base: u64) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        if batch.units.is_empty() {
            return Ok(());
        }
        self.submit(data.clone(), batch.units, base, None)
    }

    /// Bytes of the current unit that do not end it.
    fn hold(&mut self, piece: &[u8]) -> Result<()> {
        let gather_len_max = self.gather_len_max();
        let (gathered, held) = match &mut self.mode {
            Mode::Stream(_) => return self.stream(piece),
            Mode::Gather(gathered, held) => (gathered, held),
        };
        let len = (gathered.len() + piece.len()) as u64;
        if held.is_none() {
            match self.splitter.under_way() {
                None if len > HEAD_LEN_MAX as u64 => {
                    let cause = CodecError::damage("the head of a block is too long");
                    return Err(failed(&self.path, self.unit_at, cause));
                }
                None => {}
                Some(unit) => {
                    let fits = unit
                        .plain_len
                        .is_some_and(|n| n <= self.stage.buf_len() as u64);
                    let want = unit.encoded_len.unwrap_or(gather_len_max);
                    if fits && want <= gather_len_max {
                        *held = self.allowance.take(want);
                    }
                    if held.is_none() {
                        return self.begin_stream(&unit, piece);
                    }
                    let want = usize::try_from(want).unwrap_or_default();
                    gathered.reserve_exact(want.saturating_sub(gathered.len()));
                }
            }
        }
        if held.as_ref().is_some_and(|h| len > h.bytes) {
            // A unit whose head does not tell its length, and which is longer than any sensible writer makes it.
            let Some(unit) = self.splitter.under_way() else {
                let cause = CodecError::damage("a block is longer than its head says");
                return Err(failed(&self.path, self.unit_at, cause));
            };
            return self.begin_stream(&unit, piece);
        }
        gathered.extend_from_slice(piece);
        Ok(())
    }

    /// Decodes what was gathered of the unit, then `piece`, as a stream.
    fn begin_stream(&mut self, unit: &Unit, piece: &[u8]) -> Result<()> {
        let need = unit.stream_memory;
        let gathered = match &mut self.mode {
            Mode::Gather(gathered, held) => {
                let gathered = std::mem::take(gathered);
                *held = None;
                gathered
            }
            Mode::Stream(_) => Vec::new(),
        };
        // Whoever waits holds no pooled buffers.
        self.out.flush()?;
        let Some(held) = self.allowance.wait(need)? else {
            let total = self.allowance.total;
            let want = need.saturating_add(total).saturating_mul(2).div_ceil(MIB) + 8;
            return Err(Error::new(
                Kind::Failed,
                format!(
                    "no memory left to decode a block that needs {}, beside the other open files, of",
                    ByteCount(need)
                ),
            )
            .path(self.path.as_path())
            .at(self.unit_at)
            .hint(format!("use --memory {want}M")));
        };
        let decoder = (unit.decoder.stream()).map_err(|e| failed(&self.path, self.unit_at, e))?;
        self.mode = Mode::Stream(Stream {
            decoder,
            ended: false,
            fed: 0,
            _held: held,
        });
        self.stream(&gathered)?;
        self.stream(piece)
    }

    /// A part of a unit, decoded on this thread.
    fn stream(&mut self, mut piece: &[u8]) -> Result<()> {
        let Mode::Stream(stream) = &mut self.mode else {
            return Ok(());
        };
        let (path, base) = (&self.path, self.unit_at);
        while !piece.is_empty() {
            if stream.ended {
                let cause = CodecError::damage("a block ends before its structure does");
                return Err(failed(path, base, cause.at(stream.fed)));
            }
            let mut full = true;
            while full && !stream.ended {
                self.stage.run_here(&mut self.out, |buf| {
                    let step = stream
                        .decoder
                        .step(piece, buf)
                        .map_err(|e| failed(path, base, e))?;
                    piece.advance(step.consumed);
                    stream.fed += step.consumed as u64;
                    stream.ended = step.ended;
                    full = step.produced == buf.len();
                    if step.consumed == 0 && step.produced == 0 && !piece.is_empty() {
                        let cause = CodecError::damage("a block cannot be decoded any further");
                        return Err(failed(path, base, cause.at(stream.fed)));
                    }
                    Ok(step.produced)
                })?;
            }
        }
        Ok(())
    }

    /// The last bytes of a unit, possibly none.
    fn end_unit(&mut self, piece: &[u8], unit: Unit) -> Result<()> {
        let base = self.unit_at;
        let fits = self.fits(&unit);
        match &mut self.mode {
            Mode::Gather(gathered, held) if fits => {
                let mut encoded = std::mem::take(gathered);
                let held = held.take();
                encoded.extend_from_slice(piece);
                let range = 0..encoded.len();
                self.submit(encoded.into(), vec![(range, unit)], base, held)
            }
            Mode::Gather(..) => {
                self.begin_stream(&unit, piece)?;
                self.end_stream()
            }
            Mode::Stream(_) => {
                self.stream(piece)?;
                self.end_stream()
            }
        }
    }

    fn end_stream(&mut self) -> Result<()> {
        let mode = std::mem::replace(&mut self.mode, Mode::Gather(Vec::new(), None));
        match mode {
            Mode::Stream(stream) if !stream.ended => {
                let cause = CodecError::damage("a block does not end where its structure does");
                Err(failed(&self.path, self.unit_at, cause.at(stream.fed)))
            }
            _ => Ok(()),
        }
    }

    fn is_between_units(&self) -> bool {
        matches!(&self.mode, Mode::Gather(gathered, _) if gathered.is_empty())
    }

    /// Finds the units of `data`, whose first byte is at `base`, and puts them on their way.
    fn take(&mut self, data: &Bytes, base: u64) -> Result<()> {
        // Bytes of `data` before `begin` belong to units that were dealt with, those before `at` were looked at.
        let (mut begin, mut at) = (0, 0);
        while at < data.len() {
            let rest = data.get(at..).unwrap_or_default();
            let split = self
                .splitter
                .feed(rest)
                .map_err(|e| failed(&self.path, self.unit_at, e))?;
            match split {
                Split::More => break,
                Split::Skip(n) => {
                    self.mode = Mode::Gather(Vec::new(), None);
                    at += n;
                    begin = at;
                }
                Split::Unit(n, unit) => {
                    at += n;
                    self.unit(data, base, begin..at, unit)?;
                    begin = at;
                }
            }
            self.unit_at = base + begin as u64;
        }
        self.submit_batch(data, base)?;
        match data.get(begin..) {
            Some(rest) if !rest.is_empty() => self.hold(rest),
            _ => Ok(()),
        }
    }

    /// A unit that ends with `range` of `data`.
    fn unit(&mut self, data: &Bytes, base: u64, range: Range<usize>, unit: Unit) -> Result<()> {
        if !(self.is_between_units() && self.fits(&unit)) {
            self.submit_batch(data, base)?;
            return self.end_unit(data.get(range).unwrap_or_default(), unit);
        }
        let len = usize::try_from(unit.plain_len.unwrap_or(0)).unwrap_or(usize::MAX);
        if self.batch.plain_len.saturating_add(len) > self.stage.buf_len() {
            self.submit_batch(data, base)?;
        }
        self.batch.plain_len += len;
        self.batch.units.push((range, unit));
        Ok(())
    }
}

impl FileSink for DecodeFile<'_> {
    fn data(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if offset != self.position {
            return Err(Error::new(
                Kind::Checksum,
                "a compressed or encrypted file cannot be patched in place",
            )
            .path(self.path.as_path())
            .at(offset));
        }
        self.position += data.len() as u64;
        self.take(&data, offset)
    }

    fn hole(&mut self, offset: u64, _len: u64) -> Result<()> {
        Err(Error::new(
            Kind::Checksum,
            "a hole inside a compressed or encrypted file",
        )
        .path(self.path.as_path())
        .at(offset))
    }

    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        let last = self
            .splitter
            .finish()
            .map_err(|e| failed(&self.path, self.unit_at, e))?;
        if let Some(unit) = last {
            self.end_unit(&[], unit)?;
        }
        let Self { out, .. } = *self;
        out.close()
    }
}
