//! What can be wrong with an archive, where, and in whose chunk.

use std::fmt;

use crate::base::error::{Error, Kind};
use crate::xbstream::chunk::ChunkKind;
use crate::xbstream::limits::{
    FILE_LEN_MAX, OPEN_FILES_MAX, PATH_LEN_MAX, PAYLOAD_LEN_MAX, SPARSE_MAP_ENTRIES_MAX,
};
use crate::xbstream::path::{ArchivePath, PathError};
use crate::xbstream::sniff::Foreign;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A chunk does not begin with the magic.
    BadMagic {
        /// What the bytes look like instead.
        looks_like: Foreign,
    },
    /// The type is none of the known letters.
    UnknownType(u8),
    /// A path length of more than 511 bytes.
    PathTooLong(u32),
    /// A path that must not be opened.
    BadPath(PathError),
    /// A payload length that no file can have.
    PayloadTooLong(u64),
    /// A file position that no file can have.
    OffsetTooLarge(u64),
    /// A sparse map with too many entries.
    MapTooLong(u32),
    /// The lengths in the sparse map do not add up to the payload length.
    MapMismatch {
        /// Sum of the lengths in the map, in bytes.
        map: u64,
        /// Payload length of the chunk, in bytes.
        payload: u64,
    },
    /// The payload does not have the checksum that its chunk states.
    BadChecksum {
        /// CRC-32 stated by the chunk.
        expected: u32,
        /// CRC-32 of the bytes found.
        found: u32,
    },
    /// The input ends inside a chunk.
    Truncated,
    /// A chunk does not continue its file where the last one ended.
    OutOfOrder {
        /// File position reached so far, in bytes.
        expected: u64,
        /// File position that the chunk claims, in bytes.
        found: u64,
    },
    /// A chunk for a file that was ended before.
    AfterEnd,
    /// A rename that touches a file that is still open.
    OpenRenamed,
    /// A remove that touches a file that is still open.
    OpenRemoved,
    /// More files are open at once than the limit allows.
    TooManyOpen,
    /// The archive ends although files are still open.
    LeftOpen {
        /// How many.
        files: usize,
    },
}

impl ErrorKind {
    /// The name that golden vectors and the specification use.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::BadMagic { .. } => "BadMagic",
            Self::UnknownType(_) => "UnknownType",
            Self::PathTooLong(_) => "PathTooLong",
            Self::BadPath(_) => "BadPath",
            Self::PayloadTooLong(_) => "PayloadTooLong",
            Self::OffsetTooLarge(_) => "OffsetTooLarge",
            Self::MapTooLong(_) => "MapTooLong",
            Self::MapMismatch { .. } => "MapMismatch",
            Self::BadChecksum { .. } => "BadChecksum",
            Self::Truncated => "Truncated",
            Self::OutOfOrder { .. } => "OutOfOrder",
            Self::AfterEnd => "AfterEnd",
            Self::OpenRenamed => "OpenRenamed",
            Self::OpenRemoved => "OpenRemoved",
            Self::TooManyOpen => "TooManyOpen",
            Self::LeftOpen { .. } => "LeftOpen",
        }
    }

    const fn is_incomplete(&self) -> bool {
        matches!(self, Self::Truncated | Self::LeftOpen { .. })
    }

    /// The words before the chunk's kind and path.
    fn what(&self) -> String {
        match self {
            Self::BadMagic { .. } => "wrong chunk magic".into(),
            Self::UnknownType(letter) => {
                format!(
                    "unknown chunk type '{}' (0x{letter:02x})",
                    letter.escape_ascii()
                )
            }
            Self::PathTooLong(_) => "path too long".into(),
            Self::BadPath(_) => "forbidden path".into(),
            Self::PayloadTooLong(_) => "payload too long".into(),
            Self::OffsetTooLarge(_) => "file position too large".into(),
            Self::MapTooLong(_) => "sparse map too long".into(),
            Self::MapMismatch { .. } => "sparse map does not fit its payload".into(),
            Self::BadChecksum { .. } => "invalid checksum".into(),
            Self::Truncated => "input ends".into(),
            Self::OutOfOrder { expected, found } if found > expected => {
                "out-of-order chunk (gap)".into()
            }
            Self::OutOfOrder { .. } => "out-of-order chunk (overlap)".into(),
            Self::AfterEnd => "chunk after the end of its file".into(),
            Self::OpenRenamed => "rename of an open file".into(),
            Self::OpenRemoved => "removal of an open file".into(),
            Self::TooManyOpen => "too many open files".into(),
            Self::LeftOpen { files: 1 } => "archive ends without an end of file".into(),
            Self::LeftOpen { files } => format!("archive ends without an end of {files} files"),
        }
    }

    /// The numbers, told after the position.
    fn detail(&self) -> Option<String> {
        Some(match self {
            Self::BadMagic { looks_like } => return looks_like.description(),
            Self::PathTooLong(len) => format!("{len} bytes, at most {PATH_LEN_MAX}"),
            Self::BadPath(why) => why.to_string(),
            Self::PayloadTooLong(len) => format!("{len} bytes, at most {PAYLOAD_LEN_MAX}"),
            Self::OffsetTooLarge(at) => format!("{at}, at most {FILE_LEN_MAX}"),
            Self::MapTooLong(n) => format!("{n} entries, at most {SPARSE_MAP_ENTRIES_MAX}"),
            Self::MapMismatch { map, payload } => {
                format!("map says {map} bytes, chunk says {payload}")
            }
            Self::BadChecksum { expected, found } => {
                format!("expected 0x{expected:08x}, found 0x{found:08x}")
            }
            Self::OutOfOrder { expected, found } => {
                format!("expected file offset {expected}, found {found}")
            }
            Self::TooManyOpen => format!("at most {OPEN_FILES_MAX}"),
            Self::UnknownType(_)
            | Self::Truncated
            | Self::AfterEnd
            | Self::OpenRenamed
            | Self::OpenRemoved
            | Self::LeftOpen { .. } => return None,
        })
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::BadMagic { looks_like } => looks_like.hint(),
            Self::Truncated | Self::LeftOpen { .. } => {
                Some("the archive was cut off: copy or make it again")
            }
            _ => None,
        }
    }
}

/// One defect of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    kind: Box<ErrorKind>,
    position: u64,
    chunk: Option<ChunkKind>,
    path: Option<ArchivePath>,
}

impl DecodeError {
    /// A defect `position` bytes from the start of the archive.
    #[must_use]
    pub fn new(kind: ErrorKind, position: u64) -> Self {
        Self {
            kind: Box::new(kind),
            position,
            chunk: None,
            path: None,
        }
    }

    /// Names the chunk's kind, as far as known.
    #[must_use]
    pub fn chunk(mut self, chunk: Option<ChunkKind>) -> Self {
        self.chunk = chunk;
        self
    }

    /// Names the member, as far as known.
    #[must_use]
    pub fn path(mut self, path: Option<ArchivePath>) -> Self {
        self.path = path;
        self
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Where: bytes from the start of the archive to the field (or the end of input) at fault.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The kind of the chunk at fault, where it could be read.
    #[must_use]
    pub fn chunk_kind(&self) -> Option<ChunkKind> {
        self.chunk
    }

    /// The member at fault, where its path could be read.
    #[must_use]
    pub fn member(&self) -> Option<&ArchivePath> {
        self.path.as_ref()
    }

    /// The remedy, where one is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        self.kind.hint()
    }

    /// `WHAT in KIND chunk of`: everything before the path.
    fn story(&self) -> String {
        let mut story = self.kind.what();
        let joint = if matches!(*self.kind, ErrorKind::Truncated) {
            "inside"
        } else {
            "in"
        };
        if let Some(chunk) = self.chunk {
            story = format!("{story} {joint} {chunk} chunk");
        }
        if self.path.is_some() {
            story.push_str(" of");
        }
        story
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story())?;
        if let Some(path) = &self.path {
            write!(f, " {path:?}")?;
        }
        write!(f, " at byte offset {}", self.position)?;
        if let Some(detail) = self.kind.detail() {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DecodeError {}

/// An archive that ends too early is [`Kind::Incomplete`]; every other defect is
/// [`Kind::Checksum`].
impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        let kind = if error.kind.is_incomplete() {
            Kind::Incomplete
        } else {
            Kind::Checksum
        };
        // Error composes the same sentence from the same parts.
        let mut out = Self::new(kind, error.story()).at(error.position);
        if let Some(path) = &error.path {
            out = out.path(path);
        }
        if let Some(detail) = error.kind.detail() {
            out = out.source(detail);
        }
        if let Some(hint) = error.hint() {
            out = out.hint(hint);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_error_types_tell_the_same_story() {
        let path = ArchivePath::new(b"db/t.ibd").unwrap();
        let error = DecodeError::new(
            ErrorKind::BadChecksum {
                expected: 0x3610_a686,
                found: 1,
            },
            32,
        )
        .chunk(Some(ChunkKind::Payload))
        .path(Some(path.clone()));
        let story = "invalid checksum in payload chunk of \"db/t.ibd\" at byte offset 32: \
                     expected 0x3610a686, found 0x00000001";
        assert_eq!(error.to_string(), story);
        let error = Error::from(error);
        assert_eq!(error.to_string(), story);
        assert_eq!(error.kind(), Kind::Checksum);
        assert_eq!(error.file(), Some(path.as_path()));
    }

    #[test]
    fn an_early_end_is_incomplete_and_says_what_to_do() {
        for kind in [ErrorKind::Truncated, ErrorKind::LeftOpen { files: 2 }] {
            let error = Error::from(DecodeError::new(kind, 5));
            assert_eq!(error.kind(), Kind::Incomplete);
            assert!(error.hint_text().is_some());
        }
    }
}
