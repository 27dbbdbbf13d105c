//! Finds the ends of frames, and of the blocks of long ones, without decoding them. `r[codec.lz4.units]`

use super::super::{CodecError, Content, ContentEnd, Split, Splitter, Unit};
use super::decode::{Block, FrameDecoder};
use super::{HEAD_LEN_MAX, Head, HeadFound, LEGACY_MAGIC, MAGIC, SKIPPABLE_MAGIC, le, word};

/// Follows frames through pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Lz4Splitter {
    /// Bytes of a header or length word that is not whole yet.
    head: Vec<u8>,
    state: State,
    frame: Option<Head>,
    /// The block that passes, when blocks are units.
    block: Option<Block>,
    /// Bytes of the current unit that were looked at.
    seen: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// Before the length word of a block.
    Block,
    /// Bytes left of the current block and its checksum.
    Skip(u64),
    /// In the content checksum.
    Tail,
    /// Bytes left of a skippable frame.
    Skippable(u64),
}

impl Splitter for Lz4Splitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        let mut at = 0;
        let before = self.seen;
        let split = self.step(bytes, &mut at, before)?;
        self.seen = match split {
            Split::More => before + at as u64,
            Split::Unit(..) | Split::Skip(_) | Split::Begin(..) | Split::End(..) => 0,
        };
        Ok(split)
    }

    fn under_way(&self) -> Option<Unit> {
        match self.frame? {
            frame if frame.has_block_units() => self.block.map(Block::unit),
            frame => Some(unit(frame)),
        }
    }

    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        if self.head.is_empty() && self.state == State::Head {
            Ok(None)
        } else {
            Err(CodecError::cut("the file ends inside an lz4 frame").at(self.seen))
        }
    }
}

fn unit(head: Head) -> Unit {
    Unit {
        encoded_len: None,
        plain_len: head.content_size,
        plain_bound: None,
        stream_memory: head.stream_memory(),
        decoder: Box::new(FrameDecoder(head)),
    }
}

impl Lz4Splitter {
    /// `before`: bytes of the frame before these.
    fn step(&mut self, bytes: &[u8], at: &mut usize, before: u64) -> Result<Split, CodecError> {
        loop {
            match self.state {
                State::Head => {
                    if !self.gather(bytes, at, 4) {
                        return Ok(Split::More);
                    }
                    match word(&self.head) {
                        MAGIC => {
                            let Some(head) = self.frame_head(bytes, at)? else {
                                return Ok(Split::More);
                            };
                            self.frame = Some(head);
                            self.state = State::Block;
                            if head.has_block_units() {
                                self.head.clear();
                                return Ok(Split::Begin(*at, Content::new(head.content_checksum)));
                            }
                        }
                        // r[codec.lz4.legacy]
                        LEGACY_MAGIC => {
                            return Err(CodecError::refused(
                                "lz4: a legacy frame, which has no checksums",
                            )
                            .hint("decompress it with the lz4 tool"));
                        }
                        // r[codec.lz4.skippable]
                        magic if magic & !0xf == SKIPPABLE_MAGIC => {
                            if !self.gather(bytes, at, 8) {
                                return Ok(Split::More);
                            }
                            let len = le(self.head.get(4..8).unwrap_or_default());
                            self.state = State::Skippable(len);
                        }
                        _ => return Err(CodecError::damage("not an lz4 frame")),
                    }
                    self.head.clear();
                }
                State::Skippable(left) => {
                    let left = skip(bytes, at, left);
                    self.state = match left {
                        0 => State::Head,
                        left => State::Skippable(left),
                    };
                    return Ok(Split::Skip(*at));
                }
                State::Block => {
                    if !self.gather(bytes, at, 4) {
                        return Ok(Split::More);
                    }
                    let word = word(&self.head);
                    self.head.clear();
                    let Some(frame) = self.frame else {
                        return Err(CodecError::damage("not an lz4 frame"));
                    };
                    self.state = if word == 0 {
                        State::Tail
                    } else {
                        let here = before + *at as u64;
                        let block = Block::new(frame, word).map_err(|e| e.at(here))?;
                        self.block = Some(block);
                        State::Skip(block.rest_len() as u64)
                    };
                }
                State::Skip(left) => {
                    let left = skip(bytes, at, left);
                    if left > 0 {
                        self.state = State::Skip(left);
                        return Ok(Split::More);
                    }
                    self.state = State::Block;
                    if let (Some(frame), Some(block)) = (self.frame, self.block.take())
                        && frame.has_block_units()
                    {
                        return Ok(Split::Unit(*at, block.unit()));
                    }
                }
                State::Tail => {
                    let Some(frame) = self.frame else {
                        return Err(CodecError::damage("not an lz4 frame"));
                    };
                    if !self.gather(bytes, at, frame.tail_len()) {
                        return Ok(Split::More);
                    }
                    let checksum = frame.content_checksum.then(|| word(&self.head));
                    self.head.clear();
                    self.state = State::Head;
                    self.frame = None;
                    return Ok(if frame.has_block_units() {
                        let end = ContentEnd {
                            format: "lz4",
                            size: frame.content_size,
                            checksum,
                        };
                        Split::End(*at, end)
                    } else {
                        Split::Unit(*at, unit(frame))
                    });
                }
            }
        }
    }

    fn frame_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Head>, CodecError> {
        loop {
            match Head::parse(&self.head)? {
                HeadFound::Whole(head) => return Ok(Some(head)),
                HeadFound::Needs(len) => {
                    if !self.gather(bytes, at, len.min(HEAD_LEN_MAX)) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Collects `len` bytes across pieces.
    fn gather(&mut self, bytes: &[u8], at: &mut usize, len: usize) -> bool {
        let rest = bytes.get(*at..).unwrap_or_default();
        let take = len.saturating_sub(self.head.len()).min(rest.len());
        self.head
            .extend_from_slice(rest.get(..take).unwrap_or_default());
        *at += take;
        self.head.len() >= len
    }
}

fn skip(bytes: &[u8], at: &mut usize, left: u64) -> u64 {
    let here = bytes.len() - *at;
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    *at += take;
    left - take as u64
}
