//! Input that is no archive: recognised only to say what to do about it.

/// What bytes in the place of a chunk magic look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Foreign {
    /// Printable text.
    Text,
    /// Zero bytes.
    Zeros,
    /// A compressed file; the name of the format.
    Compressed(&'static str),
    /// An xbcrypt file.
    Xbcrypt,
    /// A tar archive.
    Tar,
    /// Nothing recognisable.
    Unknown,
}

/// Bytes from the start of the input that are enough to recognise a foreign format (a tar header
/// has its mark at 257).
pub(super) const SNIFF_LEN: usize = 512;

const TAR_MARK_OFFSET: usize = 257;

const MARKS: &[(&[u8], Foreign)] = &[
    (b"\x1f\x8b", Foreign::Compressed("gzip")),
    (b"\x28\xb5\x2f\xfd", Foreign::Compressed("zstd")),
    (b"\x04\x22\x4d\x18", Foreign::Compressed("lz4")),
    (b"\xfd7zXZ\0", Foreign::Compressed("xz")),
    (b"BZh", Foreign::Compressed("bzip2")),
    (b"qpress10", Foreign::Compressed("qpress")),
    (b"XBCRYP0", Foreign::Xbcrypt),
];

impl Foreign {
    /// Judges the bytes found where a chunk was expected.
    pub(super) fn sniff(bytes: &[u8]) -> Self {
        for (mark, what) in MARKS {
            if bytes.starts_with(mark) {
                return *what;
            }
        }
        if bytes
            .get(TAR_MARK_OFFSET..)
            .is_some_and(|b| b.starts_with(b"ustar"))
        {
            return Self::Tar;
        }
        let head = bytes.get(..bytes.len().min(8)).unwrap_or_default();
        if head.iter().all(|b| *b == 0) {
            Self::Zeros
        } else if head
            .iter()
            .all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e))
        {
            Self::Text
        } else {
            Self::Unknown
        }
    }

    /// Says what the bytes are, for the end of a message.
    #[must_use]
    pub fn description(self) -> Option<String> {
        let what = match self {
            Self::Text => "text",
            Self::Zeros => "zeros",
            Self::Compressed(format) => return Some(format!("the bytes are {format} data")),
            Self::Xbcrypt => "xbcrypt data",
            Self::Tar => "a tar archive",
            Self::Unknown => return None,
        };
        Some(format!("the bytes are {what}"))
    }

    /// Says what to do.
    #[must_use]
    pub const fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::Text => {
                "log output was mixed into the stream: keep standard error apart from standard output"
            }
            Self::Zeros => "the archive was padded or only partly written",
            Self::Compressed(_) => "decompress the input first",
            Self::Xbcrypt => "decrypt the input first",
            Self::Tar => "unpack it with tar",
            Self::Unknown => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_the_usual_mistakes() {
        let mut tar = vec![0; SNIFF_LEN];
        tar[..7].copy_from_slice(b"ibdata1");
        tar[257..263].copy_from_slice(b"ustar\0");
        for (bytes, what) in [
            (&b"[00] 2026-11-20 Connecting"[..], Foreign::Text),
            (b"\n", Foreign::Text),
            (b"\0\0", Foreign::Zeros),
            (b"\x1f\x8b\x08\0", Foreign::Compressed("gzip")),
            (b"\x28\xb5\x2f\xfd\x04", Foreign::Compressed("zstd")),
            (b"XBCRYP03", Foreign::Xbcrypt),
            (&tar, Foreign::Tar),
            (b"\xde\xad\xbe\xef", Foreign::Unknown),
        ] {
            assert_eq!(Foreign::sniff(bytes), what, "{bytes:?}");
        }
    }
}
