//! The lines of the index member: what an archive of xbpipe says about itself, and where in it everything is.
//!
//! The member's place in the archive is kept by `pipeline`; this is the text.
//! `r[xbstream.index.lines]`

use crate::xbstream::limits::PATH_LEN_MAX;
use crate::xbstream::path::{ArchivePath, PathError};

/// Path of the member. `r[xbstream.index.name]`
pub const INDEX_PATH: &[u8] = b"xbpipe_index";

/// Longest line without its newline, in bytes: a file line with the longest number and length and a path of which every byte
/// is escaped. `r[xbstream.index.line-len]`
pub const INDEX_LINE_LEN_MAX: usize =
    "F   00000000 ".len() + 2 * "18446744073709551615".len() + 3 * PATH_LEN_MAX;

/// Most pairs of numbers in one line: so many of any length are shorter than the longest line.
/// `r[xbstream.index.pairs]`
pub const INDEX_PAIRS_MAX: usize = 32;

/// The last line with its newline, in bytes. `r[xbstream.index.trailer]`
pub const TRAILER_LEN: usize = "TRAILER 0000000000000000 00000000\n".len();

const HEADER: &[u8] = b"xbpipe-archive 2";

/// A chunk: where its magic is, and how much payload it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// Bytes from the start of the archive.
    pub position: u64,
    /// Bytes of payload.
    pub len: u64,
}

/// The beginning of an independent frame of a compressed file, or, as the last one, the ends of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Position in the member as stored.
    pub stored: u64,
    /// Position of its content in the decompressed file.
    pub plain: u64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexLine {
    /// The first line: format and version. `r[xbstream.index.header]`
    Header,
    /// The next payload chunks of a file. `r[xbstream.index.chunks]`
    Chunks {
        /// Number of the file.
        member: u64,
        /// In order of file position, without gaps.
        list: Vec<Place>,
    },
    /// The next frames of a compressed file. `r[xbstream.index.frames]`
    Frames {
        /// Number of the file.
        member: u64,
        /// In order of both positions.
        list: Vec<Frame>,
    },
    /// A file has sparse chunks. `r[xbstream.index.sparse]`
    Sparse {
        /// Its number.
        member: u64,
    },
    /// A finished file. `r[xbstream.index.file]`
    File {
        /// Its number.
        member: u64,
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
    /// Payload chunks of the index itself. `r[xbstream.index.table]`
    Table {
        /// In order.
        list: Vec<Place>,
    },
    /// The sums. `r[xbstream.index.end]`
    End {
        /// Number of file and directory lines.
        members: u64,
        /// Payload of all files, in bytes.
        bytes: u64,
    },
    /// The last line. `r[xbstream.index.trailer]`
    Trailer {
        /// Position of the chunk that begins with the first table line.
        table: u64,
        /// CRC-32 of everything before this line.
        crc: u32,
    },
}

/// Why a line is not an [`IndexLine`], or stands at a wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexLineError {
    /// Another version of the format.
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
    /// The lines are not in their order.
    #[error("the lines of the archive index are not in their order")]
    Order,
    /// The trailer's checksum is not that of the lines before it.
    #[error("invalid checksum in the archive index: expected {expected:08x}, found {found:08x}")]
    Sum {
        /// What the trailer states.
        expected: u32,
        /// That of the lines.
        found: u32,
    },
}

impl IndexLine {
    /// Appends the line with its newline.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Header => out.extend_from_slice(HEADER),
            Self::Chunks { member, list } => {
                out.extend_from_slice(format!("C {member} ").as_bytes());
                pairs(list.iter().map(|c| (c.position, c.len)), out);
            }
            Self::Frames { member, list } => {
                out.extend_from_slice(format!("Z {member} ").as_bytes());
                pairs(list.iter().map(|f| (f.stored, f.plain)), out);
            }
            Self::Sparse { member } => out.extend_from_slice(format!("S {member}").as_bytes()),
            Self::File {
                member,
                len,
                crc,
                path,
            } => {
                out.extend_from_slice(format!("F {member} {len} {crc:08x} ").as_bytes());
                escape(path.as_bytes(), out);
            }
            Self::Directory { path } => {
                out.extend_from_slice(b"D ");
                escape(path.as_bytes(), out);
            }
            Self::Table { list } => {
                out.extend_from_slice(b"I ");
                pairs(list.iter().map(|c| (c.position, c.len)), out);
            }
            Self::End { members, bytes } => {
                out.extend_from_slice(format!("END {members} {bytes}").as_bytes());
            }
            Self::Trailer { table, crc } => {
                out.extend_from_slice(format!("TRAILER {table:016x} {crc:08x}").as_bytes());
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
            b"C" => Self::Chunks {
                member: decimal(fields.next())?,
                list: places(fields.next())?,
            },
            b"Z" => Self::Frames {
                member: decimal(fields.next())?,
                list: parse_pairs(fields.next(), |stored, plain| Frame { stored, plain })?,
            },
            b"S" => Self::Sparse {
                member: decimal(fields.next())?,
            },
            b"F" => Self::File {
                member: decimal(fields.next())?,
                len: decimal(fields.next())?,
                crc: hex(fields.next())?,
                path: path(fields.next())?,
            },
            b"D" => Self::Directory {
                path: path(fields.next())?,
            },
            b"I" => Self::Table {
                list: places(fields.next())?,
            },
            b"END" => Self::End {
                members: decimal(fields.next())?,
                bytes: decimal(fields.next())?,
            },
            b"TRAILER" => {
                let table = fields.next().unwrap_or_default();
                let (high, low) = table.split_at_checked(8).ok_or(IndexLineError::Malformed)?;
                Self::Trailer {
                    table: (u64::from(hex(Some(high))?) << 32) | u64::from(hex(Some(low))?),
                    crc: hex(fields.next())?,
                }
            }
            b"xbpipe-archive" => return Err(IndexLineError::Version),
            _ => return Err(IndexLineError::Malformed),
        };
        if fields.next().is_some() {
            return Err(IndexLineError::Malformed);
        }
        Ok(parsed)
    }
}

/// Takes the content of the index member apart, cut anywhere, and checks the order of the lines and the trailer's checksum.
#[derive(Debug, Default)]
pub struct IndexLines {
    /// The beginning of a line.
    line: Vec<u8>,
    sum: crc32fast::Hasher,
    stage: Stage,
    /// It did not begin at the first line, so the checksum cannot be compared.
    is_partial: bool,
}

/// Which lines may come. `r[xbstream.index.order]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stage {
    #[default]
    Header,
    Members,
    Table,
    Trailer,
    Nothing,
}

impl IndexLines {
    /// At the first line of the table: for a reader that begins there. The checksum is not that of the whole index then.
    #[must_use]
    pub fn at_table() -> Self {
        Self {
            stage: Stage::Table,
            is_partial: true,
            ..Self::default()
        }
    }

    /// Whether the next byte begins a line.
    #[must_use]
    pub fn is_between_lines(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether the last line was there, and nothing after it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stage == Stage::Nothing && self.line.is_empty()
    }

    /// Passes on the lines that end in `bytes`.
    pub fn feed<E: From<IndexLineError>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(IndexLine) -> Result<(), E>,
    ) -> Result<(), E> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            // r[xbstream.index.line-len]
            if self.line.len().saturating_add(piece.len()) > INDEX_LINE_LEN_MAX.saturating_add(1) {
                return Err(IndexLineError::TooLong.into());
            }
            self.line.extend_from_slice(piece);
            let Some(text) = self.line.strip_suffix(b"\n") else {
                continue;
            };
            let line = IndexLine::parse(text)?;
            self.stage = self.stage.after(&line)?;
            // r[xbstream.index.trailer]
            if let IndexLine::Trailer { crc: expected, .. } = line {
                let found = self.sum.clone().finalize();
                if expected != found && !self.is_partial {
                    return Err(IndexLineError::Sum { expected, found }.into());
                }
            } else {
                self.sum.update(&self.line);
            }
            self.line.clear();
            each(line)?;
        }
        Ok(())
    }
}

impl Stage {
    // r[xbstream.index.order]
    fn after(self, line: &IndexLine) -> Result<Self, IndexLineError> {
        match (self, line) {
            (Self::Header, IndexLine::Header) => Ok(Self::Members),
            (
                Self::Members,
                IndexLine::Chunks { .. }
                | IndexLine::Frames { .. }
                | IndexLine::Sparse { .. }
                | IndexLine::File { .. }
                | IndexLine::Directory { .. },
            ) => Ok(Self::Members),
            (Self::Members | Self::Table, IndexLine::Table { .. }) => Ok(Self::Table),
            (Self::Table, IndexLine::End { .. }) => Ok(Self::Trailer),
            (Self::Trailer, IndexLine::Trailer { .. }) => Ok(Self::Nothing),
            _ => Err(IndexLineError::Order),
        }
    }
}

fn places(field: Option<&[u8]>) -> Result<Vec<Place>, IndexLineError> {
    parse_pairs(field, |position, len| Place { position, len })
}

/// Appends `A+B,A+B`.
fn pairs(list: impl Iterator<Item = (u64, u64)>, out: &mut Vec<u8>) {
    for (i, (a, b)) in list.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(format!("{a}+{b}").as_bytes());
    }
}

// r[xbstream.index.pairs]
fn parse_pairs<T>(
    field: Option<&[u8]>,
    make: impl Fn(u64, u64) -> T,
) -> Result<Vec<T>, IndexLineError> {
    let mut list = Vec::new();
    for pair in field.unwrap_or_default().split(|b| *b == b',') {
        let mut numbers = pair.split(|b| *b == b'+');
        let (a, b) = (decimal(numbers.next())?, decimal(numbers.next())?);
        if numbers.next().is_some() || list.len() >= INDEX_PAIRS_MAX {
            return Err(IndexLineError::Malformed);
        }
        list.push(make(a, b));
    }
    Ok(list)
}

fn path(field: Option<&[u8]>) -> Result<ArchivePath, IndexLineError> {
    let field = field.filter(|path| !path.is_empty());
    let path = unescape(field.ok_or(IndexLineError::Malformed)?)?;
    ArchivePath::new(&path).map_err(IndexLineError::Path)
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
fn hex(field: Option<&[u8]>) -> Result<u32, IndexLineError> {
    let field = field.unwrap_or_default();
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

    const fn place(position: u64, len: u64) -> Place {
        Place { position, len }
    }

    // r[xbstream.index.header] r[xbstream.index.file] r[xbstream.index.directory] r[xbstream.index.end]
    // r[xbstream.index.chunks] r[xbstream.index.frames] r[xbstream.index.table] r[xbstream.index.trailer]
    #[test]
    fn lines_are_spelt_as_specified() {
        let frame = |stored, plain| Frame { stored, plain };
        for (line, expected) in [
            (IndexLine::Header, "xbpipe-archive 2\n"),
            (
                IndexLine::Chunks {
                    member: 7,
                    list: vec![place(63, 1048576), place(1048672, 5)],
                },
                "C 7 63+1048576,1048672+5\n",
            ),
            (
                IndexLine::Frames {
                    member: 7,
                    list: vec![frame(0, 0), frame(1048581, 3145728)],
                },
                "Z 7 0+0,1048581+3145728\n",
            ),
            (
                IndexLine::File {
                    member: 7,
                    len: 5,
                    crc: 0x3610_a686,
                    path: path(b"db/t 1%\xff.frm"),
                },
                "F 7 5 3610a686 db/t%201%25%FF.frm\n",
            ),
            (IndexLine::Directory { path: path(b"d") }, "D d\n"),
            (
                IndexLine::Table {
                    list: vec![place(0, 17)],
                },
                "I 0+17\n",
            ),
            (
                IndexLine::End {
                    members: 2,
                    bytes: 5,
                },
                "END 2 5\n",
            ),
            (
                IndexLine::Trailer {
                    table: 0x12_3456_789a,
                    crc: 0xcbf4_3926,
                },
                "TRAILER 000000123456789a cbf43926\n",
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
            "F 1 5 3610a686",
            "F 1 5 3610a686 ",
            "F 01 5 3610a686 a",
            "F 1 05 3610a686 a",
            "F 1 +5 3610a686 a",
            "F 1 18446744073709551616 3610a686 a",
            "F 1 5 3610A686 a",
            "F 1 5 610a686 a",
            "F 1 5 3610a686 a b",
            "F 1 5  3610a686 a",
            "F 1 5 3610a686 %61",
            "F 1 5 3610a686 %ff",
            "F 1 5 3610a686 a%2",
            "F 1 5 3610a686 a%",
            "F 1 5 3610a686 \u{e9}",
            "D 0 00000000 d",
            "D",
            "C 1",
            "C 1 ",
            "C 1 5",
            "C 1 5+",
            "C 1 5+6,",
            "C 1 5+6+7",
            "C 1 5+06",
            "I 0 5+6",
            "END 1",
            "END 1 2 3",
            "END 1 2 ",
            "end 1 2",
            "TRAILER 123456789a cbf43926",
            "TRAILER 000000123456789A cbf43926",
            "TRAILER 0000000000123456789a cbf43926",
            "X 0 00000000 d",
        ] {
            assert_eq!(
                IndexLine::parse(bad.as_bytes()),
                Err(IndexLineError::Malformed),
                "{bad:?}"
            );
        }
        for version in ["1", "3"] {
            let line = format!("xbpipe-archive {version}");
            let parsed = IndexLine::parse(line.as_bytes());
            assert_eq!(parsed, Err(IndexLineError::Version));
        }
        assert_eq!(
            IndexLine::parse(b"F 1 5 3610a686 ../x"),
            Err(IndexLineError::Path(PathError::DotComponent))
        );
        let long = [b'x'; INDEX_LINE_LEN_MAX + 1];
        assert_eq!(IndexLine::parse(&long), Err(IndexLineError::TooLong));
    }

    // r[xbstream.index.line-len] r[xbstream.index.pairs] r[xbstream.index.trailer]
    #[test]
    fn the_longest_lines_are_as_long_as_stated() {
        let line = IndexLine::File {
            member: u64::MAX,
            len: u64::MAX,
            crc: 0,
            path: path(&[0xff; PATH_LEN_MAX]),
        };
        assert_eq!(text(&line).len(), INDEX_LINE_LEN_MAX + 1);
        let full = |n| IndexLine::Chunks {
            member: u64::MAX,
            list: vec![place(u64::MAX, u64::MAX); n],
        };
        for line in [line, full(INDEX_PAIRS_MAX)] {
            let parsed = IndexLine::parse(text(&line).trim_end().as_bytes());
            assert_eq!(parsed, Ok(line));
        }
        let more = text(&full(INDEX_PAIRS_MAX + 1));
        let parsed = IndexLine::parse(more.trim_end().as_bytes());
        assert_eq!(parsed, Err(IndexLineError::Malformed));
        let trailer = IndexLine::Trailer { table: 0, crc: 0 };
        assert_eq!(text(&trailer).len(), TRAILER_LEN);
    }

    fn lines_of(text: &[u8], cut: usize) -> Result<(usize, bool), IndexLineError> {
        let (mut lines, mut n) = (IndexLines::default(), 0);
        for piece in text.chunks(cut) {
            lines.feed(piece, |_| {
                n += 1;
                Ok::<_, IndexLineError>(())
            })?;
        }
        Ok((n, lines.is_complete()))
    }

    // r[xbstream.index.order]
    #[test]
    fn lines_have_an_order_and_a_sum_wherever_they_are_cut() {
        let body = "xbpipe-archive 2\nC 0 63+5\nF 0 5 3610a686 a\nD d\nI 0+17\nEND 2 5\n";
        let crc = crc32fast::hash(body.as_bytes());
        let whole = format!("{body}TRAILER 0000000000000040 {crc:08x}\n");
        for cut in [1, 2, 7, 1000] {
            assert_eq!(lines_of(whole.as_bytes(), cut), Ok((7, true)));
            assert_eq!(lines_of(body.as_bytes(), cut), Ok((6, false)));
        }
        let more = format!("{whole}D e\n");
        assert_eq!(lines_of(more.as_bytes(), 9), Err(IndexLineError::Order));
        for missing in ["xbpipe-archive 2\n", "I 0+17\n", "END 2 5\n"] {
            let text = whole.replace(missing, "");
            assert_eq!(lines_of(text.as_bytes(), 9), Err(IndexLineError::Order));
        }
        let other = whole.replace(" a\n", " b\n");
        let wrong = lines_of(other.as_bytes(), 9);
        assert!(matches!(wrong, Err(IndexLineError::Sum { expected, .. }) if expected == crc));
        let mut lines = IndexLines::at_table();
        let from_table = whole.split_once("D d\n").unwrap().1;
        lines
            .feed(from_table.as_bytes(), |_| Ok::<_, IndexLineError>(()))
            .unwrap();
        assert!(lines.is_complete());
    }

    proptest! {
        // r[xbstream.index.escape]
        #[test]
        fn every_path_survives(
            bytes in proptest::collection::vec(any::<u8>(), 1..80),
            member: u64,
            len: u64,
            crc: u32,
        ) {
            if let Ok(path) = ArchivePath::new(&bytes) {
                let line = IndexLine::File { member, len, crc, path };
                let text = text(&line);
                prop_assert!(text.trim_end().bytes().all(|b| matches!(b, 0x20..=0x7e)));
                prop_assert_eq!(IndexLine::parse(text.trim_end().as_bytes()), Ok(line));
            }
        }

        #[test]
        fn what_parses_is_canonical(line in "(F|D|END|C|Z|I|TRAILER|X)( ([0-9]{1,3}|[0-9a-fA-F]{8}|[0-9a-f]{16}|[0-9]{1,2}[+][0-9]{1,2}(,[0-9][+][0-9])?|[a%4/.F1]{1,6})){1,4}") {
            if let Ok(parsed) = IndexLine::parse(line.as_bytes()) {
                prop_assert_eq!(text(&parsed), line + "\n");
            }
        }
    }
}
