//! The parser of chunk heads: pure and without state. A caller with too few bytes comes again with
//! more.

use crate::xbstream::chunk::{
    Body, ChunkHead, ChunkKind, FLAG_IGNORABLE, MAGIC, PayloadFields, Prefix, RenameFields,
    SeekFields, SparseFields, SparseMap, SparseMapEntry,
};
use crate::xbstream::decode::Options;
use crate::xbstream::error::{DecodeError, ErrorKind};
use crate::xbstream::limits::{
    FILE_LEN_MAX, HEAD_LEN, PATH_LEN_MAX, PAYLOAD_LEN_MAX, SPARSE_MAP_ENTRIES_MAX,
};
use crate::xbstream::path::{ArchivePath, RemovePattern};
use crate::xbstream::sniff::{Foreign, SNIFF_LEN};

/// Bytes from the magic to the type byte and to the path length.
const LETTER_AT: usize = 9;
const PATH_LEN_AT: usize = 10;

/// What the bytes so far amount to.
#[derive(Debug)]
pub(super) enum Parsed<T> {
    /// That many bytes from the start are needed to go on.
    Need(usize),
    /// A whole item, this many bytes long.
    Whole(T, usize),
}

/// Parses the head of the chunk at the start of `bytes`, up to but without its payload.
///
/// `position` is where the chunk begins in the archive; `end` says that no byte follows `bytes`;
/// `known` is the path of an earlier chunk, which is shared if equal.
pub(super) fn parse(
    bytes: &[u8],
    position: u64,
    end: bool,
    options: &Options,
    known: Option<&ArchivePath>,
) -> Result<Parsed<ChunkHead>, DecodeError> {
    let at = |into: usize| position.saturating_add(into as u64);

    // r[xbstream.chunk.magic]
    let compared = bytes.len().min(MAGIC.len());
    if bytes.get(..compared) != MAGIC.get(..compared) && (end || bytes.len() >= HEAD_LEN) {
        // A foreign format shows itself better in a longer look; only the first chunk can be one.
        if position == 0 && !end && bytes.len() < SNIFF_LEN {
            return Ok(Parsed::Need(SNIFF_LEN));
        }
        let looked_at = if position == 0 { SNIFF_LEN } else { HEAD_LEN };
        let looks_like = Foreign::sniff(bytes.get(..looked_at).unwrap_or(bytes));
        return Err(DecodeError::new(
            ErrorKind::BadMagic { looks_like },
            position,
        ));
    }
    let Some(prefix) = Prefix::read(bytes) else {
        return Ok(Parsed::Need(HEAD_LEN));
    };

    // r[xbstream.chunk.type] An unknown type outranks all that follows, but its path is worth
    // waiting for.
    let kind = ChunkKind::of_letter(prefix.letter);
    let passed_over = options.skip_ignorable && prefix.flags & FLAG_IGNORABLE != 0;
    let unknown = match kind {
        ChunkKind::Unknown(letter) if !passed_over => Some(DecodeError::new(
            ErrorKind::UnknownType(letter),
            at(LETTER_AT),
        )),
        _ => None,
    };

    // r[xbstream.path.len]
    let path_len = match usize::try_from(prefix.path_len) {
        Ok(len) if len <= PATH_LEN_MAX => len,
        _ => {
            return Err(unknown.unwrap_or_else(|| {
                DecodeError::new(ErrorKind::PathTooLong(prefix.path_len), at(PATH_LEN_AT))
                    .chunk(Some(kind))
            }));
        }
    };
    let body_at = HEAD_LEN.saturating_add(path_len);
    let Some(path) = bytes.get(HEAD_LEN..body_at) else {
        return match unknown {
            Some(error) if end => Err(error),
            _ => Ok(Parsed::Need(body_at)),
        };
    };
    let path = match known {
        Some(known) if known.as_bytes() == path => Ok(known.clone()),
        _ => ArchivePath::new(path),
    };
    if let Some(error) = unknown {
        return Err(error.path(path.ok()));
    }
    let path = path
        .map_err(|why| DecodeError::new(ErrorKind::BadPath(why), at(HEAD_LEN)).chunk(Some(kind)))?;

    let body = BodyParser {
        bytes: bytes.get(body_at..).unwrap_or_default(),
        position: at(body_at),
        kind,
        path: &path,
    };
    let body = match kind {
        ChunkKind::Payload | ChunkKind::Unknown(_) => body.payload()?,
        // r[xbstream.end.layout]
        ChunkKind::End => Parsed::Whole(Body::End, 0),
        ChunkKind::Rename => body.rename()?,
        ChunkKind::Remove => body.remove()?,
        ChunkKind::SparseOrSeek | ChunkKind::Sparse | ChunkKind::Seek => {
            body.sparse_or_seek(end)?
        }
    };
    Ok(match body {
        Parsed::Need(len) => Parsed::Need(body_at.saturating_add(len)),
        Parsed::Whole(body, len) => Parsed::Whole(
            // r[xbstream.chunk.as-found]
            ChunkHead {
                position,
                flags: prefix.flags,
                letter: prefix.letter,
                path,
                body,
            },
            body_at.saturating_add(len),
        ),
    })
}

/// The error for an input that ends inside the head whose bytes so far are `bytes`.
pub(super) fn truncated(bytes: &[u8], position: u64) -> DecodeError {
    let error = DecodeError::new(
        ErrorKind::Truncated,
        position.saturating_add(bytes.len() as u64),
    );
    let Some(prefix) = Prefix::read(bytes) else {
        return error;
    };
    let path = usize::try_from(prefix.path_len)
        .ok()
        .and_then(|len| bytes.get(HEAD_LEN..HEAD_LEN.checked_add(len)?))
        .and_then(|path| ArchivePath::new(path).ok());
    error
        .chunk(Some(ChunkKind::of_letter(prefix.letter)))
        .path(path)
}

/// The part after the path. Lengths count from there.
struct BodyParser<'a> {
    bytes: &'a [u8],
    position: u64,
    kind: ChunkKind,
    path: &'a ArchivePath,
}

impl BodyParser<'_> {
    fn error(&self, kind: ErrorKind, into: u64) -> DecodeError {
        DecodeError::new(kind, self.position.saturating_add(into))
            .chunk(Some(self.kind))
            .path(Some(self.path.clone()))
    }

    fn payload(&self) -> Result<Parsed<Body>, DecodeError> {
        let Some(fields) = PayloadFields::read(self.bytes) else {
            return Ok(Parsed::Need(PayloadFields::LEN));
        };
        let PayloadFields {
            payload_len: len,
            file_offset: offset,
            crc,
        } = fields;
        // r[xbstream.payload.len]
        if len > PAYLOAD_LEN_MAX {
            return Err(self.error(ErrorKind::PayloadTooLong(len), 0));
        }
        // r[xbstream.payload.offset]
        if offset.checked_add(len).is_none_or(|end| end > FILE_LEN_MAX) {
            return Err(self.error(ErrorKind::OffsetTooLarge(offset), 8));
        }
        let body = if self.kind == ChunkKind::Payload {
            Body::Payload { len, offset, crc }
        } else {
            Body::Ignored { len, offset, crc }
        };
        Ok(Parsed::Whole(body, PayloadFields::LEN))
    }

    fn rename(&self) -> Result<Parsed<Body>, DecodeError> {
        let Some(fields) = RenameFields::read(self.bytes) else {
            return Ok(Parsed::Need(RenameFields::LEN));
        };
        // r[xbstream.rename.path]
        let end = match usize::try_from(fields.new_path_len) {
            Ok(len) if len <= PATH_LEN_MAX => RenameFields::LEN.saturating_add(len),
            _ => return Err(self.error(ErrorKind::PathTooLong(fields.new_path_len), 0)),
        };
        let Some(to) = self.bytes.get(RenameFields::LEN..end) else {
            return Ok(Parsed::Need(end));
        };
        let to = ArchivePath::new(to)
            .map_err(|why| self.error(ErrorKind::BadPath(why), RenameFields::LEN as u64))?;
        Ok(Parsed::Whole(Body::Rename { to }, end))
    }

    fn remove(&self) -> Result<Parsed<Body>, DecodeError> {
        // r[xbstream.remove.path]
        let pattern = RemovePattern::new(self.path).map_err(|why| {
            let path_len = self.path.as_bytes().len() as u64;
            let position = self.position.saturating_sub(path_len);
            DecodeError::new(ErrorKind::BadPath(why), position)
                .chunk(Some(self.kind))
                .path(Some(self.path.clone()))
        })?;
        Ok(Parsed::Whole(Body::Remove { pattern }, 0))
    }

    /// One letter, two vendors. A seek chunk is 8 bytes and then the next chunk or the end of the
    /// archive; a sparse chunk is at least 24 bytes, and the next magic cannot stand at 8, because
    /// it would be the high half of a payload length beyond the limit.
    /// `r[xbstream.seek.tell-apart]`
    fn sparse_or_seek(&self, end: bool) -> Result<Parsed<Body>, DecodeError> {
        let Some((offset, after)) = self.bytes.split_at_checked(SeekFields::LEN) else {
            return Ok(Parsed::Need(SeekFields::LEN));
        };
        if after.starts_with(&MAGIC) || (end && after.is_empty()) {
            return Self {
                kind: ChunkKind::Seek,
                ..*self
            }
            .seek(offset);
        }
        if after.len() < MAGIC.len() {
            return Ok(Parsed::Need(SeekFields::LEN.saturating_add(MAGIC.len())));
        }
        Self {
            kind: ChunkKind::Sparse,
            ..*self
        }
        .sparse()
    }

    fn seek(&self, fields: &[u8]) -> Result<Parsed<Body>, DecodeError> {
        let Some(SeekFields {
            file_offset: offset,
        }) = SeekFields::read(fields)
        else {
            return Ok(Parsed::Need(SeekFields::LEN));
        };
        // r[xbstream.payload.offset]
        if offset > FILE_LEN_MAX {
            return Err(self.error(ErrorKind::OffsetTooLarge(offset), 0));
        }
        Ok(Parsed::Whole(Body::Seek { offset }, SeekFields::LEN))
    }

    fn sparse(&self) -> Result<Parsed<Body>, DecodeError> {
        let Some(fields) = SparseFields::read(self.bytes) else {
            return Ok(Parsed::Need(SparseFields::LEN));
        };
        let SparseFields {
            entries,
            payload_len: len,
            file_offset: offset,
            crc,
        } = fields;
        // r[xbstream.payload.len]
        if len > PAYLOAD_LEN_MAX {
            return Err(self.error(ErrorKind::PayloadTooLong(len), 4));
        }
        // r[xbstream.sparse.entries]
        let map_len = match usize::try_from(entries) {
            Ok(n) if entries <= SPARSE_MAP_ENTRIES_MAX => n.saturating_mul(SparseMapEntry::LEN),
            _ => return Err(self.error(ErrorKind::MapTooLong(entries), 0)),
        };
        let map_end = SparseFields::LEN.saturating_add(map_len);
        let Some(map) = self.bytes.get(SparseFields::LEN..map_end) else {
            return Ok(Parsed::Need(map_end));
        };
        let map = SparseMap::of_bytes(map);
        let (holes, runs) = map.sums();
        // r[xbstream.sparse.sum] Two lengths that say the same must agree.
        if runs != len {
            return Err(self.error(
                ErrorKind::MapMismatch {
                    map: runs,
                    payload: len,
                },
                4,
            ));
        }
        // r[xbstream.payload.offset]
        if offset
            .checked_add(holes)
            .and_then(|at| at.checked_add(len))
            .is_none_or(|end| end > FILE_LEN_MAX)
        {
            return Err(self.error(ErrorKind::OffsetTooLarge(offset), 12));
        }
        Ok(Parsed::Whole(
            Body::Sparse {
                map,
                len,
                offset,
                crc,
            },
            map_end,
        ))
    }
}
