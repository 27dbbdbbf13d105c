//! The redo log of MariaDB 10.8 and later: `ib_logfile0`, a ring on the server, a straight line in a backup.
//!
//! Layers, bottom up: [`header`] (file header, checkpoint slots), [`mtr`] (where a mini-transaction ends and whether it
//! is whole), [`file_records`] (what it says about files), then three users of these: [`follower`] (reads the live
//! ring), [`writer`] (makes the log of a backup) and [`scan`] (proves the log of a backup whole).

pub mod file_records;
pub mod follower;
pub mod header;
pub mod mtr;
pub mod scan;
pub mod writer;

use crate::base::spec::{Enum, Limit, Tables};

/// Byte offset of the first log record in the file; header and checkpoint slots lie before it (`r[redo.file.header]`).
pub const HEADER_LEN: usize = 12288;
/// Bytes of the records of one mini-transaction at most; the server keeps to it when it writes
/// (`r[redo.mtr.length]`), so a reader never needs a larger window.
pub const MTR_LEN_MAX: usize = 1 << 20;
/// Bytes of a path in a file record that we believe (`r[redo.file-record.path]`); the server's own limit is lower.
pub const RECORD_PATH_LEN_MAX: usize = 4096;

/// The tables of `format-spec/redo-mariadb.md`.
pub const TABLES: Tables = Tables {
    document: "redo-mariadb.md",
    layouts: &[header::HEADER, header::SLOT],
    enums: &[
        Enum {
            name: "log format",
            values: &[
                (header::FORMAT_PLAIN as u64, "plain"),
                (header::FORMAT_ENCRYPTED as u64, "encrypted"),
            ],
        },
        Enum {
            name: "file record",
            values: &[
                (file_records::FILE_CREATE as u64, "FILE_CREATE"),
                (file_records::FILE_DELETE as u64, "FILE_DELETE"),
                (file_records::FILE_RENAME as u64, "FILE_RENAME"),
                (file_records::FILE_MODIFY as u64, "FILE_MODIFY"),
                (file_records::FILE_CHECKPOINT as u64, "FILE_CHECKPOINT"),
            ],
        },
    ],
    limits: &[
        Limit {
            name: "HEADER_LEN",
            value: HEADER_LEN as u64,
            unit: "bytes",
        },
        Limit {
            name: "MTR_LEN_MAX",
            value: MTR_LEN_MAX as u64,
            unit: "bytes",
        },
        Limit {
            name: "RECORD_PATH_LEN_MAX",
            value: RECORD_PATH_LEN_MAX as u64,
            unit: "bytes",
        },
    ],
};
