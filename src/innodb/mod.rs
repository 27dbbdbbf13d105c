//! InnoDB's bytes: redo log, pages and tablespace headers, and Aria's pages. Pure: bytes in, facts out, no file access.
//!
//! All integers of these formats are big-endian unless a rule says otherwise. Nothing here trusts a length: bytes are
//! reached through `get` and friends only, and arithmetic is checked or saturating, which lints enforce below.
//! Normative texts: `format-spec/innodb-page.md` and `format-spec/redo-mariadb.md`.
#![cfg_attr(
    not(test),
    deny(
        clippy::little_endian_bytes,
        clippy::host_endian_bytes,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod aria;
pub(crate) mod be;
pub mod check;
mod legacy;
pub mod page;
pub mod redo;
pub mod tablespace;

use crate::base::spec::{Enum, Limit, Tables};

/// The tables of `format-spec/innodb-page.md`.
pub const TABLES: Tables = Tables {
    document: "innodb-page.md",
    layouts: &[page::HEADER, tablespace::SPACE_HEADER],
    enums: &[Enum {
        name: "page type",
        values: &[
            (page::TYPE_COMPRESSED as u64, "compressed"),
            (
                page::TYPE_COMPRESSED_ENCRYPTED as u64,
                "compressed and encrypted",
            ),
            (page::TYPE_PAGE_COMPRESSED as u64, "page compressed"),
            (
                page::TYPE_PAGE_COMPRESSED_ENCRYPTED as u64,
                "page compressed and encrypted",
            ),
        ],
    }],
    limits: &[
        Limit {
            name: "PAGE_LEN_MIN",
            value: page::PageSize::MIN.bytes() as u64,
            unit: "bytes",
        },
        Limit {
            name: "PAGE_LEN_MAX",
            value: page::PageSize::MAX.bytes() as u64,
            unit: "bytes",
        },
        Limit {
            name: "COMPRESSED_PAGE_LEN_MIN",
            value: tablespace::COMPRESSED_PAGE_LEN_MIN as u64,
            unit: "bytes",
        },
        Limit {
            name: "DAMAGED_PAGES_MAX",
            value: check::DAMAGED_PAGES_MAX as u64,
            unit: "pages",
        },
    ],
};
