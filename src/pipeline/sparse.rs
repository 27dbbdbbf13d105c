//! A file that gets its content in pieces and keeps long runs of zeros as holes, wherever the pieces are cut.
//!
//! A page-compressed tablespace keeps the room behind each of its pages, too: the server wrote those pages without their tails
//! (`r[page.compressed.tail]`), and a copy that spells the zeros out would take several times the room.

use std::ops::Range;
use std::sync::Arc;

use crate::base::error::Result;
use crate::base::fsx::File;
use crate::innodb::page::is_page_compressed;
use crate::innodb::tablespace::{PAGE_0_LEN_MIN, Page0};
use crate::pipeline::budget::ZEROS;

/// Zero runs shorter than this are written: holes cost the file system an extent each.
const HOLE_LEN_MIN: u64 = 64 << 10;

/// Unit in which zeros are looked for; the block size of every common file system.
const BLOCK_LEN: usize = 4 << 10;

/// Writes content at ascending offsets, and patches of what is there already. Every call returns the bytes it has written.
pub(super) struct SparseFile {
    file: Arc<File>,
    /// Highest offset given: the length of the content.
    end: u64,
    /// Zeros that were given last and are not written yet: whether they become a hole depends on what follows.
    zeros: Range<u64>,
    /// Up to here there may be data on disk.
    written_end: u64,
    /// Where a part that somebody else writes ends, or this part begins: zeros from there on may continue zeros before it.
    edge: Option<u64>,
    /// Others have written parts, so the length on disk is not known here.
    has_parts: bool,
    /// This is such a part: it has no say about the length, and zeros at its end may go on behind it.
    is_part: bool,
    holes: Holes,
}

/// Which zeros need no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holes {
    /// Nothing is known about the file yet.
    Unknown,
    /// Long runs.
    Long,
    /// Long runs; a tablespace of pages of this length, none of them compressed so far.
    LongIn(u64),
    /// Long runs, and the tails of pages of this length.
    Tails(u64),
}

impl Holes {
    /// What `data`, which belongs at `offset`, shows. Page 0 of MariaDB's tablespaces tells; in MySQL's only pages do.
    fn learn(self, data: &[u8], offset: u64) -> Self {
        let known = match self {
            Self::Unknown if offset > 0 => Self::Long,
            Self::Unknown if data.len() < PAGE_0_LEN_MIN => Self::Unknown,
            Self::Unknown => match Page0::parse(data) {
                Ok(Some(page0)) if page0.flags.page_compressed => {
                    Self::Tails(page0.flags.physical_len as u64)
                }
                Ok(Some(page0)) => Self::LongIn(page0.flags.physical_len as u64),
                Ok(None) | Err(_) => Self::Long,
            },
            known => known,
        };
        let Self::LongIn(page_len) = known else {
            return known;
        };
        let first = usize::try_from(offset.next_multiple_of(page_len) - offset);
        let (Ok(first), Ok(step)) = (first, usize::try_from(page_len)) else {
            return known;
        };
        let mut pages = (first..data.len()).step_by(step);
        if pages.any(|at| is_page_compressed(data.get(at..).unwrap_or_default())) {
            Self::Tails(page_len)
        } else {
            known
        }
    }

    /// The part of a run of zeros that needs no room. Only whole blocks of the file system can be spared.
    fn in_zeros(self, zeros: &Range<u64>) -> Option<Range<u64>> {
        if zeros.end - zeros.start >= HOLE_LEN_MIN {
            return Some(zeros.clone());
        }
        let Self::Tails(page_len) = self else {
            return None;
        };
        let hole = zeros.start.next_multiple_of(BLOCK_LEN as u64)..zeros.end - zeros.end % page_len;
        (hole.start < hole.end).then_some(hole)
    }
}

impl SparseFile {
    /// Begins with an empty file.
    pub(super) fn new(file: File) -> Self {
        Self {
            file: Arc::new(file),
            end: 0,
            zeros: 0..0,
            written_end: 0,
            edge: None,
            has_parts: false,
            is_part: false,
            holes: Holes::Unknown,
        }
    }

    /// Whether it is known which zeros need no room, so that parts can be given away.
    pub(super) fn knows_its_holes(&self) -> bool {
        self.holes != Holes::Unknown
    }

    /// Leaves the `len` bytes at `offset`, behind all that was given so far, to the writer that is returned.
    pub(super) fn part(&mut self, offset: u64, len: u64) -> Self {
        // How far zeros go on in the part is not known here; what is left out reads as zeros in any case.
        self.zeros = 0..0;
        self.end = self.end.max(offset + len);
        self.written_end = self.written_end.max(offset + len);
        self.edge = Some(offset + len);
        self.has_parts = true;
        Self {
            file: Arc::clone(&self.file),
            end: offset,
            zeros: 0..0,
            written_end: 0,
            edge: Some(offset),
            has_parts: false,
            is_part: true,
            holes: self.holes,
        }
    }

    /// Content at `offset`.
    pub(super) fn data(&mut self, data: &[u8], offset: u64) -> Result<u64> {
        // A patch (MariaDB's seek) may write zeros over data: they are taken literally.
        let literal = usize::try_from(self.written_end.saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(data.len());
        let (patch, rest) = data.split_at(literal);
        let begin = offset + literal as u64;
        let mut written = self.put(patch, offset)?;
        if begin != self.zeros.end && !rest.is_empty() {
            written += self.settle()?;
        }
        self.holes = self.holes.learn(data, offset);
        for run in runs(rest, begin, self.holes) {
            match run {
                Run::Zeros(range) => {
                    if self.zeros.is_empty() {
                        self.zeros.start = begin + range.start as u64;
                    }
                    self.zeros.end = begin + range.end as u64;
                }
                Run::Data(range) => {
                    written += self.settle()?;
                    let at = begin + range.start as u64;
                    written += self.put(rest.get(range).unwrap_or_default(), at)?;
                }
            }
        }
        self.end = self.end.max(offset + data.len() as u64);
        Ok(written)
    }

    /// `len` zeros at `offset` that are to take no room, however few they are.
    pub(super) fn hole(&mut self, mut offset: u64, len: u64) -> Result<u64> {
        let hole_end = offset + len;
        let mut written = self.settle()?;
        // Over what is there already, zeros must be written.
        let covered = hole_end.min(self.written_end);
        while offset < covered {
            let n = (covered - offset).min(ZEROS.len() as u64);
            written += self.put_zeros(n, offset)?;
            offset += n;
        }
        self.end = self.end.max(hole_end);
        Ok(written)
    }

    /// The content is complete: gives the file its length.
    pub(super) fn finish(mut self) -> Result<u64> {
        if self.is_part {
            return Ok(0);
        }
        let written = self.settle()?;
        if self.has_parts || self.written_end < self.end {
            self.file.set_len(self.end)?;
        }
        Ok(written)
    }

    /// Decides about the zeros that wait.
    fn settle(&mut self) -> Result<u64> {
        let zeros = std::mem::take(&mut self.zeros);
        if self.edge == Some(zeros.start) {
            return Ok(0);
        }
        match self.holes.in_zeros(&zeros) {
            Some(hole) => Ok(self.put_zeros(hole.start - zeros.start, zeros.start)?
                + self.put_zeros(zeros.end - hole.end, hole.end)?),
            None => self.put_zeros(zeros.end - zeros.start, zeros.start),
        }
    }

    fn put_zeros(&mut self, len: u64, offset: u64) -> Result<u64> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.put(ZEROS.get(..len).unwrap_or(&ZEROS), offset)
    }

    fn put(&mut self, bytes: &[u8], offset: u64) -> Result<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        self.file.write_all_at(bytes, offset)?;
        self.written_end = self.written_end.max(offset + bytes.len() as u64);
        Ok(bytes.len() as u64)
    }
}

/// A part of a piece. Those of one piece follow each other and cover it.
#[derive(Debug, PartialEq, Eq)]
enum Run {
    /// Zeros, at an end of the piece or enough of them for a hole.
    Zeros(Range<usize>),
    /// A range that is to be written; short runs of zeros are part of it.
    Data(Range<usize>),
}

/// Takes `data`, which belongs at `offset`, apart. Zeros are looked for in whole file blocks, and in the parts of a block at the
/// ends of the piece.
fn runs(data: &[u8], offset: u64, holes: Holes) -> Vec<Run> {
    let mut runs = Vec::with_capacity(1);
    let to_border = usize::try_from(offset.next_multiple_of(BLOCK_LEN as u64) - offset)
        .unwrap_or(data.len())
        .min(data.len());
    let (head, blocks) = data.split_at(to_border);
    let pieces = std::iter::once(head)
        .filter(|head| !head.is_empty())
        .chain(blocks.chunks(BLOCK_LEN));
    // Data from `begin`, then zeros from `zeros_begin`, up to `at`.
    let (mut begin, mut zeros_begin, mut at) = (0, 0, 0);
    for piece in pieces {
        if !is_zero(piece) {
            let zeros = offset + zeros_begin as u64..offset + at as u64;
            if !zeros.is_empty() && (zeros_begin == 0 || holes.in_zeros(&zeros).is_some()) {
                if begin < zeros_begin {
                    runs.push(Run::Data(begin..zeros_begin));
                }
                runs.push(Run::Zeros(zeros_begin..at));
                begin = at;
            }
            zeros_begin = at + piece.len();
        }
        at += piece.len();
    }
    if begin < zeros_begin {
        runs.push(Run::Data(begin..zeros_begin));
    }
    if zeros_begin < at {
        runs.push(Run::Zeros(zeros_begin..at));
    }
    runs
}

/// Looks at the first word before the rest: nearly every block that is not zero shows it there.
fn is_zero(block: &[u8]) -> bool {
    let (head, rest) = block.split_at(block.len().min(16));
    head.iter().all(|b| *b == 0)
        && rest
            .chunks(512)
            .all(|c| c.iter().fold(0, |sum, b| sum | b) == 0)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "tests look at files without the code under test"
)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::base::fsx::Dir;

    #[test]
    fn runs_cover_the_piece_and_name_its_long_zeros() {
        let mut data = vec![1; 300 << 10];
        data[10_000..200_000].fill(0);
        let expected = vec![
            Run::Data(0..12_288),
            Run::Zeros(12_288..196_608),
            Run::Data(196_608..300 << 10),
        ];
        assert_eq!(runs(&data, 0, Holes::Long), expected);
        assert_eq!(runs(&data, 4096, Holes::Long), expected);
        assert_eq!(
            runs(&data, 100, Holes::Long).first(),
            Some(&Run::Data(0..12_188))
        );
        data[100_000] = 1;
        assert_eq!(runs(&data, 0, Holes::Long).len(), 5);
        data[150_000] = 1;
        data[180_000] = 1;
        assert_eq!(runs(&data, 0, Holes::Long).len(), 3);
        assert_eq!(
            runs(&[0; 9000], 100, Holes::Long),
            vec![Run::Zeros(0..9000)]
        );
        assert_eq!(
            runs(&[0, 1], 4095, Holes::Long),
            vec![Run::Zeros(0..1), Run::Data(1..2)]
        );
    }

    /// Writes `content` in pieces of the given lengths; returns the bytes the file takes on disk.
    fn write(root: &Path, name: &str, content: &[u8], cuts: &[usize]) -> u64 {
        let dir = Dir::open(root).unwrap();
        let mut file = SparseFile::new(dir.create_file(Path::new(name), 0o600).unwrap());
        let (mut at, mut cuts) = (0, cuts.iter().cycle());
        while at < content.len() {
            let n = (*cuts.next().unwrap()).clamp(1, content.len() - at);
            file.data(&content[at..at + n], at as u64).unwrap();
            at += n;
        }
        file.finish().unwrap();
        let path = root.join(name);
        assert!(std::fs::read(&path).unwrap() == content);
        std::fs::metadata(path).unwrap().blocks() * 512
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn holes_do_not_depend_on_the_cuts(
            islands in proptest::collection::vec((0usize..1_500_000, 1usize..9000), 0..5),
            cuts in proptest::collection::vec(1usize..300_000, 1..6),
            tail in 1usize..200_000,
        ) {
            let root = tempfile::tempdir_in("/dev/shm").unwrap();
            let mut content = vec![0; 1_510_000 + tail];
            for (at, len) in islands {
                content[at..at + len].fill(7);
            }
            let whole = write(root.path(), "whole", &content, &[content.len()]);
            let cut = write(root.path(), "cut", &content, &cuts);
            // A cut in the middle of a run of data may hide a short run of zeros, which is written then.
            prop_assert!(cut <= whole + cuts.len() as u64 * 8192 + HOLE_LEN_MIN, "{} {}", cut, whole);
        }
    }

    /// A tablespace of 64 pages of 16 KiB; those that `kept` names end after that many bytes.
    fn tablespace(flags: u32, page_type: u16, kept: impl Fn(usize) -> usize) -> Vec<u8> {
        let mut file = vec![0; 64 << 14];
        for (number, page) in file.chunks_mut(1 << 14).enumerate() {
            page[..kept(number)].fill(0x55);
            page[4..8].copy_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
            let page_type = if number > 3 { page_type } else { 8 };
            page[24..26].copy_from_slice(&page_type.to_be_bytes());
            page[34..38].copy_from_slice(&7u32.to_be_bytes());
        }
        file[38..42].copy_from_slice(&7u32.to_be_bytes());
        file[54..58].copy_from_slice(&flags.to_be_bytes());
        file
    }

    /// `r[page.compressed.tail]`
    #[test]
    fn tails_of_compressed_pages_take_no_room() {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let kept = |number| {
            if number > 3 {
                3000 + number * 100
            } else {
                1 << 14
            }
        };
        for (i, (flags, page_type, tails)) in [
            (0x35, 0x8011, true),
            (0x1_0021, 34354, true),
            (0x4021, 14, true),
            (0x4021, 16, true),
            (0x15, 17855, false),
        ]
        .into_iter()
        .enumerate()
        {
            let content = tablespace(flags, page_type, kept);
            for (j, cuts) in [
                &[1 << 20][..],
                &[100_000],
                &[70_000, 40_000, 4096],
                &[70_000, 33_333],
            ]
            .into_iter()
            .enumerate()
            {
                let on_disk = write(root.path(), &format!("{i}.{j}"), &content, cuts);
                let expected: u64 = if tails {
                    (0..64).map(|n| kept(n).next_multiple_of(4096) as u64).sum()
                } else {
                    1 << 20
                };
                assert_eq!(on_disk, expected, "{flags:#x} {page_type} {cuts:?}");
            }
        }
    }

    #[test]
    fn patches_are_literal_and_asked_for_holes_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let dir = Dir::open(root.path()).unwrap();
        let mut file = SparseFile::new(dir.create_file(Path::new("f"), 0o600).unwrap());
        file.data(&[1; 200_000], 0).unwrap();
        file.data(&[0; 70_000], 200_000).unwrap();
        file.data(&[0; 100_000], 50_000).unwrap();
        file.hole(10, 20).unwrap();
        file.hole(270_000, 16_384).unwrap();
        file.data(&[2; 5], 286_384).unwrap();
        file.data(&[0; 9], 286_389).unwrap();
        file.hole(286_398, 100_000).unwrap();
        file.data(&[3; 5], 300_000).unwrap();
        file.finish().unwrap();
        let mut expected = vec![1; 386_398];
        for zeros in [10..30, 50_000..150_000, 200_000..286_384, 286_389..386_398] {
            expected[zeros].fill(0);
        }
        expected[286_384..286_389].fill(2);
        expected[300_000..300_005].fill(3);
        assert!(std::fs::read(root.path().join("f")).unwrap() == expected);
    }
}
