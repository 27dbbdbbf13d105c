//! Decodes frames, whole or in parts.

use std::hash::Hasher as _;

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::super::whole::{BlockDecoder, WholeStream};
use super::super::{
    CodecError, Contexts, Decoder, Splitter, Step, StreamDecoder, Unit, UnitDecoder,
};
use super::split::Lz4Splitter;
use super::{Head, SUFFIX, WINDOW_LEN, word};

/// Reads concatenated frames of any writer (`r[codec.lz4.reader]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lz4Decoder;

impl Decoder for Lz4Decoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn begin(&self, _name: &[u8]) -> Box<dyn Splitter> {
        Box::<Lz4Splitter>::default()
    }
}

/// Decodes one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameDecoder(pub(super) Head);

impl UnitDecoder for FrameDecoder {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        let head = self.0;
        let (mut at, mut filled) = (head.len, 0);
        loop {
            let cut = || CodecError::cut("the file ends inside an lz4 frame").at(at as u64);
            let rest = encoded.get(at..).ok_or_else(cut)?;
            let (length, rest) = rest.split_at_checked(4).ok_or_else(cut)?;
            let length = word(length);
            if length == 0 {
                let content = plain.get(..filled).unwrap_or_default();
                end(&head, filled as u64, || XxHash32::oneshot(0, content), rest)
                    .map_err(|e| e.at(at as u64))?;
                return Ok(filled);
            }
            let (len, stored) = head.block(length).map_err(|e| e.at(at as u64))?;
            let (block, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
            check_block(&head, block, rest).map_err(|e| e.at(at as u64))?;
            let (done, room) = plain.split_at_mut_checked(filled).unwrap_or_default();
            let max = room.len().min(head.block_len_max);
            let room = room.get_mut(..max).unwrap_or_default();
            let window = done
                .get(done.len().saturating_sub(WINDOW_LEN)..)
                .unwrap_or_default();
            filled +=
                decode_block(&head, block, stored, room, window).map_err(|e| e.at(at as u64))?;
            at += 4 + len + head.block_tail_len();
        }
    }

    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        Ok(Box::new(FrameStream {
            head: self.0,
            state: State::Head,
            input: Vec::new(),
            plain: Vec::new(),
            taken: 0,
            total: 0,
            position: 0,
            hash: XxHash32::with_seed(0),
        }))
    }
}

/// One block of a frame whose blocks are independent of each other: length word, data, checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    head: Head,
    len: usize,
    stored: bool,
}

impl Block {
    /// The block that this length word of a frame begins.
    pub(super) fn new(head: Head, length: u32) -> Result<Self, CodecError> {
        let (len, stored) = head.block(length)?;
        Ok(Self { head, len, stored })
    }

    /// Bytes behind the length word.
    pub(super) fn rest_len(&self) -> usize {
        self.len + self.head.block_tail_len()
    }

    pub(super) fn unit(self) -> Unit {
        let encoded_len = 4 + self.rest_len();
        let plain_bound = if self.stored {
            self.len
        } else {
            self.head.block_len_max
        };
        Unit {
            encoded_len: Some(encoded_len as u64),
            plain_len: None,
            plain_bound: Some(plain_bound as u64),
            stream_memory: (encoded_len + plain_bound) as u64,
            decoder: Box::new(self),
        }
    }
}

impl BlockDecoder for Block {
    fn decode(&self, encoded: &[u8], plain: &mut [u8]) -> Result<usize, CodecError> {
        let block = encoded.get(4..).unwrap_or_default();
        let (block, tail) = block
            .split_at_checked(self.len)
            .ok_or_else(|| CodecError::cut("the file ends inside an lz4 frame"))?;
        check_block(&self.head, block, tail)?;
        let max = plain.len().min(self.head.block_len_max);
        let room = plain.get_mut(..max).unwrap_or_default();
        decode_block(&self.head, block, self.stored, room, &[])
    }
}

impl UnitDecoder for Block {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        _contexts: &mut Contexts,
    ) -> Result<usize, CodecError> {
        BlockDecoder::decode(self, encoded, plain)
    }

    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        let unit = self.unit();
        let len = |len: Option<u64>| len.and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        Ok(Box::new(WholeStream::bounded(
            *self,
            len(unit.encoded_len),
            len(unit.plain_bound),
        )))
    }
}

/// Verifies what follows the end mark of a frame with `len` bytes of content.
fn end(head: &Head, len: u64, hash: impl FnOnce() -> u32, tail: &[u8]) -> Result<(), CodecError> {
    if head.content_size.is_some_and(|n| n != len) {
        return Err(CodecError::damage("lz4: content size does not fit"));
    }
    if head.content_checksum && hash() != word(tail) {
        return Err(CodecError::damage("lz4: content checksum does not fit"));
    }
    Ok(())
}

fn check_block(head: &Head, block: &[u8], tail: &[u8]) -> Result<(), CodecError> {
    if head.block_checksum && XxHash32::oneshot(0, block) != word(tail) {
        return Err(CodecError::damage("lz4: block checksum does not fit"));
    }
    Ok(())
}

/// Decodes a block into `room`; `window` is the content before it. Returns the plain length.
fn decode_block(
    head: &Head,
    block: &[u8],
    stored: bool,
    room: &mut [u8],
    window: &[u8],
) -> Result<usize, CodecError> {
    if stored {
        let room = room
            .get_mut(..block.len())
            .ok_or_else(|| CodecError::damage("lz4: more content than the frame states"))?;
        room.copy_from_slice(block);
        return Ok(block.len());
    }
    let decoded = if head.linked {
        decompress_into_with_dict(block, room, window)
    } else {
        decompress_into(block, room)
    };
    decoded.map_err(|e| CodecError::damage(format!("lz4: {e}")))
}

/// Decodes one frame in parts.
struct FrameStream {
    head: Head,
    state: State,
    /// Bytes of what is not whole yet.
    input: Vec<u8>,
    /// Window, then content that was not put out yet.
    plain: Vec<u8>,
    /// Bytes of `plain` that were put out.
    taken: usize,
    /// Content decoded so far.
    total: u64,
    /// Offset in the frame.
    position: u64,
    hash: XxHash32,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length,
    Block { len: usize, stored: bool },
    Tail,
    Ended,
}

impl FrameStream {
    /// Bytes that the current state needs at once.
    fn need(&self) -> usize {
        match self.state {
            State::Head => self.head.len,
            State::Length => 4,
            State::Block { len, .. } => len + self.head.block_tail_len(),
            State::Tail => self.head.tail_len(),
            State::Ended => 0,
        }
    }

    /// Takes what the state needs, which is `bytes`.
    fn advance(&mut self, bytes: &[u8]) -> Result<(), CodecError> {
        self.state = match self.state {
            State::Head => State::Length,
            State::Length => match word(bytes) {
                0 => State::Tail,
                length => {
                    let (len, stored) = self.head.block(length)?;
                    State::Block { len, stored }
                }
            },
            State::Block { len, stored } => {
                let (block, tail) = bytes.split_at_checked(len).unwrap_or_default();
                check_block(&self.head, block, tail)?;
                self.block(block, stored)?;
                State::Length
            }
            State::Tail => {
                let hash = self.hash.finish_32();
                end(&self.head, self.total, || hash, bytes)?;
                State::Ended
            }
            State::Ended => State::Ended,
        };
        Ok(())
    }

    /// Decodes a block behind the window. Everything before was put out.
    fn block(&mut self, block: &[u8], stored: bool) -> Result<(), CodecError> {
        let keep = self.plain.len().min(WINDOW_LEN);
        self.plain.drain(..self.plain.len() - keep);
        self.plain.resize(keep + self.head.block_len_max, 0);
        let (window, room) = self.plain.split_at_mut_checked(keep).unwrap_or_default();
        let n = decode_block(&self.head, block, stored, room, window)?;
        if self.head.content_checksum {
            self.hash.write(room.get(..n).unwrap_or_default());
        }
        self.plain.truncate(keep + n);
        self.taken = keep;
        self.total += n as u64;
        Ok(())
    }
}

impl StreamDecoder for FrameStream {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError> {
        let (mut consumed, mut produced) = (0, 0);
        loop {
            let ready = self.plain.get(self.taken..).unwrap_or_default();
            let room = output.get_mut(produced..).unwrap_or_default();
            let n = ready.len().min(room.len());
            if let (Some(room), Some(ready)) = (room.get_mut(..n), ready.get(..n)) {
                room.copy_from_slice(ready);
            }
            self.taken += n;
            produced += n;
            if self.taken < self.plain.len() || self.state == State::Ended {
                break;
            }
            let need = self.need();
            let rest = input.get(consumed..).unwrap_or_default();
            let missing = need - self.input.len();
            let offset = self.position;
            if self.input.is_empty() && rest.len() >= need {
                consumed += need;
                self.advance(rest.get(..need).unwrap_or_default())
                    .map_err(|e| e.at(offset))?;
                self.position += need as u64;
                continue;
            }
            let n = missing.min(rest.len());
            self.input.reserve_exact(missing);
            self.input
                .extend_from_slice(rest.get(..n).unwrap_or_default());
            consumed += n;
            if n < missing {
                break;
            }
            let mut bytes = std::mem::take(&mut self.input);
            self.advance(&bytes).map_err(|e| e.at(offset))?;
            self.position += need as u64;
            bytes.clear();
            self.input = bytes;
        }
        Ok(Step {
            consumed,
            produced,
            ended: self.state == State::Ended && self.taken == self.plain.len(),
        })
    }
}
