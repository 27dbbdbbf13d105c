//! Zstandard: independent frames of bounded size, so that one file uses every core both ways
//! (`format-spec/codecs.md`).
//!
//! The `zstd` crate does the compression; this module adds what it lacks: finding the end of a frame in a stream of
//! pieces without decoding it (RFC 8878, section 3.1).

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

/// Highest level of `zstd` without `--ultra`.
pub const LEVEL_MAX: i32 = 19;
/// Level when none is given: the fastest regular one, because a backup should not be bound by compression.
pub const LEVEL_DEFAULT: i32 = 1;
/// Largest window a frame may ask for: 8 MiB, what RFC 8878 asks every decoder to support and what all levels up to 19 use.
pub const WINDOW_LOG_MAX: u32 = 23;
/// Suffix of compressed members.
pub const SUFFIX: &str = ".zst";
/// First four bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// First four bytes of a skippable frame, of which the low nibble of the first is free.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// What the codec says when it fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CodecError(String);

impl CodecError {
    fn from_code(code: usize) -> Self {
        Self(zstd_safe::get_error_name(code).to_owned())
    }
}

/// Most bytes a frame of `len` plain bytes can take.
#[must_use]
pub fn bound(len: usize) -> usize {
    zstd_safe::compress_bound(len)
}

/// The contexts of one codec thread, made when first used.
#[derive(Default)]
pub struct Contexts {
    compress: Option<(i32, CCtx<'static>)>,
    decompress: Option<DCtx<'static>>,
}

impl Contexts {
    /// Compresses `plain` into one frame with content size and checksum; returns its length in `frame`.
    pub fn compress(
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
                context
                    .set_parameter(parameter)
                    .map_err(CodecError::from_code)?;
            }
            self.compress = Some((level, context));
        }
        let Some((_, context)) = &mut self.compress else {
            return Err(CodecError("no context".to_owned()));
        };
        context
            .compress2(frame, plain)
            .map_err(CodecError::from_code)
    }

    /// Decompresses exactly one frame; returns the length of its content in `plain`.
    pub fn decompress(&mut self, frame: &[u8], plain: &mut [u8]) -> Result<usize, CodecError> {
        let context = self.decompress.get_or_insert_with(DCtx::create);
        context
            .decompress(plain, frame)
            .map_err(CodecError::from_code)
    }
}

/// A streaming decoder for frames that do not lie in one piece, lack a content size, or are large.
pub struct StreamDecoder {
    context: DCtx<'static>,
    inside: bool,
}

/// What one call of [`StreamDecoder::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
    /// A frame ended with the consumed bytes.
    pub frame_end: bool,
}

impl StreamDecoder {
    /// A decoder that refuses windows above [`WINDOW_LOG_MAX`].
    pub fn new() -> Result<Self, CodecError> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(CodecError::from_code)?;
        Ok(Self {
            context,
            inside: false,
        })
    }

    /// Decodes from `input` into `output` until one of them is used up or a frame ends.
    pub fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError> {
        let mut source = InBuffer::around(input);
        let mut target = OutBuffer::around(output);
        let hint = self
            .context
            .decompress_stream(&mut target, &mut source)
            .map_err(CodecError::from_code)?;
        let (consumed, produced) = (source.pos(), target.pos());
        let frame_end = hint == 0;
        self.inside = !frame_end && (self.inside || consumed > 0);
        Ok(Step {
            consumed,
            produced,
            frame_end,
        })
    }

    /// Whether a frame was begun and has not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.inside
    }
}

/// Follows the structure of frames through pieces of any size without decoding them.
///
/// Feed it the bytes of a file; it reports where the current frame ends.
#[derive(Debug, Default, Clone)]
pub struct FrameScanner {
    head: Vec<u8>,
    state: Scan,
    /// Content size if the frame header has one.
    content_size: Option<u64>,
    checksum: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Scan {
    #[default]
    Head,
    Block,
    /// Bytes left of the current block, and whether it is the last.
    Skip(u64, bool),
    /// Bytes left of checksum or skippable content.
    Tail(u64),
}

/// What [`FrameScanner::feed`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    /// All bytes belong to the current frame, which goes on.
    More,
    /// The current frame ends after this many of the bytes; its content size if the header names one. Skippable frames
    /// have content size zero.
    End(usize, Option<u64>),
}

impl FrameScanner {
    /// Whether a frame was begun.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.head.is_empty() || self.state != Scan::Head
    }

    /// Looks at the next bytes; fails when they are no Zstandard frame.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Scanned, CodecError> {
        let mut at = 0;
        loop {
            match self.state {
                Scan::Head => {
                    let Some(next) = self.frame_head(bytes, &mut at)? else {
                        return Ok(Scanned::More);
                    };
                    self.state = next;
                }
                Scan::Block => {
                    if !self.gather(bytes, &mut at, 3) {
                        return Ok(Scanned::More);
                    }
                    let word = u32::from_le_bytes([self.head[0], self.head[1], self.head[2], 0]);
                    self.head.clear();
                    let last = word & 1 != 0;
                    let len = match (word >> 1) & 3 {
                        0 | 2 => u64::from(word >> 3),
                        1 => 1,
                        _ => return Err(CodecError("reserved block type".to_owned())),
                    };
                    self.state = Scan::Skip(len, last);
                }
                Scan::Skip(left, last) => {
                    let left = skip(bytes, &mut at, left);
                    self.state = Scan::Skip(left, last);
                    if left > 0 {
                        return Ok(Scanned::More);
                    }
                    self.state = match (last, self.checksum) {
                        (false, _) => Scan::Block,
                        (true, true) => Scan::Tail(4),
                        (true, false) => Scan::Tail(0),
                    };
                }
                Scan::Tail(left) => {
                    let left = skip(bytes, &mut at, left);
                    self.state = Scan::Tail(left);
                    if left > 0 {
                        return Ok(Scanned::More);
                    }
                    self.state = Scan::Head;
                    return Ok(Scanned::End(at, self.content_size.take()));
                }
            }
        }
    }

    /// Collects `len` bytes of a head across pieces.
    fn gather(&mut self, bytes: &[u8], at: &mut usize, len: usize) -> bool {
        let take = len.saturating_sub(self.head.len()).min(bytes.len() - *at);
        self.head.extend_from_slice(&bytes[*at..*at + take]);
        *at += take;
        self.head.len() >= len
    }

    fn frame_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Scan>, CodecError> {
        if !self.gather(bytes, at, 4) {
            return Ok(None);
        }
        if self.head[0] & 0xf0 == SKIPPABLE[0] && self.head[1..4] == SKIPPABLE[1..4] {
            if !self.gather(bytes, at, 8) {
                return Ok(None);
            }
            let len = u32::from_le_bytes([self.head[4], self.head[5], self.head[6], self.head[7]]);
            self.head.clear();
            self.content_size = Some(0);
            return Ok(Some(Scan::Tail(u64::from(len))));
        }
        if self.head[..4] != MAGIC {
            return Err(CodecError("not a zstd frame".to_owned()));
        }
        if !self.gather(bytes, at, 5) {
            return Ok(None);
        }
        let descriptor = self.head[4];
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
        let mut size = [0; 8];
        size[..size_len].copy_from_slice(&self.head[total - size_len..total]);
        self.content_size = match size_len {
            0 => None,
            2 => Some(u64::from_le_bytes(size) + 256),
            _ => Some(u64::from_le_bytes(size)),
        };
        self.checksum = descriptor & 4 != 0;
        self.head.clear();
        Ok(Some(Scan::Block))
    }
}

fn skip(bytes: &[u8], at: &mut usize, left: u64) -> u64 {
    let here = bytes.len() - *at;
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    *at += take;
    left - take as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(plain: &[u8], level: i32) -> Vec<u8> {
        let mut frame = vec![0; bound(plain.len())];
        let n = Contexts::default()
            .compress(level, plain, &mut frame)
            .unwrap();
        frame.truncate(n);
        frame
    }

    proptest! {
        #[test]
        fn scanner_finds_the_frame_end_at_any_split(
            len in 0usize..300_000, seed: u8, split in 0usize..100_000, level in 1i32..6,
        ) {
            let plain: Vec<u8> = (0u32..300_000)
                .take(len)
                .map(|i| i.wrapping_mul(u32::from(seed) + 7).to_le_bytes()[1])
                .collect();
            let one = frame(&plain, level);
            let mut two = one.clone();
            two.extend_from_slice(&[0x5a, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9]);
            let mut scanner = FrameScanner::default();
            let split = split.min(one.len() - 1);
            prop_assert_eq!(scanner.feed(&two[..split]).unwrap(), Scanned::More);
            let Scanned::End(n, size) = scanner.feed(&two[split..]).unwrap() else { panic!("no end") };
            prop_assert_eq!((split + n, size), (one.len(), Some(len as u64)));
            prop_assert_eq!(scanner.feed(&two[one.len()..]).unwrap(), Scanned::End(10, Some(0)));
            let mut back = vec![0; len];
            prop_assert_eq!(Contexts::default().decompress(&one, &mut back).unwrap(), len);
            prop_assert_eq!(back, plain);
        }

        #[test]
        fn scanner_survives_anything(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut scanner = FrameScanner::default();
            let mut input = MAGIC.to_vec();
            input.extend_from_slice(&bytes);
            let mut at = 0;
            while let Ok(Scanned::End(n, _)) = scanner.feed(&input[at..]) {
                at += n;
                if at >= input.len() { break; }
            }
        }
    }

    #[test]
    fn stream_decoder_says_when_a_frame_is_cut() {
        let frame = frame(b"hello hello hello", 1);
        let mut decoder = StreamDecoder::new().unwrap();
        let mut out = [0; 64];
        decoder.step(&frame[..frame.len() - 1], &mut out).unwrap();
        assert!(decoder.is_inside());
        assert!(
            decoder
                .step(&frame[frame.len() - 1..], &mut out)
                .unwrap()
                .frame_end
        );
        assert!(!decoder.is_inside());
    }

    #[test]
    fn a_flipped_byte_is_noticed() {
        let mut frame = frame(&[7; 5000], 1);
        let last = frame.len() - 1;
        frame[last] ^= 1;
        assert!(
            Contexts::default()
                .decompress(&frame, &mut [0; 5000])
                .is_err()
        );
    }
}
