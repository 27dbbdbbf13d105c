//! The lines of the end-of-archive member: what an archive of xbpipe says about itself.
//!
//! The member's place in the archive is kept by `archive`; this is the text.
//! `r[xbstream.index.lines]`

use crate::xbstream::limits::PATH_LEN_MAX;
use crate::xbstream::path::{ArchivePath, PathError};

/// Path of the member. `r[xbstream.index.name]`
pub const INDEX_PATH: &[u8] = b"xbpipe_index";

/// Longest line without its newline, in bytes: a file line with the longest length and a path of
/// which every byte is escaped. `r[xbstream.index.line-len]`
pub const INDEX_LINE_LEN_MAX: usize =
    "F  00000000 ".len() + "18446744073709551615".len() + 3 * PATH_LEN_MAX;

const HEADER: &[u8] = b"xbpipe-archive 1";

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexLine {
    /// The first line: format and version. `r[xbstream.index.header]`
    Header,
    /// A finished file. `r[xbstream.index.file]`
    File {
        /// All payload of the file, in bytes; holes are not counted.
        len: u64,
        /// CRC-32 of all its payload in order.
        crc: u32,
        /// Its path.
        path: ArchivePath,
    },
    /// An empty directory, which has no chunk. `r[xbstream.index.directory]`
    Directory {
        /// Its path.
        path: ArchivePath,
    },
    /// The last line. `r[xbstream.index.end]`
    End {
        /// Number of file and directory lines.
        members: u64,
        /// Payload of all files, in bytes.
        bytes: u64,
    },
}

/// Why a line is not an [`IndexLine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexLineError {
    /// Another version of the format: the number is not 1.
    #[error("unknown version of the archive index")]
    Version,
    /// Not a line of this format, or not in its one spelling.
    #[error("malformed line in the archive index")]
    Malformed,
    /// Longer than any line can be.
    #[error("line in the archive index is longer than {INDEX_LINE_LEN_MAX} bytes")]
    TooLong,
    /// A path that must not be opened.
    #[error("forbidden path in the archive index")]
    Path(#[source] PathError),
}

impl IndexLine {
    /// Appends the line with its newline.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Header => out.extend_from_slice(HEADER),
            Self::File { len, crc, path } => {
                out.extend_from_slice(format!("F {len} {crc:08x} ").as_bytes());
                escape(path.as_bytes(), out);
            }
            Self::Directory { path } => {
                out.extend_from_slice(b"D 0 00000000 ");
                escape(path.as_bytes(), out);
            }
            Self::End { members, bytes } => {
                out.extend_from_slice(format!("END {members} {bytes}").as_bytes());
            }
        }
        out.push(b'\n');
    }

    /// Reads one line, without its newline. Every line has exactly one spelling; any other is an
    /// error. `r[xbstream.index.canonical]`
    pub fn parse(line: &[u8]) -> Result<Self, IndexLineError> {
        if line.len() > INDEX_LINE_LEN_MAX {
            return Err(IndexLineError::TooLong);
        }
        if line == HEADER {
            return Ok(Self::Header);
        }
        let mut fields = line.split(|b| *b == b' ');
        let first = fields.next().unwrap_or_default();
        let parsed = match first {
            b"F" => {
                let (len, crc, path) = member(&mut fields)?;
                Self::File { len, crc, path }
            }
            b"D" => match member(&mut fields)? {
                (0, 0, path) => Self::Directory { path },
                _ => return Err(IndexLineError::Malformed),
            },
            b"END" => Self::End {
                members: decimal(fields.next())?,
                bytes: decimal(fields.next())?,
            },
            b"xbpipe-archive" => return Err(IndexLineError::Version),
            _ => return Err(IndexLineError::Malformed),
        };
        if fields.next().is_some() {
            return Err(IndexLineError::Malformed);
        }
        Ok(parsed)
    }
}

fn member<'a>(
    fields: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<(u64, u32, ArchivePath), IndexLineError> {
    let len = decimal(fields.next())?;
    let crc = hex(fields.next().unwrap_or_default())?;
    let path = fields.next().filter(|path| !path.is_empty());
    let path = unescape(path.ok_or(IndexLineError::Malformed)?)?;
    let path = ArchivePath::new(&path).map_err(IndexLineError::Path)?;
    Ok((len, crc, path))
}

/// A decimal number without sign or leading zeros.
fn decimal(field: Option<&[u8]>) -> Result<u64, IndexLineError> {
    let field = field.unwrap_or_default();
    let canonical =
        field.iter().all(u8::is_ascii_digit) && (field == b"0" || !field.starts_with(b"0"));
    std::str::from_utf8(field)
        .ok()
        .filter(|_| canonical)
        .and_then(|text| text.parse().ok())
        .ok_or(IndexLineError::Malformed)
}

/// Eight lower-case hex digits.
fn hex(field: &[u8]) -> Result<u32, IndexLineError> {
    let canonical =
        field.len() == 8 && field.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    std::str::from_utf8(field)
        .ok()
        .filter(|_| canonical)
        .and_then(|text| u32::from_str_radix(text, 16).ok())
        .ok_or(IndexLineError::Malformed)
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'%'
}

/// Appends `path`, bytes outside 0x21..=0x7e and `%` as `%XX`. `r[xbstream.index.escape]`
fn escape(path: &[u8], out: &mut Vec<u8>) {
    for &byte in path {
        if is_plain(byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, IndexLineError> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte.wrapping_sub(b'0')),
        b'A'..=b'F' => Some(byte.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    };
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                let (Some(high), Some(low)) = (digit(high), digit(low)) else {
                    return Err(IndexLineError::Malformed);
                };
                let byte = (high << 4) | low;
                if is_plain(byte) {
                    return Err(IndexLineError::Malformed);
                }
                (byte, after)
            }
            (byte, after) if is_plain(*byte) => (*byte, after),
            _ => return Err(IndexLineError::Malformed),
        };
        out.push(byte);
        rest = after;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(bytes: &[u8]) -> ArchivePath {
        ArchivePath::new(bytes).unwrap()
    }

    fn text(line: &IndexLine) -> String {
        let mut out = Vec::new();
        line.append_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    // r[xbstream.index.header] r[xbstream.index.file] r[xbstream.index.directory]
    // r[xbstream.index.end]
    #[test]
    fn lines_are_spelt_as_specified() {
        for (line, expected) in [
            (IndexLine::Header, "xbpipe-archive 1\n"),
            (
                IndexLine::File {
                    len: 5,
                    crc: 0x3610_a686,
                    path: path(b"db/t 1%\xff.frm"),
                },
                "F 5 3610a686 db/t%201%25%FF.frm\n",
            ),
            (
                IndexLine::Directory { path: path(b"d") },
                "D 0 00000000 d\n",
            ),
            (
                IndexLine::End {
                    members: 2,
                    bytes: 5,
                },
                "END 2 5\n",
            ),
        ] {
            assert_eq!(text(&line), expected);
            assert_eq!(IndexLine::parse(expected.trim_end().as_bytes()), Ok(line));
        }
    }

    // r[xbstream.index.canonical]
    #[test]
    fn any_other_spelling_is_refused() {
        for bad in [
            "",
            "F",
            "F 5 3610a686",
            "F 5 3610a686 ",
            "F 05 3610a686 a",
            "F +5 3610a686 a",
            "F 18446744073709551616 3610a686 a",
            "F 5 3610A686 a",
            "F 5 610a686 a",
            "F 5 3610a686 a b",
            "F 5  3610a686 a",
            "F 5 3610a686 %61",
            "F 5 3610a686 %ff",
            "F 5 3610a686 a%2",
            "F 5 3610a686 a%",
            "F 5 3610a686 \u{e9}",
            "D 1 00000000 d",
            "D 0 00000001 d",
            "END 1",
            "END 1 2 3",
            "END 1 2 ",
            "end 1 2",
            "X 0 00000000 d",
        ] {
            assert_eq!(
                IndexLine::parse(bad.as_bytes()),
                Err(IndexLineError::Malformed),
                "{bad:?}"
            );
        }
        assert_eq!(
            IndexLine::parse(b"xbpipe-archive 2"),
            Err(IndexLineError::Version)
        );
        assert_eq!(
            IndexLine::parse(b"F 5 3610a686 ../x"),
            Err(IndexLineError::Path(PathError::DotComponent))
        );
        let long = [b'x'; INDEX_LINE_LEN_MAX + 1];
        assert_eq!(IndexLine::parse(&long), Err(IndexLineError::TooLong));
    }

    // r[xbstream.index.line-len]
    #[test]
    fn the_longest_line_is_as_long_as_stated() {
        let line = IndexLine::File {
            len: u64::MAX,
            crc: 0,
            path: path(&[0xff; PATH_LEN_MAX]),
        };
        assert_eq!(text(&line).len(), INDEX_LINE_LEN_MAX + 1);
        assert_eq!(
            IndexLine::parse(text(&line).trim_end().as_bytes()),
            Ok(line)
        );
    }

    proptest! {
        // r[xbstream.index.escape]
        #[test]
        fn every_path_survives(
            bytes in proptest::collection::vec(any::<u8>(), 1..80),
            len: u64,
            crc: u32,
        ) {
            if let Ok(path) = ArchivePath::new(&bytes) {
                let line = IndexLine::File { len, crc, path };
                let text = text(&line);
                prop_assert!(text.trim_end().bytes().all(|b| matches!(b, 0x20..=0x7e)));
                prop_assert_eq!(IndexLine::parse(text.trim_end().as_bytes()), Ok(line));
            }
        }

        #[test]
        fn what_parses_is_canonical(line in "(F|D|END|X)( ([0-9]{1,3}|[0-9a-fA-F]{8}|[a%4/.F1]{1,6})){1,4}") {
            if let Ok(parsed) = IndexLine::parse(line.as_bytes()) {
                prop_assert_eq!(text(&parsed), line + "\n");
            }
        }
    }
}
