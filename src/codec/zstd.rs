//! Zstandard: independent frames of bounded size, so that one file uses every core both ways
//! (`format-spec/codecs.md`).
//!
//! The `zstd` crate does the compression; this module adds what it lacks: finding the end of a frame in a stream of
//! pieces without decoding it (RFC 8878, section 3.1).

use std::sync::Arc;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

use super::{
    CodecError, Decoder, Encoder, FRAME_LEN_MAX, FRAME_LEN_MIN, FileEncoder, Piece, Pieces, Split,
    Splitter, Step, StreamDecoder, Unit, UnitDecoder,
};

/// Highest level of `zstd` without `--ultra`.
pub const LEVEL_MAX: i32 = 19;
/// Level when none is given: the fastest regular one, because a backup should not be bound by compression.
pub const LEVEL_DEFAULT: i32 = 1;
/// Suffix of compressed members.
pub const SUFFIX: &str = ".zst";
/// First four bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// First four bytes of a skippable frame, of which the low nibble of the first is free.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// Largest window a frame may ask for, in bytes: what `zstd --long` makes. What RFC 8878 asks every decoder to support, and
/// all levels up to 19 need, is 8 MiB. `r[codec.zstd.window]`
pub const WINDOW_LEN_MAX: u64 = 128 << 20;
/// Memory of a stream decoder beside its window: two blocks of at most 128 KiB, and tables.
const STREAM_MEMORY: u64 = 512 << 10;
/// Most plain bytes of a block (RFC 8878, section 3.1.1.2.4).
const BLOCK_LEN_MAX: u64 = 128 << 10;

fn library(code: usize) -> &'static str {
    zstd_safe::get_error_name(code)
}

fn damaged(code: usize) -> CodecError {
    CodecError::damage(format!("zstd: {}", library(code)))
}

fn failed(code: usize) -> CodecError {
    CodecError::refused(format!("zstd: {}", library(code)))
}

/// The contexts of one codec thread, made when first used.
#[derive(Default)]
pub struct Contexts {
    compress: Option<(i32, CCtx<'static>)>,
    decompress: Option<DCtx<'static>>,
}

impl Contexts {
    /// Compresses `plain` into one frame with content size and checksum; returns its length in `frame`.
    fn compress(
        &mut self,
        level: i32,
        plain: &[u8],
        frame: &mut [u8],
    ) -> Result<usize, CodecError> {
        if self
            .compress
            .as_ref()
            .is_none_or(|(have, _)| *have != level)
        {
            let mut context = CCtx::create();
            for parameter in [
                CParameter::CompressionLevel(level),
                CParameter::ChecksumFlag(true),
            ] {
                context.set_parameter(parameter).map_err(failed)?;
            }
            self.compress = Some((level, context));
        }
        let Some((_, context)) = &mut self.compress else {
            return Err(CodecError::refused("zstd: no context"));
        };
        context.compress2(frame, plain).map_err(failed)
    }
}

/// Writes independent frames, each with content size and checksum (`r[codec.zstd.writer]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdEncoder {
    level: i32,
    frame_len: usize,
    thread_memory: usize,
}

impl ZstdEncoder {
    /// Frames of at most `frame_len` plain bytes, [`FRAME_LEN_MIN`] to [`FRAME_LEN_MAX`], at `level`, 1 to [`LEVEL_MAX`].
    pub fn new(level: i32, frame_len: usize) -> Result<Self, CodecError> {
        let frame_len = frame_len.clamp(FRAME_LEN_MIN, FRAME_LEN_MAX);
        // How large a context becomes is known when it was used.
        let mut contexts = Contexts::default();
        let mut frame = vec![0; zstd_safe::compress_bound(frame_len)];
        contexts.compress(level, &vec![0; frame_len], &mut frame)?;
        let thread_memory = contexts.compress.map_or(0, |(_, c)| c.sizeof());
        Ok(Self {
            level,
            frame_len,
            thread_memory,
        })
    }
}

impl Encoder for ZstdEncoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn pieces(&self) -> Pieces {
        Pieces {
            len: self.frame_len,
            exact: false,
        }
    }

    fn bound(&self, plain_len: usize) -> usize {
        zstd_safe::compress_bound(plain_len)
    }

    fn repeats(&self) -> bool {
        true
    }

    fn thread_memory(&self) -> usize {
        self.thread_memory
    }

    fn begin(&self, _name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError> {
        Ok(Arc::new(*self))
    }
}

impl FileEncoder for ZstdEncoder {
    fn piece(
        &self,
        _piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        contexts: &mut super::Contexts,
    ) -> Result<usize, CodecError> {
        contexts.zstd.compress(self.level, plain, encoded)
    }
}

/// Reads concatenated frames of any writer (`r[codec.zstd.reader]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZstdDecoder;

impl Decoder for ZstdDecoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn begin(&self, _name: &[u8]) -> Box<dyn Splitter> {
        Box::<ZstdSplitter>::default()
    }
}

/// What the head of a frame says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Head {
    content_size: Option<u64>,
    window_len: u64,
    checksum: bool,
}

impl Head {
    /// With so many blocks, or so many so far.
    fn unit(self, blocks: u64) -> Unit {
        Unit {
            encoded_len: None,
            plain_len: self.content_size,
            plain_bound: Some(blocks.saturating_mul(self.window_len.min(BLOCK_LEN_MAX))),
            // What is shorter than the window needs no more than its own length.
            stream_memory: (self.window_len)
                .min(self.content_size.unwrap_or(u64::MAX))
                .saturating_add(STREAM_MEMORY),
            decoder: Box::new(self),
        }
    }
}

impl UnitDecoder for Head {
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        contexts: &mut super::Contexts,
    ) -> Result<usize, CodecError> {
        let context = contexts.zstd.decompress.get_or_insert_with(DCtx::create);
        context.decompress(plain, encoded).map_err(damaged)
    }

    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError> {
        let mut context = DCtx::create();
        let window_log = WINDOW_LEN_MAX.ilog2();
        context
            .set_parameter(DParameter::WindowLogMax(window_log))
            .map_err(failed)?;
        Ok(Box::new(FrameStream {
            context,
            produced: 0,
            content_size: self.content_size,
        }))
    }
}

/// Decodes one frame in parts.
struct FrameStream {
    context: DCtx<'static>,
    produced: u64,
    content_size: Option<u64>,
}

impl StreamDecoder for FrameStream {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError> {
        let mut source = InBuffer::around(input);
        let mut target = OutBuffer::around(output);
        let hint = self
            .context
            .decompress_stream(&mut target, &mut source)
            .map_err(damaged)?;
        let (consumed, produced) = (source.pos(), target.pos());
        self.produced += produced as u64;
        let ended = hint == 0;
        if ended && self.content_size.is_some_and(|n| n != self.produced) {
            return Err(CodecError::damage("zstd: content size does not fit"));
        }
        Ok(Step {
            consumed,
            produced,
            ended,
        })
    }
}

/// Follows frames through pieces of any size without decoding them (RFC 8878, section 3.1.1).
#[derive(Debug, Default)]
pub struct ZstdSplitter {
    /// Bytes of a head that is not whole yet.
    head: Vec<u8>,
    state: Scan,
    frame: Option<Head>,
    /// Its blocks so far.
    blocks: u64,
    /// Bytes of the current frame that were looked at.
    seen: u64,
    /// There was something at all.
    begun: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Scan {
    #[default]
    Head,
    Block,
    /// Bytes left of the current block, and whether it is the last.
    Skip(u64, bool),
    /// Bytes left of the checksum.
    Tail(u64),
    /// Bytes left of a skippable frame.
    Skippable(u64),
}

impl Splitter for ZstdSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        let mut at = 0;
        let before = self.seen;
        self.begun = true;
        loop {
            self.seen = before + at as u64;
            match self.state {
                Scan::Head => {
                    let Some(next) = self.frame_head(bytes, &mut at)? else {
                        self.seen = before + at as u64;
                        return Ok(Split::More);
                    };
                    self.state = next;
                    if let Scan::Skippable(left) = next {
                        return Ok(self.skippable(bytes, at, left));
                    }
                }
                Scan::Skippable(left) => return Ok(self.skippable(bytes, at, left)),
                Scan::Block => {
                    if !self.gather(bytes, &mut at, 3) {
                        self.seen = before + at as u64;
                        return Ok(Split::More);
                    }
                    let word = match self.head.as_slice() {
                        [a, b, c, ..] => u32::from_le_bytes([*a, *b, *c, 0]),
                        _ => 0,
                    };
                    self.head.clear();
                    let last = word & 1 != 0;
                    let len = match (word >> 1) & 3 {
                        0 | 2 => u64::from(word >> 3),
                        1 => 1,
                        _ => {
                            return Err(CodecError::damage("zstd: reserved block type")
                                .at(before + at as u64));
                        }
                    };
                    self.blocks += 1;
                    self.state = Scan::Skip(len, last);
                }
                Scan::Skip(left, last) => {
                    let left = skip(bytes, &mut at, left);
                    self.state = Scan::Skip(left, last);
                    if left > 0 {
                        self.seen = before + at as u64;
                        return Ok(Split::More);
                    }
                    let checksum = self.frame.is_some_and(|f| f.checksum);
                    self.state = match (last, checksum) {
                        (false, _) => Scan::Block,
                        (true, true) => Scan::Tail(4),
                        (true, false) => Scan::Tail(0),
                    };
                }
                Scan::Tail(left) => {
                    let left = skip(bytes, &mut at, left);
                    self.state = Scan::Tail(left);
                    if left > 0 {
                        self.seen = before + at as u64;
                        return Ok(Split::More);
                    }
                    self.state = Scan::Head;
                    self.seen = 0;
                    let frame = self.frame.take().unwrap_or_default();
                    return Ok(Split::Unit(at, frame.unit(self.blocks)));
                }
            }
        }
    }

    fn under_way(&self) -> Option<Unit> {
        self.frame.map(|frame| frame.unit(self.blocks))
    }

    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        // r[codec.zstd.empty]
        if !self.begun {
            return Err(CodecError::cut(
                "zstd: no frame at all, not even an empty one",
            ));
        }
        if self.head.is_empty() && self.state == Scan::Head {
            Ok(None)
        } else {
            Err(CodecError::cut("the file ends inside a zstd frame").at(self.seen))
        }
    }
}

impl ZstdSplitter {
    /// `r[codec.zstd.skippable]`: passes over a skippable frame as far as it is there.
    fn skippable(&mut self, bytes: &[u8], mut at: usize, left: u64) -> Split {
        let left = skip(bytes, &mut at, left);
        self.state = if left == 0 {
            Scan::Head
        } else {
            Scan::Skippable(left)
        };
        self.seen = 0;
        Split::Skip(at)
    }

    /// Collects `len` bytes of a head across pieces.
    fn gather(&mut self, bytes: &[u8], at: &mut usize, len: usize) -> bool {
        let rest = bytes.get(*at..).unwrap_or_default();
        let take = len.saturating_sub(self.head.len()).min(rest.len());
        self.head
            .extend_from_slice(rest.get(..take).unwrap_or_default());
        *at += take;
        self.head.len() >= len
    }

    fn frame_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Scan>, CodecError> {
        if !self.gather(bytes, at, 4) {
            return Ok(None);
        }
        let first = self.head.first().copied().unwrap_or_default();
        if first & 0xf0 == SKIPPABLE[0] && self.head.get(1..4) == Some(&SKIPPABLE[1..]) {
            if !self.gather(bytes, at, 8) {
                return Ok(None);
            }
            let len = le(self.head.get(4..8).unwrap_or_default());
            self.head.clear();
            return Ok(Some(Scan::Skippable(len)));
        }
        if self.head.get(..4) != Some(&MAGIC) {
            return Err(CodecError::damage("not a zstd frame"));
        }
        if !self.gather(bytes, at, 5) {
            return Ok(None);
        }
        let descriptor = self.head.get(4).copied().unwrap_or_default();
        if descriptor & 0x08 != 0 {
            return Err(CodecError::damage(
                "zstd: reserved bit of a frame header is set",
            ));
        }
        let single_segment = descriptor & 0x20 != 0;
        let window_len = usize::from(!single_segment);
        let dictionary_len = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let size_len = match descriptor >> 6 {
            0 => usize::from(single_segment),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let total = 5 + window_len + dictionary_len + size_len;
        if !self.gather(bytes, at, total) {
            return Ok(None);
        }
        let (fields, size) = self
            .head
            .get(5..total)
            .and_then(|fields| fields.split_at_checked(window_len + dictionary_len))
            .unwrap_or_default();
        let content_size = match size_len {
            0 => None,
            2 => Some(le(size) + 256),
            _ => Some(le(size)),
        };
        let (window, dictionary) = fields.split_at_checked(window_len).unwrap_or_default();
        let window_len = match window.first() {
            Some(window) => {
                let base = 1_u64 << (10 + (window >> 3));
                base + base / 8 * u64::from(window & 7)
            }
            None => content_size.unwrap_or(0),
        };
        // r[codec.zstd.dictionary]
        if le(dictionary) != 0 {
            return Err(
                CodecError::refused("zstd: the file was compressed with a dictionary")
                    .hint("decompress it with zstd -D and the dictionary"),
            );
        }
        // r[codec.zstd.window]: a frame of one segment needs one only if it is decoded in parts.
        if window_len > WINDOW_LEN_MAX {
            return Err(CodecError::damage(format!(
                "zstd: a frame asks for a window of {window_len} bytes, the limit is {WINDOW_LEN_MAX}"
            )));
        }
        self.blocks = 0;
        self.frame = Some(Head {
            content_size,
            window_len,
            checksum: descriptor & 4 != 0,
        });
        self.head.clear();
        Ok(Some(Scan::Block))
    }
}

/// A little-endian number of at most 8 bytes.
fn le(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn skip(bytes: &[u8], at: &mut usize, left: u64) -> u64 {
    let here = bytes.len() - *at;
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    *at += take;
    left - take as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Fault;
    use super::*;

    fn frame(plain: &[u8], level: i32) -> Vec<u8> {
        let mut frame = vec![0; zstd_safe::compress_bound(plain.len())];
        let n = Contexts::default()
            .compress(level, plain, &mut frame)
            .unwrap();
        frame.truncate(n);
        frame
    }

    proptest! {
        #[test]
        fn splitter_finds_the_frame_end_at_any_split(
            len in 0usize..300_000, seed: u8, split in 0usize..100_000, level in 1i32..6,
        ) {
            let plain: Vec<u8> = (0u32..300_000)
                .take(len)
                .map(|i| i.wrapping_mul(u32::from(seed) + 7).to_le_bytes()[1])
                .collect();
            let one = frame(&plain, level);
            let mut two = one.clone();
            two.extend_from_slice(&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9]);
            let mut splitter = ZstdSplitter::default();
            let split = split.min(one.len() - 1);
            prop_assert!(matches!(splitter.feed(&two[..split]).unwrap(), Split::More));
            let Split::Unit(n, unit) = splitter.feed(&two[split..]).unwrap() else { panic!("no end") };
            prop_assert_eq!((split + n, unit.plain_len), (one.len(), Some(len as u64)));
            prop_assert!(matches!(splitter.feed(&two[one.len()..]).unwrap(), Split::Skip(10)));
            prop_assert!(splitter.finish().unwrap().is_none());
            let mut back = vec![0; len];
            let mut contexts = super::super::Contexts::default();
            prop_assert_eq!(unit.decoder.decode(&one, &mut back, &mut contexts).unwrap(), len);
            prop_assert_eq!(back, plain);
        }
    }

    #[test]
    fn a_cut_frame_is_told_by_splitter_and_stream() {
        let frame = frame(b"hello hello hello", 1);
        let mut splitter = ZstdSplitter::default();
        let (most, last) = frame.split_at(frame.len() - 1);
        assert!(matches!(splitter.feed(most).unwrap(), Split::More));
        assert_eq!(splitter.finish().unwrap_err().fault(), Fault::Cut);
        let mut stream = splitter.under_way().unwrap().decoder.stream().unwrap();
        let mut out = [0; 64];
        assert!(!stream.step(most, &mut out).unwrap().ended);
        assert!(stream.step(last, &mut out).unwrap().ended);
    }

    #[test]
    fn a_flipped_byte_a_dictionary_and_a_huge_window_are_told_apart() {
        let mut frame = frame(&[7; 5000], 1);
        let last = frame.len() - 1;
        frame[last] ^= 1;
        let Split::Unit(_, unit) = ZstdSplitter::default().feed(&frame).unwrap() else {
            panic!("no unit")
        };
        let mut contexts = super::super::Contexts::default();
        let error = unit.decoder.decode(&frame, &mut [0; 5000], &mut contexts);
        assert_eq!(error.unwrap_err().fault(), Fault::Damage);
        for (head, fault) in [
            ([0x01, 0x58, 7], Fault::Refused),
            ([0x00, 0x90, 1], Fault::Damage),
            ([0x08, 0x58, 1], Fault::Damage),
        ] {
            let bytes = [&MAGIC[..], &head].concat();
            let error = ZstdSplitter::default().feed(&bytes).err().unwrap();
            assert_eq!(error.fault(), fault, "{error}");
        }
    }
}
