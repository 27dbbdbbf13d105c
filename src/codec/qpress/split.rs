//! Reads archives of one file (`r[codec.qp.reader]`). Positions of blocks are ignored (`r[codec.qp.position]`).

use super::super::whole::{BlockDecoder, WholeStream};
use super::super::{
    CodecError, Contexts, Decoder, Split, Splitter, StreamDecoder, Unit, UnitDecoder,
};
use super::quicklz;
use super::{
    BLOCK_HEAD, BLOCK_LEN_MAX, BLOCK_MAGIC, END_MAGIC, FILE_MARK, HEAD, MAGIC, NAME_LEN_MAX,
    SUFFIX, TRAILER,
};

/// Reads what any backup program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpressDecoder;

impl Decoder for QpressDecoder {
    fn suffix(&self) -> &'static str {
        SUFFIX
    }

    fn begin(&self, _name: &[u8]) -> Box<dyn Splitter> {
        Box::<QpressSplitter>::default()
    }
}

#[derive(Debug, Default)]
struct QpressSplitter {
    state: State,
    /// Bytes of a head that is not whole yet.
    head: Vec<u8>,
    /// Largest plain block, as the file says.
    block_len_max: u64,
    /// Bytes that no unit has taken and that were looked at.
    seen: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the head of the file.
    #[default]
    Head,
    /// At the head of a block, or at the trailer.
    Block,
    /// In a packet, this many bytes before its end.
    Packet(quicklz::Head, usize),
    /// Behind the trailer.
    End,
}

impl Splitter for QpressSplitter {
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError> {
        let mut at = 0;
        let before = self.seen;
        let split = match self.state {
            State::Head => self.file_head(bytes, &mut at)?,
            State::Block => self.block_head(bytes, &mut at)?,
            State::Packet(head, left) => self.packet(head, left, bytes, &mut at),
            State::End => return Err(behind_the_end(bytes)),
        };
        self.seen = match split {
            Split::More => before + at as u64,
            Split::Unit(..) | Split::Skip(_) | Split::Begin(..) | Split::End(..) => 0,
        };
        Ok(split)
    }

    fn under_way(&self) -> Option<Unit> {
        match self.state {
            State::Packet(head, _) => Some(unit(head)),
            _ => None,
        }
    }

    /// `r[codec.qp.end]`: a file without its trailer is cut, wherever it ends.
    fn finish(&mut self) -> Result<Option<Unit>, CodecError> {
        let what = match self.state {
            State::End => return Ok(None),
            State::Head => "the file ends inside the head of a qpress archive",
            State::Block if self.head.is_empty() => "the file ends without a qpress trailer",
            State::Block => "the file ends inside a qpress trailer or block head",
            State::Packet(..) => "the file ends inside a qpress block",
        };
        Err(CodecError::cut(what).at(self.seen))
    }
}

fn behind_the_end(bytes: &[u8]) -> CodecError {
    match bytes.first() {
        Some(b'F' | b'D' | b'U') => several(),
        _ => CodecError::damage("bytes behind the qpress trailer"),
    }
}

/// `r[codec.qp.one-file]`
fn several() -> CodecError {
    CodecError::refused("qpress: the archive holds directories or several files, backups have one")
        .hint("take it apart with the qpress program")
}

fn unit(head: quicklz::Head) -> Unit {
    let encoded_len = (BLOCK_HEAD.size() + head.encoded_len) as u64;
    Unit {
        encoded_len: Some(encoded_len),
        plain_len: Some(head.plain_len as u64),
        plain_bound: None,
        stream_memory: encoded_len + head.plain_len as u64,
        decoder: Box::new(Block(head)),
    }
}

impl QpressSplitter {
    /// Collects `len` bytes across pieces.
    fn gather(&mut self, bytes: &[u8], at: &mut usize, len: usize) -> bool {
        let rest = bytes.get(*at..).unwrap_or_default();
        let take = len.saturating_sub(self.head.len()).min(rest.len());
        self.head
            .extend_from_slice(rest.get(..take).unwrap_or_default());
        *at += take;
        self.head.len() >= len
    }

    fn number(&self, field: usize, layout: &crate::base::spec::Layout) -> u64 {
        let Some(field) = layout.fields.get(field) else {
            return 0;
        };
        let bytes = self.head.get(field.offset..field.offset + field.size);
        bytes
            .unwrap_or_default()
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn file_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<Split, CodecError> {
        if !self.gather(bytes, at, HEAD.size()) {
            return Ok(Split::More);
        }
        if !self.head.starts_with(MAGIC) {
            return Err(CodecError::damage("not a qpress archive"));
        }
        // r[codec.qp.one-file]
        match self.head.get(16) {
            Some(&FILE_MARK) => {}
            Some(b'D' | b'U') => return Err(several()),
            _ => return Err(CodecError::damage("qpress: unknown mark").at(16)),
        }
        self.block_len_max = self.number(1, &HEAD);
        // r[codec.qp.block-size]
        if !(1..=BLOCK_LEN_MAX).contains(&self.block_len_max) {
            let what = format!(
                "qpress: block size {}, the limit is {BLOCK_LEN_MAX}",
                self.block_len_max
            );
            return Err(CodecError::damage(what).at(8));
        }
        // r[codec.qp.name]
        let name_len = self.number(3, &HEAD);
        if name_len > u64::from(NAME_LEN_MAX) {
            let what = format!("qpress: a name of {name_len} bytes, the limit is {NAME_LEN_MAX}");
            return Err(CodecError::damage(what).at(17));
        }
        let len = HEAD.size() + usize::try_from(name_len).unwrap_or(usize::MAX) + 1;
        if !self.gather(bytes, at, len) {
            return Ok(Split::More);
        }
        if self.head.last() != Some(&0) {
            return Err(CodecError::damage("qpress: the name has no end").at(len as u64 - 1));
        }
        self.head.clear();
        self.state = State::Block;
        Ok(Split::Skip(*at))
    }

    fn block_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<Split, CodecError> {
        if !self.gather(bytes, at, BLOCK_MAGIC.len()) {
            return Ok(Split::More);
        }
        if self.head.starts_with(END_MAGIC) {
            if !self.gather(bytes, at, TRAILER.size()) {
                return Ok(Split::More);
            }
            if self.number(1, &TRAILER) != 0 {
                return Err(CodecError::damage("qpress: damaged trailer").at(8));
            }
            self.head.clear();
            self.state = State::End;
            return Ok(Split::Skip(*at));
        }
        if !self.head.starts_with(BLOCK_MAGIC) {
            return Err(CodecError::damage(
                "qpress: neither a block nor the trailer",
            ));
        }
        let head = loop {
            let packet = self.head.get(BLOCK_HEAD.size()..).unwrap_or_default();
            let base = BLOCK_HEAD.size() as u64;
            match quicklz::Head::parse(packet).map_err(|e| e.at(base))? {
                Some(head) => break head,
                None => {
                    let len = self.head.len().max(BLOCK_HEAD.size()) + 1;
                    if !self.gather(bytes, at, len) {
                        return Ok(Split::More);
                    }
                }
            }
        };
        if head.plain_len as u64 > self.block_len_max {
            let what = format!(
                "qpress: a block of {} bytes, the file says at most {}",
                head.plain_len, self.block_len_max
            );
            return Err(CodecError::damage(what).at(BLOCK_HEAD.size() as u64));
        }
        let left = (BLOCK_HEAD.size() + head.encoded_len).saturating_sub(self.head.len());
        self.head.clear();
        Ok(self.packet(head, left, bytes, at))
    }

    fn packet(&mut self, head: quicklz::Head, left: usize, bytes: &[u8], at: &mut usize) -> Split {
        let take = left.min(bytes.len() - *at);
        *at += take;
        if take < left {
            self.state = State::Packet(head, left - take);
            return Split::More;
        }
        self.state = State::Block;
        Split::Unit(*at, unit(head))
    }
}

/// A block: head and packet.
#[derive(Debug, Clone, Copy)]
struct Block(quicklz::Head);

impl BlockDecoder for Block {
    fn decode(&self, encoded: &[u8], plain: &mut [u8]) -> Result<usize, CodecError> {
        let cut = || CodecError::cut("the file ends inside a qpress block");
        let (head, packet) = encoded
            .split_at_checked(BLOCK_HEAD.size())
            .ok_or_else(cut)?;
        let expected = match head {
            [.., a, b, c, d] => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => 0,
        };
        // r[codec.qp.adler]
        if simd_adler32::adler32(&packet) != expected {
            return Err(CodecError::damage("qpress: block checksum does not fit"));
        }
        quicklz::decode(packet, plain)
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
        let encoded_len = BLOCK_HEAD.size() + self.0.encoded_len;
        Ok(Box::new(WholeStream::new(
            *self,
            encoded_len,
            self.0.plain_len,
        )))
    }
}
