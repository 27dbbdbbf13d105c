//! The index of a backup: which files the archive holds where, and the checksum of each of its parts. Text, one line for each
//! fact, in the order of the archive, so that writing it needs no memory. `r[repository.index]`

use crate::base::error::{Error, Kind, Result};

/// First line.
const HEADER: &str = "xbpipe-repository-index 1";

/// Longest line, in bytes: a path of which every byte is escaped. `r[repository.index.line-len]`
pub const INDEX_LINE_LEN_MAX: usize = 2 + 3 * 511;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Format and version.
    Header,
    /// The next file, numbered from 0 in order of first mention; its path as in the archive.
    File(Vec<u8>),
    /// The next `len` bytes of the archive are whole chunks of this file.
    Run {
        /// Number of the file.
        file: u64,
        /// Bytes.
        len: u64,
    },
    /// CRC-32 of the next part of the archive; parts do not reach from one segment into the next.
    Part(u32),
    /// Files of this archive are renamed, removed or replaced later in it: whoever wants some must read all.
    Entangled,
    /// Last line: bytes of the archive and number of its parts.
    End {
        /// Bytes.
        bytes: u64,
        /// Parts.
        parts: u64,
    },
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && byte != b'%'
}

impl Line {
    /// Appends the line with its newline.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let text = match self {
            Self::Header => HEADER.to_owned(),
            Self::File(path) => {
                let escaped = path.iter().map(|&byte| match byte {
                    plain if is_plain(plain) => char::from(plain).to_string(),
                    other => format!("%{other:02X}"),
                });
                format!("F {}", escaped.collect::<String>())
            }
            Self::Run { file, len } => format!("{file} {len}"),
            Self::Part(crc) => format!("P {crc:08x}"),
            Self::Entangled => "R".to_owned(),
            Self::End { bytes, parts } => format!("END {bytes} {parts}"),
        };
        out.extend_from_slice(text.as_bytes());
        out.push(b'\n');
    }

    /// Reads a line without its newline. Every line has exactly one spelling. `r[repository.index.canonical]`
    pub fn parse(line: &[u8]) -> Result<Self> {
        let parsed = std::str::from_utf8(line).ok().and_then(parse);
        let canonical = parsed.filter(|parsed| {
            let mut again = Vec::with_capacity(line.len() + 1);
            parsed.append_to(&mut again);
            again.strip_suffix(b"\n") == Some(line)
        });
        canonical.ok_or_else(|| {
            let shown = String::from_utf8_lossy(line.get(..80).unwrap_or(line)).into_owned();
            Error::new(Kind::Checksum, format!("{shown:?} is no line of an index"))
        })
    }
}

fn parse(line: &str) -> Option<Line> {
    if line == HEADER {
        return Some(Line::Header);
    }
    if line == "R" {
        return Some(Line::Entangled);
    }
    let (first, rest) = line.split_once(' ')?;
    match first {
        "F" => unescape(rest.as_bytes()).map(Line::File),
        "P" => u32::from_str_radix(rest, 16).ok().map(Line::Part),
        "END" => {
            let (bytes, parts) = rest.split_once(' ')?;
            Some(Line::End {
                bytes: bytes.parse().ok()?,
                parts: parts.parse().ok()?,
            })
        }
        _ => Some(Line::Run {
            file: first.parse().ok()?,
            len: rest.parse().ok()?,
        }),
    }
}

fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    (!out.is_empty()).then_some(out)
}

/// Takes an index apart that is pushed in pieces, and checks that its lines follow each other as they must.
#[derive(Debug, Default)]
pub struct Reader {
    partial: Vec<u8>,
    begun: bool,
    files: u64,
    bytes: u64,
    parts: u64,
    ended: bool,
}

impl Reader {
    /// Takes the next bytes; every whole line goes to `each`.
    pub fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if self.partial.len() + piece.len() > INDEX_LINE_LEN_MAX + 1 {
                return Err(damaged("a line of the index is too long"));
            }
            self.partial.extend_from_slice(piece);
            let Some(line) = self.partial.strip_suffix(b"\n") else {
                continue;
            };
            let line = Line::parse(line)?;
            self.partial.clear();
            self.check(&line)?;
            each(line)?;
        }
        Ok(())
    }

    fn check(&mut self, line: &Line) -> Result<()> {
        if self.ended || self.begun == (*line == Line::Header) {
            return Err(damaged("the index does not begin and end as it should"));
        }
        match line {
            Line::Header => self.begun = true,
            Line::File(_) => self.files += 1,
            Line::Run { file, len } => {
                let sum = self.bytes.checked_add(*len).filter(|_| *len > 0);
                let (Some(sum), true) = (sum, *file < self.files) else {
                    return Err(damaged("a run of the index is impossible"));
                };
                self.bytes = sum;
            }
            Line::Part(_) => self.parts += 1,
            Line::Entangled => {}
            Line::End { bytes, parts } => {
                if (*bytes, *parts) != (self.bytes, self.parts) {
                    return Err(damaged(
                        "the last line of the index does not fit the others",
                    ));
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    /// Whether the last line was there.
    pub fn finish(&self) -> Result<()> {
        if self.ended && self.partial.is_empty() {
            Ok(())
        } else {
            Err(damaged("the index ends without its last line"))
        }
    }
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Checksum, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines() -> Vec<(Line, &'static str)> {
        vec![
            (Line::Header, HEADER),
            (Line::File(b"db/t 1%\xff".to_vec()), "F db/t%201%25%FF"),
            (Line::Run { file: 0, len: 77 }, "0 77"),
            (Line::Part(0xab), "P 000000ab"),
            (Line::Entangled, "R"),
            (
                Line::End {
                    bytes: 77,
                    parts: 1,
                },
                "END 77 1",
            ),
        ]
    }

    // r[repository.index] r[repository.index.canonical]
    #[test]
    fn every_line_has_one_spelling() {
        for (line, text) in lines() {
            let mut out = Vec::new();
            line.append_to(&mut out);
            assert_eq!(out, [text.as_bytes(), b"\n"].concat());
            assert_eq!(Line::parse(text.as_bytes()).unwrap(), line);
        }
        for bad in [
            "",
            "F",
            "F ",
            "F a b",
            "F %61",
            "F %f",
            "0",
            "00 1",
            "1 +1",
            "-1 1",
            "P ab",
            "P 000000AB",
            "R ",
            "END 1",
            "END 1 2 3",
            "xbpipe-repository-index 2",
            "F \u{e9}",
        ] {
            let error = Line::parse(bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), Kind::Checksum, "{bad:?}");
        }
    }

    // r[repository.index.line-len]
    #[test]
    fn the_longest_line_fits() {
        let mut out = Vec::new();
        Line::File(vec![0xff; 511]).append_to(&mut out);
        assert_eq!(out.len(), INDEX_LINE_LEN_MAX + 1);
        let mut reader = Reader::default();
        reader.push(HEADER.as_bytes(), &mut |_| Ok(())).unwrap();
        reader.push(b"\n", &mut |_| Ok(())).unwrap();
        reader.push(&out, &mut |_| Ok(())).unwrap();
        let long = vec![b'x'; INDEX_LINE_LEN_MAX + 2];
        assert!(reader.push(&long, &mut |_| Ok(())).is_err());
    }

    fn read(text: &str, cut: usize) -> Result<Vec<Line>> {
        let mut found = Vec::new();
        let mut reader = Reader::default();
        for piece in text.as_bytes().chunks(cut) {
            reader.push(piece, &mut |line| {
                found.push(line);
                Ok(())
            })?;
        }
        reader.finish()?;
        Ok(found)
    }

    #[test]
    fn lines_must_follow_each_other() {
        let good: Vec<&str> = lines().iter().map(|(_, text)| *text).collect();
        let whole = good.join("\n") + "\n";
        for cut in 1..whole.len() {
            assert_eq!(read(&whole, cut).unwrap().len(), 6);
        }
        for bad in [
            "0 77\nEND 77 0\n",
            "xbpipe-repository-index 1\n0 1\nEND 1 0\n",
            "xbpipe-repository-index 1\nF a\n0 0\nEND 0 0\n",
            "xbpipe-repository-index 1\nF a\n0 1\nEND 2 0\n",
            "xbpipe-repository-index 1\nEND 0 0\nR\n",
            "xbpipe-repository-index 1\nEND 0 0",
            "xbpipe-repository-index 1\n",
            "xbpipe-repository-index 1\nxbpipe-repository-index 1\nEND 0 0\n",
            "",
        ] {
            assert!(read(bad, 7).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn paths_survive(path in proptest::collection::vec(any::<u8>(), 1..60)) {
            let line = Line::File(path);
            let mut out = Vec::new();
            line.append_to(&mut out);
            prop_assert_eq!(Line::parse(out.strip_suffix(b"\n").unwrap()).unwrap(), line);
        }

        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            reader.push(&bytes, &mut |_| Ok(())).ok();
        }
    }
}
