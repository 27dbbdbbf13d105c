//! Is a page whole? The check that every page passes before it goes into a backup, and again after it comes out.
//!
//! A page that was read while the server wrote it fails here; the caller reads it again before it calls it damaged.

use std::ops::Range;

use crate::base::units::PageNo;
use crate::innodb::be::u32_at;
use crate::innodb::legacy;
use crate::innodb::page::{
    CHECKSUM, ENCRYPTED_CHECKSUM, KEY_VERSION, PageHeader, TYPE_PAGE_COMPRESSED,
    TYPE_PAGE_COMPRESSED_ENCRYPTED, is_all_zero,
};
use crate::innodb::tablespace::{PageFormat, SpaceFlags};

/// Damaged pages after which a backup ends at once (`r[page.damage.all]`). Each costs its rereads, and by then it is the disk
/// that is damaged.
pub const DAMAGED_PAGES_MAX: usize = 100;
/// Stored where a checksum should be by servers that were told to write none.
const NO_CHECKSUM: u32 = 0xdead_beef;
/// Where the low half of the LSN stands in the header.
const LSN_LOW_AT: usize = 20;
/// Bit of the page type that marks a compressed page of a `full_crc32` tablespace.
const COMPRESSED_BIT: u16 = 0x8000;

/// What is known about a page that is not damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Its checksum fits.
    Valid,
    /// It was never written (`r[page.zero]`).
    AllZero,
    /// Nothing on it can be checked without decompressing it, or it lies where other pages' images are kept.
    Unverifiable,
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Not as long as the pages of this tablespace are.
    #[error("a page of {found} bytes where pages have {expected}")]
    Length {
        /// Bytes given.
        found: usize,
        /// Bytes of a page.
        expected: usize,
    },
    /// It carries another page's number.
    #[error("page number is {found}, expected {expected}")]
    PageNo {
        /// In the page.
        found: PageNo,
        /// By its place in the file.
        expected: PageNo,
    },
    /// The checksum does not fit.
    #[error("page checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    Checksum {
        /// In the page.
        stored: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// Beginning and end are from different writes.
    #[error("page LSN ends in {head:#010x} in the header and in {tail:#010x} in the trailer")]
    LsnWords {
        /// Low half of the LSN in the header.
        head: u32,
        /// Its copy in the trailer.
        tail: u32,
    },
    /// A page that tells how much of it is in use claims more than it can have, or nothing.
    #[error("the page claims to use {found} bytes")]
    UsedLength {
        /// Bytes it claims.
        found: usize,
    },
}

/// A page of a run that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPage {
    /// Its place in the run, counted from zero.
    pub index: usize,
    /// What is wrong with it.
    pub error: PageError,
}

/// Checks the pages of one tablespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCheck {
    format: PageFormat,
    len: usize,
    unchecked: Range<u32>,
}

impl PageCheck {
    /// For a file-per-table or undo tablespace with these flags.
    #[must_use]
    pub const fn new(flags: SpaceFlags) -> Self {
        Self {
            format: flags.format,
            len: flags.physical_len,
            unchecked: 0..0,
        }
    }

    /// For the system tablespace, whose first file's page 0 has these flags. Its page numbers run on from file to file,
    /// and the doublewrite area holds images of other pages (`r[page.system.doublewrite]`).
    #[must_use]
    pub const fn system(flags: SpaceFlags) -> Self {
        let extent = flags.page_size.extent_pages();
        Self {
            format: flags.format,
            len: flags.physical_len,
            unchecked: extent..extent.saturating_mul(3),
        }
    }

    /// Bytes of one page.
    #[must_use]
    pub const fn page_len(&self) -> usize {
        self.len
    }

    /// Checks one page, `page_no` being its number by its place in the tablespace.
    pub fn check(&self, page_no: PageNo, page: &[u8]) -> Result<PageState, PageError> {
        let (Some(header), true) = (PageHeader::parse(page), page.len() == self.len) else {
            return Err(PageError::Length {
                found: page.len(),
                expected: self.len,
            });
        };
        if self.unchecked.contains(&page_no.0) {
            return Ok(PageState::Unverifiable);
        }
        // r[page.zero]: a written page has an LSN, so most pages need no second look.
        if header.lsn.0 == 0 && is_all_zero(page) {
            return Ok(PageState::AllZero);
        }
        // r[page.number]
        if header.page_no != page_no {
            return Err(PageError::PageNo {
                found: header.page_no,
                expected: page_no,
            });
        }
        let short = PageError::Length {
            found: page.len(),
            expected: self.len,
        };
        match self.format {
            PageFormat::FullCrc32 => full_crc32(&header, page),
            PageFormat::Old => old(&header, page),
            PageFormat::CompressedRow => compressed_row(&header, page),
        }
        // Every place asked for lies in the 1024 bytes that the smallest page has.
        .ok_or(short)?
    }

    /// Checks the whole pages in `pages`, the first of which is `first`; returns the first bad one, or how many there
    /// are. Bytes behind the last whole page are not looked at.
    pub fn check_run(&self, first: PageNo, pages: &[u8]) -> Result<usize, BadPage> {
        let mut page_no = first;
        let mut count = 0_usize;
        for page in pages.chunks_exact(self.len) {
            self.check(page_no, page).map_err(|error| BadPage {
                index: count,
                error,
            })?;
            page_no = PageNo(page_no.0.wrapping_add(1));
            count = count.saturating_add(1);
        }
        Ok(count)
    }
}

type Verdict = Result<PageState, PageError>;

fn compare(stored: u32, computed: u32) -> Verdict {
    if stored == computed {
        Ok(PageState::Valid)
    } else {
        Err(PageError::Checksum { stored, computed })
    }
}

/// `r[page.full-crc32]`
fn full_crc32(header: &PageHeader, page: &[u8]) -> Option<Verdict> {
    let compressed = header.page_type & COMPRESSED_BIT != 0;
    // r[page.full-crc32.compressed]
    let page = if compressed {
        let found = usize::from(header.page_type & !COMPRESSED_BIT) << 8;
        match page.get(..found) {
            Some(used) if found != 0 && found < page.len() => used,
            _ => return Some(Err(PageError::UsedLength { found })),
        }
    } else {
        page
    };
    let (covered, stored) = page.split_last_chunk::<4>()?;
    let stored = u32::from_be_bytes(*stored);
    // r[page.full-crc32.checksum]
    if let Err(error) = compare(stored, crc32c::crc32c(covered)) {
        return Some(Err(error));
    }
    // r[page.full-crc32.lsn]: in this format the first word is the key version.
    let encrypted = u32_at(page, CHECKSUM.offset)? != 0;
    if compressed || encrypted {
        return Some(Ok(PageState::Valid));
    }
    let tail = u32_at(page, page.len().checked_sub(8)?)?;
    Some(lsn_words(page, tail)?.map(|()| PageState::Valid))
}

fn lsn_words(page: &[u8], tail: u32) -> Option<Result<(), PageError>> {
    let head = u32_at(page, LSN_LOW_AT)?;
    Some(if head == tail {
        Ok(())
    } else {
        Err(PageError::LsnWords { head, tail })
    })
}

/// `r[page.old]`
fn old(header: &PageHeader, page: &[u8]) -> Option<Verdict> {
    let trailer_at = page.len().checked_sub(8)?;
    let head_sum = u32_at(page, CHECKSUM.offset)?;
    let tail_sum = u32_at(page, trailer_at)?;
    let tail_lsn = u32_at(page, trailer_at.checked_add(4)?)?;
    let encrypted_sum = u32_at(page, ENCRYPTED_CHECKSUM.offset)?;
    let computed = crc32c::crc32c(page.get(4..26)?) ^ crc32c::crc32c(page.get(38..trailer_at)?);
    // r[page.old.page-compressed]: servers do not look at the sum of the encrypted ones, so it can only speak for a page.
    match header.page_type {
        TYPE_PAGE_COMPRESSED => return Some(Ok(PageState::Unverifiable)),
        TYPE_PAGE_COMPRESSED_ENCRYPTED if head_sum == NO_CHECKSUM && encrypted_sum == computed => {
            return Some(Ok(PageState::Valid));
        }
        TYPE_PAGE_COMPRESSED_ENCRYPTED => return Some(Ok(PageState::Unverifiable)),
        _ => {}
    }
    // r[page.old.lsn]
    if let Err(error) = lsn_words(page, tail_lsn)? {
        return Some(Err(error));
    }
    // r[page.old.none]
    if head_sum == NO_CHECKSUM && tail_sum == NO_CHECKSUM {
        return Some(Ok(PageState::Unverifiable));
    }
    // r[page.old.checksum]
    if head_sum == computed && tail_sum == computed {
        return Some(Ok(PageState::Valid));
    }
    // r[page.old.encrypted]: page 0 is never encrypted and keeps an LSN in that place.
    if header.key_version != 0
        && header.page_no.0 != 0
        && encrypted_sum == computed
        && head_sum == tail_sum
    {
        return Some(Ok(PageState::Valid));
    }
    // r[page.old.legacy]
    if legacy::tail_checksum(page)? == tail_sum && legacy::head_checksum(page)? == head_sum {
        return Some(Ok(PageState::Valid));
    }
    let stored = if head_sum == computed {
        tail_sum
    } else {
        head_sum
    };
    Some(Err(PageError::Checksum { stored, computed }))
}

/// `r[page.compressed-row]`
fn compressed_row(header: &PageHeader, page: &[u8]) -> Option<Verdict> {
    let computed = crc32c::crc32c(page.get(4..16)?)
        ^ crc32c::crc32c(page.get(24..KEY_VERSION.offset)?)
        ^ crc32c::crc32c(page.get(34..)?);
    let stored = u32_at(page, CHECKSUM.offset)?;
    if stored == NO_CHECKSUM {
        return Some(Ok(PageState::Unverifiable));
    }
    if stored == computed {
        return Some(Ok(PageState::Valid));
    }
    if header.key_version != 0 && header.page_no.0 != 0 {
        return Some(compare(u32_at(page, ENCRYPTED_CHECKSUM.offset)?, computed));
    }
    Some(Err(PageError::Checksum { stored, computed }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::innodb::be::put_at;

    fn flags(word: u32) -> SpaceFlags {
        SpaceFlags::parse(word).unwrap()
    }

    /// A page 5 with an LSN and some content, not summed yet.
    fn page(len: usize) -> Vec<u8> {
        let mut page: Vec<u8> = (0..len)
            .map(|i| u8::try_from(i * 7 % 251).unwrap())
            .collect();
        page[..38].fill(0);
        put_at(&mut page, 4, &5_u32.to_be_bytes());
        put_at(&mut page, 16, &0x1_2345_6789_u64.to_be_bytes());
        put_at(&mut page, len - 4, &0x2345_6789_u32.to_be_bytes());
        page
    }

    fn full_crc32_page() -> Vec<u8> {
        let mut page = page(16384);
        put_at(&mut page, 16384 - 8, &0x2345_6789_u32.to_be_bytes());
        let sum = crc32c::crc32c(&page[..16380]);
        put_at(&mut page, 16380, &sum.to_be_bytes());
        page
    }

    #[test]
    fn full_crc32_pages_and_what_is_wrong_with_them() {
        let check = PageCheck::new(flags(0x15));
        let good = full_crc32_page();
        assert_eq!(check.check(PageNo(5), &good), Ok(PageState::Valid));
        let (found, expected) = (PageNo(5), PageNo(6));
        assert_eq!(
            check.check(expected, &good),
            Err(PageError::PageNo { found, expected })
        );
        assert_eq!(check.check(PageNo(9), &[0; 16384]), Ok(PageState::AllZero));
        assert!(matches!(
            check.check(PageNo(5), &good[1..]),
            Err(PageError::Length { found: 16383, .. })
        ));
        for at in (0..16384).step_by(37).chain(0..64) {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(check.check(PageNo(5), &bad).is_err(), "{at}");
        }
        let mut torn = good.clone();
        torn[20] ^= 1;
        let sum = crc32c::crc32c(&torn[..16380]);
        put_at(&mut torn, 16380, &sum.to_be_bytes());
        assert!(matches!(
            check.check(PageNo(5), &torn),
            Err(PageError::LsnWords { .. })
        ));
        for length in [0_u16, 64, 65, 0x7fff] {
            let mut bad = good.clone();
            put_at(&mut bad, 24, &(0x8000 | length).to_be_bytes());
            let found = usize::from(length) * 256;
            assert_eq!(
                check.check(PageNo(5), &bad),
                Err(PageError::UsedLength { found })
            );
        }
    }

    #[test]
    fn old_pages_without_a_checksum_and_with_a_legacy_one() {
        let check = PageCheck::new(flags(0));
        let mut none = page(16384);
        put_at(&mut none, 0, &NO_CHECKSUM.to_be_bytes());
        put_at(&mut none, 16376, &NO_CHECKSUM.to_be_bytes());
        assert_eq!(check.check(PageNo(5), &none), Ok(PageState::Unverifiable));
        let mut old = page(16384);
        let sum = legacy::head_checksum(&old).unwrap();
        put_at(&mut old, 0, &sum.to_be_bytes());
        let sum = legacy::tail_checksum(&old).unwrap();
        put_at(&mut old, 16376, &sum.to_be_bytes());
        assert_eq!(check.check(PageNo(5), &old), Ok(PageState::Valid));
        old[100] ^= 1;
        assert!(matches!(
            check.check(PageNo(5), &old),
            Err(PageError::Checksum { .. })
        ));
    }

    #[test]
    fn a_run_names_its_first_bad_page() {
        let check = PageCheck::new(flags(0x15));
        let mut run = full_crc32_page();
        run.resize(16384 * 4 + 100, 0);
        assert_eq!(check.check_run(PageNo(5), &run), Ok(4));
        run[16384 * 2 + 9] = 1;
        let bad = check.check_run(PageNo(5), &run).unwrap_err();
        assert_eq!(bad.index, 2);
        assert!(matches!(bad.error, PageError::PageNo { .. }));
    }

    #[test]
    fn the_doublewrite_area_is_not_looked_at() {
        let check = PageCheck::system(flags(0x15));
        let page = full_crc32_page();
        assert_eq!(check.check(PageNo(64), &page), Ok(PageState::Unverifiable));
        assert_eq!(check.check(PageNo(191), &page), Ok(PageState::Unverifiable));
        assert!(check.check(PageNo(63), &page).is_err());
        assert!(check.check(PageNo(192), &page).is_err());
    }
}
