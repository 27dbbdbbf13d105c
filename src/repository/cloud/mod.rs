//! Backups as Percona's xbcloud lays them out: one object for each chunk of the archive. Normative text:
//! `format-spec/cloud-layout.md`.

mod digests;
mod get;
mod layout;
mod put;

pub use get::{CloudBackup, delete, get};
pub(in crate::repository) use layout::is_marker;
pub use layout::{check_name, holds_chunks, is_small_metadata};
pub use put::{PutOptions, Stored, must_be_new, put};

use crate::base::spec::{Limit, Tables};
use crate::xbstream::limits::CHUNK_PAYLOAD_LEN_DEFAULT;

/// Bytes of a buffer: a chunk as every known writer cuts it by default, with its head. `r[cloud-layout.memory]`
pub const CLOUD_BUF_LEN: usize = CHUNK_PAYLOAD_LEN_DEFAULT + 4096;

/// Most objects of one backup: 160 TiB in chunks of the default length. `r[cloud-layout.objects-max]`
pub const OBJECTS_MAX: usize = 1 << 24;

/// Most bytes of the files that are kept back until everything else is stored. `r[cloud-layout.put.marker-last]`
pub const KEPT_BACK_LEN_MAX: usize = 4 << 20;

/// The table of `format-spec/cloud-layout.md`.
pub const TABLES: Tables = Tables {
    document: "cloud-layout.md",
    layouts: &[],
    enums: &[],
    limits: &[
        Limit {
            name: "CLOUD_BUF_LEN",
            value: CLOUD_BUF_LEN as u64,
            unit: "bytes",
        },
        Limit {
            name: "OBJECTS_MAX",
            value: OBJECTS_MAX as u64,
            unit: "objects",
        },
        Limit {
            name: "KEPT_BACK_LEN_MAX",
            value: KEPT_BACK_LEN_MAX as u64,
            unit: "bytes",
        },
    ],
};
