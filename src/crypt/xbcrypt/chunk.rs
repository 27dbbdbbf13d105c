//! The head of a chunk, and where its chunk ends.

use crate::base::spec::{Enum, Field, Layout, Limit, Tables};
use crate::crypt::error::{CryptError, ErrorKind};

/// First seven bytes of every chunk; the eighth is the version as a digit. `r[xbcrypt.chunk.magic]`
pub(super) const MAGIC: &[u8; 7] = b"XBCRYP0";

/// Bytes of the head that all versions have.
const HEAD_V1_LEN: usize = 36;

/// Bytes of the head up to the initialisation vector, from version 2 on.
const HEAD_V2_LEN: usize = 44;

/// Bytes of an initialisation vector: one AES block.
pub const IV_LEN: usize = 16;

/// Bytes of the SHA-256 behind the content of a version 3 chunk.
pub(super) const HASH_LEN: usize = 32;

/// Longest head: version 2 or 3 with its initialisation vector, in bytes.
pub(super) const HEAD_LEN_MAX: usize = HEAD_V2_LEN + IV_LEN;

/// Longest payload of a chunk, in bytes: the reference reader's limit (`INT_MAX`). It costs no memory, since a chunk that is
/// not in one piece is decrypted as it comes. `r[xbcrypt.payload.len]`
pub const PAYLOAD_LEN_MAX: u64 = i32::MAX as u64;

/// Content of one chunk as the known writers cut it by default, in bytes. `r[xbcrypt.writer.chunk-len]`
pub const CHUNK_LEN_DEFAULT: usize = 64 << 10;

/// Least content that a writer may be asked to put into one chunk, in bytes, as in the reference program.
pub const CHUNK_LEN_MIN: usize = 1 << 10;

/// Most content that our writer puts into one chunk, in bytes: what it is given at once.
pub const CHUNK_LEN_MAX: usize = 1 << 20;

const fn field(offset: usize, size: usize, name: &'static str, kind: &'static str) -> Field {
    Field {
        offset,
        size,
        name,
        kind,
    }
}

const HEAD: Layout = Layout {
    name: "ChunkHead",
    fields: &[
        field(0, 8, "magic", "bytes"),
        field(8, 8, "reserved", "u64le"),
        field(16, 8, "original_size", "u64le"),
        field(24, 8, "encrypted_size", "u64le"),
        field(32, 4, "checksum", "u32le"),
    ],
};

const HEAD_V2: Layout = Layout {
    name: "ChunkHeadV2",
    fields: &[
        field(0, 36, "head", "bytes"),
        field(36, 8, "iv_size", "u64le"),
        field(44, 16, "iv", "bytes"),
    ],
};

const _: () = assert!(HEAD.size() == HEAD_V1_LEN && HEAD_V2.size() == HEAD_LEN_MAX);

/// The tables of `format-spec/xbcrypt.md`.
pub const SPEC: Tables = Tables {
    document: "xbcrypt.md",
    layouts: &[HEAD, HEAD_V2],
    enums: &[Enum {
        name: "Version",
        values: &[(0x31, "v1"), (0x32, "v2"), (0x33, "v3")],
    }],
    limits: &[
        Limit {
            name: "PAYLOAD_LEN_MAX",
            value: PAYLOAD_LEN_MAX,
            unit: "bytes",
        },
        Limit {
            name: "CHUNK_LEN_DEFAULT",
            value: CHUNK_LEN_DEFAULT as u64,
            unit: "bytes",
        },
        Limit {
            name: "CHUNK_LEN_MIN",
            value: CHUNK_LEN_MIN as u64,
            unit: "bytes",
        },
        Limit {
            name: "CHUNK_LEN_MAX",
            value: CHUNK_LEN_MAX as u64,
            unit: "bytes",
        },
    ],
};

/// How the payload of a chunk is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Content encrypted from this counter block, without a hash (versions 1 and 2).
    Bare([u8; IV_LEN]),
    /// Content and hash, encrypted from this counter block (version 3).
    Hashed([u8; IV_LEN]),
    /// Content and hash in the clear: the cipher `NONE` of version 3.
    Clear,
}

/// A chunk's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) scheme: Scheme,
    /// Bytes of the head itself.
    pub(super) len: usize,
    /// Bytes behind the head, the hash among them.
    pub(super) payload_len: u64,
    /// CRC-32 of the payload as stored.
    pub(super) checksum: u32,
}

impl Head {
    /// Bytes of the payload that are content.
    pub(super) const fn content_len(&self) -> u64 {
        match self.scheme {
            Scheme::Bare(_) => self.payload_len,
            Scheme::Hashed(_) | Scheme::Clear => self.payload_len - HASH_LEN as u64,
        }
    }
}

/// Collects a head from pieces.
#[derive(Debug, Clone)]
pub(super) struct HeadBuf {
    bytes: [u8; HEAD_LEN_MAX],
    len: usize,
}

impl Default for HeadBuf {
    fn default() -> Self {
        Self {
            bytes: [0; HEAD_LEN_MAX],
            len: 0,
        }
    }
}

impl HeadBuf {
    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes collected.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Takes what it needs from the front of `input`; a head once it is complete. Errors are counted from the head's first byte.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Result<Option<Head>, CryptError> {
        loop {
            let want = self.wanted()?;
            if self.len >= want {
                return Ok(Some(self.parse()?));
            }
            let take = (want - self.len).min(input.len());
            if take == 0 {
                return Ok(None);
            }
            let (now, rest) = input.split_at(take);
            if let Some(room) = self.bytes.get_mut(self.len..self.len + take) {
                room.copy_from_slice(now);
            }
            self.len += take;
            *input = rest;
        }
    }

    /// Bytes needed before anything more can be said; what is there must be right.
    fn wanted(&self) -> Result<usize, CryptError> {
        // A wrong first byte is told at once, not after a head's worth of something else.
        let common = self.len.min(MAGIC.len());
        if self.bytes[..common] != MAGIC[..common] {
            return Err(CryptError::new(ErrorKind::BadMagic, 0));
        }
        if self.len < 8 {
            return Ok(8);
        }
        // r[xbcrypt.mixed]
        match self.bytes[7] {
            b'1' => Ok(HEAD_V1_LEN),
            b'2' | b'3' if self.len < HEAD_V2_LEN => Ok(HEAD_V2_LEN),
            b'2' | b'3' => Ok(HEAD_V2_LEN + self.iv_len()?),
            _ => Err(CryptError::new(ErrorKind::BadMagic, 0)),
        }
    }

    /// `r[xbcrypt.iv.len]`
    fn iv_len(&self) -> Result<usize, CryptError> {
        match self.u64_at(36) {
            0 => Ok(0),
            16 => Ok(IV_LEN),
            other => Err(CryptError::new(ErrorKind::BadIvLength(other), 36)),
        }
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut le = [0; 8];
        le.copy_from_slice(&self.bytes[at..at + 8]);
        u64::from_le_bytes(le)
    }

    fn parse(&self) -> Result<Head, CryptError> {
        let (original, encrypted) = (self.u64_at(16), self.u64_at(24));
        // r[xbcrypt.payload.sizes]
        if original != encrypted {
            return Err(CryptError::new(
                ErrorKind::SizesDiffer {
                    original,
                    encrypted,
                },
                16,
            ));
        }
        if encrypted > PAYLOAD_LEN_MAX {
            return Err(CryptError::new(ErrorKind::PayloadTooLong(encrypted), 24));
        }
        let mut iv = [0; IV_LEN];
        iv.copy_from_slice(&self.bytes[HEAD_V2_LEN..]);
        let scheme = match (self.bytes[7], self.len) {
            // r[xbcrypt.v3.none]
            (b'3', HEAD_V2_LEN) => Scheme::Clear,
            (b'3', _) => Scheme::Hashed(iv),
            // r[xbcrypt.v1.counter]: versions 1 and 2 set a vector that their cipher ignored.
            _ => Scheme::Bare([0; IV_LEN]),
        };
        if !matches!(scheme, Scheme::Bare(_)) && encrypted < HASH_LEN as u64 {
            return Err(CryptError::new(ErrorKind::PayloadTooShort(encrypted), 24));
        }
        let mut checksum = [0; 4];
        checksum.copy_from_slice(&self.bytes[32..36]);
        Ok(Head {
            scheme,
            len: self.len,
            payload_len: encrypted,
            checksum: u32::from_le_bytes(checksum),
        })
    }
}
