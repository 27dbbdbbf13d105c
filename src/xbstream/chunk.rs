//! The chunk: its layouts, and its head as found.

use std::fmt;
use std::sync::Arc;

use crate::base::spec::{Enum, Field, Layout, Tables};
use crate::xbstream::error::{DecodeError, ErrorKind};
use crate::xbstream::limits::{HEAD_LEN, LIMITS};
use crate::xbstream::path::{ArchivePath, RemovePattern};

/// The first eight bytes of every chunk. `r[xbstream.chunk.magic]`
pub const MAGIC: [u8; 8] = *b"XBSTCK01";

/// Flag bit: a reader that does not know the type may skip the chunk. `r[xbstream.chunk.ignorable]`
pub const FLAG_IGNORABLE: u8 = 0x01;

/// Whole flags byte on the payload chunk that opens a file: replace a file of that name.
/// `r[xbstream.file.rewrite]`
pub const FLAG_REWRITE: u8 = 0x02;

/// One field type of a layout.
trait Wire: Sized {
    const SIZE: usize;
    const WORD: &'static str;
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])>;
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! wire {
    ($type:ty, $word:literal, $from:path, $to:path) => {
        impl Wire for $type {
            const SIZE: usize = size_of::<Self>();
            const WORD: &'static str = $word;
            fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
                let (field, rest) = bytes.split_first_chunk()?;
                Some(($from(*field), rest))
            }
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&$to(*self));
            }
        }
    };
}
wire!(u8, "u8", u8::from_le_bytes, u8::to_le_bytes);
wire!(u32, "u32le", u32::from_le_bytes, u32::to_le_bytes);
wire!(u64, "u64le", u64::from_le_bytes, u64::to_le_bytes);
wire!(
    [u8; 8],
    "bytes",
    std::convert::identity,
    std::convert::identity
);

/// Fields with their offsets, from names, sizes and type words in order.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which refuses to go out of bounds"
)]
const fn fields<const N: usize>(list: [(&'static str, usize, &'static str); N]) -> [Field; N] {
    let mut out = [Field {
        offset: 0,
        size: 0,
        name: "",
        kind: "",
    }; N];
    let (mut i, mut offset) = (0, 0);
    while i < N {
        let (name, size, kind) = list[i];
        out[i] = Field {
            offset,
            size,
            name,
            kind,
        };
        offset += size;
        i += 1;
    }
    out
}

/// A fixed layout: the structure, how it is read and written, and its table for the specification,
/// from one list.
macro_rules! layout {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        impl $name {
            pub(super) const LEN: usize = Self::LAYOUT.size();
            const LAYOUT: Layout = Layout {
                name: stringify!($name),
                fields: &fields([$((stringify!($field), <$type>::SIZE, <$type>::WORD),)*]),
            };

            /// Reads from the start of `bytes`; `None` if they are too few.
            pub(super) fn read(bytes: &[u8]) -> Option<Self> {
                $(let ($field, bytes) = <$type as Wire>::read(bytes)?;)*
                let _rest = bytes;
                Some(Self { $($field),* })
            }

            pub(super) fn write(&self, out: &mut Vec<u8>) {
                $(Wire::write(&self.$field, out);)*
            }
        }
    };
}

layout! {
    /// What every chunk begins with; the path follows. `r[xbstream.chunk.prefix]`
    Prefix {
        magic: [u8; 8],
        flags: u8,
        letter: u8,
        path_len: u32,
    }
}

layout! {
    /// After the path of a payload chunk; the payload follows. `r[xbstream.payload.layout]`
    PayloadFields {
        payload_len: u64,
        file_offset: u64,
        crc: u32,
    }
}

layout! {
    /// After the path of a sparse chunk; the map and the payload follow.
    /// `r[xbstream.sparse.layout]`
    SparseFields {
        entries: u32,
        payload_len: u64,
        file_offset: u64,
        crc: u32,
    }
}

layout! {
    /// One entry of a sparse map. `r[xbstream.sparse.entry]`
    SparseMapEntry {
        skip: u32,
        len: u32,
    }
}

layout! {
    /// After the path of a seek chunk. `r[xbstream.seek.layout]`
    SeekFields {
        file_offset: u64,
    }
}

layout! {
    /// After the path of a rename chunk; the new path follows. `r[xbstream.rename.layout]`
    RenameFields {
        new_path_len: u32,
    }
}

const _: () = assert!(Prefix::LEN == HEAD_LEN);
const _: () = assert!(PayloadFields::LEN == 20);
const _: () = assert!(SparseFields::LEN == 24);
const _: () = assert!(SparseMapEntry::LEN == 8);

/// What `format-spec/xbstream.md` states in tables.
pub const SPEC: Tables = Tables {
    document: "xbstream.md",
    layouts: &[
        Prefix::LAYOUT,
        PayloadFields::LAYOUT,
        SparseFields::LAYOUT,
        SparseMapEntry::LAYOUT,
        SeekFields::LAYOUT,
        RenameFields::LAYOUT,
    ],
    enums: &[
        Enum {
            name: "ChunkLetter",
            values: &[
                (b'P' as u64, "payload"),
                (b'E' as u64, "end"),
                (b'S' as u64, "sparse-or-seek"),
                (b'R' as u64, "rename"),
                (b'D' as u64, "remove"),
            ],
        },
        Enum {
            name: "ChunkFlags",
            values: &[
                (FLAG_IGNORABLE as u64, "ignorable"),
                (FLAG_REWRITE as u64, "rewrite"),
            ],
        },
    ],
    limits: LIMITS,
};

/// The kind of a chunk, the two meanings of `S` told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// `P`
    Payload,
    /// `E`
    End,
    /// `S` of Percona XtraBackup: payload with holes.
    Sparse,
    /// `S` of MariaDB: set the file position.
    Seek,
    /// `S` that was not read far enough to tell.
    SparseOrSeek,
    /// `R`
    Rename,
    /// `D`
    Remove,
    /// Any other letter.
    Unknown(u8),
}

impl ChunkKind {
    pub(super) const fn of_letter(letter: u8) -> Self {
        match letter {
            b'P' => Self::Payload,
            b'E' => Self::End,
            b'S' => Self::SparseOrSeek,
            b'R' => Self::Rename,
            b'D' => Self::Remove,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for ChunkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Payload => "payload",
            Self::End => "end",
            Self::Sparse => "sparse",
            Self::Seek => "seek",
            Self::SparseOrSeek => "sparse or seek",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Unknown(_) => "unknown",
        })
    }
}

/// One entry of a sparse map: leave `skip` bytes out, then `len` bytes of payload follow. Either
/// may be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SparseEntry {
    /// Length of the hole, in bytes.
    pub skip: u32,
    /// Length of the data after it, in bytes.
    pub len: u32,
}

/// The map of a sparse chunk, kept as found. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SparseMap(Arc<[u8]>);

impl SparseMap {
    /// A map of these entries.
    #[must_use]
    pub fn new(entries: &[SparseEntry]) -> Self {
        let mut raw = Vec::with_capacity(entries.len().saturating_mul(SparseMapEntry::LEN));
        for &SparseEntry { skip, len } in entries {
            SparseMapEntry { skip, len }.write(&mut raw);
        }
        Self(raw.into())
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() / SparseMapEntry::LEN
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Entry `index`, `None` past the last.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<SparseEntry> {
        let start = index.checked_mul(SparseMapEntry::LEN)?;
        SparseMapEntry::read(self.0.get(start..)?)
            .map(|SparseMapEntry { skip, len }| SparseEntry { skip, len })
    }

    /// A map of bytes as found; their number is a multiple of 8.
    pub(super) fn of_bytes(raw: &[u8]) -> Self {
        Self(raw.into())
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = SparseEntry> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// The bytes as found, 8 per entry.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Sum of the holes and sum of the data, in bytes. Cannot overflow: 2^20 entries of less than
    /// 2^32 each.
    #[must_use]
    pub fn sums(&self) -> (u64, u64) {
        self.iter().fold((0, 0), |(skip, len), entry| {
            (
                u64::saturating_add(skip, entry.skip.into()),
                u64::saturating_add(len, entry.len.into()),
            )
        })
    }
}

/// What a chunk says after its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Payload for one place of the file.
    Payload {
        /// Bytes of payload.
        len: u64,
        /// File position of its first byte.
        offset: u64,
        /// CRC-32 of the payload.
        crc: u32,
    },
    /// Payload with holes between.
    Sparse {
        /// Holes and runs; the runs add up to `len`.
        map: SparseMap,
        /// Bytes of payload, holes not counted.
        len: u64,
        /// File position before the first hole.
        offset: u64,
        /// CRC-32 of the map's bytes, then the payload.
        crc: u32,
    },
    /// The next payload belongs at this file position.
    Seek {
        /// File position, in bytes.
        offset: u64,
    },
    /// The file is complete.
    End,
    /// The file has a new name from here on.
    Rename {
        /// The new name.
        to: ArchivePath,
    },
    /// Files are gone from here on.
    Remove {
        /// Which.
        pattern: RemovePattern,
    },
    /// A chunk of unknown type that its writer marked as ignorable; read like a payload chunk and
    /// passed over. No data and no chunk end follows. Only with
    /// [`Options::skip_ignorable`](crate::xbstream::Options::skip_ignorable).
    Ignored {
        /// Bytes passed over.
        len: u64,
        /// As found.
        offset: u64,
        /// As found; checked.
        crc: u32,
    },
}

/// Head of a chunk, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkHead {
    /// Bytes from the start of the archive to the magic.
    pub position: u64,
    /// Flags byte, unknown bits included.
    pub flags: u8,
    /// Type byte.
    pub letter: u8,
    /// The path field. For a remove chunk the pattern, star included.
    pub path: ArchivePath,
    /// The rest.
    pub body: Body,
}

/// What the checksum of a chunk is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadCrc {
    /// CRC-32 that the chunk states.
    pub expected: u32,
    /// CRC-32 of what comes before the payload: of the sparse map, else 0. A CRC over the payload
    /// continues from here (`crc32fast::Hasher::new_with_initial`). `r[xbstream.sparse.crc]`
    pub initial: u32,
}

impl ChunkHead {
    /// The kind of the chunk.
    #[must_use]
    pub fn kind(&self) -> ChunkKind {
        match self.body {
            Body::Payload { .. } => ChunkKind::Payload,
            Body::Sparse { .. } => ChunkKind::Sparse,
            Body::Seek { .. } => ChunkKind::Seek,
            Body::End => ChunkKind::End,
            Body::Rename { .. } => ChunkKind::Rename,
            Body::Remove { .. } => ChunkKind::Remove,
            Body::Ignored { .. } => ChunkKind::Unknown(self.letter),
        }
    }

    /// Bytes of payload that follow the head; 0 for chunks that carry none.
    #[must_use]
    pub fn payload_len(&self) -> u64 {
        match self.body {
            Body::Payload { len, .. } | Body::Sparse { len, .. } | Body::Ignored { len, .. } => len,
            Body::Seek { .. } | Body::End | Body::Rename { .. } | Body::Remove { .. } => 0,
        }
    }

    /// What to check the payload with; `None` for chunks without checksum.
    #[must_use]
    pub fn payload_crc(&self) -> Option<PayloadCrc> {
        match &self.body {
            Body::Payload { crc, .. } | Body::Ignored { crc, .. } => Some(PayloadCrc {
                expected: *crc,
                initial: 0,
            }),
            Body::Sparse { crc, map, .. } => Some(PayloadCrc {
                expected: *crc,
                initial: crc32fast::hash(map.as_bytes()),
            }),
            Body::Seek { .. } | Body::End | Body::Rename { .. } | Body::Remove { .. } => None,
        }
    }

    /// Compares the CRC-32 found (of the map, if any, then the payload) with the one stated; for
    /// callers that compute it themselves
    /// ([`CrcCheck::Caller`](crate::xbstream::CrcCheck::Caller)). `r[xbstream.payload.crc]`
    pub fn check_crc(&self, found: u32) -> Result<(), DecodeError> {
        match self.payload_crc() {
            Some(PayloadCrc { expected, .. }) if expected != found => Err(self.error(
                ErrorKind::BadChecksum { expected, found },
                self.crc_position(),
            )),
            _ => Ok(()),
        }
    }

    /// An error about this chunk, `position` bytes into the archive.
    #[must_use]
    pub fn error(&self, kind: ErrorKind, position: u64) -> DecodeError {
        DecodeError::new(kind, position)
            .chunk(Some(self.kind()))
            .path(Some(self.path.clone()))
    }

    /// Bytes from the start of the archive to the file offset field, or to the chunk if it has
    /// none.
    #[must_use]
    pub fn offset_position(&self) -> u64 {
        let into_body = match self.body {
            Body::Payload { .. } | Body::Ignored { .. } => 8,
            Body::Sparse { .. } => 12,
            Body::Seek { .. } => 0,
            Body::End | Body::Rename { .. } | Body::Remove { .. } => return self.position,
        };
        self.body_position().saturating_add(into_body)
    }

    fn crc_position(&self) -> u64 {
        let into_body = if matches!(self.body, Body::Sparse { .. }) {
            20
        } else {
            16
        };
        self.body_position().saturating_add(into_body)
    }

    fn body_position(&self) -> u64 {
        self.position
            .saturating_add(HEAD_LEN as u64)
            .saturating_add(self.path.as_bytes().len() as u64)
    }
}
