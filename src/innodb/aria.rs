//! Pages of Aria tables. Only transactional tables matter: they are copied while they change, all others stand still
//! when they are copied.

use crate::base::units::PageNo;
use crate::innodb::be::{array_at, u16_at, u32_at};
use crate::innodb::check::{PageError, PageState};
use crate::innodb::page::is_all_zero;

/// The first bytes of an index file whose header we know.
const MAGIC: [u8; 4] = [0xfe, 0xfe, 0x09, 0x03];
/// Of the options word: pages carry checksums.
const PAGE_CHECKSUM: u16 = 0x0800;
/// Where the index file's header says how long it is, and where its fixed part begins.
const OPTIONS_AT: usize = 4;
const HEADER_LEN_AT: usize = 6;
const BASE_AT: usize = 12;
/// Of the fixed part: whether the table was made transactional.
const TRANSACTIONAL_AT: usize = 106;
/// Where an index page says how many of its bytes are in use.
const USED_AT: usize = 15;
/// From here on, stored checksums mean that there is none.
const NO_CHECKSUM_MIN: u32 = 0xffff_fffe;

/// Which of a table's two files a page is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AriaFile {
    /// The `.MAD` file.
    Data,
    /// The `.MAI` file.
    Index,
}

/// Checks the pages of one transactional table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AriaCheck {
    block_len: usize,
    header_len: usize,
}

impl AriaCheck {
    /// For the table whose index file begins with `head` (512 bytes are enough), on a server whose `aria_block_size` is
    /// `block_len`. `None` when its pages have no checksums that could be checked: the table is not transactional, was
    /// made with PAGE_CHECKSUM=0, or has a header that we do not know (`r[page.aria.which]`).
    #[must_use]
    pub fn new(head: &[u8], block_len: usize) -> Option<Self> {
        let base_at = usize::from(u16_at(head, BASE_AT)?);
        let transactional = *head.get(base_at.checked_add(TRANSACTIONAL_AT)?)? == 1;
        let summed = u16_at(head, OPTIONS_AT)? & PAGE_CHECKSUM != 0;
        let known = array_at(head, 0) == Some(MAGIC) && block_len >= 1024;
        (known && transactional && summed).then_some(Self {
            block_len,
            header_len: usize::from(u16_at(head, HEADER_LEN_AT)?),
        })
    }

    /// Bytes of one page.
    #[must_use]
    pub const fn page_len(&self) -> usize {
        self.block_len
    }

    /// Checks one page by its number in the file (`r[page.aria.checksum]`).
    pub fn check(
        &self,
        file: AriaFile,
        page_no: PageNo,
        page: &[u8],
    ) -> Result<PageState, PageError> {
        let length = PageError::Length {
            found: page.len(),
            expected: self.block_len,
        };
        let (true, Some((body, _))) = (page.len() == self.block_len, page.split_last_chunk::<4>())
        else {
            return Err(length);
        };
        let page_at = self.block_len.saturating_mul(page_no.0 as usize);
        if file == AriaFile::Index && page_at < self.header_len {
            return Ok(PageState::Unverifiable);
        }
        if is_all_zero(page) {
            return Ok(PageState::AllZero);
        }
        // This one number is little-endian.
        let stored = u32_at(page, body.len()).ok_or(length)?.swap_bytes();
        if stored >= NO_CHECKSUM_MIN {
            return Ok(PageState::Unverifiable);
        }
        let used = match file {
            AriaFile::Data => body.len(),
            AriaFile::Index => u16_at(page, USED_AT).map_or(0, usize::from),
        };
        let Some(covered) = body.get(..used) else {
            return Err(PageError::UsedLength { found: used });
        };
        let mut hasher = crc32fast::Hasher::new_with_initial(page_no.0);
        hasher.update(covered);
        let computed = hasher.finalize();
        if stored == computed {
            Ok(PageState::Valid)
        } else {
            Err(PageError::Checksum { stored, computed })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(options: u8, transactional: u8) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(&MAGIC);
        head[4] = options;
        head[6..8].copy_from_slice(&448_u16.to_be_bytes());
        head[13] = 0xef;
        head[0xef + TRANSACTIONAL_AT] = transactional;
        head
    }

    #[test]
    fn only_summed_transactional_tables_are_checked() {
        assert!(AriaCheck::new(&head(0x0c, 1), 8192).is_some());
        assert_eq!(AriaCheck::new(&head(0x04, 1), 8192), None);
        assert_eq!(AriaCheck::new(&head(0x0c, 0), 8192), None);
        assert_eq!(AriaCheck::new(&head(0x0c, 1)[..300], 8192), None);
    }

    #[test]
    fn sums_depend_on_the_page_number_and_on_every_covered_byte() {
        let check = AriaCheck::new(&head(0x0c, 1), 1024).unwrap();
        let mut page: Vec<u8> = (0..1024).map(|i| u8::try_from(i % 253).unwrap()).collect();
        let mut hasher = crc32fast::Hasher::new_with_initial(7);
        hasher.update(&page[..1020]);
        let sum = hasher.finalize().swap_bytes().to_be_bytes();
        page[1020..].copy_from_slice(&sum);
        let of = |no, page: &[u8]| check.check(AriaFile::Data, PageNo(no), page);
        assert_eq!(of(7, &page), Ok(PageState::Valid));
        assert!(of(8, &page).is_err());
        for at in 0..1024 {
            page[at] ^= 4;
            assert!(of(7, &page).is_err(), "{at}");
            page[at] ^= 4;
        }
        assert_eq!(of(7, &[0; 1024]), Ok(PageState::AllZero));
        assert!(of(7, &page[1..]).is_err());
        page[15] = 0xff;
        let index = check.check(AriaFile::Index, PageNo(1), &page);
        assert!(matches!(index, Err(PageError::UsedLength { .. })));
    }
}
