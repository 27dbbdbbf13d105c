//! Decoding as a sink in front of a sink. `r[codec.parallel]`
//!
//! Units that fit in a buffer go to the codec threads, many at once if they are small. A larger one is gathered while there is memory
//! for it, and decoded by one codec thread; when that finds no more buffers it does not wait, but leaves the rest to the lane. What is too
//! large for that, or comes when memory is short, is decoded as it comes, in place.

use std::ops::Range;

use bytes::{Buf as _, Bytes};

use crate::base::cancel::Cancel;
use crate::base::error::{Error, Kind, Result};
use crate::base::units::{ByteCount, MIB};
use crate::codec::{CHAIN_MAX, CodecError, Decoders, Split, Splitter, StreamDecoder, Unit};
use crate::pipeline::allowance::{Allowance, Held};
use crate::pipeline::budget::{ALLOWANCE_MIN, Budget};
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
            allowance: Allowance::new(budget.allowance, ALLOWANCE_MIN, cancel),
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
                mode: Mode::Gather(Gathered::default()),
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

/// What is done with the bytes of the current unit.
enum Mode {
    /// They are collected; within an allowance once it is known what they are.
    Gather(Gathered),
    /// They are decoded as they come.
    Stream(Stream),
}

/// The beginning of a unit.
#[derive(Default)]
struct Gathered {
    /// All of it, or of a large unit as far as there is room in the last part.
    parts: Vec<Vec<u8>>,
    len: usize,
    held: Option<Held>,
    /// Decoded in parts by one job: the allowance has room for the decoder, too.
    large: bool,
}

/// Bytes by which what is gathered of a large unit grows.
const PART_LEN: usize = 1 << 20;

impl Gathered {
    /// Bytes that need no further memory.
    fn room(&self) -> usize {
        self.parts.last().map_or(0, |p| p.capacity() - p.len())
    }

    /// Appends as much as there is room for; tells how much.
    fn fill(&mut self, piece: &[u8]) -> usize {
        let n = self.room().min(piece.len());
        if let (Some(part), Some(piece)) = (self.parts.last_mut(), piece.get(..n)) {
            part.extend_from_slice(piece);
        }
        self.len += n;
        n
    }

    /// Appends, however much memory it takes.
    fn append(&mut self, piece: &[u8]) {
        if self.parts.is_empty() {
            self.parts.push(Vec::new());
        }
        if let Some(part) = self.parts.last_mut() {
            part.extend_from_slice(piece);
        }
        self.len += piece.len();
    }
}

struct Stream {
    decoder: Box<dyn StreamDecoder>,
    ended: bool,
    /// Encoded bytes taken.
    fed: u64,
    held: Held,
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

/// What cannot be decoded says nothing about the other files, be it damaged or refused.
fn failed(path: &ArchivePath, base: u64, cause: CodecError) -> Error {
    codec_error("cannot decode", path.as_path(), base, cause).of_content()
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
        let max = usize::try_from(unit.plain_max().unwrap_or(0)).unwrap_or(usize::MAX);
        let short = || CodecError::damage("the block decodes to another length than it states");
        let room = (filled.checked_add(max))
            .and_then(|end| plain.get_mut(filled..end))
            .ok_or((range.start, short()))?;
        let n = unit
            .decoder
            .decode(bytes, room, contexts)
            .map_err(|e| (range.start, e))?;
        if n > max || unit.plain_len.is_some_and(|len| len != n as u64) {
            return Err((range.start, short()));
        }
        filled += n;
    }
    Ok(filled)
}

/// Most content of a unit that is gathered: beyond it, what is gained is little beside what waits.
const WHOLE_LEN_MAX: u64 = 64 << 20;

/// Whether a unit, as far as it was seen, may be decoded by a codec thread as a whole.
fn may_be_whole(unit: &Unit) -> bool {
    unit.plain_len.is_none_or(|n| n <= WHOLE_LEN_MAX)
}

/// One large unit that is there as a whole, decoded buffer by buffer.
struct Whole {
    unit: Unit,
    decoder: Option<Box<dyn StreamDecoder>>,
    encoded: Vec<Vec<u8>>,
    /// The part that is decoded, and how far; bytes before that.
    part: usize,
    at: usize,
    fed: u64,
    ended: bool,
    _held: (Option<Held>, Held),
}

impl Whole {
    /// Fills `buf`; tells how far, and whether that was all.
    fn next(&mut self, buf: &mut [u8]) -> Result<(usize, bool), CodecError> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            none => none.insert(self.unit.decoder.stream()?),
        };
        let mut filled = 0;
        while filled < buf.len() {
            let part = self.encoded.get(self.part);
            let rest = part.and_then(|p| p.get(self.at..)).unwrap_or_default();
            if rest.is_empty() && part.is_some() {
                self.part += 1;
                self.at = 0;
                continue;
            }
            if self.ended {
                if rest.is_empty() {
                    return Ok((filled, true));
                }
                let cause = CodecError::damage("a block ends before its structure does");
                return Err(cause.at(self.fed));
            }
            let room = buf.get_mut(filled..).unwrap_or_default();
            let step = decoder.step(rest, room)?;
            if step.consumed == 0 && step.produced == 0 && !step.ended {
                let what = if rest.is_empty() {
                    "a block does not end where its structure does"
                } else {
                    "a block cannot be decoded any further"
                };
                return Err(CodecError::damage(what).at(self.fed));
            }
            self.at += step.consumed;
            self.fed += step.consumed as u64;
            filled += step.produced;
            self.ended = step.ended;
        }
        Ok((filled, false))
    }
}

impl DecodeFile<'_> {
    /// Whether a unit is decoded as a whole.
    fn fits(&self, unit: &Unit) -> bool {
        let encoded = unit.encoded_len.unwrap_or(0);
        self.fits_plain(unit.plain_max()) && encoded <= self.gather_len_max()
    }

    fn fits_plain(&self, plain: Option<u64>) -> bool {
        plain.is_some_and(|n| n <= self.stage.buf_len() as u64)
    }

    /// Longest unit that is gathered to be decoded as a whole: a full buffer that did not get shorter.
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
        let Mode::Gather(gathered) = &mut self.mode else {
            return self.stream(piece);
        };
        if gathered.large {
            return self.gather_large(piece);
        }
        let len = (gathered.len + piece.len()) as u64;
        if gathered.held.is_none() {
            match self.splitter.under_way() {
                None if len > HEAD_LEN_MAX as u64 => {
                    let cause = CodecError::damage("the head of a block is too long");
                    return Err(failed(&self.path, self.unit_at, cause));
                }
                None => {}
                Some(unit) => {
                    let want = unit.encoded_len.unwrap_or(gather_len_max);
                    // A bound is only of what was seen so far unless the whole length is known.
                    let plain = match unit.encoded_len {
                        Some(_) => unit.plain_max(),
                        None => unit.plain_len,
                    };
                    let fits = plain.is_some_and(|n| n <= self.stage.buf_len() as u64);
                    if !fits || want > gather_len_max {
                        return self.begin_large(&unit, piece);
                    }
                    gathered.held = self.allowance.take(want);
                    if gathered.held.is_none() {
                        return self.begin_stream(&unit, piece);
                    }
                    let want = usize::try_from(want).unwrap_or_default();
                    let missing = want.saturating_sub(gathered.len);
                    if gathered.parts.is_empty() {
                        gathered.parts.push(Vec::new());
                    }
                    if let Some(part) = gathered.parts.last_mut() {
                        part.reserve_exact(missing);
                    }
                }
            }
        }
        if gathered.held.as_ref().is_some_and(|h| len > h.bytes()) {
            // A unit whose head does not tell its length, and which is longer than any sensible writer makes it.
            let Some(unit) = self.splitter.under_way() else {
                let cause = CodecError::damage("a block is longer than its head says");
                return Err(failed(&self.path, self.unit_at, cause));
            };
            return self.begin_stream(&unit, piece);
        }
        gathered.append(piece);
        Ok(())
    }

    /// Gathers a large unit, of which `piece` comes next, if there is memory for it and its decoder.
    fn begin_large(&mut self, unit: &Unit, piece: &[u8]) -> Result<()> {
        let Mode::Gather(gathered) = &self.mode else {
            return self.stream(piece);
        };
        let need = unit.stream_memory.saturating_add(gathered.len as u64);
        let held = if self.stage.has_output() && may_be_whole(unit) {
            self.take_large(need)?
        } else {
            None
        };
        match (&mut self.mode, held) {
            (Mode::Gather(gathered), Some(held)) => {
                gathered.held = Some(held);
                gathered.large = true;
                self.gather_large(piece)
            }
            _ => self.begin_stream(unit, piece),
        }
    }

    /// A part of a large unit. If memory gets short, it is decoded as it comes.
    fn gather_large(&mut self, mut piece: &[u8]) -> Result<()> {
        loop {
            let Mode::Gather(gathered) = &mut self.mode else {
                return self.stream(piece);
            };
            piece.advance(gathered.fill(piece));
            if piece.is_empty() {
                return Ok(());
            }
            let Some(unit) = self.splitter.under_way() else {
                let cause = CodecError::damage("a block is longer than its head says");
                return Err(failed(&self.path, self.unit_at, cause));
            };
            let more = if may_be_whole(&unit) {
                self.take_large(PART_LEN as u64)?
            } else {
                None
            };
            let (Mode::Gather(gathered), Some(more)) = (&mut self.mode, more) else {
                return self.begin_stream(&unit, piece);
            };
            if let Some(held) = &mut gathered.held {
                held.join(more);
            }
            gathered.parts.push(Vec::with_capacity(PART_LEN));
        }
    }

    /// Memory for a large unit: what is on its way gives back what it holds.
    fn take_large(&mut self, bytes: u64) -> Result<Option<Held>> {
        loop {
            let held = self.allowance.take_large(bytes);
            if held.is_some() || !self.out.write_oldest()? {
                return Ok(held);
            }
        }
    }

    /// Has a codec thread decode a large unit that ends with `piece`, if there is memory for that; tells whether.
    fn submit_large(&mut self, unit: Unit, piece: &[u8]) -> Result<Option<Unit>> {
        let Mode::Gather(gathered) = &self.mode else {
            return Ok(Some(unit));
        };
        if !self.stage.has_output() || !may_be_whole(&unit) {
            return Ok(Some(unit));
        }
        let missing = piece.len().saturating_sub(gathered.room()) as u64;
        let need = match gathered.large {
            true => missing,
            false => (unit.stream_memory).saturating_add((gathered.len + piece.len()) as u64),
        };
        let Some(more) = self.take_large(need)? else {
            return Ok(Some(unit));
        };
        let Mode::Gather(gathered) = &mut self.mode else {
            return Ok(Some(unit));
        };
        let mut gathered = std::mem::take(gathered);
        let mut rest = piece;
        rest.advance(gathered.fill(rest));
        if !rest.is_empty() {
            gathered.parts.push(rest.to_vec());
        }
        let (path, base) = (self.path.clone(), self.unit_at);
        let mut whole = Whole {
            unit,
            decoder: None,
            encoded: gathered.parts,
            part: 0,
            at: 0,
            fed: 0,
            ended: false,
            _held: (gathered.held, more),
        };
        let make = move |buf: &mut [u8]| whole.next(buf).map_err(|e| failed(&path, base, e));
        self.stage
            .run_parts(&mut self.out, Box::new(make))
            .map(|()| None)
    }

    /// Decodes what was gathered of the unit, then `piece`, as a stream.
    fn begin_stream(&mut self, unit: &Unit, piece: &[u8]) -> Result<()> {
        let need = unit.stream_memory;
        let gathered = match &mut self.mode {
            Mode::Gather(gathered) => std::mem::take(gathered),
            Mode::Stream(_) => Gathered::default(),
        };
        let held = match gathered.held.filter(|_| gathered.large) {
            Some(held) => held,
            None => self.wait_for(need)?,
        };
        let decoder = (unit.decoder.stream()).map_err(|e| failed(&self.path, self.unit_at, e))?;
        self.mode = Mode::Stream(Stream {
            decoder,
            ended: false,
            fed: 0,
            held,
        });
        for part in gathered.parts {
            self.stream(&part)?;
        }
        if let Mode::Stream(stream) = &mut self.mode {
            stream.held.shrink(need);
        }
        self.stream(piece)
    }

    /// Memory for a stream decoder, waited for if need be.
    fn wait_for(&mut self, need: u64) -> Result<Held> {
        // Whoever waits holds no pooled buffers.
        self.out.flush()?;
        if let Some(held) = self.allowance.wait(need)? {
            return Ok(held);
        }
        let total = self.allowance.total();
        let want = need.saturating_add(total).saturating_mul(2).div_ceil(MIB) + 8;
        Err(Error::new(
            Kind::Failed,
            format!(
                "no memory left to decode a block that needs {}, beside the other open files, of",
                ByteCount(need)
            ),
        )
        .path(self.path.as_path())
        .at(self.unit_at)
        .hint(format!("use --memory {want}M"))
        // Others need less, and have more once this one is given up.
        .of_content())
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
            Mode::Gather(gathered) if fits && !gathered.large => {
                let Gathered { parts, held, .. } = std::mem::take(gathered);
                let mut encoded = parts.into_iter().next().unwrap_or_default();
                encoded.extend_from_slice(piece);
                let range = 0..encoded.len();
                self.submit(encoded.into(), vec![(range, unit)], base, held)
            }
            Mode::Gather(_) => {
                let Some(unit) = self.submit_large(unit, piece)? else {
                    return Ok(());
                };
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
        let mode = std::mem::replace(&mut self.mode, Mode::Gather(Gathered::default()));
        match mode {
            Mode::Stream(stream) if !stream.ended => {
                let cause = CodecError::damage("a block does not end where its structure does");
                Err(failed(&self.path, self.unit_at, cause.at(stream.fed)))
            }
            _ => Ok(()),
        }
    }

    fn is_between_units(&self) -> bool {
        matches!(&self.mode, Mode::Gather(gathered) if gathered.len == 0)
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
                    self.mode = Mode::Gather(Gathered::default());
                    at += n;
                    begin = at;
                }
                Split::Begin(n, content) => {
                    self.submit_batch(data, base)?;
                    self.mode = Mode::Gather(Gathered::default());
                    self.out.content_begins(content);
                    at += n;
                    begin = at;
                }
                Split::End(n, end) => {
                    self.submit_batch(data, base)?;
                    self.mode = Mode::Gather(Gathered::default());
                    let (path, unit_at) = (self.path.clone(), self.unit_at);
                    self.out
                        .content_ends(end, move |cause| failed(&path, unit_at, cause));
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
        let len = usize::try_from(unit.plain_max().unwrap_or(0)).unwrap_or(usize::MAX);
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
