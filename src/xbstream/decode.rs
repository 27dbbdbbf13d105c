//! The push decoder: bytes in, chunk events out.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use crate::xbstream::chunk::{Body, ChunkHead, MAGIC, PayloadCrc};
use crate::xbstream::error::{DecodeError, ErrorKind};
use crate::xbstream::parse::{Parsed, parse, truncated};
use crate::xbstream::path::ArchivePath;

/// Who compares payload with its CRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CrcCheck {
    /// The decoder, on the way; a chunk end is only reported for payload that was right.
    #[default]
    Decoder,
    /// The caller, who gets what to compare with from [`ChunkHead::payload_crc`] or
    /// [`Event::ChunkEnd`], and the error to report from [`ChunkHead::check_crc`]. So the work can
    /// move to other threads.
    Caller,
}

/// How to decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Who compares payload with its CRC.
    pub crc: CrcCheck,
    /// Pass over chunks of unknown type that are marked ignorable and have the body of a payload
    /// chunk, instead of refusing them. `r[xbstream.chunk.ignorable]`
    pub skip_ignorable: bool,
}

/// What the archive says, in its order. A chunk is its head, then, if it carries payload, its data
/// and holes in order of file position and a chunk end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A chunk begins.
    Chunk(ChunkHead),
    /// Payload of the last [`Event::Chunk`]; never empty. Where it is cut depends on how the input
    /// was cut.
    Data {
        /// File position of the first byte.
        file_offset: u64,
        /// A slice of a buffer that was fed.
        bytes: Bytes,
    },
    /// Bytes that read as zero and are not stored. At the end of a file they count for its length.
    /// `r[xbstream.sparse.trailing-hole]`
    Hole {
        /// File position of the first byte.
        file_offset: u64,
        /// Bytes; at least one.
        len: u64,
    },
    /// All payload of the chunk was passed on; with [`CrcCheck::Decoder`] it is also right.
    ChunkEnd(PayloadCrc),
}

/// Decodes an archive that is pushed in pieces of any size.
///
/// Call [`Decoder::next`] until it asks for more with `None`, then [`Decoder::feed`]; at the end of
/// input call [`Decoder::finish`]. After an error every call returns that error.
#[derive(Debug, Default)]
pub struct Decoder {
    options: Options,
    /// The unread rest of the buffer at hand, and the buffers fed after it.
    input: Bytes,
    queue: VecDeque<Bytes>,
    /// Beginning of a head that did not lie in one buffer.
    partial: Vec<u8>,
    /// Bytes of the archive before `partial`, then `input`.
    position: u64,
    payload: Option<Payload>,
    last_path: Option<ArchivePath>,
    failed: Option<DecodeError>,
    /// What comes next is not known to be a chunk: the next magic is looked for.
    is_lost: bool,
}

/// A chunk whose payload is passing through.
#[derive(Debug)]
struct Payload {
    head: ChunkHead,
    crc: PayloadCrc,
    hasher: Option<crc32fast::Hasher>,
    file_offset: u64,
    /// Payload bytes still to come of the current run.
    run: u64,
    /// Next entry of the sparse map.
    entry: usize,
}

/// Room that the decoder keeps for heads between chunks, in bytes; more is given back.
const PARTIAL_LEN_KEPT: usize = 4096;

impl Decoder {
    /// A decoder at the start of an archive.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Adds input. Feed only when [`Decoder::next`] has asked for more: what is fed earlier is
    /// queued.
    pub fn feed(&mut self, bytes: Bytes) {
        // An empty buffer in the queue would look like its end.
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    /// The next event, or `None` when more input is needed.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator that ends and goes on would mislead"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, DecodeError> {
        self.guarded(Self::step)
    }

    /// Like [`Decoder::next`] once no more input will come: returns the events still due, one by
    /// one, then `None`. A seek chunk in the last place is one of them: only the end tells it from
    /// a sparse chunk. `r[xbstream.seek.tell-apart]`
    ///
    /// Fails if the input ends inside a chunk, `r[xbstream.chunk.border]`. Whether all *files* are
    /// complete is for the [`Tracker`](crate::xbstream::Tracker) to say.
    pub fn finish(&mut self) -> Result<Option<Event>, DecodeError> {
        self.guarded(Self::end)
    }

    /// Bytes of the archive that were consumed by events so far, partial heads not counted.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that were fed and not read yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let queued: usize = self.queue.iter().map(Bytes::len).sum();
        queued.saturating_add(self.input.len())
    }

    /// Position behind the last byte that was fed.
    #[must_use]
    pub fn fed_end(&self) -> u64 {
        self.position
            .saturating_add(self.partial.len() as u64)
            .saturating_add(self.buffered() as u64)
    }

    /// After an error in a head: goes on at the next magic behind that place, wherever it is. What is skipped is lost, and what
    /// looks like a chunk may be content of a file. `r[xbstream.reader.resync]`
    pub fn resync(&mut self) {
        self.failed = None;
        self.payload = None;
        self.is_lost = true;
        if !self.partial.is_empty() {
            let mut bytes = std::mem::take(&mut self.partial);
            bytes.extend_from_slice(&self.input);
            self.input = bytes.into();
        }
        if refill(&mut self.input, &mut self.queue) {
            self.pass_over(1);
        }
    }

    /// Looks for a magic in what was fed; `false` when more input is needed.
    fn find_magic(&mut self) -> bool {
        loop {
            let found = self
                .input
                .windows(MAGIC.len())
                .position(|bytes| bytes == MAGIC);
            if let Some(at) = found {
                self.pass_over(at);
                self.is_lost = false;
                return true;
            }
            // The end may be the beginning of one.
            let kept = self.input.len().min(MAGIC.len().saturating_sub(1));
            self.pass_over(self.input.len().saturating_sub(kept));
            let Some(next) = self.queue.pop_front() else {
                return false;
            };
            self.input = if kept == 0 {
                next
            } else {
                [&self.input[..], &next[..]].concat().into()
            };
        }
    }

    fn pass_over(&mut self, len: usize) {
        self.input.advance(len);
        self.position = self.position.saturating_add(len as u64);
    }

    /// Passes over the payload of the payload chunk that has just begun: the caller, who can read it elsewhere, looks after
    /// data and checksum. Returns the position of its first byte in the archive. What was fed of it is let go; if that is not
    /// all of it, [`Decoder::feed`] goes on at [`Decoder::position`]. `None` for other chunks, and with [`CrcCheck::Decoder`].
    pub fn skip_payload(&mut self) -> Option<u64> {
        let payload = self.payload.as_mut()?;
        let has_just_begun =
            matches!(payload.head.body, Body::Payload { len, .. } if payload.run == len);
        if payload.hasher.is_some() || !has_just_begun {
            return None;
        }
        let begin = self.position;
        self.position = begin.saturating_add(payload.run);
        while payload.run > 0 && refill(&mut self.input, &mut self.queue) {
            payload.take_data(&mut self.input);
        }
        payload.run = 0;
        Some(begin)
    }

    /// Bytes of memory that the decoder holds besides the buffers fed and not yet read.
    #[must_use]
    pub fn held(&self) -> usize {
        self.partial.capacity()
    }

    fn guarded(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<Event>, DecodeError>,
    ) -> Result<Option<Event>, DecodeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = step(self);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn step(&mut self) -> Result<Option<Event>, DecodeError> {
        if self.is_lost && !self.find_magic() {
            return Ok(None);
        }
        loop {
            let Some(payload) = &mut self.payload else {
                let head = self.head()?;
                return Ok(head.map(|head| self.begin(head)));
            };
            if payload.run > 0 {
                if !refill(&mut self.input, &mut self.queue) {
                    return Ok(None);
                }
                let (event, len) = payload.take_data(&mut self.input);
                self.position = self.position.saturating_add(len);
                if event.is_some() {
                    return Ok(event);
                }
            } else if payload.has_entry() {
                let hole = payload.next_entry();
                if hole.is_some() {
                    return Ok(hole);
                }
            } else {
                let event = payload.end()?;
                self.payload = None;
                if event.is_some() {
                    return Ok(event);
                }
            }
        }
    }

    fn end(&mut self) -> Result<Option<Event>, DecodeError> {
        if let Some(event) = self.step()? {
            return Ok(Some(event));
        }
        // r[xbstream.chunk.border]
        if let Some(payload) = &self.payload {
            return Err(payload.head.error(ErrorKind::Truncated, self.position));
        }
        if self.partial.is_empty() {
            return Ok(None);
        }
        let known = self.last_path.as_ref();
        match parse(&self.partial, self.position, true, &self.options, known)? {
            Parsed::Whole(head, len) => {
                self.consume_head(len);
                Ok(Some(self.begin(head)))
            }
            Parsed::Need(_) => Err(truncated(&self.partial, self.position)),
        }
    }

    /// The next head, gathered from as many buffers as it takes.
    fn head(&mut self) -> Result<Option<ChunkHead>, DecodeError> {
        let mut need = 0;
        loop {
            // r[xbstream.reader.memory] Grows with the bytes that are there, never with what a
            // length claims.
            while self.partial.len() < need {
                if !refill(&mut self.input, &mut self.queue) {
                    return Ok(None);
                }
                let missing = need.saturating_sub(self.partial.len());
                let (now, _) = self.input.split_at(missing.min(self.input.len()));
                self.partial.extend_from_slice(now);
                self.input.advance(now.len());
            }
            if self.partial.is_empty() && !refill(&mut self.input, &mut self.queue) {
                return Ok(None);
            }
            let bytes = if self.partial.is_empty() {
                &self.input[..]
            } else {
                &self.partial[..]
            };
            let known = self.last_path.as_ref();
            match parse(bytes, self.position, false, &self.options, known)? {
                Parsed::Whole(head, len) => {
                    self.consume_head(len);
                    return Ok(Some(head));
                }
                Parsed::Need(more) => need = more,
            }
        }
    }

    fn consume_head(&mut self, len: usize) {
        self.position = self.position.saturating_add(len as u64);
        if self.partial.is_empty() {
            self.input.advance(len);
        } else {
            // What stays is the magic after a seek chunk.
            self.partial.drain(..len);
            self.partial.shrink_to(PARTIAL_LEN_KEPT);
        }
    }

    fn begin(&mut self, head: ChunkHead) -> Event {
        self.last_path = Some(head.path.clone());
        if let Some(crc) = head.payload_crc() {
            let checked = self.options.crc == CrcCheck::Decoder;
            self.payload = Some(Payload::new(head.clone(), crc, checked));
        }
        Event::Chunk(head)
    }
}

/// Makes `input` non-empty if anything was fed. A buffer that was read to its end is let go, so
/// that its pool has it back before the decoder asks for more.
fn refill(input: &mut Bytes, queue: &mut VecDeque<Bytes>) -> bool {
    if input.is_empty() {
        *input = queue.pop_front().unwrap_or_default();
    }
    !input.is_empty()
}

impl Payload {
    fn new(head: ChunkHead, crc: PayloadCrc, checked: bool) -> Self {
        let (file_offset, run) = match head.body {
            Body::Payload { len, offset, .. } | Body::Ignored { len, offset, .. } => (offset, len),
            Body::Sparse { offset, .. } => (offset, 0),
            Body::Seek { .. } | Body::End | Body::Rename { .. } | Body::Remove { .. } => (0, 0),
        };
        // Nobody else sees what is passed over, so it is checked here whoever checks the rest.
        let checked = checked || matches!(head.body, Body::Ignored { .. });
        Self {
            head,
            crc,
            hasher: checked.then(|| crc32fast::Hasher::new_with_initial(crc.initial)),
            file_offset,
            run,
            entry: 0,
        }
    }

    fn is_ignored(&self) -> bool {
        matches!(self.head.body, Body::Ignored { .. })
    }

    /// Takes what `input` has of the current run; tells how many bytes that was.
    fn take_data(&mut self, input: &mut Bytes) -> (Option<Event>, u64) {
        let len = usize::try_from(self.run).map_or(input.len(), |run| run.min(input.len()));
        let bytes = input.split_to(len);
        let len = len as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        let file_offset = self.file_offset;
        self.file_offset = file_offset.saturating_add(len);
        self.run = self.run.saturating_sub(len);
        let event = (!self.is_ignored()).then_some(Event::Data { file_offset, bytes });
        (event, len)
    }

    fn has_entry(&self) -> bool {
        matches!(&self.head.body, Body::Sparse { map, .. } if self.entry < map.len())
    }

    /// Goes to the next run of the map; returns the hole before it, if it has one.
    fn next_entry(&mut self) -> Option<Event> {
        let Body::Sparse { map, .. } = &self.head.body else {
            return None;
        };
        let entry = map.get(self.entry)?;
        self.entry = self.entry.saturating_add(1);
        self.run = entry.len.into();
        let file_offset = self.file_offset;
        let len = u64::from(entry.skip);
        self.file_offset = file_offset.saturating_add(len);
        (len > 0).then_some(Event::Hole { file_offset, len })
    }

    // r[xbstream.payload.crc] r[xbstream.payload.zero]
    fn end(&mut self) -> Result<Option<Event>, DecodeError> {
        if let Some(hasher) = self.hasher.take() {
            self.head.check_crc(hasher.finalize())?;
        }
        Ok((!self.is_ignored()).then_some(Event::ChunkEnd(self.crc)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xbstream::chunk::{SparseEntry, SparseMap};
    use crate::xbstream::encode;

    fn heads(decoder: &mut Decoder) -> Vec<ChunkHead> {
        let mut heads = Vec::new();
        while let Some(event) = decoder.next().unwrap() {
            if let Event::Chunk(head) = event {
                heads.push(head);
            }
        }
        heads
    }

    #[test]
    fn chunks_of_one_file_share_its_path() {
        let path = ArchivePath::new(b"db/t.ibd").unwrap();
        let mut archive = Vec::new();
        encode::payload_head(&mut archive, &path, 0, 0, 0);
        encode::end(&mut archive, &path);
        let mut decoder = Decoder::default();
        decoder.feed(archive.into());
        let heads = heads(&mut decoder);
        let [first, second] = &heads[..] else {
            panic!("{heads:?}");
        };
        assert!(std::ptr::eq(first.path.as_bytes(), second.path.as_bytes()));
    }

    // r[xbstream.reader.memory]
    #[test]
    fn room_for_a_large_map_is_given_back() {
        let path = ArchivePath::new(b"t").unwrap();
        let map = SparseMap::new(&[SparseEntry { skip: 1, len: 0 }; 10_000]);
        let mut archive = Vec::new();
        let crc = encode::sparse_crc(&map, b"");
        encode::sparse_head(&mut archive, &path, 0, crc, &map, 0);
        let mut decoder = Decoder::default();
        let (first, second) = archive.split_at(50_000);
        decoder.feed(Bytes::copy_from_slice(first));
        assert_eq!(heads(&mut decoder), []);
        assert!(decoder.held() >= first.len());
        decoder.feed(Bytes::copy_from_slice(second));
        assert_eq!(heads(&mut decoder).len(), 1);
        assert!(decoder.held() <= PARTIAL_LEN_KEPT);
    }

    #[test]
    fn behind_damage_the_next_chunk_is_found_wherever_the_input_is_cut() {
        let path = |name: &[u8]| ArchivePath::new(name).unwrap();
        let mut archive = Vec::new();
        encode::end(&mut archive, &path(b"first"));
        let bad = archive.len();
        encode::end(&mut archive, &path(b"up/second"));
        let name = archive.len() - b"up/second".len();
        archive[name..name + 2].copy_from_slice(b"..");
        archive.extend_from_slice(b"XBSTCK0XBSTCK0");
        encode::end(&mut archive, &path(b"third"));
        for cut in 1..archive.len() {
            let mut decoder = Decoder::default();
            let mut names = Vec::new();
            let mut errors = Vec::new();
            for piece in archive.chunks(cut) {
                decoder.feed(Bytes::copy_from_slice(piece));
                loop {
                    match decoder.next() {
                        Ok(Some(Event::Chunk(head))) => names.push(head.path.to_string()),
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(error) => {
                            errors.push(error.kind().word());
                            assert_eq!(decoder.position(), bad as u64);
                            decoder.resync();
                        }
                    }
                }
            }
            assert_eq!(decoder.finish().unwrap(), None);
            assert_eq!(names, ["first", "third"], "{cut}");
            assert_eq!(errors, ["BadPath"], "{cut}");
            assert_eq!(decoder.position(), archive.len() as u64);
        }
    }

    /// Only at the very start is there a reason to look further than the prefix.
    #[test]
    fn garbage_between_chunks_is_noticed_at_once() {
        let path = ArchivePath::new(b"t").unwrap();
        let mut archive = Vec::new();
        encode::end(&mut archive, &path);
        archive.extend_from_slice(b"not a chunk!!!");
        let mut decoder = Decoder::default();
        decoder.feed(archive.into());
        assert!(decoder.next().unwrap().is_some());
        assert_eq!(decoder.next().unwrap_err().kind().word(), "BadMagic");
    }
}
