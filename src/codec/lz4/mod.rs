//! LZ4 frames (`format-spec/codecs.md`): our own framing around a crate for blocks, because frames of old backup programs
//! break rules that other readers insist on, and because every checksum is to be verified.

mod decode;
mod encode;
mod split;

pub use decode::Lz4Decoder;
pub use encode::Lz4Encoder;

use twox_hash::XxHash32;

use super::CodecError;

/// Suffix of compressed members.
pub const SUFFIX: &str = ".lz4";
/// First four bytes of a frame.
const MAGIC: u32 = 0x184d_2204;
/// First four bytes of a frame of the format before 1.0, which has neither lengths nor checksums.
const LEGACY_MAGIC: u32 = 0x184c_2102;
/// Skippable frames begin with this, but for the low four bits.
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;
/// How far back a block may refer, in bytes. `r[codec.lz4.linked]`
const WINDOW_LEN: usize = 64 << 10;
/// Bit of a block's length word that says that the block is stored.
const STORED: u32 = 1 << 31;

/// Plain bytes of a block whose frame says at most 1 MiB: old backup programs chose that class for blocks up to this length
/// (1204 written for 1024). `r[codec.lz4.defect.class]`
pub const BLOCK_LEN_OLD_MAX: usize = 1204 << 10;

/// Most content of a frame that is one unit though its blocks are independent of each other; those of a longer one are units.
/// `r[codec.lz4.units]`
const WHOLE_LEN_MAX: u64 = 1 << 20;

/// Most bytes of a frame header: magic, flags, block class, content size, dictionary id, checksum.
const HEAD_LEN_MAX: usize = 4 + 2 + 8 + 4 + 1;

/// Least bytes of a frame header: magic, flags, block class, checksum.
const HEAD_LEN_MIN: usize = 4 + 2 + 1;

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Bytes of the header itself.
    len: usize,
    /// Blocks may refer to the one before.
    linked: bool,
    block_checksum: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    /// Most plain bytes of a block, tolerance included.
    block_len_max: usize,
}

/// A header, or how many bytes it needs at least.
enum HeadFound {
    Whole(Head),
    Needs(usize),
}

impl Head {
    /// Reads a frame header that begins with the right magic number.
    fn parse(bytes: &[u8]) -> Result<HeadFound, CodecError> {
        let (Some(flags), Some(class)) = (bytes.get(4), bytes.get(5)) else {
            return Ok(HeadFound::Needs(HEAD_LEN_MIN));
        };
        let bad = |what| CodecError::damage(format!("lz4: {what} in a frame header"));
        if flags >> 6 != 1 {
            return Err(bad("unknown version").at(4));
        }
        if flags & 0x02 != 0 || class & 0x8f != 0 {
            return Err(bad("reserved bit set").at(4));
        }
        // r[codec.lz4.defect.class]
        let block_len_max = match class >> 4 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => BLOCK_LEN_OLD_MAX,
            7 => 4 << 20,
            _ => return Err(bad("unknown block size").at(5)),
        };
        let sized = flags & 0x08 != 0;
        let dictionary = flags & 0x01 != 0;
        let len = HEAD_LEN_MIN + 8 * usize::from(sized) + 4 * usize::from(dictionary);
        let Some(head) = bytes.get(..len) else {
            return Ok(HeadFound::Needs(len));
        };
        let (descriptor, checksum) = head.split_at(len - 1);
        let descriptor = descriptor.get(4..).unwrap_or_default();
        // r[codec.lz4.checksums]
        let [_, expected, ..] = XxHash32::oneshot(0, descriptor).to_le_bytes();
        if checksum != [expected] {
            return Err(bad("wrong checksum").at(len as u64 - 1));
        }
        // r[codec.lz4.dictionary]
        if dictionary {
            return Err(
                CodecError::refused("lz4: the file was compressed with a dictionary")
                    .hint("decompress it with lz4 -D and the dictionary"),
            );
        }
        Ok(HeadFound::Whole(Self {
            len,
            linked: flags & 0x20 == 0,
            block_checksum: flags & 0x10 != 0,
            content_checksum: flags & 0x04 != 0,
            content_size: sized.then(|| le(descriptor.get(2..10).unwrap_or_default())),
            block_len_max,
        }))
    }

    /// `r[codec.lz4.block]`: takes a block's length word apart: its bytes in the file, and whether it is stored.
    fn block(&self, word: u32) -> Result<(usize, bool), CodecError> {
        let (len, stored) = ((word & !STORED) as usize, word & STORED != 0);
        // r[codec.lz4.defect.growth]: a block that did not get shorter may be marked as compressed.
        let max = if stored {
            self.block_len_max
        } else {
            lz4_flex::block::get_maximum_output_size(self.block_len_max)
        };
        if len > max {
            return Err(CodecError::damage(format!(
                "lz4: a block of {len} bytes, the frame says at most {max}"
            )));
        }
        Ok((len, stored))
    }

    /// Whether each block is a unit of its own, rather than the frame. `r[codec.lz4.units]`
    fn has_block_units(&self) -> bool {
        !self.linked && self.content_size.is_none_or(|n| n > WHOLE_LEN_MAX)
    }

    /// Bytes of checksum behind the end mark.
    fn tail_len(&self) -> usize {
        4 * usize::from(self.content_checksum)
    }

    /// Bytes of checksum behind each block.
    fn block_tail_len(&self) -> usize {
        4 * usize::from(self.block_checksum)
    }

    /// Bytes of memory that decoding in parts takes: a block, and its content behind a window.
    fn stream_memory(&self) -> u64 {
        let encoded = lz4_flex::block::get_maximum_output_size(self.block_len_max);
        (encoded + self.block_len_max + WINDOW_LEN) as u64
    }
}

/// A little-endian number of at most 8 bytes.
fn le(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The little-endian number in the first four bytes.
fn word(bytes: &[u8]) -> u32 {
    match bytes {
        [a, b, c, d, ..] => u32::from_le_bytes([*a, *b, *c, *d]),
        _ => 0,
    }
}
