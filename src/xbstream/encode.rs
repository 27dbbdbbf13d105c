//! Encoders: each appends one chunk, or the head of one whose payload the caller writes after it.
//!
//! What xbpipe itself writes is [`payload_head`] and [`end`], flags 0: readable by every version of
//! every vendor, `r[xbstream.writer.dialect]`. The others serve tests and compatibility front ends.
//!
//! Lengths are the caller's: a head whose `len` differs from the payload written after it is a
//! broken archive.

use crate::xbstream::chunk::{
    FLAG_REWRITE, MAGIC, PayloadFields, Prefix, RenameFields, SeekFields, SparseFields, SparseMap,
};
use crate::xbstream::limits::HEAD_LEN;
use crate::xbstream::path::{ArchivePath, RemovePattern};

/// Length of the head of a payload chunk, in bytes.
#[must_use]
pub fn payload_head_len(path: &ArchivePath) -> usize {
    end_len(path).saturating_add(PayloadFields::LEN)
}

/// Length of an end chunk, in bytes.
#[must_use]
pub fn end_len(path: &ArchivePath) -> usize {
    HEAD_LEN.saturating_add(path.as_bytes().len())
}

/// Appends the head of a payload chunk: `len` bytes of payload for file position `offset`, whose
/// CRC-32 is `crc`, must follow.
pub fn payload_head(out: &mut Vec<u8>, path: &ArchivePath, offset: u64, crc: u32, len: u64) {
    payload_head_with_flags(out, 0, path, offset, crc, len);
}

/// Like [`payload_head`], for the chunk that begins a file in the place of an earlier one.
/// `r[xbstream.file.rewrite]`
pub fn rewrite_head(out: &mut Vec<u8>, path: &ArchivePath, offset: u64, crc: u32, len: u64) {
    payload_head_with_flags(out, FLAG_REWRITE, path, offset, crc, len);
}

/// Appends an end chunk.
pub fn end(out: &mut Vec<u8>, path: &ArchivePath) {
    prefix(out, 0, b'E', path.as_bytes());
}

/// Appends the head of a Percona sparse chunk, map included. `crc` covers the map, then the
/// payload, see [`sparse_crc`]; `len` is the sum of the map's runs.
pub fn sparse_head(
    out: &mut Vec<u8>,
    path: &ArchivePath,
    offset: u64,
    crc: u32,
    map: &SparseMap,
    len: u64,
) {
    prefix(out, 0, b'S', path.as_bytes());
    SparseFields {
        entries: u32_len(map.len()),
        payload_len: len,
        file_offset: offset,
        crc,
    }
    .write(out);
    out.extend_from_slice(map.as_bytes());
}

/// The CRC-32 of a sparse chunk. `r[xbstream.sparse.crc]`
#[must_use]
pub fn sparse_crc(map: &SparseMap, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(map.as_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// Appends a MariaDB seek chunk.
pub fn seek(out: &mut Vec<u8>, path: &ArchivePath, offset: u64) {
    prefix(out, 0, b'S', path.as_bytes());
    SeekFields {
        file_offset: offset,
    }
    .write(out);
}

/// Appends a MariaDB rename chunk.
pub fn rename(out: &mut Vec<u8>, path: &ArchivePath, to: &ArchivePath) {
    prefix(out, 0, b'R', path.as_bytes());
    RenameFields {
        new_path_len: u32_len(to.as_bytes().len()),
    }
    .write(out);
    out.extend_from_slice(to.as_bytes());
}

/// Appends a MariaDB remove chunk.
pub fn remove(out: &mut Vec<u8>, pattern: &RemovePattern) {
    prefix(out, 0, b'D', &pattern.to_path_bytes());
}

/// Whether `mbstream -x` of MariaDB 10.11.18 and later extracts this member into an empty
/// directory: it refuses names that begin with `.`, and creates one missing directory level only.
/// `r[xbstream.writer.mbstream]`
#[must_use]
pub fn readable_by_mbstream(path: &ArchivePath) -> bool {
    !path.as_bytes().starts_with(b".") && path.components().count() <= 2
}

fn payload_head_with_flags(
    out: &mut Vec<u8>,
    flags: u8,
    path: &ArchivePath,
    offset: u64,
    crc: u32,
    len: u64,
) {
    prefix(out, flags, b'P', path.as_bytes());
    PayloadFields {
        payload_len: len,
        file_offset: offset,
        crc,
    }
    .write(out);
}

fn prefix(out: &mut Vec<u8>, flags: u8, letter: u8, path: &[u8]) {
    Prefix {
        magic: MAGIC,
        flags,
        letter,
        path_len: u32_len(path.len()),
    }
    .write(out);
    out.extend_from_slice(path);
}

fn u32_len(len: usize) -> u32 {
    u32::try_from(len).expect("paths and maps are limited to less than 2^32")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> ArchivePath {
        ArchivePath::new(bytes).unwrap()
    }

    #[test]
    fn lengths_are_those_of_the_bytes() {
        let mut out = Vec::new();
        payload_head(&mut out, &path(b"db/t"), 0, 0, 0);
        assert_eq!(out.len(), payload_head_len(&path(b"db/t")));
        out.clear();
        end(&mut out, &path(b"db/t"));
        assert_eq!(out.len(), end_len(&path(b"db/t")));
    }

    // r[xbstream.writer.mbstream]
    #[test]
    fn mbstream_takes_one_directory_level_and_no_leading_dot() {
        for good in [&b"t1"[..], b"db/t.frm", b"a../b", b"db/.x"] {
            assert!(readable_by_mbstream(&path(good)), "{good:?}");
        }
        for bad in [&b".hidden"[..], b".a/b", b"d/e/f"] {
            assert!(!readable_by_mbstream(&path(bad)), "{bad:?}");
        }
    }
}
