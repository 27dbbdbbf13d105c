//! Page 0 of a tablespace: which format its pages have.

use crate::base::spec::{Field, Layout};
use crate::base::units::SpaceId;
use crate::innodb::be::{field, u32_at};
use crate::innodb::page::{PageHeader, PageSize, is_all_zero};

/// Where the tablespace header starts in page 0.
pub(crate) const SPACE_HEADER_AT: usize = 38;

const HEADER_SPACE_ID: Field = field(0, 4, "space_id", "u32be");
const UNUSED: Field = field(4, 4, "unused", "u32be");
const SIZE: Field = field(8, 4, "size", "u32be");
const FREE_LIMIT: Field = field(12, 4, "free_limit", "u32be");
const FLAGS: Field = field(16, 4, "flags", "u32be");

/// The tablespace header's first fields, at byte 38 of page 0 (`r[page.space-header.layout]`).
pub const SPACE_HEADER: Layout = Layout {
    name: "tablespace header",
    fields: &[HEADER_SPACE_ID, UNUSED, SIZE, FREE_LIMIT, FLAGS],
};

/// Bytes of the smallest page of a ROW_FORMAT=COMPRESSED table (KEY_BLOCK_SIZE=1).
pub const COMPRESSED_PAGE_LEN_MIN: usize = 1024;

/// Bytes of page 0 that [`Page0::parse`] needs.
pub const PAGE_0_LEN_MIN: usize = SPACE_HEADER_AT + SPACE_HEADER.size();

/// Why page 0 says nothing about its tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Page0Error {
    /// Too few bytes.
    #[error("{found} bytes are too few for the first page of a tablespace")]
    Short {
        /// Bytes given.
        found: usize,
    },
    /// It is another page.
    #[error("the first page of the file carries page number {found}")]
    PageNo {
        /// The number found.
        found: u32,
    },
    /// Page header and tablespace header name different tablespaces.
    #[error("the first page names tablespace {page} in its header and {space} in its body")]
    SpaceId {
        /// In the page header.
        page: SpaceId,
        /// In the tablespace header.
        space: SpaceId,
    },
    /// No format has these flags.
    #[error("tablespace flags {word:#010x} name no page size that exists")]
    Flags {
        /// The word found.
        word: u32,
    },
}

/// How the pages of a tablespace are laid out and summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageFormat {
    /// One CRC-32C at the end of each page, which may be compressed or encrypted (`r[page.full-crc32]`).
    FullCrc32,
    /// A checksum at either end of the page (`r[page.old]`).
    Old,
    /// ROW_FORMAT=COMPRESSED: smaller pages, one checksum at the start (`r[page.compressed-row]`).
    CompressedRow,
}

/// The flags word of a tablespace and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceFlags {
    /// The word as found.
    pub word: u32,
    /// The server's `innodb_page_size` when the file was made.
    pub page_size: PageSize,
    /// Bytes of one page in the file.
    pub physical_len: usize,
    /// Layout and checksum of the pages.
    pub format: PageFormat,
    /// Pages may be compressed one by one (the table option PAGE_COMPRESSED).
    pub page_compressed: bool,
}

impl SpaceFlags {
    /// Reads a flags word (`r[page.flags]`).
    pub const fn parse(word: u32) -> Result<Self, Page0Error> {
        // r[page.flags.full-crc32]
        if word & 0x10 != 0 {
            return match sized(word & 0xf) {
                Some(page_size) => Ok(Self {
                    word,
                    page_size,
                    physical_len: page_size.as_len(),
                    format: PageFormat::FullCrc32,
                    page_compressed: word & 0xe0 != 0,
                }),
                None => Err(Page0Error::Flags { word }),
            };
        }
        // r[page.flags.old]: page sizes other than 16 KiB have their own bits, and 16 KiB is written as zero.
        let page_size = match (word >> 6) & 0xf {
            0 => Some(PageSize::DEFAULT),
            code => sized(code),
        };
        let Some(page_size) = page_size else {
            return Err(Page0Error::Flags { word });
        };
        let page_compressed = word & (1 << 16) != 0;
        match (word >> 1) & 0xf {
            0 => Ok(Self {
                word,
                page_size,
                physical_len: page_size.as_len(),
                format: PageFormat::Old,
                page_compressed,
            }),
            code => {
                let physical_len = 512_usize << code;
                if physical_len < COMPRESSED_PAGE_LEN_MIN || physical_len > page_size.as_len() {
                    return Err(Page0Error::Flags { word });
                }
                Ok(Self {
                    word,
                    page_size,
                    physical_len,
                    format: PageFormat::CompressedRow,
                    page_compressed,
                })
            }
        }
    }
}

const fn sized(code: u32) -> Option<PageSize> {
    PageSize::new(512_u32 << (code & 0xf))
}

/// What page 0 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page0 {
    /// Tablespace id.
    pub space_id: SpaceId,
    /// Format of the pages.
    pub flags: SpaceFlags,
    /// Pages of the tablespace according to itself; the file may be larger.
    pub size_pages: u32,
}

impl Page0 {
    /// Reads the first bytes of a tablespace file, at least [`PAGE_0_LEN_MIN`]. `None` means that they are all zero: the
    /// file was just made and its first page is still in the server's memory only (`r[page.zero.pending]`).
    ///
    /// Nothing is summed here: check the whole page with what this returns before believing it.
    pub fn parse(page: &[u8]) -> Result<Option<Self>, Page0Error> {
        if page.len() >= PAGE_0_LEN_MIN && is_all_zero(page) {
            return Ok(None);
        }
        Self::fields(page).ok_or(Page0Error::Short { found: page.len() })?
    }

    fn fields(page: &[u8]) -> Option<Result<Option<Self>, Page0Error>> {
        let header = PageHeader::parse(page)?;
        let space = page.get(SPACE_HEADER_AT..)?;
        let space_id = SpaceId(u32_at(space, HEADER_SPACE_ID.offset)?);
        let size_pages = u32_at(space, SIZE.offset)?;
        let flags = SpaceFlags::parse(u32_at(space, FLAGS.offset)?);
        if header.page_no.0 != 0 {
            let found = header.page_no.0;
            return Some(Err(Page0Error::PageNo { found }));
        }
        // r[page.space-header.id]
        if header.space_id != space_id {
            let (page, space) = (header.space_id, space_id);
            return Some(Err(Page0Error::SpaceId { page, space }));
        }
        Some(flags.map(|flags| {
            Some(Self {
                space_id,
                flags,
                size_pages,
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_give_format_and_sizes() {
        use PageFormat::{CompressedRow, FullCrc32, Old};
        for (word, format, logical, physical, compressed) in [
            (0x15, FullCrc32, 16384, 16384, false),
            (0x13, FullCrc32, 4096, 4096, false),
            (0x35, FullCrc32, 16384, 16384, true),
            (0x17, FullCrc32, 65536, 65536, false),
            (0x00, Old, 16384, 16384, false),
            (0x21, Old, 16384, 16384, false),
            (0x101, Old, 8192, 8192, false),
            (0x1_0021, Old, 16384, 16384, true),
            (0x29, CompressedRow, 16384, 8192, false),
            (0x23, CompressedRow, 16384, 1024, false),
        ] {
            let flags = SpaceFlags::parse(word).unwrap();
            assert_eq!(flags.format, format, "{word:#x}");
            assert_eq!(flags.page_size.bytes(), logical, "{word:#x}");
            assert_eq!(flags.physical_len, physical, "{word:#x}");
            assert_eq!(flags.page_compressed, compressed, "{word:#x}");
        }
        // Page sizes of 512 and 128 KiB; a compressed page larger than its page.
        for word in [0x10, 0x18, 0x2d, 0x40, 0x200] {
            let error = Page0Error::Flags { word };
            assert_eq!(SpaceFlags::parse(word), Err(error), "{word:#x}");
        }
    }

    #[test]
    fn page_0_is_pending_valid_or_wrong() {
        let mut page = [0; PAGE_0_LEN_MIN];
        assert_eq!(Page0::parse(&page), Ok(None));
        assert_eq!(
            Page0::parse(&page[..57]),
            Err(Page0Error::Short { found: 57 })
        );
        page[37] = 9;
        page[41] = 9;
        page[49] = 7;
        page[57] = 0x15;
        let parsed = Page0::parse(&page).unwrap().unwrap();
        assert_eq!((parsed.space_id, parsed.size_pages), (SpaceId(9), 7));
        page[41] = 8;
        assert!(matches!(
            Page0::parse(&page),
            Err(Page0Error::SpaceId { .. })
        ));
        page[7] = 1;
        assert_eq!(Page0::parse(&page), Err(Page0Error::PageNo { found: 1 }));
    }
}
