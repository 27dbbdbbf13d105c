//! Per-file transforms: compression here, encryption in rooms of its own. Buffers in, buffers out, no I/O.
//!
//! Encoding cuts a file into **pieces** that are encoded independently of each other, in parallel. Decoding finds **units**
//! in a stream of bytes cut anywhere, without decoding them; whole units are decoded in parallel, and one that is too large
//! to gather is decoded as a stream, by one thread and in a stated amount of memory. What must be seen in order, such as a
//! checksum over many units, is told beside them.

pub mod content;
pub mod error;
pub mod lz4;
pub mod qpress;
pub mod whole;
pub mod zstd;

use std::fmt;
use std::sync::Arc;

pub use content::{Content, ContentEnd};
pub use error::{CodecError, Fault};

use crate::base::spec::{Limit, Tables};

/// Most transforms that one file passes through: it may be compressed twice, and then encrypted. `r[codec.suffix]`
pub const CHAIN_MAX: usize = 3;

const fn limit(name: &'static str, value: u64) -> Limit {
    let unit = "bytes";
    Limit { name, value, unit }
}

/// Everything that `format-spec/codecs.md` shares with the code.
pub const TABLES: Tables = Tables {
    document: "codecs.md",
    layouts: &[qpress::HEAD, qpress::BLOCK_HEAD, qpress::TRAILER],
    enums: &[],
    limits: &[
        Limit {
            name: "CHAIN_MAX",
            value: CHAIN_MAX as u64,
            unit: "suffixes",
        },
        limit("ZSTD_WINDOW_LEN_MAX", zstd::WINDOW_LEN_MAX),
        limit("FRAME_LEN_MIN", FRAME_LEN_MIN as u64),
        limit("FRAME_LEN_MAX", FRAME_LEN_MAX as u64),
        limit("LZ4_BLOCK_LEN_OLD_MAX", lz4::BLOCK_LEN_OLD_MAX as u64),
        limit("QPRESS_NAME_LEN_MAX", qpress::NAME_LEN_MAX as u64),
        limit("QPRESS_BLOCK_LEN_MAX", qpress::BLOCK_LEN_MAX),
    ],
};

/// Least length of a frame that `--compress-frame-size` may ask for: shorter ones compress badly.
pub const FRAME_LEN_MIN: usize = 64 << 10;

/// Greatest length of a frame: each thread holds several of them.
pub const FRAME_LEN_MAX: usize = 8 << 20;

/// Buffers that one codec thread keeps between jobs.
#[derive(Default)]
pub struct Contexts {
    pub(crate) zstd: zstd::Contexts,
    pub(crate) lz4: Option<lz4_flex::block::CompressTable>,
}

/// How an encoder wants its plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pieces {
    /// Most plain bytes of a piece, not zero.
    pub len: usize,
    /// Every piece but the last has exactly that length, and the last one is known as such. Costs a copy of the plain bytes;
    /// otherwise pieces are as the bytes come.
    pub exact: bool,
}

/// Where a piece belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the piece in its file, from 0.
    pub index: u64,
    /// Offset of its first byte in the plain file.
    pub position: u64,
    /// Nothing follows. Only known of exact pieces and of the one empty piece of an empty file.
    pub last: bool,
}

/// A format that files are encoded in. One for a run.
pub trait Encoder: Send + Sync + fmt::Debug {
    /// What is added to names, with the dot.
    fn suffix(&self) -> &'static str;

    /// How it wants its plain bytes.
    fn pieces(&self) -> Pieces;

    /// Most encoded bytes of a piece of `plain_len` bytes.
    fn bound(&self, plain_len: usize) -> usize;

    /// Whether it keeps a secret, rather than make files smaller.
    fn encrypts(&self) -> bool {
        false
    }

    /// Whether the encoded form of a piece depends on nothing but its bytes.
    fn repeats(&self) -> bool {
        false
    }

    /// Bytes that [`Contexts`] of one codec thread hold for this encoder.
    fn thread_memory(&self) -> usize {
        0
    }

    /// Begins a file whose plain name is `name` (a path, `/` between its parts).
    fn begin(&self, name: &[u8]) -> Result<Arc<dyn FileEncoder>, CodecError>;
}

/// Encoders that files pass through in this order: compression, then encryption.
pub type Encoders = Vec<Arc<dyn Encoder>>;

/// One file being encoded. Its pieces may be encoded in any order and at the same time. A file of no bytes has one empty piece.
pub trait FileEncoder: Send + Sync {
    /// What comes before the first piece.
    fn header(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Encodes `plain` into `encoded`, which is at least [`Encoder::bound`] bytes long; returns the encoded length.
    fn piece(
        &self,
        piece: Piece,
        plain: &[u8],
        encoded: &mut [u8],
        contexts: &mut Contexts,
    ) -> Result<usize, CodecError>;

    /// What comes behind the last piece of a file of `plain_len` bytes.
    fn trailer(&self, _plain_len: u64) -> Vec<u8> {
        Vec::new()
    }
}

/// A format that files may be encoded in. One for a run.
pub trait Decoder: Send + Sync + fmt::Debug {
    /// Suffix of names that are decoded, with the dot.
    fn suffix(&self) -> &'static str;

    /// Begins a file whose name without the suffix is `name` (a path, `/` between its parts).
    fn begin(&self, name: &[u8]) -> Box<dyn Splitter>;
}

/// Decoders of a run; several (`r[codec.suffix]`) may apply to one file, and suffixes are taken off from the right.
pub type Decoders = Vec<Arc<dyn Decoder>>;

/// Follows the structure of one encoded file without decoding it.
pub trait Splitter: Send {
    /// Looks at the next bytes of the file, at least one, and says where the current unit ends. Bytes behind that end are
    /// not looked at: they are given again. After an error it is not called again. Offsets of errors count from the first
    /// byte that no unit has taken and that was not skipped.
    fn feed(&mut self, bytes: &[u8]) -> Result<Split, CodecError>;

    /// The unit that [`Split::More`] belongs to, once its head was seen.
    fn under_way(&self) -> Option<Unit>;

    /// The file ends here. A unit is returned by formats whose units end where the file ends. An end inside a unit, or
    /// before something that must come, is [`Fault::Cut`] (`r[codec.cut]`).
    fn finish(&mut self) -> Result<Option<Unit>, CodecError>;
}

/// What [`Splitter::feed`] found.
#[derive(Debug)]
pub enum Split {
    /// All bytes belong to a unit that goes on.
    More,
    /// The unit ends behind this many of the bytes, possibly none: it ended where the last ones did.
    Unit(usize, Unit),
    /// This many bytes, more than zero, carry no content, together with all before them that no unit has taken: a header, a
    /// trailer, padding. Long runs are skipped as they come, not collected.
    Skip(usize),
    /// The same, and what the units behind them decode to is counted, in its order, until [`Split::End`].
    Begin(usize, Content),
    /// The same, and what was counted must be this. An offset of its error counts from the first byte that it takes.
    End(usize, ContentEnd),
}

/// An independently decodable part of a file (`r[codec.unit]`).
pub struct Unit {
    /// Its length in the encoded file, if its head tells.
    pub encoded_len: Option<u64>,
    /// Its length in the plain file, if its head tells. What decodes to something else is damaged.
    pub plain_len: Option<u64>,
    /// If not, what it is at most: of a unit that is whole, or as far as it was seen. What decodes to more is damaged.
    pub plain_bound: Option<u64>,
    /// Bytes of memory that [`UnitDecoder::stream`] takes. No limit is applied yet.
    pub stream_memory: u64,
    /// How it is decoded.
    pub decoder: Box<dyn UnitDecoder>,
}

impl Unit {
    /// Most bytes that it decodes to, if that is known.
    #[must_use]
    pub fn plain_max(&self) -> Option<u64> {
        self.plain_len.or(self.plain_bound)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unit")
            .field("encoded_len", &self.encoded_len)
            .field("plain_len", &self.plain_len)
            .field("plain_bound", &self.plain_bound)
            .field("stream_memory", &self.stream_memory)
            .finish_non_exhaustive()
    }
}

/// Decodes one unit, either way.
pub trait UnitDecoder: Send {
    /// Decodes the whole unit into `plain`, which is at least [`Unit::plain_max`] bytes long; returns the plain length.
    /// Called only when that is known.
    fn decode(
        &self,
        encoded: &[u8],
        plain: &mut [u8],
        contexts: &mut Contexts,
    ) -> Result<usize, CodecError>;

    /// A decoder that is given the unit in parts, from its first byte on.
    fn stream(&self) -> Result<Box<dyn StreamDecoder>, CodecError>;
}

/// Decodes one unit that comes in parts.
pub trait StreamDecoder: Send {
    /// Decodes from `input` into `output`, neither of them empty, until one of them is used up or the unit ends. It may be
    /// called again with an empty input while the output was filled.
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, CodecError>;
}

/// What one call of [`StreamDecoder::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
    /// The unit has ended, and everything of it was put out.
    pub ended: bool,
}

/// Every decompressor there is.
#[must_use]
pub fn decompressors() -> Decoders {
    vec![
        Arc::new(zstd::ZstdDecoder),
        Arc::new(lz4::Lz4Decoder),
        Arc::new(qpress::QpressDecoder),
    ]
}
