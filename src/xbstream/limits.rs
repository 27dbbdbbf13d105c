//! Every limit of the format and of this reader, with its unit and its reason.

use crate::base::spec::Limit;

/// Longest path, in bytes: `mbstream` and `xbstream` refuse 512 on reading. `r[xbstream.path.len]`
pub const PATH_LEN_MAX: usize = 511;

/// Bytes of the prefix that every chunk has before its path.
pub const HEAD_LEN: usize = 14;

/// Longest payload that a reader accepts, in bytes: what a signed 64-bit file offset can address.
/// It costs no memory, since payload is never collected. `r[xbstream.payload.len]`
pub const PAYLOAD_LEN_MAX: u64 = i64::MAX as u64;

/// Highest file position that a chunk may reach, in bytes. `r[xbstream.payload.offset]`
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// Payload of one chunk as every known writer cuts it by default, in bytes.
/// `r[xbstream.writer.chunk-len]`
pub const CHUNK_PAYLOAD_LEN_DEFAULT: usize = 10 << 20;

/// Most entries of a sparse map. A writer makes one entry per page-compressed page of its read
/// buffer: a buffer of 4 GiB and the smallest page that can have a hole (4 KiB) give this number.
/// The map is the only part of a chunk that must be held in memory (8 bytes per entry: 8 MiB).
/// `r[xbstream.sparse.entries]`
pub const SPARSE_MAP_ENTRIES_MAX: u32 = 1 << 20;

/// Most files that may be open (begun and not ended) at the same time. Writers hold one per copying
/// thread; the limit bounds the memory that a hostile archive can claim.
/// `r[xbstream.file.open-limit]`
pub const OPEN_FILES_MAX: usize = 1 << 16;

/// Longest payload chunk of the index member, in bytes. Its lines count only once the checksum of their chunk was right, so
/// a reader holds the chunk; our writer makes them little longer than 64 KiB. `r[xbstream.index.chunk-len]`
pub const INDEX_CHUNK_LEN_MAX: u64 = 1 << 20;

/// Longest end of an archive, from the table of the index on, that a reader holds which begins there, in bytes.
/// `r[xbstream.index.seek]`
pub const INDEX_TAIL_LEN_MAX: u64 = 4 << 20;

/// The table of `format-spec/xbstream.md`.
pub const LIMITS: &[Limit] = &[
    Limit {
        name: "PATH_LEN_MAX",
        value: PATH_LEN_MAX as u64,
        unit: "bytes",
    },
    Limit {
        name: "HEAD_LEN",
        value: HEAD_LEN as u64,
        unit: "bytes",
    },
    Limit {
        name: "PAYLOAD_LEN_MAX",
        value: PAYLOAD_LEN_MAX,
        unit: "bytes",
    },
    Limit {
        name: "FILE_LEN_MAX",
        value: FILE_LEN_MAX,
        unit: "bytes",
    },
    Limit {
        name: "CHUNK_PAYLOAD_LEN_DEFAULT",
        value: CHUNK_PAYLOAD_LEN_DEFAULT as u64,
        unit: "bytes",
    },
    Limit {
        name: "SPARSE_MAP_ENTRIES_MAX",
        value: SPARSE_MAP_ENTRIES_MAX as u64,
        unit: "entries",
    },
    Limit {
        name: "OPEN_FILES_MAX",
        value: OPEN_FILES_MAX as u64,
        unit: "files",
    },
    Limit {
        name: "INDEX_CHUNK_LEN_MAX",
        value: INDEX_CHUNK_LEN_MAX,
        unit: "bytes",
    },
    Limit {
        name: "INDEX_LINE_LEN_MAX",
        value: super::index::INDEX_LINE_LEN_MAX as u64,
        unit: "bytes",
    },
    Limit {
        name: "INDEX_PAIRS_MAX",
        value: super::index::INDEX_PAIRS_MAX as u64,
        unit: "pairs",
    },
    Limit {
        name: "INDEX_TAIL_LEN_MAX",
        value: INDEX_TAIL_LEN_MAX,
        unit: "bytes",
    },
];
