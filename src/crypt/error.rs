//! What can be wrong with an encrypted file, and where.

use std::fmt;

use crate::codec::CodecError;
use crate::crypt::age::header::HEADER_LEN_MAX;
use crate::crypt::xbcrypt::{IV_LEN, PAYLOAD_LEN_MAX};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An xbcrypt chunk does not begin with a known magic.
    BadMagic,
    /// An xbcrypt chunk's two sizes differ; encryption does not change the size.
    SizesDiffer {
        /// `original_size`, in bytes.
        original: u64,
        /// `encrypted_size`, in bytes.
        encrypted: u64,
    },
    /// An xbcrypt payload that no writer can have made.
    PayloadTooLong(u64),
    /// A version 3 payload without room for its hash.
    PayloadTooShort(u64),
    /// An initialisation vector of a length that the version does not have.
    BadIvLength(u64),
    /// The encrypted bytes of a chunk do not have the checksum that it states.
    BadChecksum {
        /// CRC-32 stated by the chunk.
        expected: u32,
        /// CRC-32 of the bytes found.
        found: u32,
    },
    /// The encrypted bytes are as they were written, and what they decrypt to is not.
    WrongKey,
    /// The first line is none of the age format.
    NotAge,
    /// The text armour of the age tool.
    Armored,
    /// The header goes on for too long.
    HeaderTooLong,
    /// The header is none of age.
    BadHeader(&'static str),
    /// No key fits any recipient.
    NoIdentity,
    /// The file was made for a passphrase.
    Passphrase,
    /// A key fits, and the header is not the one that was written.
    HeaderForged,
    /// A sealed chunk is not what was written at this place.
    BadChunk,
    /// Something follows the last chunk.
    AfterLast,
    /// The file was encrypted under another name.
    OtherName {
        /// That name.
        sealed: String,
    },
    /// The file was encrypted in another run than the first one of the archive.
    OtherRun,
    /// The file ends too early.
    Truncated(&'static str),
}

impl ErrorKind {
    /// The name that golden vectors and the specification use.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::BadMagic => "BadMagic",
            Self::SizesDiffer { .. } => "SizesDiffer",
            Self::PayloadTooLong(_) => "PayloadTooLong",
            Self::PayloadTooShort(_) => "PayloadTooShort",
            Self::BadIvLength(_) => "BadIvLength",
            Self::BadChecksum { .. } => "BadChecksum",
            Self::WrongKey => "WrongKey",
            Self::NotAge => "NotAge",
            Self::Armored => "Armored",
            Self::HeaderTooLong => "HeaderTooLong",
            Self::BadHeader(_) => "BadHeader",
            Self::NoIdentity => "NoIdentity",
            Self::Passphrase => "Passphrase",
            Self::HeaderForged => "HeaderForged",
            Self::BadChunk => "BadChunk",
            Self::AfterLast => "AfterLast",
            Self::OtherName { .. } => "OtherName",
            Self::OtherRun => "OtherRun",
            Self::Truncated(_) => "Truncated",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::WrongKey => "use the key file that the backup was made with",
            Self::NoIdentity => "use the identity file of one of its recipients",
            Self::Passphrase | Self::Armored => "take the file out as it is and use `age -d`",
            Self::BadChecksum { .. } | Self::BadChunk | Self::AfterLast | Self::HeaderForged => {
                "the file was changed after it was written: use another copy"
            }
            Self::Truncated(_) => "the file was cut off: copy or make it again",
            Self::OtherName { .. } | Self::OtherRun => {
                "if it was put there on purpose, take the file out as it is and use `age -d`"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic => f.write_str("not an xbcrypt chunk: wrong magic"),
            Self::SizesDiffer {
                original,
                encrypted,
            } => write!(
                f,
                "an xbcrypt chunk has two sizes: {original} and {encrypted} bytes"
            ),
            Self::PayloadTooLong(len) => write!(
                f,
                "xbcrypt chunk too long: {len} bytes, at most {PAYLOAD_LEN_MAX}"
            ),
            Self::PayloadTooShort(len) => {
                write!(
                    f,
                    "xbcrypt chunk too short: {len} bytes have no room for the hash"
                )
            }
            Self::BadIvLength(len) => write!(
                f,
                "xbcrypt chunk with an initialisation vector of {len} bytes, not {IV_LEN}"
            ),
            Self::BadChecksum { expected, found } => write!(
                f,
                "damaged xbcrypt chunk: checksum expected 0x{expected:08x}, found 0x{found:08x}"
            ),
            Self::WrongKey => f.write_str(
                "wrong key: the xbcrypt chunk is undamaged, but what it decrypts to does not have its hash",
            ),
            Self::NotAge => f.write_str("not an age file"),
            Self::Armored => f.write_str("an age file as text (armoured), which is not read"),
            Self::HeaderTooLong => {
                write!(f, "age header too long: more than {HEADER_LEN_MAX} bytes")
            }
            Self::BadHeader(why) => write!(f, "malformed age header: {why}"),
            Self::NoIdentity => f.write_str("no key fits: the age file is for other recipients"),
            Self::Passphrase => {
                f.write_str("the age file is encrypted with a passphrase, which is not read")
            }
            Self::HeaderForged => f.write_str("the age header was changed: wrong authentication code"),
            Self::BadChunk => f.write_str("damaged age chunk: it was not written at this place"),
            Self::AfterLast => f.write_str("data after the last chunk of an age file"),
            Self::OtherName { sealed } => write!(f, "the content belongs to {sealed:?}"),
            Self::OtherRun => {
                f.write_str("the content belongs to another backup than that of the first file")
            }
            Self::Truncated(place) => write!(f, "the encrypted file ends {place}"),
        }
    }
}

/// One defect of an encrypted file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptError {
    kind: Box<ErrorKind>,
    position: u64,
}

impl CryptError {
    /// A defect `position` bytes from the start of the encrypted file.
    #[must_use]
    pub fn new(kind: ErrorKind, position: u64) -> Self {
        Self {
            kind: Box::new(kind),
            position,
        }
    }

    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Where: bytes from the start of the encrypted file to the chunk, field or end of input at fault.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The same defect, `base` bytes further on.
    #[must_use]
    pub fn after(mut self, base: u64) -> Self {
        self.position = self.position.saturating_add(base);
        self
    }
}

impl fmt::Display for CryptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte offset {}", self.kind, self.position)
    }
}

impl std::error::Error for CryptError {}

/// A key that does not fit is the caller's to change: the file may be good.
impl From<CryptError> for CodecError {
    fn from(error: CryptError) -> Self {
        let what = error.kind.to_string();
        let out = match *error.kind {
            ErrorKind::Truncated(_) => Self::cut(what),
            ErrorKind::WrongKey
            | ErrorKind::NoIdentity
            | ErrorKind::Passphrase
            | ErrorKind::Armored => Self::refused(what),
            _ => Self::damage(what),
        };
        let out = out.at(error.position);
        match error.kind.hint() {
            Some(hint) => out.hint(hint),
            None => out,
        }
    }
}
