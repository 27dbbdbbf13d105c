//! The header every page begins with.

use std::fmt;

use crate::base::spec::{Field, Layout};
use crate::base::units::{Lsn, PageNo, SpaceId};
use crate::innodb::be::{field, u16_at, u32_at, u64_at};

pub(crate) const CHECKSUM: Field = field(0, 4, "checksum_or_key_version", "u32be");
pub(crate) const PAGE_NO: Field = field(4, 4, "page_no", "u32be");
const PREV: Field = field(8, 4, "prev", "u32be");
const NEXT: Field = field(12, 4, "next", "u32be");
const LSN: Field = field(16, 8, "lsn", "u64be");
const TYPE: Field = field(24, 2, "type", "u16be");
pub(crate) const KEY_VERSION: Field = field(26, 4, "key_version", "u32be");
pub(crate) const ENCRYPTED_CHECKSUM: Field = field(30, 4, "encrypted_checksum", "u32be");
pub(crate) const SPACE_ID: Field = field(34, 4, "space_id", "u32be");

/// The first 38 bytes of a page (`r[page.header.layout]`).
pub const HEADER: Layout = Layout {
    name: "page header",
    fields: &[
        CHECKSUM,
        PAGE_NO,
        PREV,
        NEXT,
        LSN,
        TYPE,
        KEY_VERSION,
        ENCRYPTED_CHECKSUM,
        SPACE_ID,
    ],
};

const _: () = assert!(HEADER.size() == 38);

/// Page type of a compressed page in a tablespace of the older format.
pub const TYPE_PAGE_COMPRESSED: u16 = 34354;
/// Page type of a page that is compressed and then encrypted, in a tablespace of the older format.
pub const TYPE_PAGE_COMPRESSED_ENCRYPTED: u16 = 37401;

/// Page type of a compressed page in MySQL.
pub const TYPE_COMPRESSED: u16 = 14;
/// Page type of a page that is compressed and then encrypted, in MySQL.
pub const TYPE_COMPRESSED_ENCRYPTED: u16 = 16;

/// Whether a page of a tablespace whose flags do not tell is compressed, by the type in its header.
#[must_use]
pub fn is_page_compressed(page: &[u8]) -> bool {
    matches!(
        u16_at(page, TYPE.offset),
        Some(
            TYPE_COMPRESSED
                | TYPE_COMPRESSED_ENCRYPTED
                | TYPE_PAGE_COMPRESSED
                | TYPE_PAGE_COMPRESSED_ENCRYPTED
        )
    )
}

/// `innodb_page_size`: a power of two from 4 KiB to 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u32);

impl PageSize {
    /// 4 KiB.
    pub const MIN: Self = Self(1 << 12);
    /// 16 KiB, what servers use unless told otherwise.
    pub const DEFAULT: Self = Self(1 << 14);
    /// 64 KiB.
    pub const MAX: Self = Self(1 << 16);

    /// The page size of `bytes` bytes, if there is one.
    #[must_use]
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes.is_power_of_two() && Self::MIN.0 <= bytes && bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// Bytes of a page.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Bytes of a page as a length.
    #[must_use]
    pub const fn as_len(self) -> usize {
        self.0 as usize
    }

    /// Pages of an extent: 1 MiB of small pages, 64 pages of 16 KiB and more (`r[page.extent]`).
    #[must_use]
    pub const fn extent_pages(self) -> u32 {
        match (1_u32 << 20).checked_div(self.0) {
            Some(pages) if pages > 64 => pages,
            _ => 64,
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The header's fields that other rooms ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Number of the page in its tablespace.
    pub page_no: PageNo,
    /// LSN of the last change.
    pub lsn: Lsn,
    /// Page type word, with the compression bit of `full_crc32` tablespaces if set.
    pub page_type: u16,
    /// Key version in the older format: the page is encrypted if it is not zero and this is not page 0.
    pub key_version: u32,
    /// Tablespace id.
    pub space_id: SpaceId,
}

impl PageHeader {
    /// Reads the header; `None` when `page` has fewer than 38 bytes.
    #[must_use]
    pub fn parse(page: &[u8]) -> Option<Self> {
        Some(Self {
            page_no: PageNo(u32_at(page, PAGE_NO.offset)?),
            lsn: Lsn(u64_at(page, LSN.offset)?),
            page_type: u16_at(page, TYPE.offset)?,
            key_version: u32_at(page, KEY_VERSION.offset)?,
            space_id: SpaceId(u32_at(page, SPACE_ID.offset)?),
        })
    }
}

/// Whether every byte is zero, at the speed of memory.
#[must_use]
pub fn is_all_zero(bytes: &[u8]) -> bool {
    // Blocks are folded without a branch, so that the compiler uses wide registers.
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_and_extents() {
        for bad in [0, 1, 2048, 5000, 131_072] {
            assert_eq!(PageSize::new(bad), None);
        }
        for (bytes, extent) in [
            (4096, 256),
            (8192, 128),
            (16384, 64),
            (32768, 64),
            (65536, 64),
        ] {
            assert_eq!(PageSize::new(bytes).unwrap().extent_pages(), extent);
        }
    }

    #[test]
    fn one_bit_anywhere_is_not_zero() {
        for at in 0..300 {
            let mut bytes = [0; 300];
            assert!(is_all_zero(&bytes[..at]));
            bytes[at] = 0x10;
            assert!(!is_all_zero(&bytes));
        }
    }
}
