//! The archive format: xbstream (Percona XtraBackup) and mbstream (MariaDB), one chunk after
//! another.
//!
//! Pure: bytes are pushed in, events come out; nothing here opens, reads or writes a file. The
//! normative text is `format-spec/xbstream.md`; rule ids in comments (`r[xbstream...]`) point
//! there.
//!
//! Invariants:
//! - every integer of the format is little-endian, every position in an event or error counts bytes
//!   from the first byte of the archive;
//! - a length found in the input is compared with a named limit ([`limits`]) before it is used, and
//!   never allocated in advance;
//! - payload is passed on as slices of the buffers that were pushed in; only heads are copied, so
//!   no event and no state of the decoder keeps an input buffer alive except the payload slices
//!   themselves and the unread rest.
//!
//! [`Decoder`] knows bytes, [`Tracker`] knows files: a complete reader feeds the heads of the one
//! to the other.

#![deny(clippy::big_endian_bytes, clippy::host_endian_bytes)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod chunk;
mod decode;
pub mod encode;
mod error;
pub mod index;
pub mod limits;
mod parse;
mod path;
mod sniff;
mod tracker;

pub use chunk::{
    Body, ChunkHead, ChunkKind, FLAG_IGNORABLE, FLAG_REWRITE, MAGIC, PayloadCrc, SPEC, SparseEntry,
    SparseMap,
};
pub use decode::{CrcCheck, Decoder, Event, Options};
pub use error::{DecodeError, ErrorKind};
pub use path::{ArchivePath, PathError, RemovePattern};
pub use sniff::Foreign;
pub use tracker::{OpenFile, Step, Tracker};
