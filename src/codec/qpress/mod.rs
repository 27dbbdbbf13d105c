//! qpress archives of one file, as backup programs write them (`format-spec/codecs.md`).

mod file;
pub mod quicklz;
mod split;

pub use file::QpressEncoder;
pub use split::QpressDecoder;

use crate::base::spec::{Field, Layout};

/// Suffix of compressed members.
pub const SUFFIX: &str = ".qp";
/// First bytes of a file.
const MAGIC: &[u8; 8] = b"qpress10";
/// First bytes of a block.
const BLOCK_MAGIC: &[u8; 8] = b"NEWBNEWB";
/// First bytes of the trailer.
const END_MAGIC: &[u8; 8] = b"ENDSENDS";
/// Mark of a file inside the archive.
const FILE_MARK: u8 = b'F';

const fn field(offset: usize, size: usize, name: &'static str, kind: &'static str) -> Field {
    Field {
        offset,
        size,
        name,
        kind,
    }
}

/// Before the name (`r[codec.qp.head]`).
pub const HEAD: Layout = Layout {
    name: "qpress head",
    fields: &[
        field(0, 8, "magic", "bytes"),
        field(8, 8, "block_size", "u64le"),
        field(16, 1, "mark", "u8"),
        field(17, 4, "name_len", "u32le"),
    ],
};

/// Before the packet of a block (`r[codec.qp.block]`).
pub const BLOCK_HEAD: Layout = Layout {
    name: "qpress block head",
    fields: &[
        field(0, 8, "magic", "bytes"),
        field(8, 8, "position", "u64le"),
        field(16, 4, "adler32", "u32le"),
    ],
};

/// Behind the last block (`r[codec.qp.end]`).
pub const TRAILER: Layout = Layout {
    name: "qpress trailer",
    fields: &[field(0, 8, "magic", "bytes"), field(8, 8, "zero", "u64le")],
};

/// Longest name in a file's head: more than any path. `r[codec.qp.name]`
pub const NAME_LEN_MAX: u32 = 4096;

/// Largest plain block. Writers make 64 KiB unless told otherwise (`--compress-chunk-size`). `r[codec.qp.block-size]`
pub const BLOCK_LEN_MAX: u64 = 64 << 20;
